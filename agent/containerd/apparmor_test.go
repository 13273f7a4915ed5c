package containerd

import (
	"errors"
	"os/exec"
	"strings"
	"sync"
	"testing"
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
