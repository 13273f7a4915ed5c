package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
)

// ErrDamaged is what Open finds in a file that does not hold what was written to it.
var ErrDamaged = errors.New("the file is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

// contents is what a file holds, as found by reading all of it.
type contents struct {
	metaPage
	stamp   stamp  // What the last transaction said of the file.
	sum     uint64 // Of the data that is there.
	torn    bool   // The other meta page, or the transaction that it begins, is not whole: this may be the one before the last.
	written pages  // What the last transaction wrote, if none has begun after it.
}

// readContents reads a file whole before bbolt sees it. bbolt has checksums for its two meta pages only, and trusts all
// other pages: one that was cut off, overwritten or never written may end the process, or a lost key goes unnoticed.
// Here nothing is trusted: each page must be in the file and be what its parent says; keys must be in order; the last
// transaction must have stamped the file; and the sum of all entries must be the one in the stamp.
//
// If the last transaction is not whole, the one before is: its pages are free for the next but one only.
func readContents(file io.ReaderAt) (contents, error) {
	newest, older, err := readMetas(file)
	if err != nil {
		return contents{}, err
	}
	c, seen, err := readState(file, newest)
	switch {
	case older == nil:
		c.torn = true
	case err == nil:
		c.written, err = writtenBy(file, newest, *older, seen)
	case errors.Is(err, ErrDamaged):
		if before, _, err := readState(file, *older); err == nil {
			before.torn = true
			return before, nil
		}
	}
	return c, err
}

// readState reads all that a meta page leads to, and tells which pages that is.
func readState(file io.ReaderAt, m metaPage) (contents, pages, error) {
	w := newWalker(&readAhead{file: file}, m)
	c, err := w.contents(m)
	if err == nil && c.stamp.sum != c.sum {
		err = damaged("the entries are not those that were written: their sum is %016x, not %016x", c.sum, c.stamp.sum)
	}
	return c, w.seen, err
}

// contents visits all that a meta page leads to.
func (w *walker) contents(m metaPage) (contents, error) {
	c := contents{metaPage: m}
	meta, data, ours, others := map[string][]byte{}, false, false, false
	err := w.buckets(m.root, func(name []byte) func(key, value []byte) {
		switch {
		case bytes.Equal(name, metaBucket):
			ours = true
			return func(key, value []byte) { meta[string(key)] = bytes.Clone(value) }
		case bytes.Equal(name, dataBucket):
			data, ours = true, true
			return func(key, value []byte) { c.sum += checksum(key, value) }
		}
		others = true
		return func([]byte, []byte) {}
	})
	if err != nil {
		return c, err
	}
	if others && !ours {
		return c, errors.New("this is a bbolt file, but not one of skiff's")
	}
	switch found := string(meta[string(formatKey)]); found {
	case "":
		return c, damaged("it has no format")
	case format:
		c.stamp, err = readStamp(meta[string(stampKey)])
	default:
		return c, fmt.Errorf("the file has format %.10s, but this skiff reads format %s: use the skiff that wrote it", found, format)
	}
	switch {
	case err != nil:
		return c, err
	case !data:
		return c, damaged("it has no data")
	case c.stamp.tx != c.tx:
		return c, damaged("transaction %d was the last, but the pages are of transaction %d", c.tx, c.stamp.tx)
	}
	return c, nil
}

// writtenBy are the pages of the newest state that the one before it has not. Only those are read, of both: below a page that both
// have, they are the same, and so is the sum of what is there.
//
// Where the older state is not whole, a transaction after the newest one has written to its pages. It began when all of the newest
// was on the disk: so none need be written again, and in a large file it could be most of them.
func writtenBy(file io.ReaderAt, newest, older metaPage, ofNewest pages) (pages, error) {
	before := newWalker(file, older)
	before.known = ofNewest
	was, err := before.contents(older)
	if err != nil {
		return nil, nil // Whatever it is: nobody needs that state any more.
	}
	last := newWalker(file, newest)
	last.known = before.met
	is, err := last.contents(newest)
	if err != nil || is.stamp.sum-is.sum != was.stamp.sum-was.sum {
		return nil, err
	}
	return last.seen, nil
}

// What follows is bbolt's layout of a file: numbers are in the machine's own order.
const (
	pageHeader   = 16 // Page number 8, kind 2, number of elements 2, further pages 4.
	branchKind   = 1
	leafKind     = 2
	metaKind     = 4
	elementSize  = 16         // Branch: place 4, key size 4, page 8. Leaf: flags 4, place 4, key size 4, value size 4.
	bucketFlag   = 1          // Of a leaf's element: its value is a bucket, that is a root page 8 and a sequence 8.
	metaSize     = 64         // Magic 4, version 4, page size 4, flags 4, root 8, sequence 8, free list 8, end 8, tx 8, sum 8.
	metaMagic    = 0xED0CDAED // In both meta pages.
	metaVersion  = 2
	largestPage  = 64 << 10
	smallestPage = 1 << 10
)

var native = binary.NativeEndian

// metaPage is what bbolt begins to read from: of the two, the one with the newer transaction.
type metaPage struct {
	id            int64 // 0 or 1.
	pageSize      uint32
	root, end, tx uint64
}

// readMetas reads the two meta pages. older is nil if only one of them is valid.
func readMetas(file io.ReaderAt) (newest metaPage, older *metaPage, err error) {
	for size := int64(smallestPage); size <= largestPage; size *= 2 {
		first, ok1 := readMeta(file, 0, size)
		second, ok2 := readMeta(file, 1, size)
		switch {
		case ok1 && ok2 && first.tx > second.tx:
			return first, &second, nil
		case ok1 && ok2:
			return second, &first, nil
		case ok1:
			return first, nil, nil
		case ok2:
			return second, nil, nil
		}
	}
	return newest, nil, damaged("it does not begin as a store's file does")
}

func readMeta(file io.ReaderAt, id, pageSize int64) (m metaPage, ok bool) {
	var p [pageHeader + metaSize]byte
	if _, err := file.ReadAt(p[:], id*pageSize); err != nil {
		return m, false
	}
	b, sum := p[pageHeader:], fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	ok = native.Uint64(p[:]) == uint64(id) && native.Uint16(p[8:]) == metaKind &&
		native.Uint32(b) == metaMagic && native.Uint32(b[4:]) == metaVersion && int64(native.Uint32(b[8:])) == pageSize &&
		native.Uint64(b[metaSize-8:]) == sum.Sum64()
	return metaPage{id: id, pageSize: native.Uint32(b[8:]), root: native.Uint64(b[16:]), end: native.Uint64(b[40:]), tx: native.Uint64(b[48:])}, ok
}

// walker visits pages. Buffers are kept for each depth: a branch is still needed while its children are read.
type walker struct {
	file     io.ReaderAt
	pageSize int64
	end      uint64 // The first page that is not in use.
	seen     pages
	known    pages // Not to be visited.
	met      pages // Those that it came to all the same.
	buffers  [][]byte
}

func newWalker(file io.ReaderAt, m metaPage) *walker {
	return &walker{file: file, pageSize: int64(m.pageSize), end: m.end}
}

// bounds are where a page's keys must lie. nil is open.
type bounds struct{ from, to []byte }

// buckets visits the entries of all buckets. visit tells what to do with those of one.
func (w *walker) buckets(root uint64, visit func(name []byte) func(key, value []byte)) error {
	return w.walk(root, 0, bounds{}, func(flags uint32, name, value []byte) error {
		if flags&bucketFlag == 0 || len(value) < 16 {
			return damaged("%q is no bucket", name)
		}
		return w.bucket(value, visit(name))
	})
}

// bucket visits the entries of a bucket, whose header is given. A small one has no page of its own.
func (w *walker) bucket(header []byte, visit func(key, value []byte)) error {
	leaf := func(flags uint32, key, value []byte) error {
		if flags != 0 {
			return damaged("there is a bucket within a bucket")
		}
		visit(key, value)
		return nil
	}
	if root := native.Uint64(header); root != 0 {
		return w.walk(root, len(w.buffers), bounds{}, leaf)
	}
	if len(header) < 16+pageHeader {
		return damaged("a bucket is cut off")
	}
	return w.page(header[16:], len(w.buffers), bounds{}, leaf)
}

// walk visits the entries of a page and of all pages below it.
func (w *walker) walk(id uint64, depth int, in bounds, visit func(flags uint32, key, value []byte) error) error {
	if w.known.has(id) {
		w.met.add(id)
		return nil
	}
	p, err := w.read(id, depth)
	if err != nil {
		return err
	}
	if err := w.page(p, depth, in, visit); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// read reads a page with those that it continues in.
func (w *walker) read(id uint64, depth int) ([]byte, error) {
	if id < 2 || id >= w.end || w.seen.has(id) {
		return nil, damaged("page %d is out of place", id)
	}
	for len(w.buffers) <= depth {
		w.buffers = append(w.buffers, make([]byte, w.pageSize))
	}
	p := w.buffers[depth][:w.pageSize]
	if _, err := w.file.ReadAt(p, int64(id)*w.pageSize); err != nil {
		return nil, unread(id, err)
	}
	further := uint64(native.Uint32(p[12:]))
	if native.Uint64(p) != id || further >= w.end-id {
		return nil, damaged("page %d is not what it should be", id)
	}
	for i := range further + 1 {
		if w.seen.has(id + i) {
			return nil, damaged("page %d is used twice", id+i)
		}
	}
	if further > 0 {
		p = slices.Grow(p, int(further)*int(w.pageSize))[:int64(further+1)*w.pageSize]
		if _, err := w.file.ReadAt(p[w.pageSize:], int64(id+1)*w.pageSize); err != nil {
			return nil, unread(id, err)
		}
		w.buffers[depth] = p
	}
	for i := range further + 1 { // They are in the file, so that there are not more of them than it is long.
		w.seen.add(id + i)
	}
	return p, nil
}

func unread(id uint64, err error) error {
	if errors.Is(err, io.EOF) {
		return damaged("it ends before page %d", id)
	}
	return fmt.Errorf("read page %d: %w", id, err)
}

// page visits the elements of a page, which must be in order and within the bounds.
func (w *walker) page(p []byte, depth int, in bounds, visit func(flags uint32, key, value []byte) error) error {
	kind, count := native.Uint16(p[8:]), int(native.Uint16(p[10:]))
	if kind != branchKind && kind != leafKind || pageHeader+count*elementSize > len(p) || kind == branchKind && count == 0 {
		return damaged("it is neither a branch nor a leaf")
	}
	var last []byte
	for i := range count {
		e := element(p, kind, i)
		if e.key == nil || i > 0 && bytes.Compare(e.key, last) <= 0 || bytes.Compare(e.key, in.from) < 0 || in.to != nil && bytes.Compare(e.key, in.to) >= 0 {
			return damaged("its keys are not in order")
		}
		last = e.key
		if kind == leafKind {
			if err := visit(e.flags, e.key, e.value); err != nil {
				return err
			}
			continue
		}
		child := bounds{e.key, in.to}
		if i+1 < count {
			if child.to = element(p, kind, i+1).key; child.to == nil {
				return damaged("its keys are not in order")
			}
		}
		if err := w.walk(e.child, depth+1, child, visit); err != nil {
			return err
		}
	}
	return nil
}

// pageElement is one of a page: of a branch the page that begins with the key, of a leaf the value.
type pageElement struct {
	key, value []byte // The key is nil if the element points outside of its page.
	flags      uint32
	child      uint64
}

func element(p []byte, kind uint16, i int) pageElement {
	at := pageHeader + i*elementSize
	b := p[at : at+elementSize]
	e := pageElement{}
	var place, key, value uint64
	if kind == branchKind {
		place, key = uint64(native.Uint32(b)), uint64(native.Uint32(b[4:]))
		e.child = native.Uint64(b[8:])
	} else {
		e.flags, place = native.Uint32(b), uint64(native.Uint32(b[4:]))
		key, value = uint64(native.Uint32(b[8:])), uint64(native.Uint32(b[12:]))
	}
	start := uint64(at) + place
	if key == 0 || start+key+value > uint64(len(p)) {
		return pageElement{}
	}
	e.key, e.value = p[start:start+key], p[start+key:start+key+value]
	return e
}
