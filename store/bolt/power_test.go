package bolt

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"skiff/store"
)

// failuresVariable sets how often the power fails in TestPowerFailure; for a long run.
const failuresVariable = "SKIFF_TEST_POWER_FAILURES"

// The power fails again and again: while a batch of writes is written, when the file is opened after that, and when it is closed. Of
// what was not waited for any sectors are on the disk, also those of the meta page. All that was answered is there; beside it at
// most all that was under way, and that from the next start on or never; and no revision that anybody can have seen is given again.
func TestPowerFailure(t *testing.T) {
	captureLog(t) // It warns.
	failures := 60
	if text := os.Getenv(failuresVariable); text != "" {
		var err error
		if failures, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	p := &powered{random: rand.New(rand.NewPCG(seed, 0)), path: filepath.Join(t.TempDir(), "store.db")}
	open(t, p.path).Close()
	p.disk = read(t, p.path)
	for range failures {
		for p.random.IntN(3) == 0 {
			p.failOpening(t)
		}
		p.failWriting(t)
	}
	t.Logf("of the writes under way %d happened and %d did not; power failed %d times while the file was opened", p.whole, p.undone, p.opening)
	if p.whole == 0 || p.undone == 0 || p.opening == 0 {
		t.Error("does this test still cut anything?")
	}
}

// powered is what is known of a store whose power fails again and again.
type powered struct {
	random *rand.Rand
	path   string
	disk   []byte // What is on it.

	answered, underWay content // What is there, without and with the writes that were under way.
	free               uint64  // The first revision that nobody can have seen, if they did not happen.

	whole, undone, opening int
}

// content is what a store holds.
type content struct {
	keys map[string]store.KV
	rev  uint64
}

// failOpening has the power fail while the file is opened.
func (p *powered) failOpening(t *testing.T) {
	t.Helper()
	p.restore(t)
	db, c, err := openFile(p.path, false)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	before, after := p.disk, read(t, p.path)
	if c.torn && p.random.IntN(2) == 0 {
		if db, _, err = openStamped(p.path); err != nil {
			t.Fatal(err)
		}
		db.Close()
		before, after = after, read(t, p.path)
	}
	p.disk = cut(p.random, before, after)
	p.opening++
}

// failWriting opens the store, writes, may close it, and has the power fail at the last of that.
func (p *powered) failWriting(t *testing.T) {
	t.Helper()
	p.restore(t)
	s := open(t, p.path, func(o *options) {
		if p.random.IntN(10) == 0 {
			o.compactFrom = 1
		}
	})
	defer s.Close()
	s.compactFrom = 1 << 40
	p.disk = read(t, p.path)
	p.look(t, s)
	var before, after []byte
	for range 1 + p.random.IntN(3) {
		p.answered = p.underWay
		before, after = p.written(t, s, func() { p.commit(t, s) })
	}
	if p.random.IntN(5) == 0 {
		p.answered = p.underWay
		before, after = p.written(t, s, func() { s.Close() })
	}
	p.disk = cut(p.random, before, after)
	if p.free = p.answered.rev; begun(p.disk) > begun(before) {
		p.free = p.underWay.rev + 1
	}
}

// restore makes the file what is on the disk.
func (p *powered) restore(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(p.path, p.disk, 0o600); err != nil {
		t.Fatal(err)
	}
}

// look holds what the store has against what it may.
func (p *powered) look(t *testing.T, s *Store) {
	t.Helper()
	kvs, rev, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	found := content{map[string]store.KV{}, rev}
	for _, kv := range kvs {
		found.keys[kv.Key] = kv
	}
	switch {
	case rev >= p.underWay.rev && maps.EqualFunc(found.keys, p.underWay.keys, same):
		p.whole++
	case rev >= p.free && maps.EqualFunc(found.keys, p.answered.keys, same):
		p.undone++
	default:
		t.Fatalf("%d keys at revision %d; answered were %d at %d, under way %d at %d, and nobody can have seen %d",
			len(kvs), rev, len(p.answered.keys), p.answered.rev, len(p.underWay.keys), p.underWay.rev, p.free)
	}
	p.answered, p.underWay = found, found
}

// written is what is on the disk before and after one wait for it in what do does, which is one transaction.
func (p *powered) written(t *testing.T, s *Store, do func()) (before, after []byte) {
	t.Helper()
	before = p.disk
	once := s.db.NoSync
	do()
	p.disk = read(t, p.path)
	p.waitInVain(t, before)
	if once {
		return before, p.disk
	}
	between := slices.Clone(p.disk)
	copy(between, before[:2*pageSize])
	if p.random.IntN(2) == 0 {
		return before, between
	}
	return between, p.disk
}

// waitInVain has the wait for the last transaction fail: the kernel shows pages that the disk may not have, and does not write them
// by itself. To write again what is taken for written by that transaction makes up for it.
func (p *powered) waitInVain(t *testing.T, before []byte) {
	t.Helper()
	want, err := readContents(bytes.NewReader(p.disk))
	if err != nil {
		t.Fatal(err)
	}
	disk := append(cut(p.random, before, p.disk), make([]byte, len(p.disk))...)[:len(p.disk)]
	copy(disk, p.disk[:2*pageSize])
	for id := range want.written.all() {
		copy(disk[id*pageSize:][:pageSize], p.disk[id*pageSize:])
	}
	if got, err := readContents(bytes.NewReader(disk)); err != nil || got.torn || got.stamp != want.stamp {
		t.Fatalf("settled at revision %d, torn %t, error %v, want it whole at %d", got.stamp.rev, got.torn, err, want.stamp.rev)
	}
}

// commit does some writes in one transaction.
func (p *powered) commit(t *testing.T, s *Store) {
	t.Helper()
	next := content{maps.Clone(p.answered.keys), p.answered.rev}
	n := 1 + p.random.IntN(3)
	if p.random.IntN(20) == 0 {
		n = maxBatch
	}
	var batch []*write
	for range n {
		next.rev++
		w := &write{key: fmt.Sprintf("/%d/%d", p.random.IntN(3), p.random.IntN(20))}
		w.want = next.keys[w.key].Rev
		if delete(next.keys, w.key); w.want == 0 || p.random.IntN(3) > 0 {
			value := fmt.Appendf(nil, "%d %x", next.rev, make([]byte, p.random.IntN(300)))
			if p.random.IntN(10) == 0 && n < maxBatch {
				value = bytes.Repeat(value, 50)
			}
			w.stored = encode(value)
			next.keys[w.key] = store.KV{Key: w.key, Value: value, Rev: next.rev}
		}
		batch = append(batch, w)
	}
	s.commit(batch)
	for _, w := range batch {
		if w.err != nil {
			t.Fatal(w.err)
		}
	}
	p.underWay = next
}

// cut is what a file may be when the power fails while it becomes another one: each sector is the one or the other, and it may
// still be as short as it was.
func cut(random *rand.Rand, before, after []byte) []byte {
	file := make([]byte, len(after))
	if len(before) < len(after) && random.IntN(2) == 0 {
		file = file[:len(before)]
	}
	copy(file, before)
	shares := []float64{0, 1, random.Float64()} // Of what has been written: of the meta pages, and of the others.
	share := shares[random.IntN(3)]
	for at := 0; at < len(file); at += sectorSize {
		if at == 2*pageSize {
			share = shares[random.IntN(3)]
		}
		if random.Float64() < share {
			copy(file[at:at+sectorSize], after[at:])
		}
	}
	return file
}

// begun is the newest transaction of which a file has the meta page.
func begun(file []byte) uint64 {
	newest, _, _ := readMetas(bytes.NewReader(file))
	return newest.tx
}

// What was on the disk in time is not taken for what was not: as long as no sector of the meta page is written, the state is exactly
// that before the write.
func TestPowerFailureBeforeTheMetaPage(t *testing.T) {
	past := moments(t, rand.New(rand.NewPCG(1, 0)))
	for i := 1; i < len(past); i++ {
		before, after := past[i-1], past[i]
		file := slices.Clone(after.file)
		copy(file, before.file[:2*pageSize])
		if got, err := reopened(t, file); err != nil || got.rev != before.rev || !got.sameData(before) {
			t.Fatalf("write %d cut short in front of its meta page: revision %d, error %v, want the state at %d", i, got.rev, err, before.rev)
		}
		c, err := readContents(bytes.NewReader(file))
		if again := slices.Collect(c.written.all()); err != nil || len(again) > 0 {
			t.Fatalf("write %d cut short in front of its meta page: pages %v are written again, error %v", i, again, err)
		}
	}
}
