package dns

import (
	"net/netip"
	"sync"
)

// maxForwards bounds how many questions are with upstreams at the same time.
const maxForwards = 1024

// turnstile lets questions through that others must answer. A client may hold as many places as are free: one that asks
// for all gets half, a second one a third, and however many there are, there is always place for one who comes now and then.
type turnstile struct {
	places int

	mu   sync.Mutex
	held int
	by   map[netip.Addr]int
}

func newTurnstile(places int) *turnstile {
	return &turnstile{places: places, by: map[netip.Addr]int{}}
}

// enter takes a place for client, if it may have one; leave gives it back.
func (t *turnstile) enter(client netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by[client] >= t.places-t.held {
		return false
	}
	t.held++
	t.by[client]++
	return true
}

func (t *turnstile) leave(client netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held--
	if t.by[client]--; t.by[client] == 0 {
		delete(t.by, client)
	}
}
