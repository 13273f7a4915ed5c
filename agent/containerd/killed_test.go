package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"google.golang.org/protobuf/proto"
)

// agentDir names the directory of a node to a process that a test starts to be its agent.
const agentDir = "SKIFF_TEST_AGENT_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(agentDir); dir != "" {
		beAgent(dir)
	}
	os.Exit(m.Run())
}

// beAgent takes a node's containers over, says so, and waits to be killed.
func beAgent(dir string) {
	r, err := New(context.Background(), nodeConfig(dir, os.Getenv(agentDir+"_SOCKET")))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	r.ChooseProgram(context.Background())
	fmt.Println("here")
	_, _ = os.Stdin.Read(make([]byte, 1))
	r.Close()
	os.Exit(0)
}

// another starts a process that is the node's agent for a time; then it is killed.
func (n *node) another(time time.Duration) {
	n.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), agentDir+"="+n.dir, agentDir+"_SOCKET="+n.daemon.Socket(), agentDir+"_CGROUP="+testCgroup)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 5)); err != nil {
		n.t.Errorf("the other agent does not start: %v", err)
	}
	pause(n.t, time)
	if err := cmd.Process.Kill(); err != nil {
		n.t.Error(err)
	}
	_ = cmd.Wait() // It was killed.
}

func pause(t testing.TB, d time.Duration) {
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}

// However often the agent is killed while a container writes, and when it ends: every line is in the log once, in order.
func testAgentKilled(t *testing.T, n *node) {
	const bursts = 3000
	config := n.start("writer", "bursts", strconv.Itoa(bursts))
	last := n.start("last-words")
	stays := n.start("stays")
	if err := n.runtime.Close(); err != nil {
		t.Error(err)
	}
	kills := 0
	for ; kills < 5 || len(n.log("writer")) < bursts*50; kills++ {
		n.another(rand.N(50 * time.Millisecond))
	}
	for _, pid := range n.processesOf(last.ID) {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	n.eventually("the container ends with nobody to read it", func() bool { return len(n.processesOf(last.ID)) == 0 })
	n.runtime = n.open()
	if c := n.waitExited(config.ID); c.ExitCode != 0 {
		lines := n.log("writer")
		t.Fatalf("after %d kills the writer has ended with %+v after %q", kills, c, lines[len(lines)-1])
	}
	n.waitLog("writer", fmt.Sprintf("stdout line %d", bursts*100-1))
	for i, line := range n.log("writer") {
		if want := fmt.Sprintf("stdout line %d", i); line != want {
			t.Fatalf("after %d kills line %d of the log is %q", kills, i, line)
		}
	}
	n.waitLog("last-words", "stdout stopped by terminated")
	if c := n.container(stays.ID); c == nil || c.State != "running" {
		t.Errorf("after %d kills a container is %+v", kills, c)
	}
	for _, c := range []string{config.ID, last.ID, stays.ID} {
		n.end(c)
	}
	if dirs, err := os.ReadDir(n.runtime.containerDir("")); err != nil || len(dirs) > 0 {
		t.Errorf("left of the containers: %v %v", dirs, err)
	}
}

// processesOf are the processes of a container.
func (n *node) processesOf(id string) (pids []int) {
	group := testCgroup + "/pod-1/" + strings.TrimPrefix(id, "pod-1-")
	files, _ := filepath.Glob("/sys/fs/cgroup/*" + group + "/cgroup.procs")
	unified, _ := filepath.Glob("/sys/fs/cgroup" + group + "/cgroup.procs")
	for _, file := range append(files, unified...) {
		text, _ := os.ReadFile(file)
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && !slices.Contains(pids, pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// What a killed shim leaves is gone with its pod, and a container that was never started is not one that ended.
func testShimKilled(t *testing.T, n *node) {
	config := n.start("shimless")
	socket := n.runtime.shimSocket("pod-1")
	if sockets := socketsIn(t, n.daemon.config.State); !slices.Contains(sockets, socket) {
		t.Fatalf("the shims listen on %v; %s is not among them", sockets, socket)
	}
	for _, text := range n.shims() {
		pid, err := strconv.Atoi(text)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			t.Error(err)
		}
	}
	c := n.waitExited(config.ID)
	if c.ExitCode != 137 {
		t.Errorf("the container of a killed shim is %+v", c)
	}
	if err := n.runtime.Remove(t.Context(), config.ID); err != nil {
		t.Error(err)
	}
	if err := n.runtime.RemovePod(t.Context(), "pod-1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Errorf("the killed shim's socket %s is left", socket)
	}
}

// A containerd that is killed before it has reached a shim leaves a bundle that it cannot clear away itself. The container starts all the
// same, and those that run do so afterwards.
func testStillborn(t *testing.T, n *node) {
	runs := n.start("runs")
	if err := n.daemon.Stop(); err != nil {
		t.Fatal(err)
	}
	shim := shimProgram(t)
	left := func(name string, files map[string]string) {
		dir := filepath.Join(n.daemon.config.State, "io.containerd.runtime.v2.task", "skiff", containerdID(n.config(name).ID))
		if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	left("no-shim", map[string]string{"config.json": "{}", "shim-binary-path": shim})
	left("dead-shim", map[string]string{"config.json": "{}", "shim-binary-path": shim, "address": "unix://" + shimSockets + "/nobody"})
	waits := n.config("waits")
	waits.ID, waits.Pod.UID = "pod-waits-0", "pod-waits"
	n.startShim(filepath.Join(n.daemon.config.State, "io.containerd.runtime.v2.task", "skiff", waits.ID), waits.ID, waits.Pod.UID)
	if err := n.runtime.Close(); err != nil {
		t.Error(err)
	}
	n.startDaemon()
	n.runtime = n.open()
	if c := n.container(runs.ID); c == nil || c.State != "running" {
		t.Errorf("a container that ran is %+v", c)
	}
	n.end(runs.ID)
	for _, name := range []string{"no-shim", "dead-shim"} {
		n.end(n.start(name).ID)
	}
	if err := n.runtime.Start(t.Context(), waits); err != nil {
		t.Errorf("start a container of a pod whose shim waited: %v", err)
	}
	n.end(waits.ID)
	if err := n.runtime.RemovePod(t.Context(), waits.Pod.UID); err != nil {
		t.Error(err)
	}
}

func shimProgram(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("containerd-shim-runc-v2")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// startShim starts a shim as containerd does that is then killed. It waits for somebody to read its log before it serves.
func (n *node) startShim(bundle, id, podUID string) {
	n.t.Helper()
	config := fmt.Sprintf(`{"annotations": {%q: %q}}`, groupAnnotation, podUID)
	shim := shimProgram(n.t)
	if err := errors.Join(os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o700), os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o600),
		os.WriteFile(filepath.Join(bundle, "shim-binary-path"), []byte(shim), 0o600), syscall.Mkfifo(filepath.Join(bundle, "log"), 0o600)); err != nil {
		n.t.Fatal(err)
	}
	socket, namespace := n.daemon.Socket(), n.runtime.config.Namespace
	params, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: id, Namespace: namespace,
		ContainerdGrpcAddress: socket, ContainerdTtrpcAddress: socket + ".ttrpc"})
	if err != nil {
		n.t.Fatal(err)
	}
	var out []byte
	for _, stdin := range [][]byte{nil, params} { // Before containerd 2.3 they wanted nothing, then the parameters.
		start := exec.Command(shim, "-namespace", namespace, "-id", id, "-address", socket, "start")
		start.Dir, start.Env, start.Stdin = bundle, append(os.Environ(), "TTRPC_ADDRESS="+socket+".ttrpc"), bytes.NewReader(stdin)
		if out, err = start.CombinedOutput(); err == nil {
			return
		}
	}
	n.t.Fatalf("start a shim: %v\n%s", err, out)
}

// A shim that was never asked for a container, as containerd was killed before, goes with its pod.
func testIdleShim(t *testing.T, n *node) {
	bundle := filepath.Join(n.dir, "idle")
	n.startShim(bundle, "idle", "pod-idle")
	log, err := os.OpenFile(filepath.Join(bundle, "log"), os.O_RDWR, 0) // Of containerd.
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if len(n.shims()) == 0 {
		t.Fatal("there is no shim")
	}
	if err := n.runtime.RemovePod(t.Context(), "pod-idle"); err != nil {
		t.Error(err)
	}
	n.eventually("the shim has ended", func() bool { return len(n.shims()) == 0 })
	if _, err := os.Lstat(n.runtime.shimSocket("pod-idle")); err == nil {
		t.Error("the shim's socket is left")
	}
}

// Without its holder the node starts another, and what was held stays held.
func testHolderKilled(t *testing.T, n *node) {
	config := n.start("first", "bursts", "1")
	before := n.holders()
	if len(before) != 1 {
		t.Fatalf("there are the holders %v, want one", before)
	}
	process, err := os.FindProcess(before[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	n.eventually("the holder is gone", func() bool { return len(n.holders()) == 0 })
	other := n.start("second", "echo", "out", "err", "0")
	if after := n.holders(); len(after) != 1 || after[0] == before[0] {
		t.Errorf("there are the holders %v, want a new one", after)
	}
	if err := n.runtime.Close(); err != nil {
		t.Error(err)
	}
	n.runtime = n.open()
	n.waitLog("first", "stdout line 99")
	n.waitLog("second", "stdout out")
	n.end(config.ID)
	n.end(other.ID)
}

// holders are the processes that hold the node's output: those that the note names.
func (n *node) holders() (pids []int) {
	text, _ := os.ReadFile(filepath.Join(n.dir, "run", "holder.pid"))
	number, start, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return nil
	}
	state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if now, err := startOf(pid); err == nil && now == start && !strings.Contains(string(state), ") Z ") {
		pids = append(pids, pid)
	}
	return pids
}
