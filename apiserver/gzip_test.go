package apiserver

import (
	"bytes"
	"compress/gzip"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// gunzip unpacks a body, of which one member has to be all.
func gunzip(t testing.TB, body []byte) []byte {
	t.Helper()
	from := bytes.NewReader(body)
	z, err := gzip.NewReader(from)
	if err != nil {
		t.Fatal(err)
	}
	z.Multistream(false)
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatalf("unpack %d bytes: %v", len(body), err)
	}
	if from.Len() > 0 {
		t.Fatalf("%d of %d bytes are left behind the first member", from.Len(), len(body))
	}
	return plain
}

// randomText is such as repeats itself here and there.
func randomText(r *rand.Rand, size int) []byte {
	b := make([]byte, 0, size+100)
	for len(b) < size {
		if from := r.IntN(len(b) + 1); r.IntN(2) == 0 {
			b = append(b, b[from:min(len(b), from+r.IntN(100))]...)
		} else {
			b = append(b, byte(r.Uint32()), byte(r.IntN(4)))
		}
	}
	return b[:size]
}

// In whatever order a member is made of what is deflated now, what was before, and what is not at all, it reads as all of it.
func TestMemberIsWhatWasPutIn(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 0))
		var body, want bytes.Buffer
		m := newMember(&body)
		for range r.IntN(12) {
			text := randomText(r, []int{0, 1, 100, 5000, 65535, 200_000}[r.IntN(6)])
			switch r.IntN(3) {
			case 0:
				_, _ = m.Write(text)
			case 1:
				text = text[:min(len(text), 65535)]
				m.store(text)
			case 2:
				m.splice(&newRun(nil, text).deflated)
			}
			want.Write(text)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		if got := gunzip(t, body.Bytes()); !bytes.Equal(got, want.Bytes()) {
			t.Errorf("seed %d: reads as %d bytes, want %d others", seed, len(got), want.Len())
		}
		otherGunzip(t, seed, body.Bytes(), want.Bytes())
	}
}

// otherGunzip unpacks with a program that has no code in common with ours.
func otherGunzip(t *testing.T, seed uint64, body, want []byte) {
	t.Helper()
	program, err := exec.LookPath("gzip")
	if err != nil {
		return
	}
	cmd := exec.Command(program, "-dc")
	cmd.Stdin = bytes.NewReader(body)
	if got, err := cmd.Output(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("seed %d: gzip reads %d bytes, want %d; error %v", seed, len(got), len(want), err)
	}
}

// The sum of two texts, one behind the other, is known from the sums of both.
func TestChecksumsAreJoined(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		text := randomText(r, r.IntN(3000))
		at := r.IntN(len(text) + 1)
		first, next := checksum{}.of(text[:at]), checksum{}.of(text[at:])
		want := checksum{crc32.ChecksumIEEE(text), uint32(len(text))}
		if got := first.then(next, shiftOf(len(text)-at)); got != want {
			t.Fatalf("%d and %d bytes: %v, want %v", at, len(text)-at, got, want)
		}
	}
}
