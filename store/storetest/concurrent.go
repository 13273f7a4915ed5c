package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"skiff/store"
)

const writers = 8

func testOneWinner(t *testing.T, s store.Store) {
	rev := put(t, s, "a", "start", 0)
	for round := range 20 {
		var wins atomic.Int32
		var won atomic.Uint64
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				got, err := s.Put(t.Context(), "a", fmt.Append(nil, i), rev)
				switch {
				case err == nil:
					wins.Add(1)
					won.Store(got)
				case !errors.Is(err, store.ErrConflict):
					t.Errorf("update: error %v, want ErrConflict", err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Fatalf("round %d: %d of %d updates of the same revision succeeded, want 1", round, wins.Load(), writers)
		}
		rev = won.Load()
	}
}

func testIncrements(t *testing.T, s store.Store) {
	const each = 25
	put(t, s, "count", "0", 0)
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if err := increment(t, s); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	kv, err := s.Get(t.Context(), "count")
	if want := strconv.Itoa(writers * each); err != nil || string(kv.Value) != want {
		t.Errorf("after %s increments the count is %q, error %v", want, kv.Value, err)
	}
}

// increment reads, adds and writes, again and again until nobody was faster.
func increment(t *testing.T, s store.Store) error {
	for {
		kv, err := s.Get(t.Context(), "count")
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			return err
		}
		if _, err = s.Put(t.Context(), "count", strconv.AppendInt(nil, int64(n+1), 10), kv.Rev); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// Every write must reach every watcher once and in order, whether the watcher came before the writers, between their
// writes, or begins again where it stopped.
func testWatchGaps(t *testing.T, s store.Store) {
	const each = 40
	start := revision(t, s)
	var mu sync.Mutex
	written := map[uint64]string{} // Revision to what the event must say.

	watches := []*watching{watchAll(t, s, "/w/", start)}
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for n := range each {
				key := fmt.Sprintf("/w/%d/%d", i, n)
				rev, err := s.Put(t.Context(), key, []byte(key), 0)
				if err != nil {
					t.Error(err)
					return
				}
				gone, err := s.Delete(t.Context(), key, rev)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				written[rev], written[gone] = "put "+key, "delete "+key
				mu.Unlock()
			}
		})
	}
	for range 4 {
		watches = append(watches, watchAll(t, s, "/w/", start))
	}
	const total = writers * each * 2
	resumed := watchAll(t, s, "/w/", start)
	before := resumed.take(t, total/3)
	resumed.cancel()
	after := watchAll(t, s, "/w/", before[len(before)-1].Rev).take(t, total-len(before))
	wg.Wait()
	checkEvents(t, "the resumed watch", append(before, after...), written)
	for i, watch := range watches {
		checkEvents(t, fmt.Sprint("watch ", i), watch.take(t, total), written)
	}
}

func checkEvents(t *testing.T, who string, events []store.Event, written map[uint64]string) {
	t.Helper()
	var last uint64
	for _, event := range events {
		if event.Rev <= last {
			t.Fatalf("%s: revision %d came after %d", who, event.Rev, last)
		}
		last = event.Rev
		got := "put " + string(event.Value)
		if event.Deleted {
			got = "delete " + event.Key
		}
		if got != written[event.Rev] {
			t.Fatalf("%s: revision %d is %q, want %q", who, event.Rev, got, written[event.Rev])
		}
	}
	if len(events) != len(written) {
		t.Fatalf("%s: %d events for %d writes", who, len(events), len(written))
	}
}
