package test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// The floor of reads and watches is a server that does nothing else than to answer, out of memory, with the bytes that skiff
// answers. It is a process of its own, so that what it costs can be told from what its client does.

// floorDir names the directory with what the floor answers, in the environment of its process.
const floorDir = "SKIFF_TEST_READ_FLOOR"

// oneFile is that of one object. Those of lists have the names of what is asked for.
const oneFile = "one"

// floorOfReads measures it.
func floorOfReads(b *testing.B, n *node, skiff *caller) {
	dir := filepath.Join(n.dir, "floor")
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	answers := map[string][]byte{oneFile: skiff.call("GET", podsOfBench+"/web-00000", "")}
	for _, l := range listsOfBench {
		answers[l.what] = skiff.call("GET", podsOfBench, "", l.headers()...)
	}
	for name, data := range answers {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestReadFloor$")
	cmd.Env = append(os.Environ(), floorDir+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		stdin.Close() // It ends then.
		_, _ = io.Copy(io.Discard, stdout)
		_ = cmd.Wait()
	}()
	var url string
	if _, err := fmt.Fscanln(stdout, &url); err != nil {
		b.Fatalf("the floor of reads does not start: %v", err)
	}
	floor := newCaller(b, "memory", &rest.Config{Host: url, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, fmt.Sprint(cmd.Process.Pid)) // It is our own child.
	defer floor.client.close()
	floor.reads()
}

// TestReadFloor is the process of the floor.
func TestReadFloor(t *testing.T) {
	dir := os.Getenv(floorDir)
	if dir == "" {
		t.Skip("it is run by BenchmarkAPI")
	}
	answers := map[string][]byte{}
	names := []string{oneFile}
	for _, l := range listsOfBench {
		names = append(names, l.what)
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		answers[name] = data
	}
	event := fmt.Appendf(nil, `{"type":"MODIFIED","object":%s}`+"\n", bytes.TrimSpace(answers[oneFile]))
	changes := &broadcast{to: map[chan struct{}]bool{}}
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == "PATCH":
			changes.tell()
			_, _ = w.Write(answers[oneFile])
		case r.URL.Query().Has("watch"):
			changes.follow(w, r, event)
		case r.URL.Path == podsOfBench:
			of := slices.IndexFunc(listsOfBench, func(l listing) bool {
				return l.media == r.Header.Get("Accept") && l.coding == r.Header.Get("Accept-Encoding")
			})
			_, _ = w.Write(answers[listsOfBench[of].what])
		default:
			_, _ = w.Write(answers[oneFile])
		}
	}))
	web.EnableHTTP2 = true
	web.StartTLS()
	fmt.Println(web.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
	web.CloseClientConnections()
	web.Close()
}

// broadcast tells all who follow of a change.
type broadcast struct {
	mu sync.Mutex
	to map[chan struct{}]bool
}

func (b *broadcast) tell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.to {
		c <- struct{}{}
	}
}

// follow writes the event at once, and again at each change.
func (b *broadcast) follow(w http.ResponseWriter, r *http.Request, event []byte) {
	c := make(chan struct{}, 256)
	b.mu.Lock()
	b.to[c] = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.to, c)
	}()
	control := http.NewResponseController(w)
	for {
		_, _ = w.Write(event)
		_ = control.Flush()
		select {
		case <-c:
		case <-r.Context().Done():
			return
		}
	}
}
