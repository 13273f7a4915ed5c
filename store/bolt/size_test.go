package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A file must not grow with what comes and goes. In a cluster that is the heartbeats of nodes, which update a Lease each
// ten seconds, and Events, which are made once and deleted an hour later.
const (
	leases    = 100
	leaseSize = 300 // Bytes, as stored.
	eventSize = 600
	mostBytes = 64 << 20
)

// TestSize is quick; BenchmarkSize does a million heartbeats and a hundred thousand Events.
func TestSize(t *testing.T) {
	testSize(t, 20_000, 10_000, mostBytes/4)
}

func BenchmarkSize(b *testing.B) {
	for b.Loop() {
		peak, after := testSize(b, 1_000_000, 100_000, mostBytes)
		b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
		b.ReportMetric(float64(after)/(1<<20), "after-MiB")
	}
}

// testSize has all Events come within an hour, which is the worst case, and go while the heartbeats go on.
func testSize(t testing.TB, heartbeats, events int, most int64) (peak, after int64) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := Open(path, func(o *options) { o.compactFrom = min(o.compactFrom, most/2) })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	revs := make([]uint64, leases)
	beat := func(n int) {
		var wg sync.WaitGroup
		for i := range leases {
			wg.Go(func() {
				for range n / leases {
					rev, err := s.Put(t.Context(), fmt.Sprint("leases/", i), make([]byte, leaseSize), revs[i])
					if err != nil {
						t.Error(err)
						return
					}
					revs[i] = rev
				}
			})
		}
		wg.Wait()
	}
	beat(heartbeats / 3)
	parallel(events, func(i int) error {
		_, err := s.Put(t.Context(), fmt.Sprintf("events/default/pod-%d.%x", i%1000, i*7919), make([]byte, eventSize), 0)
		return err
	}, t)
	peak = fileSize(t, path)
	beat(heartbeats / 3)
	kvs, _, err := s.List(t.Context(), "events/")
	if err != nil || len(kvs) != events {
		t.Fatalf("%d events, error %v, want %d", len(kvs), err, events)
	}
	parallel(events, func(i int) error {
		_, err := s.Delete(t.Context(), kvs[i].Key, kvs[i].Rev)
		return err
	}, t)
	beat(heartbeats / 3)
	if after = fileSize(t, path); after >= most {
		t.Errorf("after %d heartbeats and %d events the file has %d bytes, want less than %d", heartbeats, events, after, most)
	}
	return peak, after
}

// parallel does n calls, many at a time.
func parallel(n int, do func(i int) error, t testing.TB) {
	t.Helper()
	var wg sync.WaitGroup
	const at = maxBatch
	for worker := range at {
		wg.Go(func() {
			for i := worker; i < n; i += at {
				if err := do(i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
