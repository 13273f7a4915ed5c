package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff/store"
)

func testWatchFrom(t *testing.T, s store.Store) {
	start := revision(t, s)
	one := put(t, s, "a", "one", 0)
	two := put(t, s, "a", "two", one)
	three := remove(t, s, "a", two)
	all := []store.Event{
		{KV: store.KV{Key: "a", Value: []byte("one"), Rev: one}},
		{KV: store.KV{Key: "a", Value: []byte("two"), Rev: two}},
		{KV: store.KV{Key: "a", Rev: three}, Deleted: true},
	}
	for skip, from := range []uint64{start, one, two} {
		watch := watchAll(t, s, "", from)
		got := watch.take(t, len(all)-skip)
		if diff := cmp.Diff(all[skip:], got); diff != "" {
			t.Errorf("events after revision %d (-want +got):\n%s", from, diff)
		}
	}
}

func testWatchPrefix(t *testing.T, s store.Store) {
	watch := watchAll(t, s, "/p/", revision(t, s))
	put(t, s, "/p", "", 0)
	want := put(t, s, "/p/a", "", 0)
	put(t, s, "/q/a", "", 0)
	last := put(t, s, "/p/b", "", 0)
	got := watch.take(t, 2)
	if got[0].Rev != want || got[1].Rev != last {
		t.Errorf("watch of /p/ saw %q at %d and %q at %d, want /p/a at %d and /p/b at %d",
			got[0].Key, got[0].Rev, got[1].Key, got[1].Rev, want, last)
	}
}

func testWatchWaits(t *testing.T, s store.Store) {
	watch := watchAll(t, s, "", revision(t, s))
	for i := range 5 {
		rev := put(t, s, fmt.Sprint(i), "", 0)
		if got := watch.take(t, 1); got[0].Rev != rev {
			t.Fatalf("the watch saw revision %d, want %d", got[0].Rev, rev)
		}
	}
}

func testWatchContext(t *testing.T, s store.Store) {
	watch := watchAll(t, s, "", revision(t, s))
	put(t, s, "a", "", 0)
	watch.take(t, 1)
	watch.cancel()
	if events, err := watch.rest(t); !errors.Is(err, context.Canceled) || len(events) != 0 {
		t.Errorf("after cancel the watch gave %d events and ended with %v, want none and context.Canceled", len(events), err)
	}
}

// An empty store too is at a revision, and what was before it is nobody's to know.
func testWatchCompacted(t *testing.T, s store.Store) {
	watch := watchAll(t, s, "", revision(t, s)-1)
	if events, err := watch.rest(t); !errors.Is(err, store.ErrCompacted) || len(events) != 0 {
		t.Errorf("the watch gave %d events and ended with %v, want none and ErrCompacted", len(events), err)
	}
}

// watching is a watch that a goroutine of its own reads.
type watching struct {
	cancel context.CancelFunc
	events chan store.Event
	err    error // Why it ended: to be read when events is closed.
}

// watchAll starts a watch, which ends with the test.
func watchAll(t *testing.T, s store.Store, prefix string, from uint64) *watching {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{cancel: cancel, events: make(chan store.Event, 64)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer close(w.events)
		for event, err := range s.Watch(ctx, prefix, from) {
			if err != nil {
				w.err = err
				return
			}
			select {
			case w.events <- event:
			case <-ctx.Done():
				w.err = ctx.Err()
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return w
}

// take returns the next n events.
func (w *watching) take(t *testing.T, n int) []store.Event {
	t.Helper()
	events, err := w.read(n)
	if len(events) < n {
		t.Fatalf("the watch gave %d events, want %d: %v", len(events), n, err)
	}
	return events
}

// rest returns what comes until the watch ends by itself, and why it ended.
func (w *watching) rest(t *testing.T) ([]store.Event, error) {
	t.Helper()
	events, err := w.read(-1)
	if err == nil {
		t.Fatalf("the watch did not end with an error; it gave %d events", len(events))
	}
	return events, err
}

// read returns n events, or with n < 0 all until the end.
func (w *watching) read(n int) (events []store.Event, err error) {
	timeout, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(events) != n {
		select {
		case event, ok := <-w.events:
			if !ok {
				return events, w.err
			}
			events = append(events, event)
		case <-timeout.Done():
			return events, fmt.Errorf("nothing more in %v", patience)
		}
	}
	return events, nil
}

// first returns the first event after revision from.
func first(t *testing.T, s store.Store, prefix string, from uint64) store.Event {
	t.Helper()
	return watchAll(t, s, prefix, from).take(t, 1)[0]
}
