// Package store defines what skiff needs of a database: ordered keys with bytes under them, one revision for the whole
// store, compare-and-swap writes, and a watch without gaps. It knows nothing of Kubernetes.
//
// Implementations stand in packages named by their technology (store/bolt, store/etcd), and all pass the suite of store/storetest.
//
// In Kubernetes: k8s.io/apiserver/pkg/storage and etcd. Left out: leases (skiff expires Events itself), transactions over
// several keys, and reads of old revisions (the API server keeps its own snapshots in memory).
package store

import (
	"context"
	"errors"
	"iter"
)

// The errors of a Store. Implementations wrap them; callers use errors.Is.
var (
	ErrNotFound  = errors.New("key not found")
	ErrExists    = errors.New("key exists")
	ErrConflict  = errors.New("revision conflict")
	ErrCompacted = errors.New("revision compacted")
	ErrClosed    = errors.New("store closed")
	ErrTooLarge  = errors.New("value too large for the store")

	// ErrRefused is for a store whose disk takes no writes: it is full, read-only or broken. The write did not happen, reads go
	// on, and so does the store by itself when the disk is back.
	ErrRefused = errors.New("the store takes no writes")

	// ErrUnavailable is for a store that is somewhere else and does not answer. Whether a write happened is open then.
	ErrUnavailable = errors.New("store unavailable")
)

// KV is a key, its value and the store's revision at which the value was written.
type KV struct {
	Key   string
	Value []byte // Read-only: shared between all who got it.
	Rev   uint64
}

// Event tells of one write. Events of a watch come in the order of their revisions, which are unique.
type Event struct {
	KV           // For a deletion: the key, the revision of the deletion, and no value.
	Deleted bool // Whether the key was deleted at Rev.
}

// Store is a map from ordered keys to bytes. Each successful write raises the store's revision by at least one; the
// revision starts at 1, never goes back, also not over a restart, and is durable with the write that raised it. A write
// that has been answered survives the process and the machine's power.
//
// All methods may be called at once from many goroutines. A context that ends while a write waits leaves open whether it
// happened. After Close every method returns ErrClosed.
type Store interface {
	// Get returns the newest value of key, or ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)

	// List returns all keys that begin with prefix, in order, and the store's revision that this is the state at.
	List(ctx context.Context, prefix string) (kvs []KV, rev uint64, err error)

	// Put writes value under key and returns the revision of this write. rev is the revision at which the caller saw the
	// key last: 0 means that it must not exist (ErrExists otherwise); any other must be the key's present one
	// (ErrConflict, or ErrNotFound if the key is gone).
	Put(ctx context.Context, key string, value []byte, rev uint64) (uint64, error)

	// Delete removes key, if rev is its present revision, and returns the revision of the deletion. Errors as for Put.
	Delete(ctx context.Context, key string, rev uint64) (uint64, error)

	// Watch yields every event with a revision greater than from, on keys that begin with prefix, in order and without
	// gaps, for as long as ctx lives. It ends with an error: ErrCompacted if the events after from are no longer kept
	// (list again, and go on from there) or if this watcher fell too far behind, ErrClosed, or ctx's own.
	Watch(ctx context.Context, prefix string, from uint64) iter.Seq2[Event, error]

	// Close ends all watches and releases the database. Writes under way are finished first.
	Close() error
}

// Viewer is a Store that can show what it holds without making copies: all of it at once would be most of what a server does when
// it starts.
type Viewer interface {
	Store

	// View calls look with what List would return. The values are the store's own memory: they are gone when look has returned,
	// and it must not be long before it does.
	View(ctx context.Context, prefix string, look func(kvs []KV, rev uint64) error) error
}

// Shared is a Store that other processes write to as well. Of another Store its one user knows the newest revision
// already: it is that of the last write that was answered.
type Shared interface {
	Store

	// Newest returns a revision that is not older than any write that was answered, by whomever, before the call.
	Newest(ctx context.Context) (uint64, error)
}
