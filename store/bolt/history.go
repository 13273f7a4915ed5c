package bolt

import (
	"slices"
	"sync"

	"skiff/store"
)

// maxRead is how many events a watcher takes from the history at once, to hold its lock briefly.
const maxRead = 256

// history is the newest events, for watchers. Each write raises the revision by one, so the event of revision r is at
// events[r-floor-1], and the history holds the revisions after floor up to head.
type history struct {
	maxEvents, maxBytes int

	mu      sync.Mutex
	events  []store.Event // Oldest first.
	bytes   int           // Of the keys and values held.
	floor   uint64
	head    uint64
	changed chan struct{} // Closed, and replaced, when events come or the history closes.
	closed  bool
}

// newHistory returns an empty history of a store that is at revision rev.
func newHistory(rev uint64, maxEvents, maxBytes int) *history {
	return &history{
		maxEvents: maxEvents, maxBytes: maxBytes,
		floor: rev, head: rev, changed: make(chan struct{}),
	}
}

// add appends events, whose revisions follow the head, and wakes the watchers that wait.
func (h *history) add(events []store.Event) {
	if len(events) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, event := range events {
		h.events = append(h.events, event)
		h.head = event.Rev
		h.bytes += size(event)
	}
	h.bound(h.maxEvents, h.maxBytes)
	close(h.changed)
	h.changed = make(chan struct{})
}

// restart forgets everything if the store turns out to be at another revision than its events: those who watched from
// an older one list again.
func (h *history) restart(rev uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if rev == h.head {
		return
	}
	h.events, h.bytes, h.floor, h.head = nil, 0, rev, rev
	close(h.changed)
	h.changed = make(chan struct{})
}

// bound drops the oldest events until there are so many, and so many bytes.
func (h *history) bound(events, bytes int) {
	for len(h.events) > events || h.bytes > bytes {
		h.floor++
		h.bytes -= size(h.events[0])
		h.events[0] = store.Event{}
		h.events = h.events[1:]
	}
}

// forget drops what all watchers have read, where they are not behind by an unusual number of events.
func (h *history) forget() {
	const unread = 64
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bound(unread, h.maxBytes)
	h.events = slices.Clone(h.events)
}

// size is what an event costs in memory, nearly.
func size(event store.Event) int { return len(event.Key) + len(event.Value) }

// after returns the first events after revision from, or none and a channel that closes when there may be some.
func (h *history) after(from uint64) (events []store.Event, changed <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, nil, store.ErrClosed
	case from < h.floor:
		return nil, nil, store.ErrCompacted
	}
	if from < h.head {
		newer := h.events[from-h.floor:]
		events = slices.Clone(newer[:min(len(newer), maxRead)])
	}
	return events, h.changed, nil
}

// close ends all watches.
func (h *history) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	close(h.changed)
	h.changed = make(chan struct{})
}
