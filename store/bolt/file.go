package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bbolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// format is the version of the file's layout. A program that finds another one does not touch the file.
const format = "1"

// The buckets and keys of the file. Never written to.
var (
	metaBucket = []byte("meta")
	dataBucket = []byte("data")
	formatKey  = []byte("format")
	stampKey   = []byte("stamp")
)

const (
	lockTimeout = time.Second // How long to wait for a server that is just stopping.
	lockRetry   = 20 * time.Millisecond
	fillTx      = 1 << 20 // Bytes written in one transaction of a new file.
)

// errInUse is for whoever finds a store open elsewhere.
func errInUse(path string) error {
	return fmt.Errorf("data directory %s is in use by another skiff server", filepath.Dir(path))
}

// lockFile opens a file, with the flags of [os.OpenFile], and locks it for as long as it stays open.
func lockFile(path string, flag int) (*os.File, error) {
	file, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(lockRetry) {
		if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			break
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errInUse(path)
			if time.Now().Before(deadline) {
				continue
			}
		}
		file.Close()
		return nil, err
	}
	// While we waited for the lock, its owner may have replaced the file: then we have locked one that is no longer there.
	if !isAt(file, path) {
		file.Close()
		return nil, errInUse(path)
	}
	return file, nil
}

// isAt tells whether an open file is the one of that name.
func isAt(file *os.File, path string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	present, err := os.Stat(path)
	return err == nil && os.SameFile(opened, present)
}

// openDB gives a locked file to bbolt, which owns it from then on. bbolt writes no free list: it works it out from the
// pages in use, which have been checked, instead of believing a page that may be an old one.
func openDB(file *os.File, o bbolt.Options) (*bbolt.DB, error) {
	o.NoFreelistSync = true
	o.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return file, nil }
	return bbolt.Open(file.Name(), 0o600, &o)
}

// openFile opens the store's file with its lock held, checked.
func openFile(path string, readOnly bool) (*bbolt.DB, contents, error) {
	flag := os.O_RDWR
	if readOnly {
		flag = os.O_RDONLY
	}
	file, err := lockFile(path, flag)
	if err != nil {
		return nil, contents{}, err
	}
	c, err := readContents(file)
	switch {
	case err != nil:
	case !readOnly:
		err = settle(file, c)
	case c.torn:
		err = unix.EROFS // What a good one is made of is not known before it is written.
	}
	if err != nil {
		file.Close()
		return nil, c, fmt.Errorf("open store %s: %w", path, err)
	}
	db, err := openDB(file, bbolt.Options{ReadOnly: readOnly})
	if err != nil {
		return nil, c, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, c, nil
}

// settle makes durable what the file says, as it is read. After a failed wait for the disk the kernel may show pages that the
// disk never got, and would not write them again; what it shows has to be on the disk before anything is built on it. A meta page
// that is not to be believed goes, so that bbolt does not. A file that lost its end, with nothing but free pages in it, is made as
// long as they say: bbolt takes them to be there.
func settle(file *os.File, c contents) error {
	size := int64(c.pageSize)
	info, err := file.Stat()
	if end := int64(c.end) * size; err == nil && info.Size() < end {
		err = file.Truncate(end)
	}
	if err != nil {
		return err
	}
	page := make([]byte, size)
	if other := 1 - c.id; c.torn {
		if _, err := file.WriteAt(page, other*size); err != nil {
			return err
		}
	} else {
		c.written.add(uint64(other))
	}
	c.written.add(uint64(c.id))
	for id := range c.written.all() {
		if _, err := file.ReadAt(page, int64(id)*size); err != nil {
			return err
		}
		if _, err := file.WriteAt(page, int64(id)*size); err != nil {
			return err
		}
	}
	return unix.Fdatasync(int(file.Fd()))
}

// newFile makes a file beside the store's own, to take its place when it is whole. fill puts the entries into it and
// returns the store's revision.
func newFile(path string, fill func(put func(key, stored []byte) error) (rev uint64, err error)) (*bbolt.DB, stamp, error) {
	file, err := lockFile(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, stamp{}, err
	}
	if err := file.Truncate(0); err != nil { // What one left who was killed here.
		file.Close()
		return nil, stamp{}, err
	}
	db, err := openDB(file, bbolt.Options{NoSync: true, NoGrowSync: true})
	if err != nil {
		return nil, stamp{}, err
	}
	s, err := fillFile(db, fill)
	if err == nil {
		err = db.Sync()
	}
	if err != nil {
		db.Close()
		os.Remove(path)
		return nil, s, err
	}
	db.NoSync, db.NoGrowSync = false, false
	return db, s, nil
}

func fillFile(db *bbolt.DB, fill func(put func(key, stored []byte) error) (rev uint64, err error)) (s stamp, err error) {
	tx, err := db.Begin(true)
	if err != nil {
		return s, err
	}
	defer func() { _ = tx.Rollback() }() // Of the last one; after a commit it does nothing.
	meta, err := tx.CreateBucket(metaBucket)
	if err == nil {
		err = meta.Put(formatKey, []byte(format))
	}
	if err == nil {
		_, err = tx.CreateBucket(dataBucket)
	}
	if err != nil {
		return s, err
	}
	size := 0
	s.rev, err = fill(func(key, stored []byte) error {
		if size += len(key) + len(stored); size > fillTx {
			if err := tx.Commit(); err != nil {
				return err
			}
			if tx, err = db.Begin(true); err != nil {
				return err
			}
			size = 0
		}
		s.sum += checksum(key, stored)
		data := tx.Bucket(dataBucket)
		data.FillPercent = 1 // They come in order.
		return data.Put(key, stored)
	})
	if err != nil {
		return s, err
	}
	if err := s.write(tx); err != nil {
		return s, err
	}
	return s, tx.Commit()
}

// create makes an empty store. The file gets its name when it is whole, so one that is empty or half is always damage,
// and never taken for a new store.
func create(path string) error {
	temp := path + ".new"
	db, _, err := newFile(temp, func(func(key, stored []byte) error) (uint64, error) { return 1, nil })
	if err != nil {
		return fmt.Errorf("make store %s: %w", path, err)
	}
	defer db.Close()
	// Whoever makes the file holds the lock of the temporary one, and looks here with it.
	if _, err = os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		err = place(temp, path)
	} else if err == nil {
		err = errInUse(path)
	}
	if err != nil {
		os.Remove(temp)
		return fmt.Errorf("make store %s: %w", path, err)
	}
	return nil
}

// place gives a whole file its name, for good.
func place(temp, path string) error {
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
