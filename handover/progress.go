package handover

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Progress is up to which revision the kernel of this process's node has the EndpointSlices. The nil Progress is that of a
// process without a proxy. Build it with [NewProgress].
type Progress struct {
	node string

	mu        sync.Mutex
	revision  uint64 // 0: the proxy has not begun.
	listeners map[int]func()
	last      int // Key of listeners.
}

// NewProgress is for the proxy of the named node.
func NewProgress(node string) *Progress { return &Progress{node: node, listeners: map[int]func(){}} }

// Took notes that the kernel has the EndpointSlices up to a revision. An older one is no news.
func (p *Progress) Took(revision uint64) {
	p.mu.Lock()
	if revision <= p.revision {
		p.mu.Unlock()
		return
	}
	p.revision = revision
	listeners := slices.Collect(maps.Values(p.listeners))
	p.mu.Unlock()
	for _, listener := range listeners {
		listener()
	}
}

// at returns the progress, which is 0 while the proxy has not begun; here is false if there is no proxy.
func (p *Progress) at() (node string, revision uint64, here bool) {
	if p == nil {
		return "", 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.node, p.revision, true
}

// subscribe has listener called after each progress, until ctx ends. It must not block.
func (p *Progress) subscribe(ctx context.Context, listener func()) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	id := p.last
	p.listeners[id] = listener
	context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.listeners, id)
	})
}
