package apiserver

import (
	"bytes"
	"io"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/klauspost/compress/flate"
)

// Nearly all clients ask for lists compressed. To compress a list takes longer than all else that it costs, and the next time it
// says nearly the same. So it is compressed in runs of a few dozen items, whose first item keeps them: a change costs the run
// that it is in. Item by item would be simpler, but what all items have in common would be said once for each of them.

// elements are the items of a page, as they stand in a list of a media type.
type elements struct {
	page
	kept, once func(*item) ([]byte, error)           // Their encodings,
	at         func(*item) *atomic.Pointer[encoding] // where they are kept,
	between    []byte                                // what is written between them,
	write      func(to io.Writer, encoded []byte)    // and each of them.
	text       bytes.Buffer                          // Room for that of a run.
}

// encode makes the encodings. Those of a list that is not long are there before an answer begins, as no error can come after.
func (e *elements) encode() error {
	if e.isLong() {
		return nil
	}
	for _, it := range e.items {
		if _, err := e.kept(it); err != nil {
			return err
		}
	}
	return nil
}

// writeTo writes all of them.
func (e *elements) writeTo(to io.Writer) error {
	m, ok := to.(*member)
	if !ok || e.isLong() {
		return e.join(to, e.items)
	}
	for from, end := range runs(e.items) {
		r, err := e.run(e.items[from:end])
		if err != nil {
			return err
		}
		if from > 0 && len(e.between) > 0 {
			m.store(e.between)
		}
		m.splice(&r.deflated)
	}
	return nil
}

// join writes some of them.
func (e *elements) join(to io.Writer, items []*item) error {
	for i, it := range items {
		b, err := e.once(it)
		if err != nil {
			return err
		}
		if i > 0 {
			_, _ = to.Write(e.between)
		}
		e.write(to, b)
	}
	return nil
}

// run is the run of these items, made before, or now and kept.
func (e *elements) run(items []*item) (*run, error) {
	at := e.at(items[0])
	if kept := at.Load(); kept != nil && kept.run.is(items) {
		return kept.run, nil
	}
	e.text.Reset()
	e.text.Grow(2 * runSize)
	if err := e.join(&e.text, items); err != nil {
		return nil, err
	}
	r := newRun(items, e.text.Bytes())
	if kept := at.Load(); kept != nil {
		with := *kept
		with.run = r
		items[0].keep(at, &with)
	}
	return r, nil
}

// runSize is how many bytes of items, as stored, a run has on average: twice as far as deflate looks back.
const runSize = 64 << 10

// runs cuts items into runs: from one index up to another. Whether an item begins one is its own affair, and not that of those
// before it: behind what has been added or removed all runs are as they were.
func runs(items []*item) iter.Seq2[int, int] {
	return func(yield func(from, end int) bool) {
		from := 0
		for end := 1; end <= len(items); end++ {
			if end < len(items) && !items[end].beginsRun() {
				continue
			}
			if !yield(from, end) {
				return
			}
			from = end
		}
	}
}

// beginsRun is true of one in as many items as are in a run, by chance, and of a large item more probably.
func (i *item) beginsRun() bool {
	const golden = 0x9e3779b97f4a7c15 // 2^64 by the golden ratio: multiples of it are scattered evenly over all numbers.
	return i.rev*golden>>32*runSize>>32 < uint64(i.size)
}

// run is a run of items, compressed.
type run struct {
	of []itemVersion
	deflated
}

// itemVersion names a version of an item of a shelf. The items themselves would be kept by it after a change, too.
type itemVersion struct {
	key string
	rev uint64
}

const itemVersionSize = 16 + 8

func newRun(items []*item, text []byte) *run {
	of := make([]itemVersion, len(items))
	for i, it := range items {
		of[i] = itemVersion{it.key, it.rev}
	}
	var blocks bytes.Buffer
	_ = flate.StatelessDeflate(&blocks, text, false, nil) // A buffer takes all.
	return &run{of, deflated{bytes.Clone(blocks.Bytes()), checksum{}.of(text), shiftOf(len(text))}}
}

// is tells whether it is the run of just these items.
func (r *run) is(items []*item) bool {
	return r != nil && slices.EqualFunc(r.of, items, func(v itemVersion, it *item) bool { return v.rev == it.rev && v.key == it.key })
}

// size is how many bytes it keeps in memory.
func (r *run) size() int {
	if r == nil {
		return 0
	}
	return len(r.of)*itemVersionSize + len(r.blocks)
}
