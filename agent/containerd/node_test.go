package containerd

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"skiff/agent"
	"skiff/agent/cgroup"
)

// node is a private containerd and a Runtime on it, with an image "box:latest".
type node struct {
	t       testing.TB
	dir     string
	daemon  *Daemon
	runtime *Runtime
}

// testCgroup is the test's own: others may test at the same time.
var testCgroup = cmp.Or(os.Getenv(agentDir+"_CGROUP"), fmt.Sprintf("/skiff-test-%d", os.Getpid()))

// newNode starts a node and sees that nothing is left of it at the end.
func newNode(t testing.TB) *node {
	t.Helper()
	needsContainerd(t)
	dir, err := os.MkdirTemp("", "skiff-containerd-") // Short: a socket's path may have 107 bytes.
	if err != nil {
		t.Fatal(err)
	}
	return startNode(t, dir)
}

// startNode starts a node whose files are in dir.
func startNode(t testing.TB, dir string) *node {
	t.Helper()
	n := &node{t: t, dir: dir}
	t.Cleanup(n.close)
	n.startDaemon()
	n.runtime = n.open()
	if _, err := n.runtime.Import(t.Context(), n.saveImage("box.tar", "box:latest")); err != nil {
		t.Fatalf("import the test's image: %v", err)
	}
	return n
}

func needsContainerd(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: containers are made for real")
	}
	for _, binary := range []string{"containerd", "runc"} {
		if _, err := exec.LookPath(binary); err != nil {
			t.Skipf("needs %s: apt-get install containerd runc", binary)
		}
	}
}

func (n *node) daemonConfig() DaemonConfig {
	return DaemonConfig{Root: filepath.Join(n.dir, "root"), State: filepath.Join(n.dir, "state")}
}

func (n *node) startDaemon() {
	n.t.Helper()
	daemon, err := StartDaemon(n.t.Context(), n.daemonConfig())
	if err != nil {
		n.t.Fatalf("start containerd: %v", err)
	}
	n.daemon = daemon
}

func (n *node) open() *Runtime {
	n.t.Helper()
	r, err := New(n.t.Context(), nodeConfig(n.dir, n.daemon.Socket()))
	if err != nil {
		n.t.Fatalf("open the runtime: %v", err)
	}
	r.ChooseProgram(n.t.Context())
	return r
}

func nodeConfig(dir, socket string) Config {
	return Config{Socket: socket, RunDir: filepath.Join(dir, "run"), Registries: filepath.Join(dir, "registries"), CgroupRoot: testCgroup}
}

// close purges the node and looks for what should not be there any more.
func (n *node) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if n.runtime != nil {
		if err := n.runtime.Purge(ctx); err != nil {
			n.t.Errorf("purge the runtime: %v", err)
		}
		if err := n.runtime.Close(); err != nil {
			n.t.Errorf("close the runtime: %v", err)
		}
	}
	if n.daemon != nil {
		if n.daemon.current().cmd.ProcessState == nil {
			if err := n.daemon.Stop(); err != nil {
				n.t.Errorf("stop containerd: %v", err)
			}
		}
		n.checkNothingLeft()
		if err := n.daemon.Purge(); err != nil {
			n.t.Errorf("purge containerd: %v", err)
		}
	}
	if err := os.RemoveAll(n.dir); err != nil {
		n.t.Errorf("remove the test's files: %v", err)
	}
}

// checkNothingLeft looks for processes, mounts and cgroups, before the daemon's Purge sweeps.
func (n *node) checkNothingLeft() {
	if left := n.shims(); len(left) > 0 {
		// A shim ends a moment after its last container.
		n.eventually("the shims end", func() bool { return len(n.shims()) == 0 })
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), n.dir+"/") {
		n.t.Errorf("mounts are left (%v) in\n%s", err, mounts)
	}
	if left := cgroup.Host().Find(testCgroup); len(left) > 0 {
		n.t.Errorf("cgroups are left: %v", left)
	}
}

// shims lists the process numbers of this node's shims.
func (n *node) shims() (pids []string) {
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, file := range all {
		line, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(line), "containerd-shim") && strings.Contains(string(line), n.daemon.Socket()) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

// eventually waits for a condition.
func (n *node) eventually(what string, condition func() bool) {
	n.t.Helper()
	deadline := time.After(time.Minute)
	for !condition() {
		select {
		case <-deadline:
			n.t.Fatalf("waited a minute in vain: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// start starts a container of pod "pod-1" that runs box with these arguments.
func (n *node) start(name string, args ...string) agent.ContainerConfig {
	n.t.Helper()
	c := n.config(name, args...)
	if err := n.runtime.Start(n.t.Context(), c); err != nil {
		n.t.Fatalf("start container %s: %v", name, err)
	}
	return c
}

func (n *node) config(name string, args ...string) agent.ContainerConfig {
	return agent.ContainerConfig{
		ID: "pod-1-" + name + "-0", Pod: agent.PodRef{UID: "pod-1", Namespace: "default", Name: "one"}, Name: name, Image: "box",
		Args: args, LogPath: n.logPath(name), CgroupParent: testCgroup + "/pod-1", Resources: agent.Resources{PidsLimit: 100},
	}
}

func (n *node) logPath(name string) string { return filepath.Join(n.dir, "logs", name, "0.log") }

// log returns what a container wrote, without time and tag, from the oldest of its files on: "stdout one".
func (n *node) log(name string) (lines []string) {
	files, _ := filepath.Glob(n.logPath(name) + "*")
	slices.Sort(files)
	for _, file := range slices.Backward(files) {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4); len(fields) == 4 {
				lines = append(lines, fields[1]+" "+fields[3])
			}
		}
	}
	return lines
}

func (n *node) waitLog(name, want string) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%q in the log of %s", want, name), func() bool {
		return strings.Contains(strings.Join(n.log(name), "\n"), want)
	})
}

// container returns what the runtime says of a container.
func (n *node) container(id string) *agent.Container {
	n.t.Helper()
	all, err := n.runtime.Containers(n.t.Context())
	if err != nil {
		n.t.Fatalf("list containers: %v", err)
	}
	for _, c := range all {
		if c.ID == id {
			return &c
		}
	}
	return nil
}

func (n *node) waitExited(id string) *agent.Container {
	n.t.Helper()
	var c *agent.Container
	n.eventually("container "+id+" exited", func() bool {
		c = n.container(id)
		return c != nil && c.State == agent.Exited
	})
	return c
}

// end kills and removes a container.
func (n *node) end(id string) {
	n.t.Helper()
	if err := n.runtime.Signal(n.t.Context(), id, true); err != nil {
		n.t.Fatal(err)
	}
	n.waitExited(id)
	if err := n.runtime.Remove(n.t.Context(), id); err != nil {
		n.t.Fatal(err)
	}
}

// saveImage writes the test's image as a docker tar.
func (n *node) saveImage(file, ref string) string {
	n.t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		n.t.Fatal(err)
	}
	path := filepath.Join(n.dir, file)
	if err := tarball.WriteToFile(path, tag, boxImage(n.t)); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// boxImage makes an image of the one static program in testdata/box.
func boxImage(t testing.TB) v1.Image {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "box")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, "./testdata/box")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build testdata/box: %v\n%s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	passwd := "root:x:0:0::/:/box\nweb:x:101:102::/:/box\n"
	files := archive(t, map[string]string{"box": string(program), "etc/passwd": passwd, "etc/group": "extra:x:7:web\n"})
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH})
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.AppendLayers(image, layer)
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.Config(image, v1.Config{Entrypoint: []string{"/box"}, Cmd: []string{"hold"}, StopSignal: "SIGINT",
		Env: []string{"PATH=/", "FROM=image"}, WorkingDir: "/etc"})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// archive makes a tar, in the order of the paths: the same files have the same digest.
func archive(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		text := files[path]
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
