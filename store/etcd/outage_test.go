package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"skiff/store"
	"skiff/store/storetest"
)

// etcd is killed again and again while several stores write: what was answered is there, every watch has all of it once,
// and nobody has to open anything anew.
func TestKill(t *testing.T) {
	etcd := storetest.StartEtcd(t)
	const rounds, writers = 3, 4
	stores := []*Store{open(t, Config{Endpoints: []string{etcd.URL}}), open(t, Config{Endpoints: []string{etcd.URL}})}
	start, err := stores[0].Newest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	answered := map[uint64]string{}
	progress := make(chan struct{}, 1)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writing, watching sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("%d/%d", i, n)
				rev, err := stores[i%2].Put(t.Context(), key, []byte(key), 0)
				switch {
				case err == nil:
					mu.Lock()
					answered[rev] = key
					mu.Unlock()
					select {
					case progress <- struct{}{}:
					default:
					}
				case !errors.Is(err, store.ErrUnavailable):
					t.Errorf("Put: error %v, want ErrUnavailable", err)
				}
			}
		})
	}
	seen := make(chan store.Event, 100000)
	watchCtx, endWatch := context.WithCancel(t.Context())
	defer endWatch()
	watching.Go(func() {
		for event, err := range stores[1].Watch(watchCtx, "", start) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("the watch ended: %v", err)
				}
				return
			}
			seen <- event
		}
	})
	for range rounds {
		for range 50 {
			wait(t, progress)
		}
		etcd.Kill()
		etcd.Start()
	}
	for range 50 {
		wait(t, progress)
	}
	stop()
	writing.Wait()

	kvs, rev, err := stores[0].List(t.Context(), "")
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		kvs, rev, err = stores[0].List(t.Context(), "")
	}
	if err != nil {
		t.Fatal(err)
	}
	stored := map[uint64]string{}
	for _, kv := range kvs {
		stored[kv.Rev] = kv.Key
	}
	for rev, key := range answered {
		if stored[rev] != key {
			t.Errorf("%s was answered at revision %d and is not there", key, rev)
		}
	}
	for last := start; last < rev; {
		select {
		case event := <-seen:
			if event.Rev <= last || event.Rev <= rev && stored[event.Rev] != event.Key {
				t.Fatalf("after revision %d the watch gave %s at %d, where %q is stored", last, event.Key, event.Rev, stored[event.Rev])
			}
			delete(stored, event.Rev)
			last = event.Rev
		case <-time.After(patience):
			t.Fatalf("the watch is at revision %d, the store at %d", last, rev)
		}
	}
	if len(stored) > 0 {
		t.Errorf("the watch missed %d events", len(stored))
	}
	endWatch()
	watching.Wait()
}

func wait(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("no write was answered in %v", patience)
	}
}

// Of several servers one compacts at a time, and only what was old an interval ago.
func TestCompact(t *testing.T) {
	etcd := storetest.StartEtcd(t)
	one, two := open(t, Config{Endpoints: []string{etcd.URL}}), open(t, Config{Endpoints: []string{etcd.URL}})
	a, b := &compactor{Store: one, key: "/skiff/compact"}, &compactor{Store: two, key: "/skiff/compact"}
	turn := func(c *compactor) {
		t.Helper()
		if err := c.turn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	first := put(t, one, "key", "1", 0)
	second := put(t, one, "key", "2", first)
	turn(a) // a writes the key: there is nothing older to compact at.
	turn(b) // b sees that.
	expectWatch(t, two, first, nil, second)
	third := put(t, one, "key", "3", second)
	turn(b) // Compacts at a's key.
	turn(a) // Sees that.
	expectWatch(t, two, first, store.ErrCompacted, 0)
	expectWatch(t, two, second, nil, third)
	if kvs, rev, err := one.List(t.Context(), ""); err != nil || len(kvs) != 1 || rev != third {
		t.Errorf("List gave %v at %d, error %v", kvs, rev, err)
	}
	if a.seen != b.seen {
		t.Errorf("the compactors saw revisions %d and %d, want the same", a.seen, b.seen)
	}
}

// expectWatch fails the test unless a watch begins with an event at next, or ends with the error want.
func expectWatch(t *testing.T, s *Store, from uint64, want error, next uint64) {
	t.Helper()
	for event, err := range s.Watch(t.Context(), "", from) {
		if !errors.Is(err, want) || err == nil && event.Rev != next {
			t.Errorf("the watch after %d gave revision %d, error %v; want %d, %v", from, event.Rev, err, next, want)
		}
		break
	}
}

// A value that etcd does not take is refused for what it is: no other try will do.
func TestTooLarge(t *testing.T) {
	s := open(t, Config{Endpoints: []string{storetest.StartEtcd(t).URL}})
	if _, err := s.Put(t.Context(), "a", make([]byte, 3<<20), 0); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("Put: error %v, want ErrTooLarge", err)
	}
}

// Full is full: writes are refused until somebody makes room, reads go on.
func TestFull(t *testing.T) {
	s := open(t, Config{Endpoints: []string{storetest.StartEtcd(t, "--quota-backend-bytes=2000000").URL}})
	rev := put(t, s, "a", "", 0)
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = s.Put(t.Context(), fmt.Sprint(i), make([]byte, 500_000), 0)
	}
	if !errors.Is(err, store.ErrRefused) {
		t.Errorf("Put into a full etcd: error %v, want ErrRefused", err)
	}
	if kv, err := s.Get(t.Context(), "a"); err != nil || kv.Rev != rev {
		t.Errorf("Get gave revision %d, error %v; want %d", kv.Rev, err, rev)
	}
}
