package clients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// patience is how long a test waits for what must come: many times what it takes, as the machine may be busy.
const patience = time.Minute

// advertised is where the server tells others that it is: TEST-NET-2, where nobody is. Endpoints must not be on loopback.
const advertised = "198.51.100.1"

// server is a control plane with an address and directories of its own.
type server struct {
	dir     string
	address string
	process *os.Process
	ended   chan error // The process's end.
}

var servers atomic.Int64

// start starts a server. It ends with the test.
func start(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	// Each test process and each of its servers has a loopback address of its own.
	pid := os.Getpid()
	address := fmt.Sprintf("127.%d.%d.%d", 64+servers.Add(1), pid>>8&0xff, pid&0xff)
	s := &server{dir: dir, address: address}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(s.log())
			t.Logf("the server's log:\n%s", log)
		}
	})
	s.launch(t)
	t.Cleanup(func() { s.stop(t, syscall.SIGTERM) })
	return s
}

func (s *server) log() string        { return filepath.Join(s.dir, "log") }
func (s *server) kubeconfig() string { return filepath.Join(s.dir, "data", "admin.kubeconfig") }

// launch starts the process, and waits until the API answers.
func (s *server) launch(t *testing.T) {
	t.Helper()
	binary, err := filepath.Abs("../../bin/skiff")
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "server", "--no-agent", "--bind-address", s.address, "--advertise-address", advertised,
		"--data-dir", filepath.Join(s.dir, "data"), "--run-dir", filepath.Join(s.dir, "run"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: run `make build` first", err)
	}
	s.process, s.ended = cmd.Process, make(chan error, 1)
	go func() { s.ended <- cmd.Wait() }()
	eventually(t, func() error {
		select {
		case err := <-s.ended:
			t.Fatalf("the server ended: %v", err)
		default:
		}
		if _, err := os.Stat(s.kubeconfig()); err != nil {
			return err
		}
		return s.client(t).Discovery().RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error()
	})
}

// stop sends the process a signal and waits until it has ended.
func (s *server) stop(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := s.process.Signal(signal); err != nil {
		t.Errorf("send the server %v: %v", signal, err)
	}
	select {
	case err := <-s.ended:
		if err != nil && signal == syscall.SIGTERM {
			t.Errorf("the server ended with %v", err)
		}
	case <-time.After(patience):
		_ = s.process.Kill()
		t.Errorf("the server has not ended %v after %v", patience, signal)
	}
}

// config is how the administrator reaches the server, as fast as he can.
func (s *server) config(t *testing.T) *rest.Config {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	return config
}

// client is a typed client that speaks protobuf.
func (s *server) client(t *testing.T) kubernetes.Interface {
	t.Helper()
	config := s.config(t)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// space makes a Kubernetes namespace named after the test.
func (s *server) space(t *testing.T) string {
	t.Helper()
	_, name, _ := strings.Cut(t.Name(), "/")
	name = strings.ToLower(strings.Map(func(r rune) rune {
		if r == '_' || r == '/' {
			return '-'
		}
		return r
	}, name))
	if name == "" {
		name = "clients"
	}
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name[:min(len(name), 63)]}}
	if _, err := s.client(t).CoreV1().Namespaces().Create(t.Context(), space, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return space.Name
}

// eventually waits until check returns nil.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %v", patience, err)
		}
	}
}

// next is the next event of a watch.
func next(t *testing.T, watcher watch.Interface) watch.Event {
	t.Helper()
	select {
	case event := <-watcher.ResultChan():
		return event
	case <-time.After(patience):
		t.Fatal("the watch tells nothing more")
		return watch.Event{}
	}
}
