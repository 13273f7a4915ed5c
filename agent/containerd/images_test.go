package containerd

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

func TestImages(t *testing.T) {
	n := newNode(t)
	t.Run("import", func(t *testing.T) { testImport(t, n) })
	t.Run("watch", func(t *testing.T) { testWatch(t, n) })
	t.Run("pull", func(t *testing.T) { testPull(t, n) })
	t.Run("login", func(t *testing.T) { testLogin(t, n) })
	t.Run("index", func(t *testing.T) { testIndex(t, n) })
	t.Run("remove", func(t *testing.T) { testRemove(t, n) })
	t.Run("volume", func(t *testing.T) { testImageVolume(t, n) })
	t.Run("links", func(t *testing.T) { testImageLinks(t, n) })
	t.Run("declared volumes", func(t *testing.T) { testDeclaredVolumes(t, n) })
	t.Run("file for a volume", func(t *testing.T) { testVolumeOfFile(t, n) })
}

func testImport(t *testing.T, n *node) {
	ctx := t.Context()
	local, err := n.runtime.Image(ctx, "box")
	if err != nil || local.Digest == "" || local.Size < 100<<10 || !cmp.Equal(local.Names, []string{"docker.io/library/box:latest"}) {
		t.Fatalf("the imported image is %+v, %v", local, err)
	}
	if _, err := n.runtime.Image(ctx, "nonsense"); !errors.Is(err, agent.ErrNoImage) {
		t.Errorf("an image that is not there: %v, want ErrNoImage", err)
	}
	if byDigest, err := n.runtime.Image(ctx, "box@"+local.Digest); err != nil || byDigest.Digest != local.Digest {
		t.Errorf("by digest it is %+v, %v", byDigest, err)
	}
	if _, err := n.runtime.Image(ctx, "other@"+local.Digest); !errors.Is(err, agent.ErrNoImage) {
		t.Errorf("another repository's image of this digest: %v, want ErrNoImage", err)
	}

	zipped := compressed(t, n.saveImage("zipped.tar", "registry.example/zipped:v1"))
	oci := ociTar(t, n.dir, "me/oci:v2")
	for file, want := range map[string]string{zipped: "registry.example/zipped:v1", oci: "docker.io/me/oci:v2"} {
		if names, err := n.runtime.Import(ctx, file); err != nil || !cmp.Equal(names, []string{want}) {
			t.Errorf("import %s: %v, %v; want %s", file, names, err, want)
		}
	}
	all, err := n.runtime.Images(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, image := range all {
		names = append(names, image.Names...)
	}
	if len(names) != 3 {
		t.Errorf("the images are %v, want three names", names)
	}
	for text, want := range map[string]string{
		"not a tar at all": "import images of", "": "import images of", string(archive(t, map[string]string{"some": "file"})): "import images of",
	} {
		bad := filepath.Join(n.dir, "bad.tar")
		if err := os.WriteFile(bad, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if names, err := n.runtime.Import(ctx, bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("import of %.20q: %v, %v; want an error", text, names, err)
		}
	}
}

func compressed(t *testing.T, path string) string {
	t.Helper()
	plain, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(path + ".gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := gzip.NewWriter(file)
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

// ociTar writes the test's image as a tar of an OCI layout.
func ociTar(t *testing.T, dir, ref string) string {
	t.Helper()
	root := filepath.Join(dir, "layout")
	out, err := layout.Write(root, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := out.AppendImage(boxImage(t), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": ref})); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	err = filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, root+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "oci.tar")
	if err := os.WriteFile(path, archive(t, files), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// A file in the folder is imported at once and once; a bad one harms nobody.
func testWatch(t *testing.T, n *node) {
	dir := filepath.Join(n.dir, "images")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(n.saveImage("first.tar", "first:1"), filepath.Join(dir, "first.tar")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.tar"), []byte("bad"), 0o644); err != nil {
		t.Fatal(err)
	}
	watch := func(during func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- n.runtime.WatchImages(ctx, dir, func() { close(ready) }) }()
		<-ready
		during()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	}
	has := func(ref string) bool {
		_, err := n.runtime.Image(t.Context(), ref)
		return err == nil
	}
	watch(func() {
		if !has("first:1") {
			t.Error("the first file was not imported when the watch was ready")
		}
		if err := os.Rename(n.saveImage("moved.tar", "moved:1"), filepath.Join(dir, "moved.tar")); err != nil {
			t.Fatal(err)
		}
		n.eventually("the moved file is imported", func() bool { return has("moved:1") })
		text, err := os.ReadFile(n.saveImage("written.tar", "written:1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "written.tar"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		n.eventually("the written file is imported", func() bool { return has("written:1") })
	})
	created := func() (stamp string) {
		image, err := n.runtime.client.ImageService().Get(n.runtime.in(t.Context()), "docker.io/library/first:1")
		if err != nil {
			t.Fatal(err)
		}
		return image.UpdatedAt.String()
	}
	before := created()
	watch(func() {})
	if after := created(); after != before {
		t.Errorf("an unchanged file was imported again: the image is of %s, was of %s", after, before)
	}
}

// Images come through a mirror that stands for docker.io.
func testPull(t *testing.T, n *node) {
	var layers atomic.Int32
	slow := make(chan struct{})
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			layers.Add(1)
			<-slow
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	noise := make([]byte, 1<<20) // What no other test has brought here.
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	file := archive(t, map[string]string{"noise": string(noise)})
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(boxImage(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	push(t, handler, "library/pulled", "latest", image)
	hosts := filepath.Join(n.dir, "registries", "docker.io", "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(hosts), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", server.URL, server.URL)
	if err := os.WriteFile(hosts, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}

	var done, total atomic.Int64
	var pulls sync.WaitGroup
	pulls.Go(func() {
		image, err := n.runtime.Pull(t.Context(), "pulled", nil, func(d, all int64) { done.Store(d); total.Store(all) })
		if err != nil || !cmp.Equal(image.Names, []string{"docker.io/library/pulled:latest"}) {
			t.Errorf("pull: %+v, %v", image, err)
		}
	})
	n.eventually("progress is told", func() bool { return total.Load() > 0 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.runtime.Pull(ctx, "pulled", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a pull that nobody waits for: %v, want context.Canceled", err)
	}
	close(slow)
	pulls.Wait()
	if d, all := done.Load(), total.Load(); d != all || all < 1<<20 {
		t.Errorf("at the end %d of %d bytes were told", d, all)
	}
	if got := layers.Load(); got != 2 { // The configuration and the layer, once each.
		t.Errorf("%d blobs were asked for, want 2", got)
	}
	if _, err := n.runtime.Pull(t.Context(), "nonsense", nil, nil); !errors.Is(err, agent.ErrNoImage) {
		t.Errorf("pull of an image that is not there: %v, want ErrNoImage", err)
	}
	server.Close()
	if _, err := n.runtime.Pull(t.Context(), "gone:1", nil, nil); err == nil || errors.Is(err, agent.ErrNoImage) {
		t.Errorf("pull from a registry that is away: %v, want another error than ErrNoImage", err)
	}
}

// A registry that wants to know who asks is told by the login that it knows, whichever comes first.
func testLogin(t *testing.T, n *node) {
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	push(t, handler, "private", "latest", boxImage(t))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "ann" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/private" // A registry on the loopback is asked without TLS.
	bad, good := agent.Login{Username: "eve", Password: "guess"}, agent.Login{Username: "ann", Password: "secret"}
	for _, logins := range [][]agent.Login{nil, {bad}} {
		if image, err := n.runtime.Pull(t.Context(), ref, logins, nil); err == nil {
			t.Errorf("pulled %+v with the logins %v", image, logins)
		}
	}
	if _, err := n.runtime.Pull(t.Context(), ref, []agent.Login{bad, good}, nil); err != nil {
		t.Errorf("pull with a login: %v", err)
	}
	hosts := filepath.Join(n.dir, "registries", "registry.test", "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(hosts), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hosts, fmt.Appendf(nil, "server = %q\n", server.URL), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Pull(t.Context(), "registry.test/private", []agent.Login{good}, nil); err != nil {
		t.Errorf("pull with a login from who stands for the registry: %v", err)
	}
}

// Of an image for several machines the one for this machine is pulled, its layers in zstd as well as in gzip.
func testIndex(t *testing.T, n *node) {
	file := archive(t, map[string]string{"here": "zstd"})
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file)), nil },
		tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	if err != nil {
		t.Fatal(err)
	}
	mine, err := mutate.AppendLayers(boxImage(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: boxImage(t), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: mine, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	for _, image := range []v1.Image{boxImage(t), mine} {
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		push(t, handler, "several", digest.String(), image)
	}
	manifest, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequest(http.MethodPut, "/v2/several/manifests/latest", bytes.NewReader(manifest))
	request.Header.Set("Content-Type", string(types.OCIImageIndex))
	answer := httptest.NewRecorder()
	if handler.ServeHTTP(answer, request); answer.Code != http.StatusCreated {
		t.Fatalf("put the index: %d %s", answer.Code, answer.Body)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	ref := strings.TrimPrefix(server.URL, "http://") + "/several"
	image, err := n.runtime.Pull(t.Context(), ref, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := index.Digest(); err != nil || image.Digest != want.String() || image.Kept {
		t.Errorf("pulled %+v, want the index %s (%v), which may be collected", image, want, err)
	}
	if err := n.runtime.RemoveImage(t.Context(), image.Names[0]); err != nil {
		t.Error(err)
	}
}

// What was imported is kept until somebody removes it. A name that is removed is gone, and twice is no error.
func testRemove(t *testing.T, n *node) {
	if _, err := n.runtime.Import(t.Context(), n.saveImage("removed.tar", "removed:1")); err != nil {
		t.Fatal(err)
	}
	image, err := n.runtime.Image(t.Context(), "removed:1")
	if err != nil || !image.Kept || image.Created.IsZero() {
		t.Errorf("an imported image is %+v, %v; want it kept", image, err)
	}
	for range 2 {
		if err := n.runtime.RemoveImage(t.Context(), "docker.io/library/removed:1"); err != nil {
			t.Error(err)
		}
	}
	if _, err := n.runtime.Image(t.Context(), "removed:1"); !errors.Is(err, agent.ErrNoImage) {
		t.Errorf("an image that was removed: %v, want ErrNoImage", err)
	}
	if _, err := n.runtime.Image(t.Context(), "box"); err != nil {
		t.Errorf("another name of the same image: %v", err)
	}
}

// An image's files are in a directory, not to be written to, as long as the pod is there; and nothing of it is left then.
func testImageVolume(t *testing.T, n *node) {
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "files")
	for range 2 {
		if err := n.runtime.MountImage(ctx, "pod-1", "box", dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "box")); err != nil {
		t.Errorf("a file of the image: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("to write there: %v, want a read-only file system", err)
	}
	if err := n.runtime.MountImage(ctx, "pod-1", "nonsense", filepath.Join(filepath.Dir(dir), "none")); !errors.Is(err, agent.ErrNoImage) {
		t.Errorf("an image that is not there: %v, want ErrNoImage", err)
	}
	if err := errors.Join(unix.Unmount(dir, 0), n.runtime.RemovePod(ctx, "pod-1")); err != nil {
		t.Error(err)
	}
	if is, err := isMountPoint(dir); is || err != nil {
		t.Errorf("it was mounted twice (%v)", err)
	}
	err := n.runtime.client.SnapshotService(n.runtime.snapshotter).Walk(n.runtime.in(ctx), func(_ context.Context, s snapshots.Info) error {
		t.Errorf("the view %s is left", s.Name)
		return nil
	}, fmt.Sprintf("labels.%q==pod-1", labelVolumeOf))
	if err != nil {
		t.Error(err)
	}
}

// push puts an image into a registry.
func push(t *testing.T, to http.Handler, repository, tag string, image v1.Image) {
	t.Helper()
	put := func(method, path, mediaType string, body []byte) {
		t.Helper()
		request := httptest.NewRequest(method, "/v2/"+repository+path, bytes.NewReader(body))
		request.Header.Set("Content-Type", mediaType)
		answer := httptest.NewRecorder()
		if to.ServeHTTP(answer, request); answer.Code != http.StatusCreated {
			t.Fatalf("%s %s: %d %s", method, path, answer.Code, answer.Body)
		}
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string][]byte{}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		r, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if blobs[digest.String()], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	configName, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	if blobs[configName.String()], err = image.RawConfigFile(); err != nil {
		t.Fatal(err)
	}
	for digest, blob := range blobs {
		put(http.MethodPost, "/blobs/uploads/?digest="+digest, "application/octet-stream", blob)
	}
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := image.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	put(http.MethodPut, "/manifests/"+tag, string(mediaType), manifest)
}

// However an image links, what a container is given is mounted within it, and where it works is within it: the host sees nothing of that.
func testImageLinks(t *testing.T, n *node) {
	outside, source := filepath.Join(n.dir, "outside"), filepath.Join(n.dir, "source")
	if err := errors.Join(os.Mkdir(outside, 0o755), os.WriteFile(source, []byte("given"), 0o644)); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w := tar.NewWriter(&file)
	up := strings.Repeat("../", 20)
	for name, target := range map[string]string{"absolute": outside, "relative": up + outside[1:], "root": up} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(file.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(boxImage(t), layer)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.dir, "links.tar")
	if err := tarball.WriteToFile(path, name.MustParseReference("links:latest"), image); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime.Import(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	c := n.config("links", "show", "/absolute/file", "/relative/file2", outside+"/file")
	c.Image, c.WorkingDir = "links", "/absolute/work"
	for _, target := range []string{"/absolute/file", "/relative/file2", "/root" + outside + "/deep/file3"} {
		c.Mounts = append(c.Mounts, agent.Mount{Source: source, Target: target})
	}
	if err := n.runtime.Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if ended := n.waitExited(c.ID); ended.ExitCode != 0 {
		t.Errorf("the container has ended with %+v", ended)
	}
	n.waitLog("links", outside+"/file: given")
	n.waitLog("links", "/relative/file2: given")
	n.waitLog("links", "dir "+outside+"/work")
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("on the host there are %v (%v)", left, err)
	}
	if err := n.runtime.Remove(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
}
