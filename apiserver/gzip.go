package apiserver

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
)

// member is a body that is compressed: one gzip member (RFC 1952), of blocks of deflate (RFC 1951). Where a block has ended with
// a whole byte, any other may follow that refers to nothing before itself. So what was deflated earlier is put in as it is.
type member struct {
	to    *bufio.Writer
	flate *flate.Writer // Deflates what is written, if anything was just now.
	sum   checksum
}

const (
	gzipHead    = "\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff" // Deflate; no name, no time; made quickly, on no known system.
	storedBlock = 0
	lastBlock   = "\x01\x00\x00\xff\xff" // An empty stored one.
)

func newMember(w io.Writer) *member {
	m := &member{to: bufio.NewWriterSize(w, gathered)}
	_, _ = m.to.WriteString(gzipHead)
	return m
}

// Write deflates. Like all that writes to a client it does nothing once that has failed.
func (m *member) Write(b []byte) (int, error) {
	if m.flate == nil {
		m.flate, _ = flate.NewWriter(m.to, flate.BestSpeed) // It knows that level.
	}
	m.sum = m.sum.of(b)
	return m.flate.Write(b)
}

// store puts in what is too short to become shorter.
func (m *member) store(b []byte) {
	m.endBlock()
	m.sum = m.sum.of(b)
	head := binary.LittleEndian.AppendUint16([]byte{storedBlock}, uint16(len(b)))
	_, _ = m.to.Write(binary.LittleEndian.AppendUint16(head, ^uint16(len(b))))
	_, _ = m.to.Write(b)
}

// splice puts in what is deflated already.
func (m *member) splice(d *deflated) {
	m.endBlock()
	m.sum = m.sum.then(d.sum, d.shift)
	_, _ = m.to.Write(d.blocks)
}

func (m *member) endBlock() {
	if m.flate != nil {
		_ = m.flate.Flush()
		m.flate = nil
	}
}

func (m *member) Close() error {
	m.endBlock()
	_, _ = m.to.WriteString(lastBlock)
	end := binary.LittleEndian.AppendUint32(nil, m.sum.crc)
	_, _ = m.to.Write(binary.LittleEndian.AppendUint32(end, m.sum.size))
	return m.to.Flush()
}

// deflated is a part of a body, in blocks that can stand in any member.
type deflated struct {
	blocks []byte
	sum    checksum
	shift  polynomial // What a sum before it is multiplied by.
}

// checksum is what the end of a member tells of it.
type checksum struct{ crc, size uint32 }

// of is the sum once b has been written, too.
func (c checksum) of(b []byte) checksum {
	return checksum{crc32.Update(c.crc, crc32.IEEETable, b), c.size + uint32(len(b))}
}

// then is the sum once that has been written which next is the sum of. A CRC is a remainder: to have more text behind one's own is
// to be multiplied by x once for each bit of it, before the other remainder is added.
func (c checksum) then(next checksum, shift polynomial) checksum {
	return checksum{uint32(polynomial(c.crc).times(shift)) ^ next.crc, c.size + next.size}
}

// polynomial is one over the numbers 0 and 1, modulo that of CRC-32. The highest bit is the coefficient of 1, the lowest of x^31.
type polynomial uint32

func (p polynomial) times(q polynomial) (product polynomial) {
	for ; p != 0; p <<= 1 {
		product ^= q & -(p >> 31)
		q = q>>1 ^ crc32.IEEE&-(q&1) // Times x.
	}
	return product
}

// shiftOf is x to the power of the bits of a text so long.
func shiftOf(bytes int) polynomial {
	power, square := polynomial(1)<<31, polynomial(1)<<23 // 1, and x^8.
	for ; bytes > 0; bytes >>= 1 {
		if bytes&1 != 0 {
			power = power.times(square)
		}
		square = square.times(square)
	}
	return power
}
