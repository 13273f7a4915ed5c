// Package etcd keeps a [store.Store] in an etcd v3 cluster, for those who outgrow one machine: several skiff servers may
// use the one store at once.
//
// Everything lies under a prefix of its own, so that an etcd may be shared:
//
//	/skiff/head        the newest write's revision, as its mod revision; its value is the format
//	/skiff/data/KEY    the value of KEY
//	/skiff/compact     which revision is to be compacted next
//
// A write is one transaction: it compares the key's mod revision, writes the key, and writes head. So head has the
// revision of skiff's own newest write, and nothing else: other users of the etcd raise etcd's revision, but not ours.
// That is why to ask for the newest revision is one read of one small key, and why whoever waits for this revision waits
// for an event that does come; no progress notifications are needed. Revisions are etcd's, so they are unique, and the
// same for all servers.
//
// The client reconnects by itself, and so does a watch: it goes on after the last event that it gave. While etcd is away
// every call fails with [store.ErrUnavailable] after a bounded time.
//
// In Kubernetes: k8s.io/apiserver/pkg/storage/etcd3. Left out: leases (skiff expires Events itself), several keys in a
// transaction, encryption at rest.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"skiff/store"
)

const (
	callTimeout = 10 * time.Second // Of one request to etcd: longer than it takes to elect a leader.
	pageSize    = 500              // Keys in one answer of a list.
)

// Store is a store.Store in an etcd cluster. Get one with [Open].
type Store struct {
	client *clientv3.Client
	head   string // The key whose mod revision is the store's.
	data   string // What the keys begin with.
	first  int64  // The store's first revision.

	ctx        context.Context // Ends with Close.
	stop       context.CancelFunc
	closed     sync.Once
	background sync.WaitGroup
}

var _ store.Shared = (*Store)(nil)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	var found *clientv3.GetResponse
	err := s.call(ctx, func(ctx context.Context) (err error) {
		found, err = s.client.Get(ctx, s.data+key)
		return err
	})
	if err == nil && len(found.Kvs) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.KV{}, fmt.Errorf("get %q: %w", key, err)
	}
	return s.decode(found.Kvs[0]), nil
}

// decode is what etcd holds, as the store's users see it.
func (s *Store) decode(kv *mvccpb.KeyValue) store.KV {
	return store.KV{Key: strings.TrimPrefix(string(kv.Key), s.data), Value: kv.Value, Rev: uint64(kv.ModRevision)}
}

// Newest implements store.Shared.
func (s *Store) Newest(ctx context.Context) (uint64, error) {
	kv, err := s.readHead(ctx, 0)
	if err != nil {
		return 0, fmt.Errorf("read the newest revision: %w", err)
	}
	return uint64(kv.ModRevision), nil
}

// readHead reads the head as it was at one of etcd's revisions, or is now (0).
func (s *Store) readHead(ctx context.Context, at int64) (*mvccpb.KeyValue, error) {
	var found *clientv3.GetResponse
	err := s.call(ctx, func(ctx context.Context) (err error) {
		found, err = s.client.Get(ctx, s.head, clientv3.WithRev(at))
		return err
	})
	if err == nil && len(found.Kvs) == 0 {
		err = fmt.Errorf("etcd has lost the key %s: the store was removed under a running server", s.head)
	}
	if err != nil {
		return nil, err
	}
	return found.Kvs[0], nil
}

// List implements store.Store. It reads page by page, all at the etcd revision of the first: no answer is very large.
func (s *Store) List(ctx context.Context, prefix string) (kvs []store.KV, rev uint64, err error) {
	var at int64
	from, end := s.data+prefix, clientv3.GetPrefixRangeEnd(s.data+prefix)
	for more := true; more; {
		var page *clientv3.GetResponse
		err := s.call(ctx, func(ctx context.Context) (err error) {
			page, err = s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(at))
			return err
		})
		if err != nil {
			return nil, 0, fmt.Errorf("list %q: %w", prefix, err)
		}
		if at == 0 {
			at = page.Header.Revision
		}
		for _, kv := range page.Kvs {
			kvs = append(kvs, s.decode(kv))
			from = string(kv.Key) + "\x00"
		}
		more = page.More
	}
	head, err := s.readHead(ctx, at)
	if err != nil {
		return nil, 0, fmt.Errorf("list %q: %w", prefix, err)
	}
	return kvs, uint64(head.ModRevision), nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	written, err := s.write(ctx, key, rev, clientv3.OpPut(s.data+key, string(value)))
	if errors.Is(err, store.ErrConflict) && rev == 0 {
		err = store.ErrExists
	}
	if err != nil {
		return 0, fmt.Errorf("put %q: %w", key, err)
	}
	return written, nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, rev uint64) (uint64, error) {
	written, err := s.write(ctx, key, rev, clientv3.OpDelete(s.data+key))
	if err != nil {
		return 0, fmt.Errorf("delete %q: %w", key, err)
	}
	return written, nil
}

// write does op, and raises head with it, if key is at revision rev (0: not there).
func (s *Store) write(ctx context.Context, key string, rev uint64, op clientv3.Op) (uint64, error) {
	if key == "" {
		return 0, errors.New("a key is not empty")
	}
	if op.IsDelete() && rev == 0 {
		return 0, s.refusal(ctx, key)
	}
	var done *clientv3.TxnResponse
	err := s.call(ctx, func(ctx context.Context) (err error) {
		done, err = s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(s.data+key), "=", int64(rev))).
			Then(op, clientv3.OpPut(s.head, format)).
			Else(clientv3.OpGet(s.data+key, clientv3.WithKeysOnly())).
			Commit()
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case done.Succeeded:
		return uint64(done.Header.Revision), nil
	case len(done.Responses[0].GetResponseRange().Kvs) == 0:
		return 0, store.ErrNotFound
	}
	return 0, store.ErrConflict
}

// refusal is why a deletion that names no revision does not happen.
func (s *Store) refusal(ctx context.Context, key string) error {
	if _, err := s.Get(ctx, key); err != nil {
		return err
	}
	return store.ErrConflict
}

// call makes one request, within bounded time, and says in the store's words how it failed.
func (s *Store) call(ctx context.Context, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	if s.ctx.Err() != nil {
		return store.ErrClosed
	}
	err := do(limited)
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return store.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return explain(err)
}

// Close implements store.Store. What it stops is the connection; etcd goes on.
func (s *Store) Close() error {
	err := error(store.ErrClosed)
	s.closed.Do(func() {
		s.stop()
		s.background.Wait()
		if err = s.client.Close(); errors.Is(err, context.Canceled) {
			err = nil
		}
	})
	return err
}
