package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	bbolt "go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// format is the version of the file's layout. A program that finds another one does not touch the file.
const format = "1"

// lockTimeout is how long Open waits for a server that is just stopping.
const lockTimeout = time.Second

// The buckets and keys of the file. Never written to.
var (
	metaBucket = []byte("meta")
	dataBucket = []byte("data")
	formatKey  = []byte("format")
	revKey     = []byte("rev")
)

// Option changes how Open opens a store.
type Option func(*options)

type options struct {
	maxEvents, maxBytes int   // Of the history.
	compactFrom         int64 // Bytes of the file.
}

// WithHistory bounds the events that are kept for watchers, in number and in bytes of their keys and values. Without it
// they are 8192 and 16 MB.
func WithHistory(events, bytes int) Option {
	return func(o *options) { o.maxEvents, o.maxBytes = max(events, 1), bytes }
}

// Open opens the store in the file path, and makes it if it is missing; its directory must be there. Only one process
// can have it open: another gets an error after a second. A file of which most is free, because it once held much more,
// is written anew.
func Open(path string, opts ...Option) (*Store, error) {
	o := options{maxEvents: 8192, maxBytes: 16 << 20, compactFrom: 32 << 20}
	for _, opt := range opts {
		opt(&o)
	}
	db, err := openCompacted(path, o.compactFrom)
	if err != nil {
		return nil, err
	}
	rev, err := prepare(db)
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s := &Store{
		db:      db,
		history: newHistory(rev, o.maxEvents, o.maxBytes),
		writes:  make(chan *write),
		closing: make(chan struct{}),
	}
	s.writer.Go(s.runWriter)
	return s, nil
}

// prepare lays out a new file, or checks that an old one is ours, and returns the store's revision.
func prepare(db *bbolt.DB) (rev uint64, err error) {
	empty := true
	err = db.View(func(tx *bbolt.Tx) error {
		if name, _ := tx.Cursor().First(); name != nil {
			empty = false
			rev, err = readMeta(tx)
		}
		return err
	})
	if err != nil || !empty {
		return rev, err
	}
	const first = 1
	return first, db.Update(func(tx *bbolt.Tx) error {
		if _, err := tx.CreateBucket(dataBucket); err != nil {
			return err
		}
		meta, err := tx.CreateBucket(metaBucket)
		if err != nil {
			return err
		}
		if err := meta.Put(formatKey, []byte(format)); err != nil {
			return err
		}
		return meta.Put(revKey, binary.BigEndian.AppendUint64(nil, first))
	})
}

func readMeta(tx *bbolt.Tx) (rev uint64, err error) {
	meta := tx.Bucket(metaBucket)
	if meta == nil || meta.Get(formatKey) == nil {
		return 0, errors.New("this is a bbolt file, but not one of skiff's")
	}
	if found := string(meta.Get(formatKey)); found != format {
		return 0, fmt.Errorf("the file has format %s, but this skiff reads format %s: use the skiff that wrote it", found, format)
	}
	stored := meta.Get(revKey)
	if len(stored) != 8 || tx.Bucket(dataBucket) == nil {
		return 0, errors.New("the file is damaged: it has no revision or no data")
	}
	return binary.BigEndian.Uint64(stored), nil
}

// openFile opens the database with its lock held.
func openFile(path string) (*bbolt.DB, error) {
	var file *os.File
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockTimeout,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		},
	})
	inUse := fmt.Errorf("data directory %s is in use by another skiff server", filepath.Dir(path))
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, inUse
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	// While we waited for the lock, its owner may have replaced the file: then we have locked one that is no longer there.
	if locked, err := file.Stat(); err == nil {
		if present, err := os.Stat(path); err != nil || !os.SameFile(locked, present) {
			db.Close()
			return nil, inUse
		}
	}
	return db, nil
}
