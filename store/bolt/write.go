package bolt

import (
	"context"
	"encoding/binary"
	"fmt"
	"runtime"
	"time"

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

// drain adds to first what waits behind it right now. Goroutines that could run, and have no processor, may be about to hand over
// a write: they are let go before, for as long as any does, since it costs next to nothing more to commit it with the others.
func (s *Store) drain(first *write) []*write {
	batch := []*write{first}
	for before := 0; before < len(batch); {
		before = len(batch)
		runtime.Gosched()
		batch = s.takeWaiting(batch)
	}
	return batch
}

// takeWaiting adds to a batch what waits, up to its bound.
func (s *Store) takeWaiting(batch []*write) []*write {
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
	done, err := s.try(batch)
	if err != nil {
		for _, w := range batch {
			w.rev, w.err = 0, err
		}
		return
	}
	if done.stamp == s.last {
		return // Nothing was written.
	}
	s.trust()
	s.last = done.stamp
	s.history.add(done.events)
	if done.size >= s.compactFrom {
		s.compact()
	}
}

// try does the batch, after a fault only if it is time to try again.
func (s *Store) try(batch []*write) (applied, error) {
	if s.fault != nil {
		if time.Since(s.faultAt) < retryAfter {
			return applied{}, refused(s.fault)
		}
		if err := s.mend(); err != nil {
			return applied{}, refused(s.suspect(err))
		}
	}
	done, err := s.apply(batch)
	if err == nil {
		return done, nil
	}
	s.doubtful = done
	if s.suspect(err); s.changed() {
		return applied{}, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return applied{}, refused(err)
}

// applied is what a batch came to.
type applied struct {
	events []store.Event
	stamp  stamp
	size   int64 // Of the file's part that has been in use.
}

// apply does the batch in one transaction. A write sees those before it in the same batch.
func (s *Store) apply(batch []*write) (applied, error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return applied{}, err
	}
	defer func() { _ = tx.Rollback() }() // After a commit it does nothing.
	done := applied{stamp: s.last, events: make([]store.Event, 0, len(batch))}
	for _, w := range batch {
		if err := w.apply(tx.Bucket(dataBucket), &done); err != nil {
			return applied{}, err
		}
	}
	if len(done.events) == 0 && s.fault == nil {
		return done, nil // Nothing to wait for the disk for.
	}
	done.size = tx.Size()
	if err := done.stamp.write(tx); err != nil {
		return applied{}, err
	}
	return done, commitTx(tx)
}

// commitTx ends a transaction that is stamped, and waits for the disk once. bbolt alone would wait twice, so that its meta page is
// never there before the pages that it leads to. Here it may be: a transaction that is not whole is found out by its stamp
// (readContents), and the state before it is still there, as none of its pages was free for this one.
//
// But it waits twice, as bbolt would, if it is the first one on this file since it was opened or since a fault. There may have been
// another one of its number, cut short by a power failure or refused, which left its pages where those of this one go: this meta
// page, on the disk alone, would lead to them, and they are whole.
func commitTx(tx *bbolt.Tx) error {
	db := tx.DB()
	err := tx.Commit()
	if err == nil && db.NoSync {
		err = db.Sync()
	}
	db.NoSync = err == nil
	return err
}

// apply does one write, if the caller saw what is stored. An error is the store's, not the caller's.
func (w *write) apply(data *bbolt.Bucket, done *applied) error {
	key := []byte(w.key)
	old := data.Get(key)
	if w.err = check(old, w.want, w.stored == nil); w.err != nil {
		return nil
	}
	if old != nil {
		done.stamp.sum -= checksum(key, old)
	}
	done.stamp.rev++
	w.rev = done.stamp.rev
	event := store.Event{KV: store.KV{Key: w.key, Rev: w.rev}, Deleted: w.stored == nil}
	if event.Deleted {
		done.events = append(done.events, event)
		return data.Delete(key)
	}
	binary.BigEndian.PutUint64(w.stored, w.rev)
	event.Value = w.stored[8:]
	done.events = append(done.events, event)
	done.stamp.sum += checksum(key, w.stored)
	return data.Put(key, w.stored)
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
