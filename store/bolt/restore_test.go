package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff/store"
)

func entriesOf(kvs []store.KV, end error) iter.Seq2[store.KV, error] {
	return func(yield func(store.KV, error) bool) {
		for _, kv := range kvs {
			if !yield(kv, nil) {
				return
			}
		}
		if end != nil {
			yield(store.KV{}, end)
		}
	}
}

func keyed(n int) (kvs []store.KV) {
	for i := range n {
		kvs = append(kvs, store.KV{Key: fmt.Sprintf("/%05d", i), Value: bytes.Repeat([]byte{byte(i)}, i)})
	}
	return kvs
}

// After a restoration the store holds what it was given, at revisions that nobody has seen before; what it held is kept.
func TestRestore(t *testing.T) {
	dir := t.TempDir()
	path, kept := filepath.Join(dir, "store.db"), filepath.Join(dir, "kept.db")
	s := open(t, path)
	before := put(t, s, "/old", "value", 0)
	s.Close()

	want := keyed(2000) // More than one transaction.
	rev, err := Restore(path, kept, 7, entriesOf(want, nil))
	if err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	got, now, err := s.List(t.Context(), "")
	if err != nil || now != rev || len(got) != len(want) {
		t.Fatalf("%d entries at revision %d, error %v, want %d at %d", len(got), now, err, len(want), rev)
	}
	last := before
	for i, kv := range got {
		if kv.Key != want[i].Key || !bytes.Equal(kv.Value, want[i].Value) || kv.Rev <= last || kv.Rev > rev {
			t.Fatalf("entry %d is %q at revision %d, after %d and with the store at %d", i, kv.Key, kv.Rev, last, rev)
		}
		last = kv.Rev
	}
	for _, err := range s.Watch(t.Context(), "", before) {
		if !errors.Is(err, store.ErrCompacted) {
			t.Errorf("a watch from before the restoration: error %v, want ErrCompacted", err)
		}
		break
	}
	put(t, s, "/old", "again", 0)
	if kv, err := open(t, kept).Get(t.Context(), "/old"); err != nil || string(kv.Value) != "value" {
		t.Errorf("what was kept: %q, error %v", kv.Value, err)
	}
}

// A restoration that fails leaves everything as it was.
func TestRestoreFails(t *testing.T) {
	lost := errors.New("the snapshot is cut off")
	cases := []struct {
		name string
		set  func(t *testing.T, path, kept string)
		end  error
		want string
	}{
		{"the snapshot breaks off", nil, lost, lost.Error()},
		{"a server runs", func(t *testing.T, path, _ string) { open(t, path) }, nil, "in use by another skiff server"},
		{"the name for the old file is taken", func(t *testing.T, _, kept string) {
			if err := os.WriteFile(kept, []byte("something"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, "file exists"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			path, kept := filepath.Join(dir, "store.db"), filepath.Join(dir, "kept.db")
			s := open(t, path)
			rev := put(t, s, "/old", "value", 0)
			s.Close()
			if tc.set != nil {
				tc.set(t, path, kept)
			}
			before, _ := os.ReadDir(dir)
			_, err := Restore(path, kept, 7, entriesOf(keyed(2000), tc.end))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if after, _ := os.ReadDir(dir); len(after) != len(before) {
				t.Errorf("it left %v, there were %v", after, before)
			}
			if tc.name == "a server runs" {
				return
			}
			if kv, err := open(t, path).Get(t.Context(), "/old"); err != nil || kv.Rev != rev {
				t.Errorf("what was there is at revision %d, error %v, want %d", kv.Rev, err, rev)
			}
		})
	}
}

// A store that is damaged or gone can be restored too.
func TestRestoreDamaged(t *testing.T) {
	dir := t.TempDir()
	path, kept := filepath.Join(dir, "store.db"), filepath.Join(dir, "kept.db")
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := Restore(path, kept, 7, entriesOf(keyed(3), nil)); err != nil {
			t.Fatal(err)
		}
		s := open(t, path)
		if kvs, _, err := s.List(t.Context(), ""); err != nil || len(kvs) != 3 {
			t.Errorf("%d entries, error %v, want 3", len(kvs), err)
		}
		s.Close()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if text, _ := os.ReadFile(kept); string(text) != "half" {
		t.Errorf("the damaged file was kept as %q", text)
	}
}

func TestBeyond(t *testing.T) {
	day := func(year int) time.Time { return time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC) }
	first := beyond(5000, day(2030))
	cases := []struct {
		name string
		rev  uint64
		now  time.Time
		than uint64
	}{
		{"of the same snapshot again, after a hundred writes a second", 5000, day(2031), first + 365*24*3600*100},
		{"on a machine without a clock", 5000, day(1970), 5000 + leap - 1},
		{"on a machine whose clock is before all time", 5000, day(1960), 5000 + leap - 1},
		{"of a store that was ahead of time", 1 << 50, day(2031), 1 << 50},
	}
	for _, tc := range cases {
		if got := beyond(tc.rev, tc.now); got <= tc.than || got > 1<<53 {
			t.Errorf("%s: revision %d, want more than %d", tc.name, got, tc.than)
		}
	}
}
