package bolt

import (
	"context"
	"encoding/binary"
	"fmt"

	bbolt "go.etcd.io/bbolt"

	"skiff/store"
)

// write is a Put or a Delete on its way to the disk. The writer goroutine owns it until done is closed.
type write struct {
	key    string
	stored []byte // The value behind room for its revision; nil for a Delete.
	want   uint64 // The revision that the caller saw.

	rev  uint64 // What it became, or why it did not.
	err  error
	done chan struct{}
}

// submit hands w to the writer and waits for the answer.
func (s *Store) submit(ctx context.Context, w *write) (uint64, error) {
	if len(w.key) == 0 || len(w.key) > bbolt.MaxKeySize {
		return 0, fmt.Errorf("a key has 1 to %d bytes, not %d", bbolt.MaxKeySize, len(w.key))
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	w.done = make(chan struct{})
	select {
	case <-s.closing: // Looked at first: below, chance would decide.
		return 0, store.ErrClosed
	default:
	}
	select {
	case s.writes <- w:
	case <-s.closing:
		return 0, store.ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	select {
	case <-w.done:
		return w.rev, w.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// runWriter commits what waits, batch after batch, until the store closes. The channel has no buffer: what was taken
// from it is answered, and what was not has not begun.
func (s *Store) runWriter() {
	for {
		select {
		case first := <-s.writes:
			batch := s.drain(first)
			s.commit(batch)
			for _, w := range batch {
				close(w.done)
			}
		case <-s.closing:
			return
		}
	}
}

// drain adds to first what waits behind it right now.
func (s *Store) drain(first *write) []*write {
	batch := []*write{first}
	for len(batch) < maxBatch {
		select {
		case w := <-s.writes:
			batch = append(batch, w)
		default:
			return batch
		}
	}
	return batch
}

// commit makes the batch durable, then tells the watchers.
func (s *Store) commit(batch []*write) {
	events, err := s.apply(batch)
	if err == nil {
		s.history.add(events)
		return
	}
	for _, w := range batch {
		w.rev, w.err = 0, fmt.Errorf("write to the store's file: %w", err)
	}
	// If only the last wait for the disk failed, readers see the batch all the same, and the history lacks it.
	if rev, err := s.revision(); err == nil {
		s.history.restart(rev)
	}
}

func (s *Store) revision() (rev uint64, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		rev = binary.BigEndian.Uint64(tx.Bucket(metaBucket).Get(revKey))
		return nil
	})
	return rev, err
}

// apply does the batch in one transaction and returns what changed. A write sees those before it in the same batch.
func (s *Store) apply(batch []*write) ([]store.Event, error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback() // After a commit it does nothing.
	meta, data := tx.Bucket(metaBucket), tx.Bucket(dataBucket)
	rev := binary.BigEndian.Uint64(meta.Get(revKey))
	var events []store.Event
	for _, w := range batch {
		if w.err = check(data.Get([]byte(w.key)), w.want, w.stored == nil); w.err != nil {
			continue
		}
		rev++
		w.rev = rev
		event, err := w.apply(data)
		if err != nil {
			return nil, err
		}
		events = append(events, event)
	}
	if len(events) == 0 {
		return nil, nil // Nothing to wait for the disk for.
	}
	if err := meta.Put(revKey, binary.BigEndian.AppendUint64(nil, rev)); err != nil {
		return nil, err
	}
	return events, tx.Commit()
}

// check compares the revision that a caller saw with what is stored.
func check(stored []byte, want uint64, deletion bool) error {
	switch {
	case stored == nil && (want != 0 || deletion):
		return store.ErrNotFound
	case stored == nil:
		return nil
	case want == 0 && !deletion:
		return store.ErrExists
	case binary.BigEndian.Uint64(stored) != want:
		return store.ErrConflict
	}
	return nil
}

func (w *write) apply(data *bbolt.Bucket) (store.Event, error) {
	if w.stored == nil {
		event := store.Event{KV: store.KV{Key: w.key, Rev: w.rev}, Deleted: true}
		return event, data.Delete([]byte(w.key))
	}
	binary.BigEndian.PutUint64(w.stored, w.rev)
	event := store.Event{KV: store.KV{Key: w.key, Value: w.stored[8:], Rev: w.rev}}
	return event, data.Put([]byte(w.key), w.stored)
}
