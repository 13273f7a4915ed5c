package etcd

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/store"
)

// rewatch is how long a watch that etcd ended waits before it begins again.
const rewatch = 200 * time.Millisecond

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, from uint64) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.ctx, cancel)()
		w := watch{Store: s, prefix: prefix, last: from, yield: yield}
		for {
			err := w.follow(ctx)
			switch {
			case w.done:
				return
			case s.ctx.Err() != nil:
				err = store.ErrClosed
			case ctx.Err() != nil:
				err = ctx.Err()
			case err == nil:
				pause(ctx, rewatch)
				continue
			}
			yield(store.Event{}, err)
			return
		}
	}
}

// watch is one that may have to begin again several times at etcd.
type watch struct {
	*Store
	prefix string
	last   uint64 // The revision of the last event that was given.
	yield  func(store.Event, error) bool
	done   bool // Whether the reader has enough.
}

// follow gives events until the reader has enough or the stream ends. Without an error it may be called again.
func (w *watch) follow(ctx context.Context) error {
	if w.last < uint64(w.first) {
		return store.ErrCompacted
	}
	// A member that lost its leader has no news: it is to say so, and the client asks another one.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for answer := range w.client.Watch(ctx, w.data+w.prefix, clientv3.WithPrefix(), clientv3.WithRev(int64(w.last)+1)) {
		if err := answer.Err(); err != nil {
			return lasting(err)
		}
		for _, event := range answer.Events {
			if err := w.give(ctx, event); err != nil || w.done {
				return err
			}
		}
	}
	return nil
}

func (w *watch) give(ctx context.Context, e *clientv3.Event) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	event := store.Event{KV: w.decode(e.Kv), Deleted: e.Type == clientv3.EventTypeDelete}
	if event.Rev <= w.last {
		// Two keys at one revision: that is no write of skiff's. Who resumes between the two would miss one.
		return store.ErrCompacted
	}
	w.last = event.Rev
	w.done = !w.yield(event, nil)
	return nil
}

// lasting is what ends a watch for good. All else may pass, and the watch goes on where it was: whoever reads or writes
// meanwhile is told what is wrong.
func lasting(err error) error {
	if errors.Is(err, rpctypes.ErrCompacted) {
		return store.ErrCompacted
	}
	slog.Debug("a watch of etcd begins again", "err", err)
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
