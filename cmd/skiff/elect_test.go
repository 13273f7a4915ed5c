package main

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"skiff/apiserver"
	"skiff/pki"
	"skiff/store/bolt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// seldom are times in which an elector does not look twice during a test.
var seldom = times{lease: 3 * time.Hour, renew: 2 * time.Hour, retry: time.Hour}

// Of two that stand for election one works; the other begins when it has ended, at once and not before.
func TestElection(t *testing.T) {
	client := electorate(t)
	var working atomic.Int32
	work := func(started chan<- string, name string) func(context.Context) error {
		return func(ctx context.Context) error {
			if n := working.Add(1); n != 1 {
				t.Errorf("%d work at once", n)
			}
			started <- name
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond) // It takes a moment to end.
			working.Add(-1)
			return errors.New("broken off")
		}
	}
	started := make(chan string, 2)
	ended := make(chan error, 2)
	stop := map[string]context.CancelFunc{}
	for _, name := range []string{"one", "two"} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		stop[name] = cancel
		c := candidate{client: client, lease: "test", identity: name, times: seldom}
		go func() { ended <- c.term(ctx, work(started, name)) }()
	}
	first := await(t, started)
	stop[first]()
	if err := await(t, ended); err != nil {
		t.Errorf("the first term ended with %v, want nil: it was told to stop", err)
	}
	second := await(t, started)
	if second == first {
		t.Errorf("%s was elected again", second)
	}
	stop[second]()
	if err := await(t, ended); err != nil {
		t.Errorf("the second term ended with %v", err)
	}
}

// What fails by itself is told.
func TestElectedWorkFails(t *testing.T) {
	broken := errors.New("broken")
	c := candidate{client: electorate(t), lease: "test", identity: "one", times: electionTimes}
	err := c.term(t.Context(), func(context.Context) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("the term ended with %v, want %v", err, broken)
	}
}

func await[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		t.Fatal("nothing in a minute")
	}
	return v
}

// electorate is a client of an API server of the test's own.
func electorate(t *testing.T) kubernetes.Interface {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.EnsureAccountKey(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv, err := apiserver.New(ctx, db, apiserver.Config{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, NodePorts: apiserver.PortRange{First: 30000, Last: 32767},
		Advertise: netip.MustParseAddrPort("192.0.2.1:6443"), NodeTransport: &http.Transport{},
		Issuer: "https://kubernetes.default.svc", AccountKey: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, db.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := srv.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://memory", QPS: -1, Transport: srv.Transport(apiserver.User{Name: "test", Groups: []string{administrators}})})
	if err != nil {
		t.Fatal(err)
	}
	return client
}
