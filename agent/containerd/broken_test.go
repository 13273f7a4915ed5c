package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff/agent"
)

// TestBrokenOff kills the daemon, or a pod's shim, before and after each program that a container's life calls for. Whatever they leave,
// the container is run once, its pod's other container runs on, and nothing stays when they are removed.
func TestBrokenOff(t *testing.T) {
	needsContainerd(t)
	dir, err := os.MkdirTemp("", "skiff-containerd-")
	if err != nil {
		t.Fatal(err)
	}
	hook := newKillHook(t, filepath.Join(dir, "bin"))
	n := startNode(t, dir)
	for _, part := range brokenOffParts(os.Getenv("SKIFF_TEST_BROKEN_OFF") != "") {
		part.node, part.hook = n, hook
		t.Run(part.String(), part.run)
	}
	n.startDaemon()
}

// brokenOffParts are those moments at which something is left that nobody else would clear away, or all that there are.
func brokenOffParts(all bool) (parts []brokenOff) {
	const shim = "containerd-shim-runc-v2 "
	if !all {
		return []brokenOff{
			{victim: "daemon", moment: "before", step: shim + "start"},
			{victim: "daemon", moment: "after", step: shim + "start", shared: true},
			{victim: "daemon", moment: "after", step: "runc create"},
			{victim: "daemon", moment: "after", step: "runc start", shared: true},
			{victim: "daemon", moment: "after", step: "runc delete"},
			{victim: "shim", moment: "after", step: "runc start"},
		}
	}
	for _, moment := range []string{"before", "after"} {
		for _, shared := range []bool{false, true} {
			for _, step := range []string{shim + "start", "runc create", "runc start", "runc kill", "runc delete", shim + "delete"} {
				parts = append(parts, brokenOff{victim: "daemon", moment: moment, step: step, shared: shared})
			}
			for _, step := range []string{"runc create", "runc start"} { // Whose parent it is.
				parts = append(parts, brokenOff{victim: "shim", moment: moment, step: step, shared: shared})
			}
		}
	}
	return parts
}

// killHook stands before runc and the shim on the PATH: programs that are what they are called, and kill somebody once.
type killHook struct{ order string }

func newKillHook(t *testing.T, dir string) *killHook {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &killHook{order: filepath.Join(dir, "order")}
	for _, program := range []string{"runc", "containerd-shim-runc-v2"} {
		path, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		// An order is a file with the moment's and the step's name, and has the process's number. Who takes it away has it.
		script := fmt.Sprintf(`#!/bin/sh
strike() {
	for arg; do
		order=%[1]s-$moment-%[2]s-$arg
		if mv $order $order-$$ 2>/dev/null; then
			victim=$(cat $order-$$)
			test $victim = parent && victim=$PPID
			kill -9 $victim
			rm $order-$$
		fi
	done
}
moment=before; strike "$@"
%[3]s "$@"
status=$?
moment=after; strike "$@"
exit $status
`, h.order, program, path)
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return h
}

func (h *killHook) file(moment, step string) string {
	return h.order + "-" + moment + "-" + strings.ReplaceAll(step, " ", "-")
}

// brokenOff is one part of the test.
type brokenOff struct {
	*node
	hook                 *killHook
	victim, moment, step string
	shared               bool // The pod's containers are in one process namespace.
}

func (b brokenOff) String() string {
	name := b.victim + " " + b.moment + " " + b.step
	if b.shared {
		name += ", processes shared"
	}
	return name
}

func (b brokenOff) run(t *testing.T) {
	outer := b.t
	b.t = t
	defer func() { b.t = outer }()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var daemon sync.WaitGroup
	b.startDaemon()
	daemon.Go(func() {
		if err := b.daemon.Run(ctx); err != nil {
			t.Errorf("run the daemon: %v", err)
		}
	})
	defer func() { cancel(); daemon.Wait() }()
	uid := "broken-off"
	config := func(name string) agent.ContainerConfig {
		c := b.config(name)
		c.ID, c.Pod.UID, c.CgroupParent, c.SharePID = uid+"-"+name+"-0", uid, testCgroup+"/"+uid, b.shared
		c.LogPath = filepath.Join(b.dir, "logs", strings.ReplaceAll(t.Name(), "/", " "), name)
		return c
	}
	first, second := config("first"), config("second")
	starts := strings.HasSuffix(b.step, "start") || strings.HasSuffix(b.step, "create")
	if starts {
		b.strikeAt()
	}
	b.insist(first)
	if starts && b.victim == "daemon" {
		b.strikeAt()
	}
	b.insist(second)
	if b.victim == "daemon" {
		b.begunOnce(first, second)
	}
	if !starts {
		b.strikeAt()
	}
	b.removed(first)
	if c := b.find(second.ID); c == nil || c.State != agent.Running {
		t.Errorf("the pod's other container is %+v", c)
	}
	b.removed(second)
	b.eventually("the rest of the pod is removed", func() bool { return b.runtime.RemovePod(ctx, uid) == nil })
	if _, err := os.Stat(b.hook.file(b.moment, b.step)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nobody was killed (%v)", err)
	}
	b.eventually("nothing is left", func() bool { return len(b.left()) == 0 })
}

// begunOnce holds that containers have run once.
func (b brokenOff) begunOnce(containers ...agent.ContainerConfig) {
	b.t.Helper()
	for _, c := range containers {
		text, err := os.ReadFile(c.LogPath)
		if times := strings.Count(string(text), "holding"); err != nil || times != 1 {
			b.t.Errorf("container %s has begun %d times (%v)", c.Name, times, err)
		}
	}
}

// strikeAt has the victim killed at the next moment that is due.
func (b brokenOff) strikeAt() {
	victim := "parent"
	if b.victim == "daemon" {
		victim = strconv.Itoa(b.daemon.current().cmd.Process.Pid)
	}
	if err := os.WriteFile(b.hook.file(b.moment, b.step), []byte(victim), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// find looks for a container until the daemon answers.
func (b brokenOff) find(id string) (found *agent.Container) {
	b.t.Helper()
	b.eventually("the daemon answers", func() bool {
		all, err := b.runtime.Containers(b.t.Context())
		for i := range all {
			if all[i].ID == id {
				found = &all[i]
			}
		}
		return err == nil
	})
	return found
}

// insist starts a container as the agent does: again, when it finds that it does not run.
func (b brokenOff) insist(c agent.ContainerConfig) {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := b.runtime.Start(b.t.Context(), c)
		is := b.find(c.ID)
		switch {
		case is != nil && is.State == agent.Running:
			b.eventually("it has begun", func() bool {
				text, _ := os.ReadFile(c.LogPath)
				return strings.Contains(string(text), "holding")
			})
			return
		case is != nil && is.State == agent.Exited && b.victim == "daemon":
			b.t.Fatalf("container %s has ended: %+v (%v)", c.Name, is, err)
		case is != nil:
			b.removed(c)
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("start container %s: %v", c.Name, err)
		}
	}
}

// removed ends and removes a container as the agent does.
func (b brokenOff) removed(c agent.ContainerConfig) {
	b.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		is := b.find(c.ID)
		if is == nil {
			return
		}
		var err error
		if is.State != agent.Exited {
			err = b.runtime.Signal(b.t.Context(), c.ID, true)
		}
		if err == nil && is.State != agent.Running {
			err = b.runtime.Remove(b.t.Context(), c.ID)
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("remove container %s, which is %s: %v", c.Name, is.State, err)
		}
	}
}

// left is what there is of any container.
func (b brokenOff) left() (found []string) {
	for _, pattern := range []string{
		filepath.Join(b.daemon.config.State, "io.containerd.runtime.v2.task", "*", "*"),
		filepath.Join(b.daemon.config.State, "io.containerd.runtime.v2.task", "*", ".*"),
		filepath.Join(b.dir, "run", "containers", "*"),
		filepath.Join(b.dir, "run", "runc", "*", "*"),
		b.runtime.shimSocket("broken-off"),
	} {
		files, _ := filepath.Glob(pattern)
		found = append(found, files...)
	}
	for _, pid := range b.shims() {
		found = append(found, "shim "+pid)
	}
	return found
}
