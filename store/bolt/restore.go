package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"skiff/store"
)

// Restore puts other entries, which must come in order, in the place of those in the file path, which nobody may have
// open. The file as it was gets the name kept, which must be free; one that is damaged too. Until all is there and on the
// disk nothing changes. rev is the highest revision that those entries are known to have been at; the store's is then
// above it, and above any that it ever gave: who watches from one of those is told to list again.
func Restore(path, kept string, rev uint64, entries iter.Seq2[store.KV, error]) (uint64, error) {
	old, newest, err := lockOld(path)
	if err != nil {
		return 0, err
	}
	if old != nil {
		defer old.Close() // With it goes the lock.
	}
	rev = beyond(max(rev, newest), time.Now())
	temp := path + ".restore"
	db, last, err := newFile(temp, func(put func(key, stored []byte) error) (uint64, error) {
		for kv, err := range entries {
			if err != nil {
				return 0, err
			}
			rev++
			stored := encode(kv.Value)
			binary.BigEndian.PutUint64(stored, rev)
			if err := put([]byte(kv.Key), stored); err != nil {
				return 0, err
			}
		}
		return rev, nil
	})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if err := exchange(old, path, temp, kept); err != nil {
		os.Remove(temp)
		return 0, err
	}
	return last.rev, nil
}

// lockOld locks the file that is to be replaced and reads the revision that it is at, if it has one. Without a file there
// is nothing to lock.
func lockOld(path string) (*os.File, uint64, error) {
	file, err := lockFile(path, os.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	c, err := readContents(file)
	if err != nil && !errors.Is(err, ErrDamaged) {
		file.Close()
		return nil, 0, fmt.Errorf("store %s: %w", path, err)
	}
	return file, c.stamp.rev, nil
}

// exchange gives the old file the name kept and the new one its place, so that there is a whole one at any moment.
func exchange(old *os.File, path, temp, kept string) error {
	if old != nil {
		if err := os.Link(path, kept); err != nil {
			return fmt.Errorf("keep the store as it was: %w", err)
		}
	} else if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errInUse(path) // A server has begun meanwhile.
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// leap is more than the writes that anybody will have done between a snapshot and its restoration, as etcd's
// documentation advises: https://etcd.io/docs/v3.6/op-guide/recovery/
const leap = 1_000_000_000

// beyond is a revision above all that were ever given. The store that gave them may be lost, and so may one that was
// restored from the same snapshot before; so time counts as well: no store does more than a thousand writes a second for
// all of its life. The leap is for machines whose clock does not know the time.
func beyond(rev uint64, now time.Time) uint64 { return max(rev+leap, uint64(max(now.UnixMilli(), 0))) }
