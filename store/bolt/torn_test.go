package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"skiff/store"
)

const (
	pageSize   = 4096
	sectorSize = 512 // What a disk writes as one.
)

// moment is the file as it was after a transaction, and what was in it.
type moment struct {
	file []byte
	kvs  []store.KV
	rev  uint64
}

// moments fills a store with large and small values, changes and deletions, and returns what it was after each of the
// last writes, and after it was closed.
func moments(t *testing.T, random *rand.Rand) []moment {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	revs := map[string]uint64{}
	var past []moment
	for n := range 150 {
		key := fmt.Sprintf("/%d/%d", n%3, random.IntN(60))
		if rev := revs[key]; rev != 0 && random.IntN(3) == 0 {
			if _, err := s.Delete(t.Context(), key, rev); err != nil {
				t.Fatal(err)
			}
			delete(revs, key)
		} else {
			value := fmt.Sprintf("%d %x", n, make([]byte, random.IntN(400)))
			if random.IntN(10) == 0 {
				value += strings.Repeat("large ", 2000)
			}
			revs[key] = put(t, s, key, value, rev)
		}
		if n >= 130 {
			past = append(past, snap(t, s, path))
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	closed := past[len(past)-1]
	closed.file = read(t, path)
	return append(past, closed)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func snap(t *testing.T, s *Store, path string) moment {
	t.Helper()
	kvs, rev, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return moment{read(t, path), kvs, rev}
}

// reopened opens a file with these bytes, and tells what it is then.
func reopened(t *testing.T, file []byte) (moment, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err != nil {
		if after, _ := os.ReadFile(path); !bytes.Equal(file, after) {
			t.Error("Open failed and changed the file")
		}
		return moment{}, err
	}
	defer s.Close()
	got := snap(t, s, path)
	put(t, s, "/new", "it goes on", 0)
	return got, nil
}

func (m moment) sameData(other moment) bool { return slices.EqualFunc(m.kvs, other.kvs, same) }

// Damage of what was written and answered is found: Open gives all of it, or says that the file is damaged. One thing no file can
// tell: that a disk kept an old meta page whole, after it said that it has the new one. And after a kill, that what the very last
// write left is damaged looks as if the power had failed: then, with a warning, the state before is right too.
func TestDamage(t *testing.T) {
	captureLog(t) // It warns.
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	past := moments(t, random)
	end := len(past) - 1
	t.Run("closed", func(t *testing.T) { testDamage(t, random, past, past[end]) })
	t.Run("killed", func(t *testing.T) { testDamage(t, random, past[:end], past[end-2]) })
}

// testDamage damages the last of some states. The one before it is right where damage hits a meta page or what the last write left.
func testDamage(t *testing.T, random *rand.Rand, past []moment, before moment) {
	last := past[len(past)-1]
	size := len(last.file)
	newest, _, err := readMetas(bytes.NewReader(before.file))
	if err != nil {
		t.Fatal(err)
	}
	_, needed, err := readState(bytes.NewReader(before.file), newest)
	if err != nil {
		t.Fatal(err)
	}
	hit := func(file []byte) bool { // What the state before had no need of.
		for at := 0; at < size; at += pageSize {
			if !needed.has(uint64(at/pageSize)) && (at+pageSize > len(file) || !bytes.Equal(file[at:at+pageSize], last.file[at:at+pageSize])) {
				return true
			}
		}
		return false
	}
	ways := []struct {
		name string
		do   func(file []byte, page int) []byte
	}{
		{"cut off", func(file []byte, page int) []byte { return file[:page] }},
		{"cut off in the middle", func(file []byte, page int) []byte { return file[:page+random.IntN(pageSize)] }},
		{"zeroed", func(file []byte, page int) []byte { clear(file[page : page+pageSize]); return file }},
		{"half zeroed", func(file []byte, page int) []byte { clear(file[page+pageSize/2 : page+pageSize]); return file }},
		{"zeroed to the end", func(file []byte, page int) []byte { clear(file[page:]); return file }},
		{"old", func(file []byte, page int) []byte {
			old := past[random.IntN(len(past)-1)].file
			if page < len(old) {
				copy(file[page:page+pageSize], old[page:])
			}
			return file
		}},
		{"old in some sectors", func(file []byte, page int) []byte {
			old := past[random.IntN(len(past)-1)].file
			for at := page; at < page+pageSize && at < len(old); at += sectorSize {
				if random.IntN(2) == 0 {
					copy(file[at:at+sectorSize], old[at:])
				}
			}
			return file
		}},
		{"another page", func(file []byte, page int) []byte {
			copy(file[page:page+pageSize], last.file[random.IntN(size/pageSize)*pageSize:])
			return file
		}},
		{"random", func(file []byte, page int) []byte {
			for i := range pageSize {
				file[page+i] = byte(random.Uint32())
			}
			return file
		}},
		{"one bit", func(file []byte, page int) []byte {
			file[page+random.IntN(pageSize)] ^= 1 << random.IntN(8)
			return file
		}},
		{"one bit of its header", func(file []byte, page int) []byte {
			file[page+random.IntN(64)] ^= 1 << random.IntN(8)
			return file
		}},
	}
	refused := 0
	for page := 0; page < size; page += pageSize {
		for _, way := range ways {
			if page < 2*pageSize && strings.HasPrefix(way.name, "old") {
				continue
			}
			file := way.do(slices.Clone(last.file), page)
			c, err := readContents(bytes.NewReader(file))
			whole := !c.torn && c.stamp.rev == last.rev // A page that was free: to open a few such is enough.
			if err == nil && (!whole || random.IntN(20) == 0) {
				var got moment
				got, err = reopened(t, file)
				fine := got.sameData(last) && got.rev >= last.rev || hit(file) && got.sameData(before) && got.rev > last.rev
				if err == nil && !fine {
					t.Fatalf("page %d, %s: opened with %d keys at revision %d, want %d at %d", page/pageSize, way.name, len(got.kvs), got.rev, len(last.kvs), last.rev)
				}
			}
			if err != nil {
				refused++
				if !errors.Is(err, ErrDamaged) && !strings.Contains(err.Error(), "format") || strings.Contains(err.Error(), "\n") {
					t.Fatalf("page %d, %s: error %q, want one line that says that the file is damaged", page/pageSize, way.name, err)
				}
			}
		}
	}
	if refused < size/pageSize {
		t.Errorf("only %d cases of damage were found in %d pages: does this test still damage anything?", refused, size/pageSize)
	}
	if _, err := reopened(t, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("an empty file: error %v, want that it is damaged", err)
	}
}
