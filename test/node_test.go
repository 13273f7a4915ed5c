package test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	nodeName    = "node1"
	nodeAddr    = "198.51.100.1" // Of TEST-NET-2, which is nobody's.
	outsideAddr = "198.51.100.2"

	startTime = 60 * time.Second // Many times what it takes: the machine may be busy.
	stopTime  = 30 * time.Second
)

// node is a machine to skiff: a network namespace, directories, and the server in them.
type node struct {
	t        testing.TB
	netns    string // Name of the network namespace.
	outside  string // Name of the one at the other end of its only link.
	dir      string // Everything of this node is below.
	data     string
	run      string
	before   []string // Sockets of shims that were there.
	flags    []string // More flags of `skiff server`.
	server   *process
	removed  bool
	starts   int
	lastSeen string // The current server's log.
}

// process is the server, running or ended.
type process struct {
	*os.Process
	ended chan struct{} // Closed when err is set.
	err   error
}

var nodes atomic.Int64

// newNode makes a machine without a server. It is removed when the test ends.
func newNode(t testing.TB, flags ...string) *node {
	t.Helper()
	requireRoot(t)
	dir, err := os.MkdirTemp("", "skiff-test-") // t.TempDir's names are too long for unix sockets.
	if err == nil {
		err = os.Chmod(dir, 0o711) // As /run and /var/lib are.
	}
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("skiff-test-%d-%d", os.Getpid(), nodes.Add(1))
	n := &node{t: t, netns: name, outside: name + "-out", dir: dir, flags: flags,
		data: filepath.Join(dir, "data"), run: filepath.Join(dir, "run")}
	n.before = shimSockets()
	t.Cleanup(n.remove)
	n.connect()
	n.addImages("nginx", "busybox")
	return n
}

// connect makes the node's network namespace, and the one outside.
func (n *node) connect() {
	n.t.Helper()
	for _, line := range []string{
		"ip netns add " + n.netns,
		"ip netns add " + n.outside,
		"ip -n " + n.netns + " link set lo up",
		"ip -n " + n.outside + " link set lo up",
		"ip -n " + n.netns + " link add uplink type veth peer name node netns " + n.outside,
		"ip -n " + n.netns + " address add " + nodeAddr + "/24 dev uplink",
		"ip -n " + n.outside + " address add " + outsideAddr + "/24 dev node",
		"ip -n " + n.netns + " link set uplink up",
		"ip -n " + n.outside + " link set node up",
	} {
		host(n.t, line)
	}
}

// runInMemory has the node's run directory in memory, as /run is. Without, what is measured hangs on how this disk makes files.
func (n *node) runInMemory() {
	n.t.Helper()
	dir := filepath.Join(n.dir, "memory")
	if err := os.Mkdir(dir, 0o711); err != nil {
		n.t.Fatal(err)
	}
	host(n.t, "mount -t tmpfs memory "+dir)
	n.run = filepath.Join(dir, "run")
}

// disconnect removes them, with every link, route and rule in them.
func (n *node) disconnect() {
	n.t.Helper()
	host(n.t, "ip netns del "+n.netns)
	host(n.t, "ip netns del "+n.outside)
}

// requireRoot skips what cannot be tested otherwise, and fails if the binaries are not there.
func requireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces and runs containers")
	}
	for _, file := range []string{"bin/skiff", "bin/kubectl", "bin/images/nginx.tar", "bin/images/busybox.tar"} {
		if _, err := os.Stat(repository(file)); err != nil {
			t.Fatalf("%v: run `make build images` first", err)
		}
	}
}

// repository is the full path of a file of the repository. Tests run in the folder test.
func repository(file string) string {
	path, err := filepath.Abs(filepath.Join("..", file))
	if err != nil {
		panic(err) // There is no working directory.
	}
	return path
}

// host runs a command on the machine itself.
func host(t testing.TB, line string) string {
	t.Helper()
	fields := strings.Fields(line)
	out, err := exec.Command(fields[0], fields[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// addImages puts images where a server imports them from.
func (n *node) addImages(names ...string) {
	n.t.Helper()
	images := filepath.Join(n.data, "images")
	if err := os.MkdirAll(images, 0o700); err != nil {
		n.t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Link(repository("bin/images/"+name+".tar"), filepath.Join(images, name+".tar")); err == nil {
			continue
		}
		host(n.t, "cp "+repository("bin/images/"+name+".tar")+" "+images)
	}
}

// in is a command in a network namespace. `ip netns exec` would hide the cgroups: it mounts a new /sys.
func in(netns, name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + netns, "--", name}, args...)...)
}

// skiff is a command line of the binary, on this node.
func (n *node) skiff(command string, args ...string) *exec.Cmd {
	args = append([]string{command, "--data-dir", n.data, "--run-dir", n.run}, args...)
	return in(n.netns, repository("bin/skiff"), args...)
}

// start starts the server and waits until its node is Ready.
func (n *node) start() {
	n.t.Helper()
	n.launch()
	n.awaitLog("node " + nodeName + " is Ready")
}

// launch starts the server.
func (n *node) launch() {
	n.t.Helper()
	// However full the machine's disk is, that is not what is tested.
	n.launchAs(n.skiff("server", append([]string{"--node-name", nodeName, "--eviction-hard=memory.available<1Mi"}, n.flags...)...))
}

// launchAs starts the server by a command line of one's own.
func (n *node) launchAs(cmd *exec.Cmd) {
	n.t.Helper()
	n.starts++
	n.lastSeen = filepath.Join(n.dir, fmt.Sprintf("server-%d.log", n.starts))
	log, err := os.Create(n.lastSeen)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	p := &process{Process: cmd.Process, ended: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.ended) }()
	n.server = p
}

// awaitLog waits until the server has said something.
func (n *node) awaitLog(text string) {
	n.t.Helper()
	eventually(n.t, startTime, func() error {
		select {
		case <-n.server.ended:
			n.t.Fatalf("the server ended: %v\n%s", n.server.err, n.log())
		default:
		}
		if !strings.Contains(n.log(), text) {
			return fmt.Errorf("the server has not said %q:\n%s", text, n.log())
		}
		return nil
	})
}

func (n *node) log() string {
	log, _ := os.ReadFile(n.lastSeen)
	return string(log)
}

// stop sends the server a signal and waits until it has ended.
func (n *node) stop(signal syscall.Signal) {
	n.t.Helper()
	if err := n.server.Signal(signal); err != nil {
		n.t.Fatalf("send the server %v: %v", signal, err)
	}
	select {
	case <-n.server.ended:
	case <-time.After(stopTime):
		n.t.Fatalf("the server has not ended %v after %v:\n%s", stopTime, signal, tail(n.log(), 50))
	}
	if n.server.err != nil && signal == syscall.SIGTERM {
		n.t.Errorf("the server ended with %v after SIGTERM:\n%s", n.server.err, tail(n.log(), 50))
	}
}

// eventually waits until check returns nil.
func eventually(t testing.TB, timeout time.Duration, check func() error) {
	t.Helper()
	deadline := time.After(timeout)
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-every.C:
		case <-deadline:
			t.Fatalf("not within %v: %v", timeout, err)
		}
	}
}

// tail is the end of a text.
func tail(text string, lines int) string {
	all := strings.SplitAfter(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

// result is what a command did.
type result struct {
	line           string
	stdout, stderr string
	status         int
}

func (r result) String() string {
	return fmt.Sprintf("$ %s\n%s%s(exit status %d)", r.line, r.stdout, r.stderr, r.status)
}

// commandTime bounds every command of a test.
const commandTime = 2 * time.Minute

// execute runs a command to its end.
func execute(t testing.TB, line string, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	stopped := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stopped()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", line, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s: has not ended after %v\n%s%s", line, commandTime, stdout.String(), stderr.String())
	}
	return result{line, stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// shell is a terminal on a node, in a folder, with a kubectl on its PATH.
type shell struct {
	*node
	t       testing.TB
	kubectl string // Its path.
	config  string // Its kubeconfig.
	space   string // The Kubernetes namespace.
	folder  string
	env     []string
}

// shell opens a terminal on the node: in the folder examples, as the administrator.
func (n *node) shell(t testing.TB) *shell {
	return &shell{node: n, t: t, kubectl: repository("bin/kubectl"), space: "default",
		config: filepath.Join(n.data, "admin.kubeconfig"), folder: repository("examples")}
}

// with is the same shell for a part of its test, with another kubectl.
func (s *shell) with(t testing.TB, kubectl string) *shell {
	other := *s
	other.t, other.kubectl = t, kubectl
	return &other
}

// command is a command line on the node.
func (s *shell) command(line string) *exec.Cmd {
	cmd := in(s.netns, "sh", "-c", line)
	cmd.Dir = s.folder
	cmd.Env = append(os.Environ(),
		"PATH="+filepath.Dir(s.kubectl)+":"+os.Getenv("PATH"), "KUBECONFIG="+s.config, "HOME="+s.dir, "TERM=xterm")
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// try runs a command line, which may fail.
func (s *shell) try(line string) result {
	s.t.Helper()
	return execute(s.t, line, s.command(line))
}

// do runs a command line, which must not fail, and returns what it prints, without the last line's end.
func (s *shell) do(line string) string {
	s.t.Helper()
	r := s.try(line)
	if r.status != 0 {
		s.t.Fatalf("failed: %v", r)
	}
	return strings.TrimSuffix(r.stdout, "\n")
}

// says runs a command line and holds all that it prints against a regular expression.
func (s *shell) says(line, want string) {
	s.t.Helper()
	if got := s.do(line); !matches(want, got) {
		s.t.Fatalf("$ %s\n%s\nwant: %s", line, got, want)
	}
}

// fails runs a command line that must end with this status and this error.
func (s *shell) fails(line string, status int, want string) {
	s.t.Helper()
	r := s.try(line)
	if r.status != status || !matches(want, strings.TrimSuffix(r.stderr, "\n")) {
		s.t.Fatalf("%v\nwant: %s\n(exit status %d)", r, want, status)
	}
}

// patience is how long a cluster may take to become what was asked for.
const patience = 60 * time.Second

// until runs a command line again and again, until it prints what matches.
func (s *shell) until(line, want string) {
	s.t.Helper()
	eventually(s.t, patience, func() error {
		if r := s.try(line); r.status != 0 || !matches(want, strings.TrimSuffix(r.stdout, "\n")) {
			return fmt.Errorf("%v\nwant: %s", r, want)
		}
		return nil
	})
}

// matches holds a whole text against a regular expression.
func matches(pattern, text string) bool {
	return regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(text)
}

// kubectls are the kubectls to test with: our own, and the one on PATH where there is one.
func kubectls() map[string]string {
	all := map[string]string{"bin": repository("bin/kubectl")}
	if path, err := exec.LookPath("kubectl"); err == nil {
		all["PATH"] = path
	}
	return all
}

// report prints what may tell why a test failed.
func (n *node) report(t testing.TB) {
	t.Helper()
	t.Logf("end of the server's log:\n%s", cmp.Or(tail(n.log(), 60), "(empty)"))
	if n.server == nil {
		return
	}
	s := n.shell(t)
	for _, line := range []string{"kubectl get pods -A -o wide", "kubectl get events -A --sort-by=.lastTimestamp | tail -n 40"} {
		t.Logf("%v", s.try("timeout 10 "+line))
	}
}
