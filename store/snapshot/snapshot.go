// Package snapshot is the whole of a store as one stream of bytes: to keep it in a file, and to make a store of it again,
// which may be one of another kind.
//
// A stream begins with a line that says what it is. What follows is compressed (gzip): the store's revision, then each
// entry as the length of its key, the key, the length of its value and the value, in the order of keys; then a zero, the
// number of entries, and the SHA-256 of the line and of all that was before it. Numbers are varints. A stream that was cut
// off or changed is found out by its end, so whoever reads one must not believe an entry before the end has come.
//
// In Kubernetes: etcdctl snapshot save and etcdutl snapshot restore. There the file is etcd's own database.
package snapshot

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"slices"

	"skiff/store"
)

// header names the version of the format.
const header = "skiff snapshot 1\n"

// Bounds of what is believed of a file.
const (
	maxKey   = 32 << 10
	maxValue = 64 << 20
	believed = 1 << 20 // Of a length, before anything of it has been read.
)

// Write writes a store's entries, which must come in order, as of revision rev.
func Write(w io.Writer, rev uint64, entries iter.Seq2[store.KV, error]) (count uint64, err error) {
	if _, err := io.WriteString(w, header); err != nil {
		return 0, err
	}
	packed, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return 0, err
	}
	sum := sha256.New()
	_, _ = sum.Write([]byte(header))
	e := &encoder{to: io.MultiWriter(packed, sum)}
	e.number(rev)
	for kv, err := range entries {
		if err != nil {
			return count, err
		}
		e.bytes([]byte(kv.Key))
		if e.bytes(kv.Value); e.err != nil {
			return count, e.err
		}
		count++
	}
	e.number(0)
	if e.number(count); e.err != nil {
		return count, e.err
	}
	if _, err := packed.Write(sum.Sum(nil)); err != nil {
		return count, err
	}
	return count, packed.Close()
}

// encoder writes numbers and strings, until the first error.
type encoder struct {
	to  io.Writer
	err error
}

func (e *encoder) number(n uint64) { e.write(binary.AppendUvarint(nil, n)) }

func (e *encoder) bytes(b []byte) {
	e.number(uint64(len(b)))
	e.write(b)
}

func (e *encoder) write(b []byte) {
	if e.err == nil {
		_, e.err = e.to.Write(b)
	}
}

// Reader reads a snapshot.
type Reader struct {
	Rev   uint64 // Of the store when the snapshot was taken.
	Count uint64 // Entries read so far.

	from   *bufio.Reader // What is compressed, unpacked.
	packed *bufio.Reader
	sum    hash.Hash
}

// NewReader reads the beginning of a snapshot.
func NewReader(r io.Reader) (*Reader, error) {
	packed := bufio.NewReader(r)
	line := make([]byte, len(header))
	if _, err := io.ReadFull(packed, line); err != nil && !short(err) {
		return nil, err
	}
	if string(line) != header {
		if bytes.HasPrefix(line, []byte("skiff snapshot ")) {
			return nil, errors.New("the snapshot was made by another version of skiff: use that one")
		}
		return nil, errors.New("this is not a snapshot")
	}
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		return nil, broken(err)
	}
	unpacked.Multistream(false)
	s := &Reader{from: bufio.NewReader(unpacked), packed: packed, sum: sha256.New()}
	_, _ = s.sum.Write(line)
	if s.Rev, err = s.number(); err != nil {
		return nil, broken(err)
	}
	return s, nil
}

// Entries yields all entries in order. The last thing that it yields is an error, if the snapshot is not whole.
func (r *Reader) Entries() iter.Seq2[store.KV, error] {
	return func(yield func(store.KV, error) bool) {
		last := ""
		for {
			kv, err := r.entry()
			if err == nil && kv.Key == "" {
				err = r.end()
				if err == nil {
					return
				}
			}
			if err == nil && kv.Key <= last {
				err = errors.New("its keys are not in order")
			}
			if err != nil {
				yield(store.KV{}, broken(err))
				return
			}
			if last = kv.Key; !yield(kv, nil) {
				return
			}
			r.Count++
		}
	}
}

// entry reads the next one, or one without a key at the end.
func (r *Reader) entry() (kv store.KV, err error) {
	key, err := r.bytes(maxKey)
	if err != nil || len(key) == 0 {
		return kv, err
	}
	value, err := r.bytes(maxValue)
	return store.KV{Key: string(key), Value: value}, err
}

func (r *Reader) end() error {
	count, err := r.number()
	if err != nil {
		return err
	}
	want := r.sum.Sum(nil)
	found := make([]byte, len(want))
	if _, err := io.ReadFull(r.from, found); err != nil {
		return err
	}
	if count != r.Count || !bytes.Equal(found, want) {
		return errors.New("its checksum is wrong")
	}
	for _, r := range []io.ByteReader{r.from, r.packed} { // At the end of the first one gzip compares its own checksum.
		if _, err := r.ReadByte(); err == nil {
			return errors.New("something follows its end")
		} else if err != io.EOF {
			return err
		}
	}
	return nil
}

func (r *Reader) number() (uint64, error) {
	n, err := binary.ReadUvarint(r.from)
	_, _ = r.sum.Write(binary.AppendUvarint(nil, n))
	return n, err
}

func (r *Reader) bytes(most uint64) ([]byte, error) {
	n, err := r.number()
	if err != nil {
		return nil, err
	}
	if n > most {
		return nil, fmt.Errorf("it has an entry of %d bytes", n)
	}
	b := make([]byte, 0, min(n, believed))
	for uint64(len(b)) < n { // A wrong length costs no more memory than there is in the file.
		b = slices.Grow(b, int(min(n-uint64(len(b)), believed)))
		more := b[len(b):min(uint64(cap(b)), n)]
		if _, err := io.ReadFull(r.from, more); err != nil {
			return nil, err
		}
		b = b[:len(b)+len(more)]
	}
	_, _ = r.sum.Write(b)
	return b, nil
}

func short(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// broken says what is wrong with a snapshot.
func broken(err error) error {
	switch {
	case short(err):
		return errors.New("the snapshot is cut off")
	case errors.Is(err, gzip.ErrChecksum), errors.Is(err, gzip.ErrHeader):
		return errors.New("the snapshot is damaged")
	}
	return fmt.Errorf("the snapshot is damaged: %w", err)
}
