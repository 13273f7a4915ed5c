package test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	reference "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/vishvananda/netns"
)

// TestMirror pulls nginx from a registry, which a hosts.toml names as the mirror of docker.io. It is slow, so that there is
// progress to tell of.
func TestMirror(t *testing.T) {
	n := newNode(t)
	if err := os.Remove(filepath.Join(n.data, "images", "nginx.tar")); err != nil {
		t.Fatal(err)
	}
	mirror := serveImage(t, n, "library/nginx", repository("bin/images/nginx.tar"))
	hosts := filepath.Join(n.data, "registries", "docker.io")
	if err := os.MkdirAll(hosts, 0o755); err != nil {
		t.Fatal(err)
	}
	config := `server = "` + mirror + `"` + "\n" + `[host."` + mirror + `"]` + "\n" + `capabilities = ["pull", "resolve"]` + "\n"
	if err := os.WriteFile(filepath.Join(hosts, "hosts.toml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	n.start()
	s := n.shell(t)
	applied(s)
	s.says("kubectl exec deploy/app1 -- curl -sS http://app2-service", welcome)
	const events = "kubectl get events --field-selector involvedObject.kind=Pod -o jsonpath='{range .items[*]}{.message}{\"\\n\"}{end}'"
	s.until(events+" | sort -u", `(?s).*Pulling image "nginx"
Pulling image "nginx": [78]\.\d of 1[78]\.\d MB
.*Successfully pulled image "nginx" in 1\d\.\d+s \(1\d\.\d+s including waiting\)\. Image size: 1[78]\d{6} bytes\..*`)

	// The mirror answers for all of docker.io: it has no other image, and that is said.
	s.do("kubectl run none --image=nobody/nothing")
	s.until(`kubectl get events --field-selector involvedObject.name=none,reason=Failed -o jsonpath='{.items[*].message}'`,
		`(?s).*Failed to pull image "nobody/nothing": .*not found.*`)
}

// serveImage serves an archive's image on the node's loopback, and returns the address.
func serveImage(t *testing.T, n *node, repo, archive string) string {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	push(t, handler, repo, readArchive(t, archive))
	server := httptest.NewUnstartedServer(slow{handler})
	server.Listener.Close()
	server.Listener = listenIn(t, n.netns, "127.0.0.1:5000")
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// push gives a registry all of an OCI archive's files, and its one image the tag "latest".
func push(t *testing.T, handler http.Handler, repo string, files map[string][]byte) {
	t.Helper()
	var index v1.IndexManifest
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatalf("the archive's index: %v", err)
	}
	send := func(method, path, kind string, data []byte) {
		r := httptest.NewRequest(method, "/v2/"+repo+path, bytes.NewReader(data))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != http.StatusCreated {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	for path, data := range files {
		if digest, ok := strings.CutPrefix(path, "blobs/sha256/"); ok {
			send(http.MethodPost, "/blobs/uploads/?digest=sha256:"+digest, "application/octet-stream", data)
		}
	}
	image := index.Manifests[0]
	send(http.MethodPut, "/manifests/latest", string(image.MediaType), files["blobs/sha256/"+image.Digest.Hex])
}

// readArchive reads a tar file.
func readArchive(t testing.TB, path string) map[string][]byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	files := map[string][]byte{}
	for archive := tar.NewReader(file); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err == nil {
			files[header.Name], err = io.ReadAll(archive)
		}
		if err != nil {
			t.Fatalf("read %s: %v", path, err)
		}
	}
}

// addDeclaring gives the node a busybox of another name, which declares directories as its volumes.
func (n *node) addDeclaring(name string, volumes ...string) {
	n.t.Helper()
	dir := n.t.TempDir()
	if err := os.CopyFS(dir, mapFS(readArchive(n.t, repository("bin/images/busybox.tar")))); err != nil {
		n.t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		n.t.Fatal(err)
	}
	all, err := partial.FindImages(index, func(v1.Descriptor) bool { return true })
	if err != nil || len(all) != 1 {
		n.t.Fatalf("busybox is %d images (%v), want one", len(all), err)
	}
	file, err := all[0].ConfigFile()
	if err != nil {
		n.t.Fatal(err)
	}
	config := file.Config
	config.Volumes = map[string]struct{}{}
	for _, volume := range volumes {
		config.Volumes[volume] = struct{}{}
	}
	image, err := mutate.Config(all[0], config)
	if err == nil {
		var ref reference.Reference
		if ref, err = reference.ParseReference(name); err == nil {
			err = tarball.WriteToFile(filepath.Join(n.data, "images", name+".tar"), ref, image)
		}
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// mapFS shows an archive's files as a file system.
func mapFS(files map[string][]byte) fstest.MapFS {
	fs := fstest.MapFS{}
	for name, data := range files {
		if !strings.HasSuffix(name, "/") {
			fs[name] = &fstest.MapFile{Data: data, Mode: 0o644}
		}
	}
	return fs
}

// listenIn opens a port in a network namespace. The socket stays in it, whatever thread uses it.
func listenIn(t *testing.T, namespace, address string) net.Listener {
	t.Helper()
	var listener net.Listener
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // Never unlocked: the thread is of that namespace, and ends with us.
		if err = enter(namespace); err == nil {
			listener, err = net.Listen("tcp", address)
		}
	}()
	<-done
	if err != nil {
		t.Fatalf("listen in %s on %s: %v", namespace, address, err)
	}
	return listener
}

// enter moves the thread into a network namespace, by its name or by its file.
func enter(namespace string) error {
	get := netns.GetFromName
	if filepath.IsAbs(namespace) {
		get = netns.GetFromPath
	}
	ns, err := get(namespace)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Set(ns)
}

// slow sends the half of every large answer, and the rest a little later than the agent tells of progress.
type slow struct{ http.Handler }

func (s slow) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.Handler.ServeHTTP(&slowWriter{ResponseWriter: w, ended: r.Context().Done()}, r)
}

type slowWriter struct {
	http.ResponseWriter
	ended <-chan struct{} // The client is gone.
	sent  int
}

func (w *slowWriter) Write(data []byte) (int, error) {
	const half, delay = 8 << 20, 12 * time.Second
	first := half - w.sent
	if first < 0 || first >= len(data) {
		return w.send(data)
	}
	if n, err := w.send(data[:first]); err != nil {
		return n, err
	}
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	select {
	case <-time.After(delay):
	case <-w.ended:
	}
	n, err := w.send(data[first:])
	return first + n, err
}

func (w *slowWriter) send(data []byte) (int, error) {
	n, err := w.ResponseWriter.Write(data)
	w.sent += n
	return n, err
}

// testImageCommand lists the node's images, and removes none that a pod uses.
func testImageCommand(t *testing.T, s *shell) {
	image := func(line string) string {
		return repository("bin/skiff") + " image " + line + " --data-dir " + s.data + " --run-dir " + s.run
	}
	s.do("kubectl run user --image=busybox --image-pull-policy=IfNotPresent -- sleep 1000")
	s.do("kubectl wait --for=condition=Ready pod/user --timeout=60s")
	s.says(image("ls"), `(?s)NAME +DIGEST +SIZE\ndocker.io/library/busybox:latest +[0-9a-f]{12} +\d+\.\d MB\n.*`)
	s.fails(image("rm busybox"), 1, `(?s).*image docker.io/library/busybox:latest is used by pod .*: delete the pod first`)
	s.fails(image("rm nonsense"), 1, `(?s).*docker.io/library/nonsense:latest: image not found`)
}
