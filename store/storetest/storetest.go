// Package storetest is the contract of [store.Store] as tests. Each implementation runs it:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { ... })
//	}
//
// In Kubernetes: k8s.io/apiserver/pkg/storage/testing, which knows of objects. Here there are only keys and bytes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff/store"
)

// patience is how long a test waits for what must come. Only a broken store makes it wait this long.
const patience = time.Minute

// Run tests the store that open returns. Each part opens an empty store of its own; open closes it by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	parts := []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"get returns what was put", testPutGet},
		{"a key is created once", testCreateTwice},
		{"an update needs the present revision", testUpdate},
		{"a deletion needs the present revision", testDelete},
		{"a failed write changes nothing", testFailedWrite},
		{"values belong to the store", testOwnership},
		{"any bytes are a value", testBytes},
		{"a list is ordered, under its prefix, at one revision", testList},
		{"of many concurrent writers one wins", testOneWinner},
		{"concurrent increments all count", testIncrements},
		{"what concurrent clients are told is linearizable", testLinearizable},
		{"a context that has ended stops a call", testContext},
		{"after Close all is closed", testClose},
		{"a watch begins after its revision", testWatchFrom},
		{"a watch sees only its prefix", testWatchPrefix},
		{"a watch waits for events", testWatchWaits},
		{"a watch ends with its context", testWatchContext},
		{"a watch of forgotten events is refused", testWatchCompacted},
		{"watches have no gaps under concurrent writes", testWatchGaps},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t)) })
	}
}

func testPutGet(t *testing.T, s store.Store) {
	before := revision(t, s)
	rev := put(t, s, "/pods/a", "one", 0)
	if rev <= before {
		t.Errorf("Put raised the revision from %d to %d, want more", before, rev)
	}
	if before < 1 {
		t.Errorf("an empty store is at revision %d, want at least 1", before)
	}
	expect(t, s, "/pods/a", "one", rev)
	if now := revision(t, s); now != rev {
		t.Errorf("the store is at revision %d after a write at %d", now, rev)
	}
	if _, err := s.Get(t.Context(), "/pods"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of a prefix of a key: error %v, want ErrNotFound", err)
	}
}

func testCreateTwice(t *testing.T, s store.Store) {
	rev := put(t, s, "a", "one", 0)
	if _, err := s.Put(t.Context(), "a", []byte("two"), 0); !errors.Is(err, store.ErrExists) {
		t.Errorf("second create: error %v, want ErrExists", err)
	}
	expect(t, s, "a", "one", rev)
	remove(t, s, "a", rev)
	again := put(t, s, "a", "three", 0)
	expect(t, s, "a", "three", again)
}

func testUpdate(t *testing.T, s store.Store) {
	first := put(t, s, "a", "one", 0)
	second := put(t, s, "a", "two", first)
	if second <= first {
		t.Errorf("update at revision %d after %d, want more", second, first)
	}
	for _, rev := range []uint64{first, second + 1} {
		if _, err := s.Put(t.Context(), "a", []byte("three"), rev); !errors.Is(err, store.ErrConflict) {
			t.Errorf("update of revision %d, which is at %d: error %v, want ErrConflict", rev, second, err)
		}
	}
	expect(t, s, "a", "two", second)
	if _, err := s.Put(t.Context(), "b", nil, second); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("update of a missing key: error %v, want ErrNotFound", err)
	}
}

func testDelete(t *testing.T, s store.Store) {
	first := put(t, s, "a", "one", 0)
	second := put(t, s, "a", "two", first)
	for _, rev := range []uint64{0, first, second + 1} {
		if _, err := s.Delete(t.Context(), "a", rev); !errors.Is(err, store.ErrConflict) {
			t.Errorf("delete of revision %d, which is at %d: error %v, want ErrConflict", rev, second, err)
		}
	}
	if rev := remove(t, s, "a", second); rev <= second {
		t.Errorf("deletion at revision %d after %d, want more", rev, second)
	}
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after Delete: error %v, want ErrNotFound", err)
	}
	for _, rev := range []uint64{0, second} {
		if _, err := s.Delete(t.Context(), "a", rev); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("delete of a missing key, revision %d: error %v, want ErrNotFound", rev, err)
		}
	}
}

func testFailedWrite(t *testing.T, s store.Store) {
	rev := put(t, s, "a", "one", 0)
	if _, err := s.Put(t.Context(), "a", nil, 0); err == nil {
		t.Error("second create: no error")
	}
	if _, err := s.Delete(t.Context(), "b", 1); err == nil {
		t.Error("delete of a missing key: no error")
	}
	if _, err := s.Put(t.Context(), "", []byte("x"), 0); err == nil {
		t.Error("put under the empty key: no error")
	}
	if now := revision(t, s); now != rev {
		t.Errorf("failed writes raised the revision from %d to %d", rev, now)
	}
}

func testOwnership(t *testing.T, s store.Store) {
	value := []byte("one")
	rev, err := s.Put(t.Context(), "a", value, 0)
	if err != nil {
		t.Fatal(err)
	}
	copy(value, "xxx")
	put(t, s, "b", "other", 0)
	expect(t, s, "a", "one", rev)
	event := first(t, s, "", rev-1)
	if string(event.Value) != "one" {
		t.Errorf("the event has the value %q, want %q: it changed with the caller's slice", event.Value, "one")
	}
}

func testBytes(t *testing.T, s store.Store) {
	for key, value := range map[string]string{"empty": "", "zero\x00key": "a\x00b", "binary\xff": "\xff\xfe\x00", "large": string(make([]byte, 1<<20))} {
		expect(t, s, key, value, put(t, s, key, value, 0))
	}
}

func testList(t *testing.T, s store.Store) {
	var want []store.KV
	for _, key := range []string{"/p/b", "/p/a/2", "/q/a", "/p/a/10", "/p", "/p/\xff", "/p0"} {
		rev := put(t, s, key, "v"+key, 0)
		want = append(want, store.KV{Key: key, Value: []byte("v" + key), Rev: rev})
	}
	last := want[len(want)-1].Rev
	cases := []struct {
		prefix string
		want   []store.KV
	}{
		{"/p/", []store.KV{want[3], want[1], want[0], want[5]}},
		{"/p/a", []store.KV{want[3], want[1]}},
		{"", []store.KV{want[4], want[3], want[1], want[0], want[5], want[6], want[2]}},
		{"/p/\xff", []store.KV{want[5]}},
		{"/none", nil},
	}
	for _, tc := range cases {
		kvs, rev, err := s.List(t.Context(), tc.prefix)
		if err != nil {
			t.Fatalf("List(%q): %v", tc.prefix, err)
		}
		if diff := cmp.Diff(tc.want, kvs); diff != "" {
			t.Errorf("List(%q) (-want +got):\n%s", tc.prefix, diff)
		}
		if rev != last {
			t.Errorf("List(%q) is at revision %d, want %d", tc.prefix, rev, last)
		}
	}
}

func testContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range callAll(ctx, s) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a context that has ended: error %v, want context.Canceled", name, err)
		}
	}
	if now, _, _ := s.List(t.Context(), ""); len(now) != 0 {
		t.Errorf("a write happened: %v", now)
	}
}

func testClose(t *testing.T, s store.Store) {
	rev := put(t, s, "a", "one", 0)
	watch := watchAll(t, s, "", rev)
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if _, err := watch.rest(t); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a watch ended with %v, want ErrClosed", err)
	}
	for name, err := range callAll(t.Context(), s) {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s after Close: error %v, want ErrClosed", name, err)
		}
	}
	if err := s.Close(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("second Close: error %v, want ErrClosed", err)
	}
}

// callAll calls each method and returns how it ended.
func callAll(ctx context.Context, s store.Store) map[string]error {
	errs := map[string]error{}
	_, errs["Get"] = s.Get(ctx, "a")
	_, _, errs["List"] = s.List(ctx, "")
	_, errs["Put"] = s.Put(ctx, "b", nil, 0)
	_, errs["Delete"] = s.Delete(ctx, "a", 2)
	errs["Watch"] = fmt.Errorf("the watch ended without an error")
	for _, errs["Watch"] = range s.Watch(ctx, "", 1<<40) {
		break
	}
	return errs
}

func put(t *testing.T, s store.Store, key, value string, rev uint64) uint64 {
	t.Helper()
	got, err := s.Put(t.Context(), key, []byte(value), rev)
	if err != nil {
		t.Fatalf("Put(%q, revision %d): %v", key, rev, err)
	}
	return got
}

func remove(t *testing.T, s store.Store, key string, rev uint64) uint64 {
	t.Helper()
	got, err := s.Delete(t.Context(), key, rev)
	if err != nil {
		t.Fatalf("Delete(%q, revision %d): %v", key, rev, err)
	}
	return got
}

func expect(t *testing.T, s store.Store, key, value string, rev uint64) {
	t.Helper()
	kv, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	if kv.Key != key || string(kv.Value) != value || kv.Rev != rev {
		t.Fatalf("Get(%q) = %q, %.40q at revision %d, want %.40q at %d", key, kv.Key, kv.Value, kv.Rev, value, rev)
	}
}

func revision(t *testing.T, s store.Store) uint64 {
	t.Helper()
	_, rev, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return rev
}
