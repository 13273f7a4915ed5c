package etcd

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"skiff/store"
	"skiff/store/storetest"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

func TestStore(t *testing.T) {
	etcd := storetest.StartEtcd(t)
	n := 0
	storetest.Run(t, func(t *testing.T) store.Store {
		n++
		return open(t, Config{Endpoints: []string{etcd.URL}, Prefix: fmt.Sprint("/test/", n)})
	})
}

func TestReopen(t *testing.T) {
	etcd := storetest.StartEtcd(t)
	storetest.Reopen(t, func(t *testing.T) store.Store { return open(t, Config{Endpoints: []string{etcd.URL}}) })
}

func open(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func put(t *testing.T, s *Store, key, value string, rev uint64) uint64 {
	t.Helper()
	got, err := s.Put(t.Context(), key, []byte(value), rev)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// A list that needs several answers of etcd is still one moment's.
func TestListInPages(t *testing.T) {
	s := open(t, Config{Endpoints: []string{storetest.StartEtcd(t).URL}})
	const count = 2*pageSize + 1
	var last uint64
	for i := range count {
		last = put(t, s, fmt.Sprintf("%05d", i), "", 0)
	}
	kvs, rev, err := s.List(t.Context(), "")
	if err != nil || len(kvs) != count || rev != last {
		t.Fatalf("List gave %d keys at revision %d, error %v; want %d at %d", len(kvs), rev, err, count, last)
	}
	for i, kv := range kvs {
		if kv.Key != fmt.Sprintf("%05d", i) {
			t.Fatalf("key %d is %q", i, kv.Key)
		}
	}
}

// Two stores in one etcd do not see each other, and the revision of each is that of its own newest write.
func TestPrefixes(t *testing.T) {
	etcd := storetest.StartEtcd(t)
	ours := open(t, Config{Endpoints: []string{etcd.URL}})
	other := open(t, Config{Endpoints: []string{etcd.URL}, Prefix: "skiff-2/"})
	rev := put(t, ours, "a", "ours", 0)
	put(t, other, "a", "other", 0)
	if kv, err := ours.Get(t.Context(), "a"); err != nil || string(kv.Value) != "ours" {
		t.Errorf("Get gave %q, error %v", kv.Value, err)
	}
	for name, s := range map[string]*Store{"the same store": open(t, Config{Endpoints: []string{etcd.URL}}), "ours": ours} {
		if newest, err := s.Newest(t.Context()); err != nil || newest != rev {
			t.Errorf("%s: the newest revision is %d, error %v; want %d", name, newest, err, rev)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	etcd := storetest.StartEtcd(t)
	foreign := open(t, Config{Endpoints: []string{etcd.URL}, Prefix: "/foreign"})
	if _, err := foreign.client.Put(t.Context(), "/registry/pods/default/web", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.client.Put(t.Context(), "/later/head", "7"); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		config Config
		want   string
	}{
		{"no URL", Config{Endpoints: []string{"10.0.0.5:2379"}}, "like http://10.0.0.5:2379"},
		{"no port", Config{Endpoints: []string{"http://10.0.0.5"}}, "with its port"},
		{"both schemes", Config{Endpoints: []string{etcd.URL, "https://127.0.0.1:1"}}, "all http:// or all https://"},
		{"a password that is not to be shown", Config{Endpoints: []string{"ftp://me:secret@127.0.0.1:1"}}, "ftp://me:xxxxx@127.0.0.1:1"},
		{"files without TLS", Config{Endpoints: []string{etcd.URL}, CAFile: "ca.crt"}, "are for https://"},
		{"no such authority", Config{Endpoints: []string{"https://127.0.0.1:1"}, CAFile: "/none/ca.crt"}, "--etcd-cafile: open /none/ca.crt"},
		{"another's keys", Config{Endpoints: []string{etcd.URL}, Prefix: "/registry"}, "keys under /registry/ that are not skiff's"},
		{"another format", Config{Endpoints: []string{etcd.URL}, Prefix: "/later"}, "have format 7, but this skiff reads format 1"},
		{"TLS where there is none", Config{Endpoints: []string{strings.Replace(etcd.URL, "http", "https", 1)}}, "authentication handshake failed"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			s, err := Open(t.Context(), tc.config)
			if err == nil {
				s.Close()
				t.Fatal("Open: no error")
			}
			if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
				t.Errorf("Open: error %q, want one line with %q", err, tc.want)
			}
		})
	}
}

// Where no etcd listens, Open says so within bounded time.
func TestOpenNobody(t *testing.T) {
	etcd := storetest.StartEtcd(t)
	etcd.Kill()
	_, err := Open(t.Context(), Config{Endpoints: []string{etcd.URL}})
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), etcd.URL) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Open: error %v, want ErrUnavailable with the URL and the reason", err)
	}
}
