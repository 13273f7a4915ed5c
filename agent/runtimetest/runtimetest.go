// Package runtimetest holds implementations of [agent.Runtime] to what the interface promises. The agent's own tests run on the one in
// memory; what they show is true of real containers because both pass this suite.
package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/agent"
)

// Node is a runtime to be tested, with an image "box:latest". Its containers belong to the pod with the UID "pod-1".
type Node interface {
	Runtime() agent.Runtime

	// Config is of a container that says "holding" and runs until it is asked to stop.
	Config(name string) agent.ContainerConfig

	// Ending is of a container that says out and err, to its two streams, and ends with this status.
	Ending(name, out, err string, status int) agent.ContainerConfig

	// Begun is called after a container of one of these kinds was started.
	Begun(c agent.ContainerConfig)

	// Command is one to execute that says out and err and ends with this status.
	Command(out, err string, status int) []string

	// Reopen has another runtime take over from the present one, as an agent that starts again does.
	Reopen()
}

// Run holds one to everything.
func Run(t *testing.T, n Node) {
	for _, promise := range []struct {
		name string
		test func(*subject)
	}{
		{"a container lives", testLife},
		{"an exit code is kept", testExitCode},
		{"a container is killed", testKill},
		{"a stop is not too early", testEarlyStop},
		{"restarts are containers of their own", testRestart},
		{"an ID is used once", testTwice},
		{"a start without an image fails", testNoImage},
		{"a container whose process cannot be started has ended", testStartFails},
		{"what is not there", testNotThere},
		{"containers are adopted", testAdopt},
		{"the log has both streams", testLog},
		{"a command has streams and a status", testExec},
		{"a command in what has ended", testExecEnded},
		{"attached clients hear the same", testAttach},
		{"a container's size changes", testResize},
		{"starts and ends are told of", testEvents},
		{"a pod's containers are those of the list", testPodContainers},
		{"a layer has a size", testDiskUsage},
		{"images are found", testImages},
	} {
		t.Run(promise.name, func(t *testing.T) {
			s := &subject{t, n}
			defer s.clean()
			promise.test(s)
		})
	}
}

// subject is a runtime in a test.
type subject struct {
	*testing.T
	Node
}

const patience = time.Minute

// eventually waits for a condition.
func (s *subject) eventually(what string, condition func() bool) {
	s.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

func (s *subject) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// is wants an error that wraps another.
func (s *subject) is(what string, err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("%s: %v, want %v", what, err, want)
	}
}

func (s *subject) start(c agent.ContainerConfig) agent.ContainerConfig {
	s.Helper()
	s.ok(s.Runtime().Start(s.Context(), c))
	s.Begun(c)
	return c
}

// list is what the runtime has, by ID.
func (s *subject) list() map[string]agent.Container {
	s.Helper()
	all, err := s.Runtime().Containers(context.WithoutCancel(s.Context()))
	s.ok(err)
	byID := map[string]agent.Container{}
	for _, c := range all {
		byID[c.ID] = c
	}
	return byID
}

func (s *subject) exited(id string) (c agent.Container) {
	s.Helper()
	s.eventually("container "+id+" has exited", func() bool {
		c = s.list()[id]
		return c.State == agent.Exited
	})
	return c
}

// logged waits until a container's log has a line, "stdout F holding".
func (s *subject) logged(c agent.ContainerConfig, line string) {
	s.Helper()
	s.eventually(fmt.Sprintf("the log of %s says %q", c.ID, line), func() bool {
		text, _ := os.ReadFile(c.LogPath)
		return strings.Contains(string(text), " "+line+"\n")
	})
}

// clean removes all that a test has left.
func (s *subject) clean() {
	ctx := context.WithoutCancel(s.Context())
	for id := range s.list() {
		s.ok(s.Runtime().Signal(ctx, id, true))
		s.exited(id)
		s.ok(s.Runtime().Remove(ctx, id))
	}
	s.ok(s.Runtime().EndPod(ctx, "pod-1"))
	s.ok(s.Runtime().RemovePod(ctx, "pod-1"))
}

func testLife(s *subject) {
	config := s.Config("life")
	config.Labels = map[string]string{"note": "kept"}
	before := time.Now().Add(-time.Second)
	s.start(config)
	s.logged(config, "stdout F holding")
	c := s.list()[config.ID]
	if c.State != agent.Running || c.Name != "life" || c.Pod != config.Pod || c.Attempt != 0 || c.Image != "box" || c.ImageID == "" ||
		c.LogPath != config.LogPath || len(c.Labels) != 1 || c.Labels["note"] != "kept" || c.Started.Before(before) || !c.Finished.IsZero() {
		s.Errorf("the running container is listed as %+v", c)
	}
	if err := s.Runtime().Remove(s.Context(), config.ID); err == nil {
		s.Error("a running container could be removed")
	}
	s.ok(s.Runtime().Signal(s.Context(), config.ID, false))
	c = s.exited(config.ID)
	if c.ExitCode != 0 || c.OOM || c.Unknown || c.Finished.Before(c.Started) {
		s.Errorf("the ended container is listed as %+v", c)
	}
	s.ok(s.Runtime().Signal(s.Context(), config.ID, false)) // It has ended already.
	for range 2 {
		s.ok(s.Runtime().Remove(s.Context(), config.ID))
	}
	if c, ok := s.list()[config.ID]; ok {
		s.Errorf("the removed container is listed as %+v", c)
	}
	if _, err := os.Stat(config.LogPath); err != nil {
		s.Errorf("the log is gone: %v", err)
	}
}

func testExitCode(s *subject) {
	for _, status := range []int{0, 7} {
		config := s.start(s.Ending(fmt.Sprintf("code-%d", status), "out", "err", status))
		if c := s.exited(config.ID); c.ExitCode != status || c.Unknown || c.Finished.IsZero() {
			s.Errorf("a container that ended with %d is listed as %+v", status, c)
		}
	}
}

func testKill(s *subject) {
	config := s.start(s.Config("kill"))
	s.ok(s.Runtime().Signal(s.Context(), config.ID, true))
	if c := s.exited(config.ID); c.ExitCode != 137 || c.OOM || c.Unknown {
		s.Errorf("the killed container is listed as %+v", c)
	}
	s.ok(s.Runtime().Signal(s.Context(), config.ID, true))
}

func testEarlyStop(s *subject) {
	for i := range 5 {
		config := s.Config("early")
		config.ID, config.Attempt = fmt.Sprintf("pod-1-early-%d", i), i
		s.start(config)
		s.ok(s.Runtime().Signal(s.Context(), config.ID, false))
		s.exited(config.ID)
	}
}

func testRestart(s *subject) {
	first := s.start(s.Ending("again", "one", "", 3))
	s.exited(first.ID)
	second := s.Config("again")
	second.ID, second.Attempt = "pod-1-again-1", 1
	s.start(second)
	all := s.list()
	if c := all[first.ID]; c.State != agent.Exited || c.ExitCode != 3 || c.Attempt != 0 {
		s.Errorf("the first is listed as %+v", c)
	}
	if c := all[second.ID]; c.State != agent.Running || c.Attempt != 1 {
		s.Errorf("the second is listed as %+v", c)
	}
}

func testTwice(s *subject) {
	config := s.start(s.Config("twice"))
	if err := s.Runtime().Start(s.Context(), config); err == nil {
		s.Error("a second container of the same ID could be started")
	}
	if c := s.list()[config.ID]; c.State != agent.Running {
		s.Errorf("after the second start the first is %+v", c)
	}
}

func testNoImage(s *subject) {
	config := s.Config("image")
	config.Image = "nothing:at-all"
	s.is("start", s.Runtime().Start(s.Context(), config), agent.ErrNoImage)
	if len(s.list()) > 0 {
		s.Errorf("containers are listed: %v", s.list())
	}
}

func testStartFails(s *subject) {
	config := s.Config("mount")
	config.Mounts = []agent.Mount{{Source: "/nothing/at/all", Target: "/data"}}
	var failed *agent.NotStarted
	if err := s.Runtime().Start(s.Context(), config); !errors.As(err, &failed) {
		s.Fatalf("a start with a mount of nothing: %v, want a NotStarted", err)
	}
	for _, reopen := range []bool{false, true} {
		if reopen {
			s.Reopen()
		}
		c, ok := s.list()[config.ID]
		if !ok || c.State != agent.Exited || c.ExitCode != 128 || c.StartError != failed.Error() || !c.Started.IsZero() || c.Finished.IsZero() {
			s.Errorf("reopened %v: what is left is %+v, want an end with exit code 128 for %q", reopen, c, failed)
		}
	}
	s.ok(s.Runtime().Signal(s.Context(), config.ID, true)) // No error: it has ended.
	s.ok(s.Runtime().Remove(s.Context(), config.ID))
	config.Mounts = nil
	s.start(config) // The ID is free.
}

func testNotThere(s *subject) {
	ctx, r := s.Context(), s.Runtime()
	s.is("signal", r.Signal(ctx, "none", false), agent.ErrNoContainer)
	s.is("kill", r.Signal(ctx, "none", true), agent.ErrNoContainer)
	s.is("resize", r.Resize(ctx, "none", agent.Resources{}, nil), agent.ErrNoContainer)
	_, err := r.Exec(ctx, "none", agent.ExecConfig{Command: s.Command("", "", 0)})
	s.is("exec", err, agent.ErrNoContainer)
	s.is("attach", r.Attach(ctx, "none", agent.Streams{}), agent.ErrNoContainer)
	_, err = r.DiskUsage(ctx, "none")
	s.is("disk usage", err, agent.ErrNoContainer)
	s.ok(r.Remove(ctx, "none"))
	s.ok(r.EndPod(ctx, "none"))
	s.ok(r.RemovePod(ctx, "none"))
}

func testAdopt(s *subject) {
	runs, ended := s.start(s.Config("runs")), s.start(s.Ending("ended", "last words", "", 5))
	s.exited(ended.ID)
	before := s.list()
	s.Reopen()
	after := s.list()
	for _, id := range []string{runs.ID, ended.ID} {
		if was, is := before[id], after[id]; is.State != was.State || is.ExitCode != was.ExitCode || !is.Started.Equal(was.Started) ||
			!is.Finished.Equal(was.Finished) || is.Pod != was.Pod || is.LogPath != was.LogPath {
			s.Errorf("%s was %+v and is %+v", id, was, is)
		}
	}
	s.ok(s.Runtime().Signal(s.Context(), runs.ID, true))
	s.exited(runs.ID)
}

func testLog(s *subject) {
	config := s.start(s.Ending("log", "to the one", "to the other", 0))
	s.logged(config, "stdout F to the one")
	s.logged(config, "stderr F to the other")
}

func testExec(s *subject) {
	config := s.start(s.Config("exec"))
	for _, status := range []int{0, 9} {
		var out, err bytes.Buffer
		got, failed := s.Runtime().Exec(s.Context(), config.ID,
			agent.ExecConfig{Command: s.Command("out", "err", status), Streams: agent.Streams{Stdout: &out, Stderr: &err}})
		if failed != nil || got != status || out.String() != "out\n" || err.String() != "err\n" {
			s.Errorf("status %d, %v, stdout %q, stderr %q; want status %d", got, failed, out.String(), err.String(), status)
		}
	}
	if _, err := s.Runtime().Exec(s.Context(), config.ID, agent.ExecConfig{Command: []string{"/no/such/program"}}); err == nil {
		s.Error("a program that is not there could be executed")
	}
}

func testExecEnded(s *subject) {
	config := s.start(s.Ending("over", "", "", 0))
	s.exited(config.ID)
	_, err := s.Runtime().Exec(s.Context(), config.ID, agent.ExecConfig{Command: s.Command("", "", 0)})
	s.is("exec", err, agent.ErrNotRunning)
	s.is("attach", s.Runtime().Attach(s.Context(), config.ID, agent.Streams{}), agent.ErrNotRunning)
	s.is("resize", s.Runtime().Resize(s.Context(), config.ID, agent.Resources{CPUShares: 512}, nil), agent.ErrNotRunning)
}

// testAttach has one client go, one end its input, and one stay until the container's end.
func testAttach(s *subject) {
	config := s.Config("attach")
	config.Stdin = true
	s.start(config)
	ctx, leave := context.WithTimeout(s.Context(), patience)
	defer leave()
	s.ok(s.Runtime().Attach(ctx, config.ID, agent.Streams{Stdin: strings.NewReader("a line\n"), Stdout: &bytes.Buffer{}}))
	ctx, leave = context.WithCancel(s.Context())
	var clients sync.WaitGroup
	clients.Go(func() {
		if err := s.Runtime().Attach(ctx, config.ID, agent.Streams{Stdout: &bytes.Buffer{}}); !errors.Is(err, context.Canceled) {
			s.Errorf("the client that went: %v, want %v", err, context.Canceled)
		}
	})
	ended := make(chan error)
	go func() { ended <- s.Runtime().Attach(s.Context(), config.ID, agent.Streams{Stdout: &bytes.Buffer{}}) }()
	leave()
	clients.Wait()
	s.ok(s.Runtime().Signal(s.Context(), config.ID, true))
	s.exited(config.ID)
	select {
	case err := <-ended: // If it came after the end, it was refused.
		if err != nil && !errors.Is(err, agent.ErrNotRunning) {
			s.Errorf("the client that stayed: %v", err)
		}
	case <-time.After(patience):
		s.Error("the client stays after the container's end")
	}
}

func testResize(s *subject) {
	config := s.Config("resize")
	config.Labels = map[string]string{"size": "small", "other": "kept"}
	s.start(config)
	s.ok(s.Runtime().Resize(s.Context(), config.ID, agent.Resources{CPUShares: 512}, map[string]string{"size": "large"}))
	if c := s.list()[config.ID]; c.Labels["size"] != "large" || c.Labels["other"] != "kept" || c.State != agent.Running {
		s.Errorf("after the change it is listed as %+v", c)
	}
}

func testEvents(s *subject) {
	ctx, cancel := context.WithCancel(s.Context())
	told := make(chan string, 100)
	var listener sync.WaitGroup
	listener.Go(func() {
		_ = s.Runtime().Events(ctx, func(uid string) {
			select {
			case told <- uid:
			default: // Nobody listens any more.
			}
		})
	})
	defer listener.Wait()
	defer cancel()
	await := func(want string) {
		s.Helper()
		for deadline := time.After(patience); ; {
			select {
			case uid := <-told:
				if uid == want {
					return
				}
			case <-deadline:
				s.Fatalf("waited %s in vain to be told of %q", patience, want)
			}
		}
	}
	await("") // What came before may have been missed.
	config := s.start(s.Config("told"))
	await("pod-1")
	s.ok(s.Runtime().Signal(s.Context(), config.ID, true))
	s.exited(config.ID)
	await("pod-1")
}

func testPodContainers(s *subject) {
	runs, ended := s.start(s.Config("runs")), s.start(s.Ending("ended", "", "", 5))
	other := s.Config("other")
	other.ID, other.Pod.UID = "pod-2-other-0", "pod-2"
	s.start(other)
	s.exited(ended.ID)
	want := func(podUID string, ids ...string) {
		s.Helper()
		list, err := s.Runtime().PodContainers(s.Context(), podUID)
		s.ok(err)
		all, got := s.list(), map[string]agent.Container{}
		for _, c := range list {
			got[c.ID] = c
		}
		expected := map[string]agent.Container{}
		for _, id := range ids {
			expected[id] = all[id]
		}
		if diff := cmp.Diff(expected, got); diff != "" {
			s.Errorf("the containers of %s (-of the list +of the pod):\n%s", podUID, diff)
		}
	}
	want("pod-1", runs.ID, ended.ID)
	want("pod-2", other.ID)
	want("pod-3")
	s.Reopen()
	want("pod-1", runs.ID, ended.ID)
	want("pod-2", other.ID)
	s.ok(s.Runtime().Remove(s.Context(), ended.ID))
	want("pod-1", runs.ID)
}

func testDiskUsage(s *subject) {
	config := s.start(s.Config("disk"))
	if used, err := s.Runtime().DiskUsage(s.Context(), config.ID); err != nil || used < 0 {
		s.Errorf("disk usage %d, %v", used, err)
	}
}

func testImages(s *subject) {
	for _, name := range []string{"box", "box:latest", "docker.io/library/box:latest"} {
		image, err := s.Runtime().Image(s.Context(), name)
		if err != nil || len(image.Names) != 1 || image.Names[0] != "docker.io/library/box:latest" || !strings.HasPrefix(image.Digest, "sha256:") {
			s.Errorf("%s is %+v, %v", name, image, err)
		}
	}
	_, err := s.Runtime().Image(s.Context(), "box:other")
	s.is("another tag", err, agent.ErrNoImage)
	all, err := s.Runtime().Images(s.Context())
	if err != nil || len(all) != 1 {
		s.Errorf("the images are %v, %v; want one", all, err)
	}
	s.ok(s.Runtime().RemoveImage(s.Context(), "docker.io/library/none:latest"))
}
