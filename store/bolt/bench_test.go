package bolt

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkPut creates keys of 2 KB from 1, 16 and 64 writers. Its floor is what the disk alone costs: to append 2 KB to
// a file and wait. A lone Put waits for the disk once, too, but for more than one page.
func BenchmarkPut(b *testing.B) {
	value := make([]byte, 2048)
	b.Run("floor", func(b *testing.B) {
		file, err := os.Create(filepath.Join(b.TempDir(), "floor"))
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
		for b.Loop() {
			if _, err := file.Write(value); err != nil {
				b.Fatal(err)
			}
			if err := unix.Fdatasync(int(file.Fd())); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) { benchmarkPut(b, writers, value) })
	}
}

func benchmarkPut(b *testing.B, writers int, value []byte) {
	s, err := Open(filepath.Join(b.TempDir(), "store.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	took := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				start := time.Now()
				if _, err := s.Put(b.Context(), fmt.Sprintf("/registry/pods/default/pod-%d", i), value, 0); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkOpen opens a file of 100,000 keys of 2 KB, which is read and checked whole. The floor reads it.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "store.db")
	db, _, err := newFile(path, func(put func(key, stored []byte) error) (uint64, error) {
		value := make([]byte, 2048)
		for i := range 100_000 {
			if err := put(fmt.Appendf(nil, "/registry/pods/default/pod-%06d", i), value); err != nil {
				return 0, err
			}
		}
		return 100_000, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("floor", func(b *testing.B) {
		buf := make([]byte, 1<<20)
		for b.Loop() {
			file, err := os.Open(path)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{file}, buf); err != nil {
				b.Fatal(err)
			}
			file.Close()
		}
	})
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			s, err := Open(path)
			if err != nil {
				b.Fatal(err)
			}
			s.Close()
		}
	})
}
