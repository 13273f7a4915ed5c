package bolt

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
		}, "format 7, but this skiff reads format 2"},
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

// childPath tells a copy of this test program to write to a store until it is killed.
const childPath = "SKIFF_TEST_STORE"

// Kill -9 loses no write that was answered.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	var last uint64
	for round := range 3 {
		last = writeAndKill(t, path, round)
		s, err := Open(path)
		if err != nil {
			t.Fatalf("round %d: open after the kill: %v", round, err)
		}
		kvs, rev, err := s.List(t.Context(), fmt.Sprintf("/%d/", round))
		if err != nil || rev < last {
			t.Fatalf("round %d: the store is at revision %d, but %d was answered; error %v", round, rev, last, err)
		}
		have := map[uint64]bool{}
		for _, kv := range kvs {
			have[kv.Rev] = kv.Key == string(kv.Value)
		}
		for want := last; want > last-100; want-- {
			if !have[want] {
				t.Errorf("round %d: the write at revision %d was answered and is lost", round, want)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// writeAndKill lets a child write from several goroutines, kills it in the middle, and returns the last revision up to
// which it had the answers to all writes.
func writeAndKill(t *testing.T, path string, round int) uint64 {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestChild$")
	child.Env = append(os.Environ(), childPath+"="+path, fmt.Sprintf("SKIFF_TEST_ROUND=%d", round))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	defer child.Process.Kill()
	answered := map[uint64]bool{}
	var lowest uint64
	for lines := bufio.NewScanner(out); len(answered) < 300 && lines.Scan(); {
		var rev uint64
		if _, err := fmt.Sscanf(lines.Text(), "answered %d", &rev); err != nil {
			t.Fatalf("the child says %q", lines.Text())
		}
		if answered[rev] = true; lowest == 0 || rev < lowest {
			lowest = rev
		}
	}
	if len(answered) < 300 {
		t.Fatalf("the child ended after %d answers", len(answered))
	}
	last := lowest
	for answered[last+1] {
		last++
	}
	if last < lowest+100 {
		t.Fatalf("only the revisions from %d to %d were answered without a gap", lowest, last)
	}
	return last
}

func TestChild(t *testing.T) {
	path := os.Getenv(childPath)
	if path == "" {
		t.Skip("runs only as the child of TestKill")
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		go func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("/%s/%d/%d", os.Getenv("SKIFF_TEST_ROUND"), i, n)
				rev, err := s.Put(t.Context(), key, []byte(key), 0)
				if err != nil {
					fmt.Println("put:", err)
					return
				}
				fmt.Println("answered", rev)
			}
		}()
	}
	select {} // Until killed.
}
