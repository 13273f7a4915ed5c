package storetest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/store"
)

// Reopen tests that a store that was closed is as before when it is opened again. open opens one and the same store each
// time, which is empty at first.
func Reopen(t *testing.T, open func(t *testing.T) store.Store) {
	s := open(t)
	var gone, last uint64
	for i := range 20 {
		key := fmt.Sprint("/", i%7)
		kv, err := s.Get(t.Context(), key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		last = put(t, s, key, fmt.Sprint("value ", i), kv.Rev)
		if i == 8 {
			gone = remove(t, s, key, last)
		}
	}
	before, rev, err := s.List(t.Context(), "")
	if err != nil || rev != last {
		t.Fatalf("List is at revision %d, error %v, want %d", rev, err, last)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t)
	after, rev, err := s.List(t.Context(), "")
	if diff := cmp.Diff(before, after); err != nil || rev != last || diff != "" {
		t.Fatalf("opened again: revision %d, error %v, want %d; keys (-before +after):\n%s", rev, err, last, diff)
	}
	// Who was up to date goes on. Who was not gets all that it missed, or is told to list again.
	watch := watchAll(t, s, "", last)
	next := put(t, s, "/new", "value", 0)
	if got := watch.take(t, 1); got[0].Rev != next || next <= last {
		t.Errorf("a watch from revision %d saw %d, want %d, which is later", last, got[0].Rev, next)
	}
	old := watchAll(t, s, "", gone-1)
	events, err := old.read(1)
	if len(events) == 1 && (!events[0].Deleted || events[0].Rev != gone) || len(events) == 0 && !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a watch from before: %v, error %v; want the deletion at revision %d, or ErrCompacted", events, err, gone)
	}
}
