package bolt

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// To read ahead reads what is there, and says the same of its end.
func TestReadAhead(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 3*aheadBytes+100)
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	plain := bytes.NewReader(content)
	ahead := &readAhead{file: plain}
	at := int64(0)
	for range 5000 {
		size := 1 + random.IntN(4096)
		if random.IntN(100) == 0 {
			size = 2 * aheadBytes
		}
		want, got := make([]byte, size), make([]byte, size)
		n, err := plain.ReadAt(want, at)
		m, err2 := ahead.ReadAt(got, at)
		if n != m || (err == nil) != (err2 == nil) || !bytes.Equal(want, got) {
			t.Fatalf("%d bytes at %d: %d, %v; want %d, %v", size, at, m, err2, n, err)
		}
		if at += int64(size); random.IntN(50) == 0 || at > int64(len(content)) {
			at = random.Int64N(int64(len(content)))
		}
	}
}

func TestPages(t *testing.T) {
	var p pages
	for _, id := range []uint64{700, 3, 64, 63} {
		if p.has(id) {
			t.Errorf("%d is there before it was added", id)
		}
		if p.add(id); !p.has(id) || p.has(id+1) && id != 63 || p.has(id-1) && id != 64 {
			t.Errorf("after adding %d: %v", id, p)
		}
	}
}
