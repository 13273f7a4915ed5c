package containerd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

// disk is a small file system, and a file on it that takes all the room there is.
type disk struct {
	t   *testing.T
	dir string
}

// smallExt4 makes a file system in a file and mounts it on dir.
func smallExt4(t *testing.T, dir string, size int64) disk {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mkfs.ext4", "-q", "-m", "0", file}, {"mount", "-o", "loop", file, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs file systems in files: %v: %v %s", command, err, out)
		}
	}
	d := disk{t, dir}
	t.Cleanup(d.unmount)
	return d
}

func smallTmpfs(t *testing.T, dir string, size int64) disk {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	d := disk{t, dir}
	t.Cleanup(d.unmount)
	return d
}

func (d disk) unmount() {
	if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil {
		d.t.Error(err)
	}
}

func (d disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves so much room; 0: none.
func (d disk) fill(left int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for {
		room := d.available() - left
		if room <= 0 && left > 0 {
			return
		}
		_, err := f.Write(block[:max(1, min(room, int64(len(block))))])
		if err == nil {
			err = f.Sync() // Room that is promised to it counts only then.
		}
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		if err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d disk) free() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

func (d disk) available() int64 {
	d.t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(d.dir, &fs); err != nil {
		d.t.Fatal(err)
	}
	return int64(fs.Bavail) * fs.Bsize
}

// The daemon's disk may be full, and the logs': what runs runs on and never waits, what cannot be done fails with a word about the disk
// and leaves nothing, and all goes on when there is room.
func TestFullDisks(t *testing.T) {
	needsContainerd(t)
	dir, err := os.MkdirTemp("", "skiff-containerd-")
	if err != nil {
		t.Fatal(err)
	}
	root, logs := smallExt4(t, t.TempDir(), 96<<20), smallTmpfs(t, t.TempDir(), 1<<20)
	if err := errors.Join(os.Symlink(root.dir, filepath.Join(dir, "root")), os.Symlink(logs.dir, filepath.Join(dir, "logs"))); err != nil {
		t.Fatal(err)
	}
	n := startNode(t, dir)
	t.Run("images", func(t *testing.T) { testNoRoomForImages(t, n, root) })
	t.Run("containers", func(t *testing.T) { testNoRoomForContainers(t, n, root) })
	t.Run("logs", func(t *testing.T) { testNoRoomForLogs(t, n, logs) })
}

// Of an image that there is no room for, or not for its files beside it, nothing stays.
func testNoRoomForImages(t *testing.T, n *node, d disk) {
	noise := make([]byte, 16<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	image := withFile(t, boxImage(t), "noise", noise)
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	push(t, handler, "big", "latest", image)
	server := httptest.NewServer(handler)
	defer server.Close()
	ref := strings.TrimPrefix(server.URL, "http://") + "/big"
	images := filepath.Join(n.dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(images, "big.tar"), name.MustParseReference("example/big:v1"), image); err != nil {
		t.Fatal(err)
	}
	for _, room := range []int64{8 << 20, 24 << 20} {
		d.fill(room)
		before := d.available()
		if _, err := n.runtime.Pull(t.Context(), ref, nil, nil); !errors.Is(err, agent.ErrNoRoom) {
			t.Errorf("a pull with room for %d bytes: %v, want ErrNoRoom", room, err)
		}
		if waiting := n.runtime.importAll(t.Context(), images, []string{"big.tar", "gone.tar"}); !slices.Equal(waiting, []string{"big.tar"}) {
			t.Errorf("with room for %d bytes these files are to be tried again: %v, want big.tar", room, waiting)
		}
		if after := d.available(); after < before-1<<20 {
			t.Errorf("what there was no room for takes %d of %d bytes", before-after, before)
		}
		d.free()
	}
	if _, err := n.runtime.Pull(t.Context(), ref, nil, nil); err != nil {
		t.Errorf("a pull with room again: %v", err)
	}
	if waiting := n.runtime.importAll(t.Context(), images, []string{"big.tar"}); len(waiting) > 0 {
		t.Errorf("with room again these files are to be tried again: %v", waiting)
	}
	for _, image := range []string{ref, "example/big:v1"} {
		if err := n.runtime.RemoveImage(t.Context(), fullNameOf(t, image)); err != nil {
			t.Error(err)
		}
	}
}

func testNoRoomForContainers(t *testing.T, n *node, d disk) {
	stays, goes := n.start("stays", "tick"), n.start("goes")
	before := n.keeps()
	d.fill(0)
	late := n.config("late")
	if err := n.runtime.Start(t.Context(), late); !errors.Is(err, agent.ErrNoRoom) {
		t.Fatalf("start on a full disk: %v, want ErrNoRoom", err)
	}
	if after := n.keeps(); after != before {
		t.Errorf("a start that failed leaves %s, want %s", after, before)
	}
	if status, err := n.runtime.Exec(t.Context(), stays.ID, agent.ExecConfig{Command: []string{"/box", "echo", "a", "b", "7"}}); err != nil || status != 7 {
		t.Errorf("a command in a container: %d, %v", status, err)
	}
	n.end(goes.ID)

	if err := errors.Join(n.runtime.Close(), n.daemon.Stop()); err != nil { // The daemon starts again, too.
		t.Fatal(err)
	}
	n.startDaemon()
	n.runtime = n.open()
	said := len(n.log("stays"))
	n.eventually("what ran runs on", func() bool { return len(n.log("stays")) > said })
	n.end(stays.ID)

	d.free()
	n.start("late")
	n.end(late.ID)
}

// Output that there is no room for is lost, and nothing else.
func testNoRoomForLogs(t *testing.T, n *node, d disk) {
	ticks := n.start("ticks", "tick")
	n.waitLog("ticks", "tick 10")
	d.fill(0)
	ends := n.start("ends", "bursts", "300") // More than the kernel keeps for who does not read.
	if c := n.waitExited(ends.ID); c.ExitCode != 0 {
		t.Errorf("a container that writes to a full disk has ended with %+v", c)
	}
	d.free()
	said := len(n.log("ticks"))
	n.eventually("output is logged again", func() bool { return len(n.log("ticks")) > said+10 })
	text, err := os.ReadFile(n.logPath("ticks"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) != 5 || fields[3] != "tick" {
			t.Errorf("a line of the log is torn: %q", line)
		}
	}
	n.end(ticks.ID)
	if err := n.runtime.Remove(t.Context(), ends.ID); err != nil {
		t.Error(err)
	}
}

// Output that there is no room for under RunDir waits a while, and then it is lost: its writer is not to wait for ever.
func TestNoRoomUnderRunDir(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a small file system is mounted")
	}
	d := smallTmpfs(t, t.TempDir(), 64<<10)
	pipes, err := makePipes(d.dir, false, true)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "0.log")
	r := &Runtime{log: slog.Default(), outputs: map[string]*output{}}
	r.entries.New = func() any { return new([]byte) }
	r.buffers.New = func() any { b := make([]byte, maxLine+readSize); return &b }
	writer, err := os.OpenFile(pipes.config.Stdout, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	pipes.release()
	log, err := openLog(path, d.dir, &r.entries, r.log)
	if err != nil {
		t.Fatal(err)
	}
	d.fill(0)
	o := &output{buffers: &r.buffers, log: log, pause: time.Millisecond}
	var reader sync.WaitGroup
	reader.Go(func() {
		if err := o.read(pipes.stdout, stdout); err != nil {
			t.Error(err)
		}
	})
	for range 4 << 10 { // 4 MiB, of which the kernel keeps one.
		if _, err := writer.WriteString(strings.Repeat("x", 1023) + "\n"); err != nil {
			t.Fatal(err)
		}
	}
	d.free()
	if _, err := writer.WriteString("the end\n"); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	reader.Wait()
	log.release()
	if text, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(text), " stdout F the end\n") {
		t.Errorf("the log ends with %.200q (%v)", text[max(0, len(text)-200):], err)
	}
}

// keeps tells what the node keeps: containers, snapshots, directories.
func (n *node) keeps() string {
	n.t.Helper()
	ctx := n.runtime.in(n.t.Context())
	containers, err := n.runtime.client.Containers(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	var all []string
	for _, c := range containers {
		all = append(all, "container "+c.ID())
	}
	if err := n.runtime.client.SnapshotService(n.runtime.snapshotter).Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		all = append(all, "snapshot "+s.Name)
		return nil
	}); err != nil {
		n.t.Fatal(err)
	}
	dirs, err := os.ReadDir(n.runtime.containerDir(""))
	if err != nil {
		n.t.Fatal(err)
	}
	for _, dir := range dirs {
		all = append(all, "directory "+dir.Name())
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func fullNameOf(t *testing.T, ref string) string {
	t.Helper()
	full, err := fullName(ref)
	if err != nil {
		t.Fatal(err)
	}
	return full
}

// withFile is an image with one more layer, of one file.
func withFile(t *testing.T, image v1.Image, path string, content []byte) v1.Image {
	t.Helper()
	file := archive(t, map[string]string{path: string(content)})
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.AppendLayers(image, layer)
	if err != nil {
		t.Fatal(err)
	}
	return image
}
