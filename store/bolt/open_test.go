package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff/store"

	bbolt "go.etcd.io/bbolt"
)

func TestSecondServer(t *testing.T) {
	t.Parallel() // It waits for a second.
	dir := t.TempDir()
	open(t, filepath.Join(dir, "store.db"))
	_, err := Open(filepath.Join(dir, "store.db"))
	if want := "data directory " + dir + " is in use by another skiff server"; err == nil || err.Error() != want {
		t.Errorf("second Open: error %v, want %q", err, want)
	}
}

func TestForeignFiles(t *testing.T) {
	cases := []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"another format", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error {
				meta, err := tx.CreateBucket(metaBucket)
				if err != nil {
					return err
				}
				return meta.Put(formatKey, []byte("7"))
			})
		}, "format 7, but this skiff reads format 1"},
		{"another program's", func(t *testing.T, path string) {
			edit(t, path, func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("grafana")); return err })
		}, "not one of skiff's"},
		{"damaged", func(t *testing.T, path string) {
			open(t, path).Close()
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Delete(stampKey) })
		}, "damaged"},
		{"no database at all", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("text ", 10000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "damaged"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			tc.make(t, path)
			before, _ := os.ReadFile(path)
			_, err := Open(path)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open: error %v, want one with the path and %q", err, tc.want)
			}
			if after, _ := os.ReadFile(path); string(after) != string(before) {
				t.Error("Open changed the file")
			}
		})
	}
}

func edit(t *testing.T, path string, do func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(do); err != nil {
		t.Fatal(err)
	}
}

// The file of a store that once held much becomes small again, and keeps all that it holds.
func TestCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	kept := put(t, s, "kept", "value", 0)
	for i := range 8 {
		key := fmt.Sprint(i)
		rev := put(t, s, key, strings.Repeat("x", 1<<20), 0)
		if _, err := s.Delete(t.Context(), key, rev); err != nil {
			t.Fatal(err)
		}
	}
	_, rev, _ := s.List(t.Context(), "")
	s.Close()
	before, _ := os.Stat(path)
	// What a server left that was killed at this point.
	if err := os.WriteFile(path+".compact", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}

	s = open(t, path, func(o *options) { o.compactFrom = 1 })
	after, err := os.Stat(path)
	if err != nil || after.Size() > before.Size()/4 || after.Mode().Perm() != 0o600 {
		t.Errorf("the file has %d bytes of %d before, mode %v, error %v; want less than a quarter", after.Size(), before.Size(), after.Mode(), err)
	}
	kv, err := s.Get(t.Context(), "kept")
	if err != nil || kv.Rev != kept || string(kv.Value) != "value" {
		t.Errorf("after compaction: %v, error %v", kv, err)
	}
	if next := put(t, s, "next", "", 0); next != rev+1 {
		t.Errorf("the next write is at revision %d, want %d", next, rev+1)
	}
	if _, err := os.Stat(path + ".compact"); !os.IsNotExist(err) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

// A file becomes small again also while it is in use: readers and watchers do not notice.
func TestCompactInUse(t *testing.T) {
	const from = 256 << 10
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path, func(o *options) { o.compactFrom = from })
	put(t, s, "/kept", "value", 0)
	watch := watchOn(t, s)
	largest := int64(0)
	for range 10 {
		for i := range 15 {
			put(t, s, fmt.Sprint(i), strings.Repeat("x", 20<<10), 0)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, info.Size())
		kvs, _, err := s.List(t.Context(), "")
		if err != nil || len(kvs) != 16 {
			t.Fatalf("%d keys, error %v, want 16", len(kvs), err)
		}
		for _, kv := range kvs[1:] {
			if _, err := s.Delete(t.Context(), kv.Key, kv.Rev); err != nil {
				t.Fatal(err)
			}
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > from || largest <= from {
		t.Errorf("the file had %d bytes and has %d, error %v; want at most %d with almost nothing in it", largest, info.Size(), err, from)
	}
	kvs, rev, err := s.List(t.Context(), "")
	if err != nil || len(kvs) != 1 || string(kvs[0].Value) != "value" {
		t.Errorf("%d keys, error %v, want the one that was kept", len(kvs), err)
	}
	watch.check(t, &faultyWriter{}, rev)
	s.Close()
	open(t, path)
}

// A file that lost its end, in which nothing was, is as long again as its pages may be: later ones are put there.
func TestFileCutBehindItsContents(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	put(t, s, "kept", "value", 0)
	for i := range 8 {
		key := fmt.Sprint(i)
		rev := put(t, s, key, strings.Repeat("x", 1<<20), 0)
		if _, err := s.Delete(t.Context(), key, rev); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 { // Pages near the beginning are free: they are what the newest state is on.
		put(t, s, "kept", "value"+fmt.Sprint(i), get(t, s, "kept").Rev)
	}
	s.Close()
	cut := int64(128 << 10)
	if info, err := os.Stat(path); err != nil || info.Size() < 8*cut {
		t.Fatalf("the file has %d bytes, error %v", info.Size(), err)
	}
	if err := os.Truncate(path, cut); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	want := map[string]string{"kept": "value3"}
	for i := range 20 {
		key, value := fmt.Sprint("after", i), strings.Repeat(fmt.Sprint(i), 100<<10)
		put(t, s, key, value, 0)
		want[key] = value
	}
	for key, value := range want {
		if got := get(t, s, key); string(got.Value) != value {
			t.Errorf("%s has %d bytes, want %d", key, len(got.Value), len(value))
		}
	}
	s.Close()
	open(t, path)
}

func get(t *testing.T, s *Store, key string) store.KV {
	t.Helper()
	kv, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return kv
}
