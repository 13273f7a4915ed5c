package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	bbolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Option changes how Open opens a store.
type Option func(*options)

type options struct {
	maxEvents, maxBytes int   // Of the history.
	compactFrom         int64 // Bytes of the file.
}

// WithHistory bounds the events that are kept for watchers, in number and in bytes of their keys and values. Without it
// they are 8192 and 4 MiB.
func WithHistory(events, bytes int) Option {
	return func(o *options) { o.maxEvents, o.maxBytes = max(events, 1), bytes }
}

// Open opens the store in the file path, and makes it if it is missing; its directory must be there. Only one process
// can have it open: another gets an error after a second. All of the file is read and checked: if it does not hold what
// was last written to it, the error is [ErrDamaged]. A file of which most is free, because it once held much more, is
// written anew. A disk that is read-only is one that refuses writes (fault.go) from the beginning.
func Open(path string, opts ...Option) (*Store, error) {
	o := options{maxEvents: 8192, maxBytes: 4 << 20, compactFrom: 32 << 20}
	for _, opt := range opts {
		opt(&o)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil {
			return nil, err
		}
	}
	db, last, err := openStamped(path)
	readOnly := errors.Is(err, unix.EROFS)
	why := err
	if readOnly {
		var c contents
		db, c, err = openFile(path, true)
		last = c.stamp
	}
	if err != nil {
		return nil, err
	}
	s := &Store{
		path:        path,
		readOnly:    readOnly,
		compactFrom: o.compactFrom,
		db:          db,
		last:        last,
		history:     newHistory(last.rev, o.maxEvents, o.maxBytes),
		writes:      make(chan *write),
		closing:     make(chan struct{}),
	}
	if readOnly {
		_ = s.suspect(why)
	} else {
		s.compact()
	}
	s.writer.Go(s.runWriter)
	return s, nil
}

// openStamped opens the file and sees to it that the last transaction in it is a whole one.
func openStamped(path string) (*bbolt.DB, stamp, error) {
	db, c, err := openFile(path, false)
	if err != nil || !c.torn {
		return db, c.stamp, err
	}
	// It may have been a write which nobody was told of, cut short by a power failure, or, if the disk is bad, one that was
	// answered. Its revisions have to stay unused in either case.
	next := c.stamp
	next.rev += maxBatch + 1
	slog.Warn("the last write to the store's file is not whole: the file is as it was before it", "file", path, "revision", c.stamp.rev)
	if err := next.alone(db); err != nil {
		db.Close()
		return nil, next, fmt.Errorf("open store %s: %w", path, err)
	}
	return db, next, nil
}
