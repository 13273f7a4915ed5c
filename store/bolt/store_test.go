package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/store"
	"skiff/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, filepath.Join(t.TempDir(), "store.db")) })
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	storetest.Reopen(t, func(t *testing.T) store.Store { return open(t, path) })
}

func open(t *testing.T, path string, opts ...Option) *Store {
	t.Helper()
	s, err := Open(path, opts...)
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

// The store is a map: random operations on both, with a new start now and then, give the same answers.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	model, rev := map[string]store.KV{}, uint64(1)

	for step := range 800 {
		key := fmt.Sprintf("/%d/%d", random.IntN(3), random.IntN(8))
		have, exists := model[key]
		saw := have.Rev
		if random.IntN(4) == 0 {
			saw = uint64(random.IntN(int(rev) + 1))
		}
		var got uint64
		var err, want error
		switch random.IntN(10) {
		case 0, 1, 2:
			got, err = s.Delete(t.Context(), key, saw)
			if want = modelError(exists, have.Rev, saw, true); want == nil {
				rev++
				delete(model, key)
			}
		case 3:
			if random.IntN(10) == 0 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(t, path)
			}
			compare(t, step, s, model, rev)
			continue
		default:
			value := fmt.Appendf(nil, "%d %x", step, make([]byte, random.IntN(3000)))
			got, err = s.Put(t.Context(), key, value, saw)
			if want = modelError(exists, have.Rev, saw, false); want == nil {
				rev++
				model[key] = store.KV{Key: key, Value: value, Rev: rev}
			}
		}
		if !errors.Is(err, want) || err == nil && got != rev {
			t.Fatalf("step %d: write of %s, seen at %d and now at %d: revision %d, error %v, want %d, %v", step, key, saw, have.Rev, got, err, rev, want)
		}
	}
	compare(t, -1, s, model, rev)
}

func modelError(exists bool, have, saw uint64, deletion bool) error {
	switch {
	case !exists && saw == 0 && !deletion:
		return nil
	case !exists:
		return store.ErrNotFound
	case saw == 0 && !deletion:
		return store.ErrExists
	case saw != have:
		return store.ErrConflict
	}
	return nil
}

func compare(t *testing.T, step int, s *Store, model map[string]store.KV, rev uint64) {
	t.Helper()
	kvs, at, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]store.KV{}
	for _, kv := range kvs {
		got[kv.Key] = kv
	}
	if at != rev || !maps.EqualFunc(got, model, same) {
		t.Fatalf("step %d: the store is at revision %d, want %d; keys (-want +got):\n%s", step, at, rev, cmp.Diff(model, got))
	}
}

func same(a, b store.KV) bool {
	return a.Key == b.Key && a.Rev == b.Rev && bytes.Equal(a.Value, b.Value)
}

// After a start the history is empty: who is up to date goes on, all others list again.
func TestWatchAfterRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	old := put(t, s, "a", "one", 0)
	rev := put(t, s, "a", "two", old)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, path)
	for _, err := range s.Watch(t.Context(), "", old) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Fatalf("watch from before the restart: error %v, want ErrCompacted", err)
		}
	}
	next := put(t, s, "a", "three", rev)
	for event, err := range s.Watch(t.Context(), "", rev) {
		if err != nil || event.Rev != next || next != rev+1 {
			t.Fatalf("watch from revision %d: event at %d, error %v, want the event at %d", rev, event.Rev, err, rev+1)
		}
		break
	}
}

// A watcher that stops reading costs the writers nothing; what it misses is bounded, and it is told.
func TestSlowWatcher(t *testing.T) {
	cases := []struct {
		name          string
		events, bytes int
	}{
		{"too many events", 8, 1 << 20},
		{"too many bytes", 1000, 200},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "store.db"), WithHistory(tc.events, tc.bytes))
			from := put(t, s, "first", "", 0) - 1
			seen := 0
			for event, err := range s.Watch(t.Context(), "", from) {
				if err != nil {
					if !errors.Is(err, store.ErrCompacted) {
						t.Errorf("the watch ended with %v, want ErrCompacted", err)
					}
					break
				}
				seen++
				if event.Key == "first" {
					for i := range 100 { // The watcher stands here meanwhile.
						put(t, s, fmt.Sprint(i), "0123456789", 0)
					}
				}
			}
			if seen != 1 {
				t.Errorf("the slow watcher saw %d events, want the first alone and then to be cut off", seen)
			}
			if s.history.bytes > tc.bytes || s.history.head-s.history.floor > uint64(tc.events) {
				t.Errorf("the history holds %d events of %d bytes, more than %d of %d", s.history.head-s.history.floor, s.history.bytes, tc.events, tc.bytes)
			}
		})
	}
}

// What is forgotten is the past of a watch alone.
func TestForget(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	first := put(t, s, "first", "", 0)
	last := first
	for i := range 1000 {
		last = put(t, s, fmt.Sprint(i), "0123456789", 0)
	}
	s.Forget()
	for _, err := range s.Watch(t.Context(), "", first) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Errorf("watch from long ago: error %v, want ErrCompacted", err)
		}
	}
	for event, err := range s.Watch(t.Context(), "", last-1) {
		if err != nil || event.Rev != last {
			t.Errorf("watch from just before: event at %d, error %v, want the event at %d", event.Rev, err, last)
		}
		break
	}
	if kvs, rev, err := s.List(t.Context(), ""); err != nil || len(kvs) != 1001 || rev != last {
		t.Errorf("the store lists %d keys at revision %d, error %v, want 1001 at %d", len(kvs), rev, err, last)
	}
	next := put(t, s, "next", "", 0)
	for event, err := range s.Watch(t.Context(), "", last) {
		if err != nil || event.Rev != next {
			t.Errorf("watch from now: event at %d, error %v, want the event at %d", event.Rev, err, next)
		}
		break
	}
}

func TestLimits(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	if _, err := s.Put(t.Context(), "a", make([]byte, maxValue+1), 0); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("a value above the limit: error %v, want ErrTooLarge", err)
	}
	if _, err := s.Put(t.Context(), string(make([]byte, 40000)), nil, 0); err == nil {
		t.Error("a key above the limit was taken")
	}
}
