package bolt

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	bbolt "go.etcd.io/bbolt"

	"skiff/store"
)

// What happens when the disk does not take a write, because it is full, has become read-only or is broken:
//
//   - The writes of the batch end with store.ErrRefused, and the log says so once. Reads go on.
//   - Later batches try anew, but not all the time: when the disk is back, so is the store. A batch that changes nothing tries too, by
//     writing the stamp again, so that its answer tells whether the store can write.
//   - If the pages of a transaction could not be written, nothing was changed: all of them were free ones, and they are written again
//     the next time. But if the wait for them failed, readers see the new state, the disk may hold the old one, and the kernel takes
//     the pages for clean. Those writes end with store.ErrUnavailable. The next transaction would overwrite pages of the old
//     state, and a power failure then leave neither. So the file is closed and opened again, which makes the new state
//     durable as it is seen (settle) before anything is built on it.

// retryAfter is how long a fault is believed without another try: that costs a look at all pages.
const retryAfter = 100 * time.Millisecond

// suspect notes that the disk refused something, and returns the error.
func (s *Store) suspect(err error) error {
	if s.fault == nil {
		slog.Error("the disk does not take what is written: the store refuses writes until it does", "file", s.path, "err", err)
	}
	s.fault, s.faultAt = err, time.Now()
	return err
}

// trust notes that the disk took something.
func (s *Store) trust() {
	if s.fault != nil {
		slog.Info("the disk is back: the store takes writes again", "file", s.path)
	}
	s.fault = nil
}

// mend prepares for the next try after a fault.
func (s *Store) mend() error {
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return err
	}
	if s.readOnly {
		return s.openForWriting()
	}
	if !s.changed() {
		return nil
	}
	if s.db != nil { // Without it nobody here has the file's lock.
		if err := s.settle(); err != nil {
			return err // Until then readers keep the file as it is.
		}
	}
	return s.reopen()
}

// changed tells whether readers see something else than the last transaction that succeeded, or nothing at all.
func (s *Store) changed() bool {
	seen := 0
	err := s.view(func(tx *bbolt.Tx) error { // Its pages are not looked at: the kernel may have dropped them.
		seen = tx.ID()
		return nil
	})
	return err != nil || uint64(seen) != s.last.tx
}

func refused(err error) error { return fmt.Errorf("%w: %w", store.ErrRefused, err) }

// openForWriting opens a file anew that was opened for reading alone, if its disk takes writes by now.
func (s *Store) openForWriting() error {
	file, err := os.OpenFile(s.path, os.O_RDWR, 0) // Tried first: until it works readers keep the file that they have.
	if err != nil {
		return err
	}
	file.Close()
	s.readOnly = false
	return s.reopen()
}

// settle makes the file durable as it is seen.
func (s *Store) settle() error {
	file, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	c, err := readContents(file)
	if err != nil {
		return err
	}
	return settle(file, c)
}

// reopen closes the file, reads it anew, and begins from what it holds.
func (s *Store) reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		s.db.Close()
		s.db = nil
	}
	db, last, err := openStamped(s.path)
	if err != nil {
		return err
	}
	before := s.last
	s.db, s.last = db, last
	switch last {
	case before: // Nothing happened.
	case s.doubtful.stamp:
		s.history.add(s.doubtful.events) // It did happen.
	default:
		s.history.restart(last.rev)
	}
	return nil
}
