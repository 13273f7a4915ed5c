package containerd

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"skiff/agent"
)

// A profile that an older skiff has left in the kernel is replaced, once, however many containers start at a time.
func TestAppArmorProfileIsLoadedOnce(t *testing.T) {
	var p defaultProfile
	profiles, loads := "other (enforce)\nskiff-default (enforce)\n", 0
	list := func() (string, error) { return profiles, nil }
	load := func() error { loads++; return nil }
	if err := p.ensure(list, func() error { return errors.New("no parser") }); err == nil {
		t.Error("a profile that cannot be loaded is in use")
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := p.ensure(list, load); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if loads != 1 {
		t.Errorf("it was loaded %d times, want once", loads)
	}
	profiles = "other (enforce)\n"
	if err := p.ensure(list, load); err != nil || loads != 2 {
		t.Errorf("once it is gone it was loaded %d times (%v), want twice", loads, err)
	}
}

// AppArmor's own parser reads the rules, where it is installed.
func TestAppArmorRules(t *testing.T) {
	for _, program := range []string{runc, crun} {
		if !strings.Contains(appArmorRules, program) {
			t.Errorf("%s may not stop containers", program)
		}
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Skip("needs apparmor_parser: apt-get install apparmor")
	}
	cmd := exec.Command(parser, "--skip-kernel-load", "--skip-cache")
	cmd.Stdin = strings.NewReader(appArmorRules)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

// A container under the default profile is held to it, whatever else it may do, and ends when it is told to.
func TestAppArmorConfines(t *testing.T) {
	if _, err := os.Stat(loadedAppArmor); err != nil {
		t.Skip("needs a kernel with AppArmor")
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		t.Skip("needs apparmor_parser: apt-get install apparmor")
	}
	n := newNode(t)
	for name, sec := range map[string]agent.Security{
		"confined": {AppArmor: agent.AppArmorDefault}, "able": {AppArmor: appArmorDefault, Privileged: true},
	} {
		if sec.Privileged { // By its name the profile is found only when it is there.
			if _, err := n.runtime.appArmor(t.Context(), agent.Security{AppArmor: agent.AppArmorDefault}); err != nil {
				t.Fatal(err)
			}
		}
		c := n.config(name)
		c.Security = sec
		if err := n.runtime.Start(t.Context(), c); err != nil {
			t.Fatalf("start %s: %v", name, err)
		}
		n.waitLog(name, "stdout holding")
		var out bytes.Buffer
		say := func(command ...string) string {
			t.Helper()
			out.Reset()
			if _, err := n.runtime.Exec(t.Context(), c.ID, agent.ExecConfig{Command: append([]string{"/box"}, command...), Streams: agent.Streams{Stdout: &out}}); err != nil {
				t.Errorf("a command in %s: %v", name, err)
			}
			return out.String()
		}
		if got := say("show", "/proc/1/attr/current", "/proc/self/attr/current"); strings.Count(got, "skiff-default (enforce)") != 2 {
			t.Errorf("%s and a command in it are under %s", name, got)
		}
		if got := say("write", "/proc/sys/vm/swappiness", "60"); sec.Privileged && !strings.Contains(got, "permission denied") {
			t.Errorf("%s could write to the kernel's settings: %s", name, got)
		}
		if err := n.runtime.Signal(t.Context(), c.ID, false); err != nil {
			t.Fatal(err)
		}
		n.waitExited(c.ID)
		n.waitLog(name, "stdout stopped by interrupt")
		if err := n.runtime.Remove(t.Context(), c.ID); err != nil {
			t.Error(err)
		}
	}
	c := n.config("unknown")
	c.Security.AppArmor = "nobody-has-loaded-this"
	if err := n.runtime.Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), "apparmor profile not found nobody-has-loaded-this") {
		t.Errorf("a profile that is not there: %v", err)
	}
}
