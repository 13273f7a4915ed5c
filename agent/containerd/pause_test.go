package containerd

import (
	"bytes"
	"debug/elf"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/agent"
)

// The containers of a pod see each other's processes, and none of their ends is the end of the others.
func testSharedProcesses(t *testing.T, n *node) {
	shared := func(name string, args ...string) agent.ContainerConfig {
		c := n.config(name, args...)
		c.SharePID = true
		if err := n.runtime.Start(t.Context(), c); err != nil {
			t.Fatalf("start container %s: %v", name, err)
		}
		return c
	}
	a, b := shared("a", "tick"), shared("b", "hold")
	box := func(command ...string) string {
		t.Helper()
		var out bytes.Buffer
		_, err := n.runtime.Exec(t.Context(), b.ID, agent.ExecConfig{Command: append([]string{"/box"}, command...), Streams: agent.Streams{Stdout: &out}})
		if err != nil {
			t.Fatalf("exec %v: %v", command, err)
		}
		return out.String()
	}
	all := box("processes")
	for _, want := range []string{"1 S /pause", "/box tick", "/box hold", "/box processes"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not among the pod's processes:\n%s", want, all)
		}
	}
	if status := box("show", "/proc/1/status"); !strings.Contains(status, "CapBnd:\t0000000000000000") || !strings.Contains(status, "Seccomp:\t2") || !strings.Contains(status, "Uid:\t65535\t") {
		t.Errorf("who becomes process 1 can do more than the containers:\n%s", status)
	}
	if shims := n.shims(); len(shims) != 1 {
		t.Errorf("the pod has the shims %v, want one", shims)
	}
	testSlowShim(t, n, a)
	n.end(a.ID)
	if c := n.container(b.ID); c == nil || c.State != agent.Running {
		t.Errorf("after another's end a container is %+v", c)
	}
	a = shared("a", "tick")
	box("orphan")
	n.eventually("an orphan is buried", func() bool { return !strings.Contains(box("processes"), " Z ") })
	if all := box("processes"); !strings.Contains(all, "/box tick") || strings.Contains(all, "/box nap") {
		t.Errorf("after a restart the pod's processes are\n%s", all)
	}

	pid, err := n.runtime.pausing(n.runtime.in(t.Context()), "pod-1")
	if err != nil || pid == 0 {
		t.Fatalf("process 1 is %d: %v", pid, err)
	}
	// The files there belong to root where not even a process of the same user may trace it.
	var maps unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/maps", pid), &maps); err != nil || maps.Uid != 0 {
		t.Errorf("process 1 could be traced by user %d (%v)", maps.Uid, err)
	}
	if err := syscall.Kill(int(pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{a.ID, b.ID} {
		if c := n.waitExited(id); c.ExitCode != 137 {
			t.Errorf("with process 1 ended %+v", c)
		}
		n.end(id)
	}
	b = shared("b", "hold")
	if all := box("processes"); !strings.Contains(all, "1 S /pause") {
		t.Errorf("with another process 1 the pod's processes are\n%s", all)
	}
	if listed, err := n.runtime.Containers(t.Context()); err != nil || len(listed) != 1 {
		t.Errorf("the containers are %v: %v", listed, err)
	}
	if listed, err := n.runtime.PodContainers(t.Context(), "pod-1"); err != nil || len(listed) != 1 {
		t.Errorf("the containers of the pod are %v: %v", listed, err)
	}
	n.end(b.ID)
	if err := n.runtime.EndPod(t.Context(), "pod-1"); err != nil {
		t.Error(err)
	}
	n.eventually("the shim ends", func() bool { return len(n.shims()) == 0 })
	if err := n.runtime.RemovePod(t.Context(), "pod-1"); err != nil {
		t.Error(err)
	}
}

// testSlowShim starts another container in the process namespace of a running one while nothing can be told of their process 1.
func testSlowShim(t *testing.T, n *node, running agent.ContainerConfig) {
	t.Helper()
	c := n.config("late", "hold")
	c.SharePID = true
	n.signalShims(syscall.SIGSTOP)
	ended := make(chan error, 1)
	go func() { ended <- n.runtime.Start(t.Context(), c) }()
	select {
	case err := <-ended:
		ended <- err
	case <-time.After(5 * time.Second): // More than containerd waits for what a shim tells of a process.
	}
	n.signalShims(syscall.SIGCONT)
	if err := <-ended; err != nil {
		n.eventually("it can be started again", func() bool { return n.runtime.Start(t.Context(), c) == nil })
	}
	if c := n.container(running.ID); c == nil || c.State != agent.Running {
		t.Errorf("after another's start a container is %+v", c)
	}
	n.end(c.ID)
}

func TestPauseProgram(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		program, err := pauseProgram(arch)
		if err != nil {
			t.Fatal(err)
		}
		file, err := elf.NewFile(bytes.NewReader(program))
		if err != nil || len(file.Progs) != 1 || file.Entry != file.Progs[0].Vaddr+120 {
			t.Errorf("the program for %s is %+v: %v", arch, file, err)
		}
	}
	if _, err := pauseProgram("mips"); err == nil {
		t.Error("there is a program for a machine that nobody has written one for")
	}
}
