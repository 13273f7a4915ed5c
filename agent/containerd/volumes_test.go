package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

var longAgo = time.Unix(1_000_000_000, 0)

// layerOf makes an image's layer; the files are dir, file or whatever else their headers say, with the text as content.
func layerOf(t *testing.T, headers []tar.Header, text string) v1.Layer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		h.ModTime = longAgo
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(text))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(out.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// volumesImage declares volumes, whose files are of two layers.
func (n *node) volumesImage(t *testing.T) {
	t.Helper()
	const dir, file, link = tar.TypeDir, tar.TypeReg, tar.TypeSymlink
	low := layerOf(t, []tar.Header{
		{Typeflag: dir, Name: "data", Mode: 0o2770, Uid: 101, Gid: 102},
		{Typeflag: file, Name: "data/file", Mode: 0o644},
		{Typeflag: file, Name: "data/kept", Mode: 0o4750, Uid: 101, Gid: 102, PAXRecords: map[string]string{"SCHILY.xattr.user.said": "so"}},
		{Typeflag: tar.TypeLink, Name: "data/same", Linkname: "data/kept", Mode: 0o4750, Uid: 101, Gid: 102},
		{Typeflag: link, Name: "data/link", Linkname: "/etc/passwd", Uid: 101},
		{Typeflag: tar.TypeFifo, Name: "data/fifo", Mode: 0o622, Uid: 101},
		{Typeflag: file, Name: "data/gone", Mode: 0o644},
		{Typeflag: dir, Name: "data/sub", Mode: 0o700},
		{Typeflag: file, Name: "data/sub/gone", Mode: 0o644},
		{Typeflag: dir, Name: "data/both", Mode: 0o700},
		{Typeflag: file, Name: "data/both/low", Mode: 0o644},
		{Typeflag: dir, Name: "run", Mode: 0o755},
		{Typeflag: file, Name: "run/inside", Mode: 0o644},
	}, "low")
	high := layerOf(t, []tar.Header{
		{Typeflag: file, Name: "data/file", Mode: 0o600, Uid: 7},
		{Typeflag: file, Name: "data/.wh.gone"},
		{Typeflag: file, Name: "data/sub/.wh..wh..opq"},
		{Typeflag: file, Name: "data/sub/new", Mode: 0o644},
		{Typeflag: dir, Name: "data/both", Mode: 0o711},
		{Typeflag: file, Name: "data/both/high", Mode: 0o644},
		{Typeflag: link, Name: "var", Linkname: strings.Repeat("../", 20) + "run"},
		{Typeflag: link, Name: "host", Linkname: strings.Repeat("../", 20) + n.dir[1:]},
	}, "high")
	image, err := mutate.AppendLayers(boxImage(t), low, high)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	said := config.Config
	said.Volumes = map[string]struct{}{"/data": {}, "/data/": {}, "relative": {}, "/var/": {}, "/host/run": {}, "/pods": {}}
	if image, err = mutate.Config(image, said); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.dir, "volumes.tar")
	if err := tarball.WriteToFile(path, name.MustParseReference("volumes:latest"), image); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Import(t.Context(), path); err != nil {
		t.Fatal(err)
	}
}

// volumesOf are the snapshots with volumes that images declare, by the container.
func (n *node) volumesOf() (ids []string) {
	n.t.Helper()
	err := n.runtime.client.SnapshotService(n.runtime.snapshotter).Walk(n.runtime.in(n.t.Context()), func(_ context.Context, s snapshots.Info) error {
		ids = append(ids, s.Labels[labelVolumesOf])
		return nil
	}, fmt.Sprintf("labels.%q", labelVolumesOf))
	if err != nil {
		n.t.Fatal(err)
	}
	return ids
}

// What an image declares as a volume can be written to in a read-only container, begins with what the image has there, is each
// container's own, and goes with it.
func testDeclaredVolumes(t *testing.T, n *node) {
	n.volumesImage(t)
	own := t.TempDir()
	config := func(name string) agent.ContainerConfig {
		c := n.config(name, "hold")
		c.Image, c.Security.ReadOnlyRootFS = "volumes", true
		c.Mounts = []agent.Mount{{Source: own, Target: "/pods/"}}
		return c
	}
	first, second := config("first"), config("second")
	for _, c := range []agent.ContainerConfig{first, second} {
		if err := n.runtime.Start(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	box := func(id string, command ...string) string {
		t.Helper()
		var out bytes.Buffer
		_, err := n.runtime.Exec(t.Context(), id, agent.ExecConfig{Command: append([]string{"/box"}, command...), Streams: agent.Streams{Stdout: &out}})
		if err != nil {
			t.Fatalf("exec %v: %v", command, err)
		}
		return out.String()
	}
	for _, file := range []string{"/data/file", "/relative/file", "/var/file", "/host/run/file", "/pods/file"} {
		if out := box(first.ID, "write", file, "first"); out != "" {
			t.Errorf("write %s: %s", file, out)
		}
	}
	if out := box(first.ID, "write", "/etc/file", "first"); !strings.Contains(out, "read-only file system") {
		t.Errorf("write beside the volumes: %q", out)
	}
	seen := box(second.ID, "show", "/data/file", "/data/both/low", "/data/both/high", "/var/inside", "/data/gone", "/relative/file")
	for _, want := range []string{"/data/file: high ", "/data/both/low: low ", "/data/both/high: high ", "/var/inside: low ", "/data/gone:  open", "/relative/file:  open"} {
		if !strings.Contains(seen, want) {
			t.Errorf("%q is not in what the second container sees:\n%s", want, seen)
		}
	}
	if text, err := os.ReadFile(filepath.Join(own, "file")); err != nil || string(text) != "first" {
		t.Errorf("the pod's own volume has %q (%v)", text, err)
	}
	if _, err := os.Stat(filepath.Join(n.dir, "run", "file")); err == nil {
		t.Error("a volume has led to the host")
	}
	n.checkCopy(t, second.ID)

	before, err := n.runtime.DiskUsage(t.Context(), first.ID)
	if err != nil {
		t.Fatal(err)
	}
	box(first.ID, "write", "/data/big", strings.Repeat("x", 64<<10))
	if after, err := n.runtime.DiskUsage(t.Context(), first.ID); err != nil || after < before+64<<10 {
		t.Errorf("with 64 KiB more in a volume %d bytes are used, and %d before (%v)", after, before, err)
	}
	n.end(first.ID)
	if left := n.volumesOf(); !cmp.Equal(left, []string{containerdID(second.ID)}) {
		t.Errorf("without the first container there are the volumes of %v", left)
	}
	testKilledWithVolumes(t, n, second)
}

// checkCopy looks at a volume on the disk.
func (n *node) checkCopy(t *testing.T, id string) {
	t.Helper()
	mounts, err := n.runtime.client.SnapshotService(n.runtime.snapshotter).Mounts(n.runtime.in(t.Context()), volumesKey(id))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(mounts[0].Source, "0") // The first by name: /data.
	got := map[string]string{}
	for _, file := range []string{".", "file", "kept", "link", "fifo", "sub", "both"} {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, file), &stat); err != nil {
			t.Fatal(err)
		}
		got[file] = fmt.Sprintf("%o %d:%d", stat.Mode, stat.Uid, stat.Gid)
		changed := file == "." || file == "sub" || file == "link" // By the upper layer; of links nobody says.
		if !changed && stat.Mtim.Sec != longAgo.Unix() {
			t.Errorf("%s is of %v", file, time.Unix(stat.Mtim.Unix()))
		}
	}
	want := map[string]string{".": "42770 101:102", "file": "100600 7:0", "kept": "104750 101:102", "link": "120777 101:0", "fifo": "10622 101:0",
		"sub": "40700 0:0", "both": "40711 0:0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modes and owners (-want +got):\n%s", diff)
	}
	kept, err := os.Stat(filepath.Join(dir, "kept"))
	if err != nil {
		t.Fatal(err)
	}
	if same, err := os.Stat(filepath.Join(dir, "same")); err != nil || !os.SameFile(kept, same) {
		t.Errorf("two names of one file are %v and %v (%v)", kept, same, err)
	}
	value := make([]byte, 10)
	if length, err := unix.Getxattr(filepath.Join(dir, "kept"), "user.said", value); err != nil || string(value[:length]) != "so" {
		t.Errorf("an extended attribute is %q (%v)", value[:max(0, length)], err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "sub"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "new" {
		t.Errorf("in a directory that was made anew there are %v (%v)", entries, err)
	}
}

// What an agent leaves that is killed before it has made the container is gone when the next comes; what belongs to a container stays.
func testKilledWithVolumes(t *testing.T, n *node, lives agent.ContainerConfig) {
	if _, err := n.runtime.volumesDir(n.runtime.in(t.Context()), "pod-1-never-0"); err != nil {
		t.Fatal(err)
	}
	if err := n.runtime.Close(); err != nil {
		t.Fatal(err)
	}
	n.runtime = n.open()
	if left := n.volumesOf(); !cmp.Equal(left, []string{containerdID(lives.ID)}) {
		t.Errorf("after a restart there are the volumes of %v", left)
	}
	n.end(lives.ID)
	if left := n.volumesOf(); len(left) > 0 {
		t.Errorf("left are the volumes of %v", left)
	}
}

// With users of its own a container sees the owners that the image gives.
func testVolumesOfUsers(t *testing.T, n *node, c agent.ContainerConfig) {
	t.Helper()
	n.volumesImage(t)
	c.Image, c.Args = "volumes", []string{"write", "/data/by-root", "x"}
	if err := n.runtime.Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if ended := n.waitExited(c.ID); ended.ExitCode != 0 {
		t.Errorf("writing to a volume of the image: %+v %v", ended, n.log(c.Name))
	}
	mounts, err := n.runtime.client.SnapshotService(n.runtime.snapshotter).Mounts(n.runtime.in(t.Context()), volumesKey(containerdID(c.ID)))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(mounts[0].Source, "0", "by-root"))
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("on the disk the file is %+v (%v)", info, err)
	}
	if err := n.runtime.Remove(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
}

// A file where a volume should be is an error that says so, and nothing is left.
func testVolumeOfFile(t *testing.T, n *node) {
	image, err := mutate.Config(boxImage(t), v1.Config{Entrypoint: []string{"/box"}, Volumes: map[string]struct{}{"/etc/passwd": {}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.dir, "file-volume.tar")
	if err := tarball.WriteToFile(path, name.MustParseReference("file-volume:latest"), image); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Import(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	before := n.keeps()
	c := n.config("file", "hold")
	c.Image = "file-volume"
	if err := n.runtime.Start(t.Context(), c); !errors.Is(err, unix.ENOTDIR) || !strings.Contains(err.Error(), "/etc/passwd") {
		t.Errorf("start: %v, want that it is not a directory", err)
	}
	if after := n.keeps(); after != before {
		t.Errorf("left is %s, before there was %s", after, before)
	}
}

// A volume over all of the container is refused before anything is copied.
func TestVolumeOverAll(t *testing.T) {
	image := ocispec.ImageConfig{Volumes: map[string]struct{}{"/data": {}, "//": {}}}
	if _, err := new(Runtime).declaredVolumes(t.Context(), "id", agent.ContainerConfig{}, image, nil); err == nil {
		t.Error("/ is a volume")
	}
}
