package bolt

import (
	"io"
	"iter"
	"math/bits"
)

// pages is a set of page numbers, with a bit for each.
type pages []uint64

func (p pages) has(id uint64) bool {
	return id/64 < uint64(len(p)) && p[id/64]&(1<<(id%64)) != 0
}

func (p *pages) add(id uint64) {
	if missing := int(id/64) + 1 - len(*p); missing > 0 {
		*p = append(*p, make([]uint64, missing)...)
	}
	(*p)[id/64] |= 1 << (id % 64)
}

// all yields the numbers in order.
func (p pages) all() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for i, word := range p {
			for ; word != 0; word &= word - 1 {
				if !yield(uint64(i)*64 + uint64(bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

// readAhead reads more at once where what is read follows on what was read before. Pages that were written in one go, or by a
// compaction, mostly do.
type readAhead struct {
	file io.ReaderAt
	next int64 // Where the last reading ended.
	buf  []byte
	at   int64 // Where buf is from.
}

const aheadBytes = 256 << 10

func (r *readAhead) ReadAt(p []byte, at int64) (int, error) {
	follows := at == r.next
	r.next = at + int64(len(p))
	if at < r.at || r.next > r.at+int64(len(r.buf)) {
		if !follows || len(p) > aheadBytes {
			return r.file.ReadAt(p, at)
		}
		if r.buf == nil {
			r.buf = make([]byte, aheadBytes)
		}
		n, err := r.file.ReadAt(r.buf[:aheadBytes], at)
		if r.at, r.buf = at, r.buf[:n]; n < len(p) {
			return copy(p, r.buf), err
		}
	}
	return copy(p, r.buf[at-r.at:]), nil
}
