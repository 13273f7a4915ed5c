package storetest

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Etcd is an etcd server of a test's own, a real one. It ends with the test.
type Etcd struct {
	URL  string
	t    testing.TB
	args []string
	run  *exec.Cmd
}

// StartEtcd starts the etcd on PATH, or the one that scripts/etcd.sh fetched; without one the test is skipped. args are
// added to its flags; with a --cert-file it speaks TLS.
func StartEtcd(t testing.TB, args ...string) *Etcd {
	t.Helper()
	client, peer := freePorts(t)
	scheme := "http://"
	if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, "--cert-file=") }) {
		scheme = "https://"
	}
	e := &Etcd{t: t, URL: scheme + client}
	e.args = EtcdCommand(t, e.URL, "http://"+peer, args...)
	e.Start()
	t.Cleanup(e.Kill)
	return e
}

// EtcdCommand is the command line of an etcd that serves clients and peers at these URLs, with a directory of the test's.
func EtcdCommand(t testing.TB, client, peer string, args ...string) []string {
	t.Helper()
	return append([]string{etcdPath(t),
		"--name=one", "--data-dir=" + filepath.Join(t.TempDir(), "etcd"), "--logger=zap", "--log-level=error",
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=one=" + peer,
		"--heartbeat-interval=20", "--election-timeout=200", // It has nobody to wait for.
	}, args...)
}

// Start starts it, anew after Kill, with what it has on disk, and waits until it listens.
func (e *Etcd) Start() {
	e.t.Helper()
	e.run = exec.Command(e.args[0], e.args[1:]...)
	if runtime.GOARCH != "amd64" { // An old etcd wants to be told that one means it.
		e.run.Env = append(os.Environ(), "ETCD_UNSUPPORTED_ARCH="+runtime.GOARCH)
	}
	e.run.Stderr = os.Stderr
	if err := e.run.Start(); err != nil {
		e.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.URL[strings.LastIndex(e.URL, "/")+1:])
		if err == nil {
			_ = conn.Close()
			return
		}
		if ctx.Err() != nil {
			e.t.Fatalf("etcd did not come up in %v", patience)
		}
		time.Sleep(10 * time.Millisecond) // Between two looks.
	}
}

// Kill ends it as kill -9 does.
func (e *Etcd) Kill() {
	_ = e.run.Process.Kill()
	_ = e.run.Wait()
}

// Host is an address of the loopback of this process's own: no other takes a port of it before etcd does.
func Host() netip.Addr {
	pid := os.Getpid()
	return netip.AddrFrom4([4]byte{127, 1 + byte(pid>>16), byte(pid >> 8), byte(pid)})
}

func freePorts(t testing.TB) (one, other string) {
	t.Helper()
	var addresses []string
	for range 2 {
		l, err := net.Listen("tcp", netip.AddrPortFrom(Host(), 0).String())
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // When both are known: they must not be the same.
		addresses = append(addresses, l.Addr().String())
	}
	return addresses[0], addresses[1]
}

func etcdPath(t testing.TB) string {
	t.Helper()
	if path, err := exec.LookPath("etcd"); err == nil {
		return path
	}
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		path := filepath.Join(dir, "bin", "etcd")
		if _, err := os.Stat(path); err == nil {
			return path
		}
		dir = filepath.Dir(dir)
	}
	t.Skip("SKIPPED: there is no etcd on PATH; scripts/etcd.sh fetches one")
	return ""
}
