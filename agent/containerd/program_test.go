package containerd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"skiff/agent"
)

// crun makes the containers where it works, and where it does not, runc; those that one made are looked after, beside their neighbours in
// the same pod, when the choice has become the other.
func TestProgramThatMakesContainers(t *testing.T) {
	needsContainerd(t)
	path, bin := os.Getenv("PATH"), t.TempDir()
	works, broken := filepath.Join(bin, "works"), filepath.Join(bin, "broken")
	program, err := exec.LookPath(runc)
	if err != nil {
		t.Fatal(err)
	}
	standIn(t, works, fmt.Sprintf("exec %s \"$@\"", program))
	standIn(t, broken, "echo cgroups are not supported >&2; exit 1")
	t.Setenv("PATH", works+":"+path) // The daemon's and its shims', from here on.
	n := newNode(t)
	reopen := func(path, want string) {
		t.Helper()
		t.Setenv("PATH", path)
		suite{n}.Reopen()
		if n.runtime.program != want {
			t.Fatalf("%s makes the containers, want %s", n.runtime.program, want)
		}
	}
	if n.runtime.program != crun {
		t.Fatalf("%s makes the containers where crun works", n.runtime.program)
	}
	var tells, knows []string
	for _, h := range n.runtime.Handlers() {
		tells = append(tells, h.Name)
		if h.RecursiveReadOnly {
			knows = append(knows, h.Name)
		}
	}
	if options, err := mountOptions(runc); !slices.Equal(tells, []string{crun, runc}) || err == nil && slices.Contains(options, "rro") != (len(knows) == 2) {
		t.Errorf("the handlers are %q, of which %q mount read-only recursively; runc knows %q, %v", tells, knows, options, err)
	}
	n.endHandler(runc)
	n.endHandler(crun)
	byCrun := []agent.ContainerConfig{n.start("one"), n.start("two")}
	n.wantState(crun, byCrun[0].ID)
	reopen(bin, runc)
	n.endHandler(runc)
	asked := n.config("asked")
	asked.Handler = crun
	if err := n.runtime.Start(t.Context(), asked); err == nil || !strings.Contains(err.Error(), `no runtime for "crun" is configured`) {
		t.Errorf("asked for crun, which is not here: %v", err)
	}
	byRunc := []agent.ContainerConfig{n.start("three"), n.start("four")}
	n.wantState(runc, byRunc[0].ID)
	n.useAndEnd(byCrun[0], byRunc[0])
	reopen(works+":"+path, crun)
	n.useAndEnd(byCrun[1], byRunc[1])

	// What the daemon finds under that name does not work any more.
	standIn(t, works, "echo cgroups are not supported >&2; exit 1")
	reopen(broken+":"+path, runc)
	n.useAndEnd(n.start("five"))
}

// endHandler has a handler make a container, looks whether the right program made it, and ends it.
func (n *node) endHandler(handler string) {
	n.t.Helper()
	c := n.config("handled")
	c.Handler = handler
	if err := n.runtime.Start(n.t.Context(), c); err != nil {
		n.t.Fatal(err)
	}
	n.wantState(handler, c.ID)
	n.useAndEnd(c)
}

// standIn writes a script that is taken for crun.
func standIn(t *testing.T, dir, script string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, crun), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// wantState looks for what a program notes of a container.
func (n *node) wantState(program, id string) {
	n.t.Helper()
	if found, err := filepath.Glob(filepath.Join(n.runtime.config.RunDir, program, "*", id)); len(found) != 1 || err != nil {
		n.t.Errorf("%s has of container %s: %v (%v)", program, id, found, err)
	}
}

// useAndEnd runs a command in containers, ends and removes them.
func (n *node) useAndEnd(containers ...agent.ContainerConfig) {
	n.t.Helper()
	for _, c := range containers {
		if status, err := n.runtime.Exec(n.t.Context(), c.ID, agent.ExecConfig{Command: []string{"/box", "echo", "", "", "3"}}); status != 3 || err != nil {
			n.t.Errorf("a command in %s ends with %d, %v", c.ID, status, err)
		}
		n.end(c.ID)
	}
}
