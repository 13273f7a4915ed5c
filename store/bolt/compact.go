package bolt

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"

	bbolt "go.etcd.io/bbolt"
)

// compact writes the file anew if it is large and most of it is free; bbolt itself never gives a page back. It is called
// by the writer, so nothing is written meanwhile: what has to be copied is less than what was written since the last time.
func (s *Store) compact() {
	info, err := os.Stat(s.path)
	if err != nil || info.Size() < s.compactFrom || s.used() >= info.Size()/2 {
		return
	}
	if err := s.rewrite(); err != nil {
		s.compactFrom = 2 * info.Size() // It works as it is; perhaps the disk is full.
		slog.Warn("the store's file stays larger than it need be", "file", s.path, "err", err)
	}
}

// used is how many bytes of the file are not free.
func (s *Store) used() (n int64) {
	err := s.db.View(func(tx *bbolt.Tx) error {
		n = tx.Size() - int64(s.db.Stats().FreePageN)*int64(s.db.Info().PageSize)
		return nil
	})
	if err != nil {
		return math.MaxInt64
	}
	return n
}

// rewrite puts a compacted copy in the place of the file.
func (s *Store) rewrite() error {
	temp := s.path + ".compact"
	db, last, err := newFile(temp, func(put func(key, stored []byte) error) (uint64, error) {
		return s.last.rev, s.db.View(func(tx *bbolt.Tx) error { return tx.Bucket(dataBucket).ForEach(put) })
	})
	if err != nil {
		return err
	}
	if last.sum != s.last.sum {
		err = damaged("the copy's sum is %016x, not %016x", last.sum, s.last.sum)
	} else {
		err = os.Rename(temp, s.path)
	}
	if err != nil {
		db.Close()
		os.Remove(temp)
		return err
	}
	s.swap(db, last)
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		_ = s.suspect(fmt.Errorf("replace the store's file: %w", err))
	}
	return nil
}

// swap has everybody use another database, which holds the same.
func (s *Store) swap(db *bbolt.DB, last stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db != nil {
		s.db.Close()
	}
	s.db, s.last = db, last
}
