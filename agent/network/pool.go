package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// pools are one of each family that a pod gets an address of. They are not safe for use by many goroutines.
type pools []*pool

func newPools(ranges []netip.Prefix) (all pools) {
	for _, p := range ranges {
		all = append(all, newPool(p))
	}
	return all
}

// next gives a free address of each, or none.
func (all pools) next() (addrs []netip.Addr, err error) {
	for _, p := range all {
		addr, err := p.next()
		if err != nil {
			all.free(addrs)
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// take marks addresses as given, as an earlier process did it, and returns them: all of them, or none. One of a family that
// the node's pods no longer have is left out, unless it is the first, by which the pod's link is called.
func (all pools) take(addrs []netip.Addr) (taken []netip.Addr, err error) {
	for n, addr := range addrs {
		i := slices.IndexFunc(all, func(p *pool) bool { return p.prefix.Addr().Is6() == addr.Is6() })
		if i < 0 && n == 0 {
			return nil, fmt.Errorf("its address %s is of no family that this node's pods have", addr)
		}
		if i < 0 {
			continue
		}
		if err := all[i].take(addr); err != nil {
			all.free(taken)
			return nil, err
		}
		taken = append(taken, addr)
	}
	return taken, nil
}

func (all pools) free(addrs []netip.Addr) {
	for _, addr := range addrs {
		for _, p := range all {
			p.free(addr)
		}
	}
}

// maxPool bounds what is remembered of a range: one of IPv6 has more addresses than a node can have pods.
const maxPool = 1 << 16

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
	size := uint32(maxPool)
	if free := p.Addr().BitLen() - p.Bits(); free < 32 {
		size = min(size, 1<<free)
	}
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
	b := p.prefix.Addr().AsSlice()
	binary.BigEndian.PutUint32(b[len(b)-4:], lowest(p.prefix.Addr())+offset)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// offset is the inverse of at.
func (p *pool) offset(a netip.Addr) (uint32, bool) {
	if !p.prefix.Contains(a) {
		return 0, false
	}
	offset := lowest(a) - lowest(p.prefix.Addr())
	return offset, offset >= 2 && offset <= p.size-2 && p.at(offset) == a
}

// lowest are the last 32 bits of an address.
func lowest(a netip.Addr) uint32 {
	b := a.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}
