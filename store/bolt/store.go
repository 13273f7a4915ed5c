// Package bolt keeps a [store.Store] in one file of the machine's own disk, with bbolt.
//
// The file has two buckets: "data" holds each key's value behind the revision of its last write, "meta" the file's
// format and a stamp: the store's revision, a sum of all entries, and the transaction that wrote it. All change in the
// same transaction, so the revision never goes back, whatever is killed and when, and Open can tell a whole file from
// one that lost something (check.go), and a transaction that was cut short from one that is there: so a write waits for the
// disk once, and not, as bbolt by itself would, twice. What happens when the disk is full or broken is told in fault.go.
//
// What costs time is to wait for the disk. So there is one writer goroutine: it takes the write that has waited
// longest, adds all others that wait by now, and commits them together. A lone writer waits for nobody; a hundred share
// one wait. bbolt's own Batch is not used because it delays a lone write by 10 ms.
//
// The newest events are kept in memory, bounded in number and size, and watchers read them there at their own pace. One
// that falls behind them has to list again; the writer never waits for it. After a start there are no old events yet.
//
// In Kubernetes: etcd, at the size of one machine. Left out: old revisions on disk, and with them compaction of history.
package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"time"

	bbolt "go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"skiff/store"
)

const (
	maxBatch = 512     // Writes in one transaction.
	maxValue = 8 << 20 // Bytes of one value: more than any client may send to the API server.
)

var _ store.Viewer = (*Store)(nil)

// Store is a store.Store in a file. Get one with [Open].
type Store struct {
	path    string
	history *history

	mu sync.RWMutex // Held for reading while db is used, for writing while the writer replaces it.
	db *bbolt.DB    // nil if it could not be opened again after a fault.

	// Of the writer alone.
	readOnly    bool      // Whether the file was opened for reading alone.
	last        stamp     // Of the last transaction that is durable.
	doubtful    applied   // What it was that the disk did not take: it may be in the file all the same.
	fault       error     // Why the disk did not take the last one; nil if it did.
	faultAt     time.Time // When that was tried.
	compactFrom int64     // Bytes of a file that is worth to be written anew.

	writes  chan *write
	closing chan struct{} // Closed by Close: the writer takes no more writes.
	closed  sync.Once
	writer  sync.WaitGroup
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	if err := ctx.Err(); err != nil {
		return store.KV{}, err
	}
	var kv store.KV
	err := s.view(func(tx *bbolt.Tx) error {
		stored := tx.Bucket(dataBucket).Get([]byte(key))
		if stored == nil {
			return store.ErrNotFound
		}
		kv = decode(key, stored)
		kv.Value = bytes.Clone(kv.Value)
		return nil
	})
	if err != nil {
		return store.KV{}, fmt.Errorf("get %q: %w", key, err)
	}
	return kv, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) (kvs []store.KV, rev uint64, err error) {
	err = s.View(ctx, prefix, func(found []store.KV, at uint64) error {
		for i := range found {
			found[i].Value = bytes.Clone(found[i].Value)
		}
		kvs, rev = found, at
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list %q: %w", prefix, err)
	}
	return kvs, rev, nil
}

// View implements store.Viewer.
func (s *Store) View(ctx context.Context, prefix string, look func(kvs []store.KV, rev uint64) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.view(func(tx *bbolt.Tx) error {
		last, err := stampOf(tx)
		if err != nil {
			return err
		}
		var kvs []store.KV
		cursor, start := tx.Bucket(dataBucket).Cursor(), []byte(prefix)
		for key, stored := cursor.Seek(start); bytes.HasPrefix(key, start) && key != nil; key, stored = cursor.Next() {
			kvs = append(kvs, decode(string(key), stored))
		}
		return look(kvs, last.rev)
	})
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error) {
	if len(value) > maxValue {
		return 0, fmt.Errorf("put %q: %w: %d bytes are more than %d", key, store.ErrTooLarge, len(value), maxValue)
	}
	// The copy is taken here, because the write may outlast this call if ctx ends.
	rev, err := s.submit(ctx, &write{key: key, stored: encode(value), want: rev})
	if err != nil {
		return 0, fmt.Errorf("put %q: %w", key, err)
	}
	return rev, nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, key string, rev uint64) (uint64, error) {
	rev, err := s.submit(ctx, &write{key: key, want: rev})
	if err != nil {
		return 0, fmt.Errorf("delete %q: %w", key, err)
	}
	return rev, nil
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, from uint64) iter.Seq2[store.Event, error] {
	return func(yield func(store.Event, error) bool) {
		for {
			events, changed, err := s.history.after(from)
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(store.Event{}, fmt.Errorf("watch %q: %w", prefix, err))
				return
			}
			for _, event := range events {
				from = event.Rev
				if strings.HasPrefix(event.Key, prefix) && !yield(event, nil) {
					return
				}
			}
			if len(events) > 0 {
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// Close implements store.Store.
func (s *Store) Close() error {
	err := store.ErrClosed
	s.closed.Do(func() {
		close(s.closing)
		s.writer.Wait()
		s.history.close()
		err = s.closeDB()
	})
	return err
}

func (s *Store) closeDB() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	if s.fault == nil { // With nothing in the last transaction, damage is never taken for one that was cut short.
		_ = s.last.alone(s.db)
	}
	return s.db.Close()
}

// view reads from the database.
func (s *Store) view(do func(*bbolt.Tx) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.db == nil {
		return store.ErrUnavailable
	}
	err := s.db.View(do)
	if errors.Is(err, bbolterrors.ErrDatabaseNotOpen) {
		return store.ErrClosed
	}
	return err
}

// encode makes room for the revision, which the writer fills in, in front of value.
func encode(value []byte) []byte {
	stored := make([]byte, 8+len(value))
	copy(stored[8:], value)
	return stored
}

// decode reads stored, which is the database's own memory and goes with the transaction.
func decode(key string, stored []byte) store.KV {
	return store.KV{Key: key, Value: stored[8:], Rev: binary.BigEndian.Uint64(stored)}
}
