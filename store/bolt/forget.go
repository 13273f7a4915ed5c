package bolt

import (
	"fmt"
	"log/slog"

	bbolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Forget makes the store small in memory, for a time when little happens: it drops old events, so that a watcher who comes
// back after long lists again, and gives back the file's pages that were looked at. Those stay in the kernel's cache, and are there
// again, without the disk, when they are looked at next.
func (s *Store) Forget() {
	s.history.forget()
	if err := s.view(unmap); err != nil {
		slog.Debug("the store's pages stay in memory", "file", s.path, "err", err)
	}
}

// unmap gives back the pages of the file as it is mapped while tx reads. Nobody writes to that memory: bbolt writes to the file.
func unmap(tx *bbolt.Tx) error {
	if _, _, err := unix.Syscall(unix.SYS_MADVISE, tx.DB().Info().Data, uintptr(tx.Size()), unix.MADV_DONTNEED); err != 0 {
		return fmt.Errorf("give back the pages of the store's file: %w", err)
	}
	return nil
}
