package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/store"
)

func entries(kvs ...store.KV) iter.Seq2[store.KV, error] {
	return func(yield func(store.KV, error) bool) {
		for _, kv := range kvs {
			if !yield(kv, nil) {
				return
			}
		}
	}
}

func read(file []byte) (rev uint64, kvs []store.KV, err error) {
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		return 0, nil, err
	}
	for kv, err := range r.Entries() {
		if err != nil {
			return r.Rev, kvs, err
		}
		kvs = append(kvs, kv)
	}
	return r.Rev, kvs, nil
}

func TestSnapshot(t *testing.T) {
	cases := map[string][]store.KV{
		"empty": nil,
		"any bytes": {
			{Key: "a", Value: []byte{}}, {Key: "a\x00", Value: []byte("\x00\xff")}, {Key: "b", Value: bytes.Repeat([]byte("large"), 100_000)},
		},
	}
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			var file bytes.Buffer
			count, err := Write(&file, 1<<50, entries(want...))
			if err != nil || count != uint64(len(want)) {
				t.Fatalf("Write: %d entries, error %v", count, err)
			}
			rev, got, err := read(file.Bytes())
			if diff := cmp.Diff(want, got); err != nil || rev != 1<<50 || diff != "" {
				t.Errorf("read: revision %d, error %v (-want +got):\n%s", rev, err, diff)
			}
		})
	}
}

// Whatever happened to a snapshot, it is read whole or there is an error of one line.
func TestDamagedSnapshot(t *testing.T) {
	var kvs []store.KV
	for i := range 20 {
		kvs = append(kvs, store.KV{Key: fmt.Sprintf("key %03d", i), Value: fmt.Appendf(nil, "%d %x", i, rand.Uint64())})
	}
	var file bytes.Buffer
	if _, err := Write(&file, 7, entries(kvs...)); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	refused := func(what string, file []byte) {
		t.Helper()
		rev, got, err := read(file)
		same := rev == 7 && cmp.Equal(kvs, got) // gzip's header has bytes that mean nothing.
		if err == nil && !same || err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %d entries, error %v, want one line that says so", what, len(got), err)
		}
	}
	for cut := range whole {
		if _, _, err := read(whole[:cut]); err == nil {
			t.Fatalf("cut off at %d of %d: no error", cut, len(whole))
		}
		refused("cut off", whole[:cut])
	}
	for i := range whole {
		file := bytes.Clone(whole)
		file[i] ^= 1 << rand.IntN(8)
		refused(fmt.Sprint("byte ", i), file)
	}
	if _, _, err := read(append(bytes.Clone(whole), 'x')); err == nil {
		t.Error("with something behind its end: no error")
	}
	for text, want := range map[string]string{
		"":                            "this is not a snapshot",
		strings.Repeat("text\n", 100): "this is not a snapshot",
		"skiff snapshot 7\n etc.":     "made by another version",
	} {
		if _, _, err := read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: error %v, want %q", text, err, want)
		}
	}
}

// What can not be read is not written to the end.
func TestFailingSource(t *testing.T) {
	var file bytes.Buffer
	lost := errors.New("lost")
	_, err := Write(&file, 7, func(yield func(store.KV, error) bool) {
		_ = yield(store.KV{Key: "a"}, nil) && yield(store.KV{}, lost)
	})
	if !errors.Is(err, lost) {
		t.Errorf("Write: error %v, want that of the source", err)
	}
	if _, _, err := read(file.Bytes()); err == nil {
		t.Error("what it left is a snapshot")
	}
}
