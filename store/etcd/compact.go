package etcd

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// compactor makes etcd forget old revisions. Of the servers that use one store, one does it in each interval: all race
// for the key, and whoever writes it compacts what was the newest when the key was written before. So every revision is
// kept for at least one interval. The revision to compact at is always that of the key itself and never that of a
// deletion: etcd before 3.4.36 and 3.5.18 lost the event of a deletion at just that revision.
type compactor struct {
	*Store
	key  string
	seen int64 // The key's mod revision as of the last turn; 0 before the first.
}

// run compacts every interval until the store is closed.
func (c *compactor) run(interval time.Duration) {
	for {
		pause(c.ctx, interval)
		if c.ctx.Err() != nil {
			return
		}
		if err := c.turn(c.ctx); err != nil && c.ctx.Err() == nil {
			slog.Warn("old revisions in etcd were not compacted; the next try follows", "after", interval, "err", err)
		}
	}
}

// turn does one round of the race.
func (c *compactor) turn(ctx context.Context) error {
	var done *clientv3.TxnResponse
	err := c.call(ctx, func(ctx context.Context) (err error) {
		done, err = c.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(c.key), "=", c.seen)).
			Then(clientv3.OpPut(c.key, "")).
			Else(clientv3.OpGet(c.key)).
			Commit()
		return err
	})
	if err != nil {
		return err
	}
	if !done.Succeeded { // Another server was faster, or this is the first turn.
		c.seen = 0
		if kvs := done.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
			c.seen = kvs[0].ModRevision
		}
		return nil
	}
	old := c.seen
	c.seen = done.Header.Revision
	if old == 0 {
		return nil
	}
	return c.call(ctx, func(ctx context.Context) error {
		_, err := c.client.Compact(ctx, old)
		if errors.Is(err, rpctypes.ErrCompacted) { // Another user of this etcd went further.
			return nil
		}
		return err
	})
}
