package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"skiff/store"
)

// Where several servers use one store, the memory of each is a little behind the others' writes. Kubernetes promises "most
// recent" to reads that name no resourceVersion, and a write must not be judged by what another server has replaced already:
// such a request asks the store for its newest revision, which costs one round trip, and waits until this server's memory
// has come to it. A server that has the store for itself has seen all that it answered, and does not ask.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions

// newest finds out the newest revision of a shared store. Requests that come while the store is asked share the next
// question: the answer to one that was put before a request came might be too old for it.
type newest struct {
	store store.Shared

	mu     sync.Mutex
	asking bool
	next   *question // What the next question is for; nil if nobody waits for one.
}

// question is one read of the newest revision.
type question struct {
	answered chan struct{} // Closed when the fields below are set.
	rev      uint64
	err      error
}

// revision is that of the last write that was answered before the call, or a newer one.
func (n *newest) revision(ctx context.Context) (uint64, error) {
	n.mu.Lock()
	if n.next == nil {
		n.next = &question{answered: make(chan struct{})}
	}
	q := n.next
	if !n.asking {
		n.asking = true
		go n.ask() // Ends when nobody waits; the store bounds how long a question takes.
	}
	n.mu.Unlock()
	select {
	case <-q.answered:
		return q.rev, q.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// ask puts questions for as long as somebody waits for one.
func (n *newest) ask() {
	for q := n.take(); q != nil; q = n.take() {
		q.rev, q.err = n.store.Newest(context.Background())
		close(q.answered)
	}
}

func (n *newest) take() *question {
	n.mu.Lock()
	defer n.mu.Unlock()
	q := n.next
	n.next, n.asking = nil, q != nil
	return q
}

// newsTimeout is how long a request waits for news of the store that this server should have by now.
const newsTimeout = 5 * time.Second

// freshen waits until this server's memory has all that any server of the store answered before.
func (c *cache) freshen(ctx context.Context) error {
	if c.newest == nil {
		return nil
	}
	rev, err := c.newest.revision(ctx)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, newsTimeout)
	defer cancel()
	err = c.wait(limited, rev)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("%w: it is at revision %d, but its events came only up to %d", store.ErrUnavailable, rev, c.revision())
	}
	return err
}

// settle waits until readers see a write that the store has answered. Where its events do not come, the write has happened
// all the same, and is answered: readers who ask for the newest wait for it by themselves.
func (c *cache) settle(ctx context.Context, written uint64) error {
	if c.newest == nil {
		return c.wait(ctx, written)
	}
	limited, cancel := context.WithTimeout(ctx, newsTimeout)
	defer cancel()
	err := c.wait(limited, written)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	return err
}

// wantsNewest tells whether a request is to see what is stored at the moment it comes.
func wantsNewest(verb string, r *http.Request) bool {
	switch verb {
	case "get", "list", "watch":
		query := r.URL.Query()
		return query.Get("resourceVersion") == "" && query.Get("continue") == ""
	}
	return true
}
