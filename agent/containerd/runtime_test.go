package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff/agent"
	"skiff/agent/cgroup"
)

func TestRuntime(t *testing.T) {
	n := newNode(t)
	t.Run("life of a container", func(t *testing.T) { testLife(t, n) })
	t.Run("spec", func(t *testing.T) { testSpec(t, n) })
	t.Run("start fails", func(t *testing.T) { testStartFails(t, n) })
	t.Run("memory limit", func(t *testing.T) { testOOM(t, n) })
	t.Run("output", func(t *testing.T) { testOutput(t, n) })
	t.Run("last words", func(t *testing.T) { testLastWords(t, n) })
	t.Run("exec", func(t *testing.T) { testExec(t, n) })
	t.Run("exec with a terminal", func(t *testing.T) { testExecTTY(t, n) })
	t.Run("exec is killed", func(t *testing.T) { testExecKilled(t, n) })
	t.Run("attach", func(t *testing.T) { testAttach(t, n) })
	t.Run("mount propagation", func(t *testing.T) { testPropagation(t, n) })
	t.Run("one shim a pod", func(t *testing.T) { testGroup(t, n) })
	t.Run("one process namespace a pod", func(t *testing.T) { testSharedProcesses(t, n) })
	t.Run("users of its own", func(t *testing.T) { testUsers(t, n) })
	t.Run("a forgotten process", func(t *testing.T) { testForgottenProcess(t, n) })
	t.Run("events", func(t *testing.T) { testEvents(t, n) })
	t.Run("agent restarts", func(t *testing.T) { testAgentRestart(t, n) })
	t.Run("agent is killed", func(t *testing.T) { testAgentKilled(t, n) })
	t.Run("a shim is killed", func(t *testing.T) { testShimKilled(t, n) })
	t.Run("a daemon is killed in a start", func(t *testing.T) { testStillborn(t, n) })
	t.Run("a shim without containers", func(t *testing.T) { testIdleShim(t, n) })
	t.Run("a shim is silent", func(t *testing.T) { testSilentShim(t, n) })
	t.Run("a shim of two is silent", func(t *testing.T) { testSilentShimOfTwo(t, n) })
	t.Run("the holder is killed", func(t *testing.T) { testHolderKilled(t, n) })
	t.Run("daemon dies", func(t *testing.T) { testDaemonDies(t, n) })
}

func testLife(t *testing.T, n *node) {
	version, err := n.runtime.Version(t.Context())
	if err != nil || !strings.HasPrefix(version, "containerd://") {
		t.Errorf("version %q, %v", version, err)
	}
	before := time.Now().Add(-time.Second)
	config := n.config("life")
	config.Labels = map[string]string{"note": "kept"}
	if err := n.runtime.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	n.waitLog("life", "stdout holding")
	c := n.container(config.ID)
	if c == nil || c.State != agent.Running || c.Name != "life" || c.Pod != config.Pod || c.Labels["note"] != "kept" || len(c.Labels) != 1 ||
		c.Image != "box" || !strings.HasPrefix(c.ImageID, "sha256:") || c.LogPath != config.LogPath {
		t.Errorf("the running container is listed as %+v", c)
	}
	if err := n.runtime.Remove(t.Context(), config.ID); err == nil {
		t.Error("a running container could be removed")
	}
	if err := n.runtime.Signal(t.Context(), config.ID, false); err != nil {
		t.Fatal(err)
	}
	c = n.waitExited(config.ID)
	if c.ExitCode != 0 || c.OOM || c.Unknown || c.Started.Before(before) || c.Finished.Before(c.Started) {
		t.Errorf("the ended container is listed as %+v", c)
	}
	n.waitLog("life", "stdout stopped by interrupt") // The image's stop signal.
	if err := n.runtime.Signal(t.Context(), config.ID, true); err != nil {
		t.Errorf("signal an ended container: %v", err)
	}
	for range 2 {
		if err := n.runtime.Remove(t.Context(), config.ID); err != nil {
			t.Errorf("remove: %v", err)
		}
		if err := n.runtime.RemovePod(t.Context(), "pod-1"); err != nil {
			t.Errorf("remove pod: %v", err)
		}
	}
	if c := n.container(config.ID); c != nil {
		t.Errorf("the removed container is listed as %+v", c)
	}
	if left := cgroup.Host().Find(testCgroup + "/pod-1"); len(left) > 0 {
		t.Errorf("the pod's cgroups are left: %v", left)
	}
	if _, err := os.Stat(config.LogPath); err != nil {
		t.Errorf("the log is gone: %v", err)
	}
	if err := n.runtime.Signal(t.Context(), config.ID, false); !errors.Is(err, agent.ErrNoContainer) {
		t.Errorf("signal a removed container: %v, want ErrNoContainer", err)
	}
}

func testSpec(t *testing.T, n *node) {
	uid, gid := int64(101), int64(5)
	file := filepath.Join(n.dir, "file")
	if err := os.WriteFile(file, []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*agent.ContainerConfig)
		want   []string
	}{
		{"the image's", func(c *agent.ContainerConfig) { c.Args = []string{"show", "/proc/self/status"} },
			[]string{"dir /etc uid 0 gid 0", "FROM=image", "Seccomp:\t0", "NoNewPrivs:\t0", "CapEff:\t00000000a80425fb"}},
		{"command, env and directory", func(c *agent.ContainerConfig) {
			c.Command, c.Args = []string{"/box", "show"}, []string{"/proc/1/cmdline"}
			c.Env, c.WorkingDir = []string{"FROM=pod", "NEW=1"}, "/proc"
		}, []string{"dir /proc", "FROM=pod", "NEW=1", "/box\x00show\x00/proc/1/cmdline"}},
		{"user from passwd", func(c *agent.ContainerConfig) {
			c.Args, c.Security = []string{"show"}, agent.Security{UID: &uid, SupplementalGroups: []int64{42}}
		}, []string{"uid 101 gid 102 groups [7 42 102]"}},
		{"user and group", func(c *agent.ContainerConfig) {
			c.Args, c.Security = []string{"show"}, agent.Security{UID: &uid, GID: &gid, SupplementalGroups: []int64{42}}
		}, []string{"uid 101 gid 5 groups [5 7 42]"}},
		{"security", func(c *agent.ContainerConfig) {
			c.Args = []string{"show", "/proc/self/status"}
			c.Security = agent.Security{NoNewPrivileges: true, Seccomp: "RuntimeDefault", DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CHOWN"}}
		}, []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000001"}},
		{"a seccomp profile of one's own", func(c *agent.ContainerConfig) {
			c.Args = []string{"write", "/x", "x"}
			c.Security = agent.Security{Seccomp: "Localhost", Profile: []byte(`{"defaultAction": "SCMP_ACT_ALLOW",
				"syscalls": [{"names": ["openat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
				"args": [{"index": 2, "value": 64, "valueTwo": 64, "op": "SCMP_CMP_MASKED_EQ"}]}]}`)} // O_CREAT
		}, []string{"operation not supported"}},
		{"read-only root", func(c *agent.ContainerConfig) {
			c.Args, c.Security = []string{"write", "/x", "x"}, agent.Security{ReadOnlyRootFS: true}
		}, []string{"read-only file system"}},
		{"mounts", func(c *agent.ContainerConfig) {
			c.Args = []string{"show", "/data/file"}
			c.Mounts = []agent.Mount{{Source: file, Target: "/data/file", ReadOnly: true}}
		}, []string{"from the host"}},
		{"cgroup", func(c *agent.ContainerConfig) {
			c.Args = []string{"show", "/proc/self/cgroup", "/proc/self/mountinfo"}
		}, []string{testCgroup + "/pod-1/spec-0", " /sys/fs/cgroup"}},
		{"privileged", func(c *agent.ContainerConfig) {
			c.Args, c.Security = []string{"show", "/proc/self/status"}, agent.Security{Privileged: true}
		}, []string{"Seccomp:\t0", "uid 0"}},
	}
	for _, tc := range tests {
		config := n.config("spec")
		tc.change(&config)
		if err := n.runtime.Start(t.Context(), config); err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		user := n.waitExited(config.ID).User
		if err := n.runtime.Remove(t.Context(), config.ID); err != nil {
			t.Errorf("%s: remove: %v", tc.name, err)
		}
		log := strings.Join(n.log("spec"), "\n")
		if user == nil {
			t.Errorf("%s: it is not told who the container ran as", tc.name)
		} else if slices.Sort(user.Groups); strings.Contains(log, "uid ") {
			tc.want = append(tc.want, fmt.Sprintf("uid %d gid %d groups %v", user.UID, user.GID, user.Groups))
		}
		for _, want := range tc.want {
			if !strings.Contains(log, want) {
				t.Errorf("%s: %q is not in\n%s", tc.name, want, log)
			}
		}
		os.Remove(n.logPath("spec"))
	}
}

func testStartFails(t *testing.T, n *node) {
	tests := []struct {
		name   string
		change func(*agent.ContainerConfig)
		made   bool
		want   string
	}{
		{"no such program", func(c *agent.ContainerConfig) { c.Command = []string{"/nonsense"} }, true, "o such file or directory"},
		{"no such image", func(c *agent.ContainerConfig) { c.Image = "nonsense" }, false, "docker.io/library/nonsense:latest: image not found"},
		{"no such mount", func(c *agent.ContainerConfig) { c.Mounts = []agent.Mount{{Source: "/nonsense", Target: "/x"}} }, true, "/nonsense"},
		{"no such seccomp profile", func(c *agent.ContainerConfig) { c.Security.Seccomp = "Remote" }, false, `seccomp profile "Remote" is not known`},
		{"a seccomp profile that is none", func(c *agent.ContainerConfig) { c.Security.Seccomp, c.Security.Profile = "Localhost", []byte("{") }, false, "read the seccomp profile"},
	}
	for _, tc := range tests {
		config := n.config("fails")
		tc.change(&config)
		err := n.runtime.Start(t.Context(), config)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want one with %q", tc.name, err, tc.want)
		}
		c := n.container(config.ID)
		if made := c != nil && c.State == agent.Exited && strings.Contains(c.StartError, tc.want); made != tc.made || c != nil && !made {
			t.Errorf("%s: left %+v, want an ended container: %v", tc.name, c, tc.made)
		}
		if err := n.runtime.Remove(t.Context(), config.ID); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if _, err := os.Stat(n.runtime.containerDir(config.ID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: its folder is left (%v)", tc.name, err)
		}
	}
	config := n.start("fails")
	if err := n.runtime.Start(t.Context(), config); err == nil {
		t.Error("the same container could be started twice")
	}
	if c := n.container(config.ID); c == nil || c.State != agent.Running {
		t.Errorf("after the second start the first is %+v", c)
	}
	n.end(config.ID)
}

func testOOM(t *testing.T, n *node) {
	config := n.config("oom", "eat")
	config.Resources.MemoryLimit = 32 << 20
	if err := n.runtime.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if c := n.waitExited(config.ID); c.ExitCode != 137 || !c.OOM {
		t.Errorf("ended as %+v, want exit code 137 by OOM", c)
	}
	n.end(config.ID)
	config = n.config("oom", "run", "eat")
	config.Resources.MemoryLimit = 32 << 20
	if err := n.runtime.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if c := n.waitExited(config.ID); c.ExitCode == 0 || !c.OOM { // By a code of its own, or killed with its child: cgroup v2.
		t.Errorf("a container whose child was killed ended as %+v, want a failure by OOM", c)
	}
	n.end(config.ID)
	config = n.start("oom")
	if err := n.runtime.Signal(t.Context(), config.ID, true); err != nil {
		t.Fatal(err)
	}
	if c := n.waitExited(config.ID); c.ExitCode != 137 || c.OOM {
		t.Errorf("ended as %+v, want exit code 137 without OOM", c)
	}
	n.end(config.ID)
}

func testOutput(t *testing.T, n *node) {
	config := n.start("echo", "echo", "to stdout", "to stderr", "7")
	if c := n.waitExited(config.ID); c.ExitCode != 7 {
		t.Errorf("exit code %d, want 7", c.ExitCode)
	}
	n.waitLog("echo", "stdout to stdout")
	n.waitLog("echo", "stderr to stderr")
	n.end(config.ID)

	config = n.start("lines", "lines", "100000")
	n.waitExited(config.ID)
	n.end(config.ID)
	lines := n.log("lines")
	if len(lines) != 100000 || lines[99999] != "stdout line 99999" {
		t.Errorf("%d lines in the log, want 100000", len(lines))
	}
}

func testExec(t *testing.T, n *node) {
	config := n.start("exec")
	defer n.end(config.ID)
	var stdout, stderr bytes.Buffer
	status, err := n.runtime.Exec(t.Context(), config.ID, agent.ExecConfig{
		Command: []string{"/box", "echo", "out", "err", "3"}, Streams: agent.Streams{Stdout: &stdout, Stderr: &stderr}})
	if err != nil || status != 3 || stdout.String() != "out\n" || stderr.String() != "err\n" {
		t.Errorf("exec: status %d, %v, stdout %q, stderr %q", status, err, &stdout, &stderr)
	}
	input := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB.
	stdout.Reset()
	status, err = n.runtime.Exec(t.Context(), config.ID, agent.ExecConfig{
		Command: []string{"/box", "cat"}, Streams: agent.Streams{Stdin: strings.NewReader(input), Stdout: &stdout}})
	if err != nil || status != 0 || stdout.String() != input+"end of input\n" {
		t.Errorf("cat: status %d, %v, %d bytes of output, want %d", status, err, stdout.Len(), len(input)+13)
	}
	_, err = n.runtime.Exec(t.Context(), config.ID, agent.ExecConfig{Command: []string{"/nonsense"}})
	if err == nil || !strings.Contains(err.Error(), "/nonsense") {
		t.Errorf("exec of a program that is not there: %v", err)
	}
	if _, err := n.runtime.Exec(t.Context(), "nonsense", agent.ExecConfig{Command: []string{"/box"}}); !errors.Is(err, agent.ErrNoContainer) {
		t.Errorf("exec in no container: %v, want ErrNoContainer", err)
	}
	ended := n.start("ended", "echo", "", "", "0")
	n.waitExited(ended.ID)
	if _, err := n.runtime.Exec(t.Context(), ended.ID, agent.ExecConfig{Command: []string{"/box"}}); !errors.Is(err, agent.ErrNotRunning) {
		t.Errorf("exec in an ended container: %v, want ErrNotRunning", err)
	}
	n.end(ended.ID)
	if left, err := os.ReadDir(filepath.Join(n.dir, "run", "exec")); err != nil || len(left) > 0 {
		t.Errorf("folders of commands are left: %v (%v)", left, err)
	}
}

func testExecTTY(t *testing.T, n *node) {
	config := n.start("tty")
	defer n.end(config.ID)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout buffer
	sizes := make(chan agent.Size, 1)
	stdin, _ := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := n.runtime.Exec(ctx, config.ID, agent.ExecConfig{Command: []string{"/box", "size"},
			Streams: agent.Streams{Stdin: stdin, Stdout: &stdout, TTY: true, Resize: sizes}})
		done <- err
	}()
	for _, size := range []agent.Size{{Width: 80, Height: 25}, {Width: 132, Height: 43}} {
		sizes <- size
		want := map[uint16]string{80: "size 80x25\r\n", 132: "size 132x43\r\n"}[size.Width]
		n.eventually(want, func() bool { return strings.Contains(stdout.String(), want) })
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the command that was cancelled returned %v", err)
	}
}

func testExecKilled(t *testing.T, n *node) {
	config := n.start("killed")
	defer n.end(config.ID)
	ctx, cancel := context.WithCancel(t.Context())
	var stdout buffer
	done := make(chan error, 1)
	go func() {
		_, err := n.runtime.Exec(ctx, config.ID, agent.ExecConfig{Command: []string{"/box", "run", "hold"}, Streams: agent.Streams{Stdout: &stdout}})
		done <- err
	}()
	n.eventually("a child of the command", func() bool { return strings.Contains(stdout.String(), "holding") })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("exec returned %v, want context.Canceled", err)
	}
	container, err := n.runtime.load(n.runtime.in(t.Context()), config.ID)
	if err != nil {
		t.Fatal(err)
	}
	task, err := container.Task(n.runtime.in(t.Context()), nil)
	if err != nil {
		t.Fatal(err)
	}
	n.eventually("only the container's first process is left", func() bool {
		pids, err := task.Pids(n.runtime.in(t.Context()))
		return err == nil && len(pids) == 1
	})
}

func testAttach(t *testing.T, n *node) {
	config := n.config("attach", "cat")
	config.Stdin, config.StdinOnce = true, true
	if err := n.runtime.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	var watcher, client buffer
	done := make(chan error, 2)
	attached := func(want int) {
		n.eventually("the clients are attached", func() bool {
			o := n.runtime.output(config.ID)
			o.mu.Lock()
			defer o.mu.Unlock()
			return len(o.clients) == want
		})
	}
	go func() { done <- n.runtime.Attach(t.Context(), config.ID, agent.Streams{Stdout: &watcher}) }()
	attached(1)
	stdin, typing := io.Pipe()
	go func() {
		done <- n.runtime.Attach(t.Context(), config.ID, agent.Streams{Stdin: stdin, Stdout: &client})
	}()
	attached(2)
	if _, err := io.WriteString(typing, "hello\n"); err != nil {
		t.Fatal(err)
	}
	n.eventually("both clients see the answer", func() bool {
		return watcher.String() == "hello\n" && client.String() == "hello\n"
	})
	typing.Close() // StdinOnce: the container sees the end of its input.
	for range 2 {
		if err := <-done; err != nil {
			t.Errorf("attach: %v", err)
		}
	}
	if got := watcher.String(); got != "hello\nend of input\n" {
		t.Errorf("the watcher saw %q", got)
	}
	n.waitExited(config.ID)
	if err := n.runtime.Attach(t.Context(), config.ID, agent.Streams{}); !errors.Is(err, agent.ErrNotRunning) {
		t.Errorf("attach to an ended container: %v, want ErrNotRunning", err)
	}
	n.end(config.ID)
}

// All containers of a pod share one shim and one /dev/shm, whichever goes first.
func testGroup(t *testing.T, n *node) {
	a := n.start("a")
	b := n.start("b")
	if shims := n.shims(); len(shims) != 1 {
		t.Errorf("two containers of a pod have the shims %v, want one", shims)
	}
	run := func(id string, command ...string) string {
		var out bytes.Buffer
		if _, err := n.runtime.Exec(t.Context(), id, agent.ExecConfig{Command: command, Streams: agent.Streams{Stdout: &out}}); err != nil {
			t.Errorf("exec %v: %v", command, err)
		}
		return out.String()
	}
	run(a.ID, "/box", "write", "/dev/shm/note", "shared")
	if got := run(b.ID, "/box", "show", "/dev/shm/note"); !strings.Contains(got, "/dev/shm/note: shared") {
		t.Errorf("the second container sees of the first's /dev/shm: %s", got)
	}
	n.end(a.ID)
	if c := n.container(b.ID); c == nil || c.State != agent.Running {
		t.Errorf("after the first container's end the second is %+v", c)
	}
	n.end(b.ID)
	if err := n.runtime.RemovePod(t.Context(), "pod-1"); err != nil {
		t.Error(err)
	}
	n.eventually("the shim ends", func() bool { return len(n.shims()) == 0 })
}

func testEvents(t *testing.T, n *node) {
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan string, 100)
	done := make(chan error, 1)
	go func() { done <- n.runtime.Events(ctx, func(uid string) { changes <- uid }) }()
	expect := func(want, why string) {
		t.Helper()
		select {
		case got := <-changes:
			if got != want {
				t.Errorf("%s: told of %q, want %q", why, got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: not told", why)
		}
	}
	expect("", "the beginning")
	config := n.start("events")
	expect("pod-1", "the start")
	if _, err := n.runtime.Exec(ctx, config.ID, agent.ExecConfig{Command: []string{"/box", "show"}}); err != nil {
		t.Error(err)
	}
	if err := n.runtime.Signal(ctx, config.ID, true); err != nil {
		t.Error(err)
	}
	expect("pod-1", "the end")
	n.end(config.ID)
	cancel()
	if err := <-done; err != nil || len(changes) > 0 {
		t.Errorf("events ended with %v, %d more were told", err, len(changes))
	}
}

// The output of a container goes on in the same log when another agent takes over, and nothing of it is lost.
func testAgentRestart(t *testing.T, n *node) {
	config := n.start("restart", "tick")
	n.waitLog("restart", "stdout tick 5")
	ended := n.start("meanwhile", "hold")
	if err := n.runtime.Close(); err != nil {
		t.Error(err)
	}
	before := len(n.log("restart"))
	n.runtime = n.open()
	n.eventually("the log grows", func() bool { return len(n.log("restart")) > before+10 })
	for i, line := range n.log("restart") {
		if fields := strings.Fields(line); fields[len(fields)-1] != strconv.Itoa(i) {
			t.Fatalf("line %d of the log is %q", i, line)
		}
	}
	if c := n.container(config.ID); c == nil || c.State != agent.Running || c.Started.IsZero() {
		t.Errorf("after the restart the container is %+v", c)
	}
	n.end(ended.ID)
	n.end(config.ID)
}

// Containers outlive their daemon, killed or stopped, and events come again.
func testDaemonDies(t *testing.T, n *node) {
	ctx, cancel := context.WithCancel(t.Context())
	changes := make(chan string, 100)
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.runtime.Events(ctx, func(uid string) { changes <- uid }); err != nil {
			t.Errorf("events: %v", err)
		}
	})
	running.Go(func() {
		if err := n.daemon.Run(ctx); err != nil {
			t.Errorf("run the daemon: %v", err)
		}
	})
	<-changes
	config := n.start("survivor", "tick")
	<-changes
	n.waitLog("survivor", "stdout tick 5")
	pid := n.container(config.ID).Started
	if err := n.daemon.current().cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case uid := <-changes:
		if uid != "" {
			t.Errorf("told of %q after the daemon's return, want of all", uid)
		}
	case <-time.After(time.Minute):
		t.Error("not told of the daemon's return")
	}
	if c := n.container(config.ID); c == nil || c.State != agent.Running || !c.Started.Equal(pid) {
		t.Errorf("after the daemon's return the container is %+v", c)
	}
	seen := len(n.log("survivor"))
	n.eventually("the log grows", func() bool { return len(n.log("survivor")) > seen })
	cancel()
	running.Wait()

	// As after a kill -9 of the whole server: nobody stopped the daemon.
	n.startDaemon()
	orphan := n.daemon.current()
	n.startDaemon()
	n.eventually("the orphan has ended", func() bool { // Who waits for it may hear of that later than the other daemon.
		select {
		case <-orphan.ended:
			return true
		default:
			return false
		}
	})
	n.end(config.ID)
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// After a reboot the containers are known, but none runs: each ended in a way that nobody saw, and can be removed.
func TestReboot(t *testing.T) {
	n := newNode(t)
	config := n.start("rebooted", "hold")
	if err := n.runtime.holder.end(); err != nil {
		t.Error(err)
	}
	if err := n.runtime.Close(); err != nil {
		t.Error(err)
	}
	if err := n.daemon.Stop(); err != nil {
		t.Error(err)
	}
	if err := killShims(n.daemon.Socket()); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{filepath.Join(n.dir, "state"), filepath.Join(n.dir, "run")} {
		if err := errors.Join(agent.UnmountBelow(dir), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	}
	n.eventually("the cgroups are gone", func() bool { return cgroup.Host().Remove(testCgroup) == nil })
	n.startDaemon()
	n.runtime = n.open()
	c := n.container(config.ID)
	if c == nil || c.State != agent.Exited || !c.Unknown || c.ExitCode != 137 || c.Pod != config.Pod {
		t.Errorf("after the reboot the container is %+v", c)
	}
	if again := n.container(config.ID); again == nil || !again.Finished.Equal(c.Finished) {
		t.Errorf("asked again, it is %+v, was %+v", again, c)
	}
	if err := n.runtime.Remove(t.Context(), config.ID); err != nil {
		t.Error(err)
	}
	n.end(n.start("rebooted", "hold").ID)
}

// Where the runtime could not remove a container, the daemon's Purge leaves nothing of it all the same.
func TestDaemonPurge(t *testing.T) {
	n := newNode(t)
	n.start("left", "hold")
	n.waitLog("left", "stdout holding")
	if err := n.runtime.holder.end(); err != nil {
		t.Error(err)
	}
	if err := n.runtime.Close(); err != nil {
		t.Error(err)
	}
	n.runtime = nil
	if err := n.daemon.Stop(); err != nil {
		t.Error(err)
	}
	if len(n.shims()) == 0 {
		t.Error("the shim ended with its daemon")
	}
	sockets := socketsIn(t, n.daemon.config.State)
	if err := n.daemon.Purge(); err != nil {
		t.Errorf("purge: %v", err)
	}
	for _, socket := range sockets {
		if _, err := os.Lstat(socket); err == nil {
			t.Errorf("the shim's socket %s is left", socket)
		}
	}
	for _, dir := range []string{"shm/pod-1", "pause"} {
		if err := agent.Unmount(filepath.Join(n.dir, "run", dir)); err != nil {
			t.Error(err)
		}
	}
	n.eventually("the container's cgroup is empty and can be removed", func() bool { return cgroup.Host().Remove(testCgroup) == nil })
}

// socketsIn are where the shims of a daemon listen; there is at least one.
func socketsIn(t *testing.T, state string) (sockets []string) {
	t.Helper()
	for _, bundle := range bundlesIn(state) {
		socket, err := socketIn(bundle)
		if err != nil {
			t.Fatal(err)
		}
		if socket != "" {
			sockets = append(sockets, socket)
		}
	}
	if len(sockets) == 0 {
		t.Fatal("no shim's socket found")
	}
	return sockets
}

// Anything wrong with the daemon is one clear error.
func TestStartDaemonFails(t *testing.T) {
	needsContainerd(t)
	dir := t.TempDir()
	config := DaemonConfig{Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Binary: "no-such-containerd"}
	if _, err := StartDaemon(t.Context(), config); err == nil || !strings.Contains(err.Error(), "no no-such-containerd on PATH") {
		t.Errorf("without a containerd: %v", err)
	}
	long := config
	long.Binary, long.State = "", filepath.Join(dir, strings.Repeat("x", 100))
	if _, err := StartDaemon(t.Context(), long); err == nil || !strings.Contains(err.Error(), "shorter --run-dir") {
		t.Errorf("with a long path: %v", err)
	}
	config.Binary = filepath.Join(dir, "broken")
	if err := os.WriteFile(config.Binary, []byte("#!/bin/sh\necho I am broken >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := StartDaemon(t.Context(), config); err == nil || !strings.Contains(err.Error(), "I am broken") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("with one that ends at once: %v", err)
	}
}

// A daemon that somebody kills as it starts is started again.
func TestStartDaemonKilled(t *testing.T) {
	needsContainerd(t)
	dir, err := os.MkdirTemp("", "skiff-containerd-")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir}
	t.Cleanup(n.close)
	config := n.daemonConfig()
	config.Binary = filepath.Join(dir, "killed")
	script := fmt.Sprintf("#!/bin/sh\ntest -e %[1]s/once || { touch %[1]s/once; kill -9 $$; }\nexec containerd \"$@\"\n", dir)
	if err := os.WriteFile(config.Binary, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if n.daemon, err = StartDaemon(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "once")); err != nil {
		t.Errorf("it was not killed: %v", err)
	}
}

// A process that containerd knows nothing of, left in a pod's cgroup by a start that was broken off, goes with the pod.
func testForgottenProcess(t *testing.T, n *node) {
	orphaned := testCgroup + "/pod-9"
	for _, dir := range cgroup.Host().Find(testCgroup) {
		if err := os.MkdirAll(filepath.Join(dir, "pod-9", "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	forgotten := exec.Command("sleep", "1000")
	if err := forgotten.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forgotten.Wait() }()
	t.Cleanup(func() { _ = forgotten.Process.Kill() })
	joined := 0
	for _, dir := range cgroup.Host().Find(orphaned + "/inner") {
		if os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, forgotten.Process.Pid), 0o644) == nil {
			joined++
		}
	}
	if joined == 0 {
		t.Fatal("the process is in no cgroup of the pod")
	}
	if err := n.runtime.RemovePod(t.Context(), "pod-9"); err != nil {
		t.Error(err)
	}
	if left := cgroup.Host().Find(orphaned); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the process lives on")
	}
}
