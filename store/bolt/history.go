package bolt

import (
	"sync"

	"skiff/store"
)

// maxRead is how many events a watcher takes from the history at once, to hold its lock briefly.
const maxRead = 256

// history is the newest events, for watchers. Each write raises the revision by one, so the event of revision r is at
// events[r % len(events)], and the history holds the revisions after floor up to head.
type history struct {
	maxBytes int

	mu      sync.Mutex
	events  []store.Event
	bytes   int // Of the keys and values held.
	floor   uint64
	head    uint64
	changed chan struct{} // Closed, and replaced, when events come or the history closes.
	closed  bool
}

// newHistory returns an empty history of a store that is at revision rev.
func newHistory(rev uint64, maxEvents, maxBytes int) *history {
	return &history{
		maxBytes: maxBytes, events: make([]store.Event, maxEvents),
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
		if h.head-h.floor == uint64(len(h.events)) {
			h.drop()
		}
		*h.at(event.Rev) = event
		h.head = event.Rev
		h.bytes += size(event)
		for h.bytes > h.maxBytes && h.floor < h.head {
			h.drop()
		}
	}
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
	clear(h.events)
	h.bytes, h.floor, h.head = 0, rev, rev
	close(h.changed)
	h.changed = make(chan struct{})
}

// drop forgets the oldest event.
func (h *history) drop() {
	h.floor++
	oldest := h.at(h.floor)
	h.bytes -= size(*oldest)
	*oldest = store.Event{}
}

func (h *history) at(rev uint64) *store.Event { return &h.events[rev%uint64(len(h.events))] }

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
	for rev := from; rev < h.head && len(events) < maxRead; rev++ {
		events = append(events, *h.at(rev + 1))
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
