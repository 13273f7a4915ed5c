package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// pool hands out the addresses of a range, round robin: an address just freed is the last to be given again, because
// others may still remember who had it. The first address is the gateway's; the network's and the broadcast address are
// never given. It is not safe for use by many goroutines.
type pool struct {
	prefix netip.Prefix
	used   []uint64 // A bit an address.
	size   uint32
	last   uint32 // The offset given last.
}

func newPool(p netip.Prefix) *pool {
	size := uint32(1) << (32 - p.Bits())
	return &pool{prefix: p, size: size, used: make([]uint64, (size+63)/64), last: 1}
}

// next gives a free address.
func (p *pool) next() (netip.Addr, error) {
	usable := p.size - 3 // Offsets 2 to size-2.
	for i := range usable {
		offset := 2 + (p.last-1+i)%usable
		if p.used[offset/64]&(1<<(offset%64)) == 0 {
			p.used[offset/64] |= 1 << (offset % 64)
			p.last = offset
			return p.at(offset), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("all %d addresses of %s are in use", usable, p.prefix)
}

// take marks an address as given, as an earlier process did it.
func (p *pool) take(a netip.Addr) error {
	offset, ok := p.offset(a)
	if !ok {
		return fmt.Errorf("its address %s is not one of %s", a, p.prefix)
	}
	if p.used[offset/64]&(1<<(offset%64)) != 0 {
		return fmt.Errorf("its address %s belongs to another pod", a)
	}
	p.used[offset/64] |= 1 << (offset % 64)
	p.last = max(p.last, offset)
	return nil
}

// free takes an address back. What is not of this pool is ignored.
func (p *pool) free(a netip.Addr) {
	if offset, ok := p.offset(a); ok {
		p.used[offset/64] &^= 1 << (offset % 64)
	}
}

func (p *pool) at(offset uint32) netip.Addr {
	base := p.prefix.Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+offset)
	return netip.AddrFrom4(b)
}

func (p *pool) offset(a netip.Addr) (uint32, bool) {
	if !p.prefix.Contains(a) {
		return 0, false
	}
	base, b := p.prefix.Addr().As4(), a.As4()
	offset := binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:])
	return offset, offset >= 2 && offset <= p.size-2
}
