package proxy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The maps that hold everything that changes. Each is keyed by what a packet shows, and its elements cost a packet the
// same whether there is one or a hundred thousand.
const (
	services  = "services4"  // address . protocol . port : number of endpoints
	endpoints = "endpoints4" // address . protocol . port . slot : endpoint address . port
	nodePorts = "nodeports4" // protocol . port : number of endpoints
	nodeSlots = "nodeslots4" // protocol . port . slot : endpoint address . port
	hairpin   = "hairpin4"   // a set: address . the same address
)

// elementMaps names them in the order in which they are printed.
func elementMaps() []string { return []string{services, endpoints, nodePorts, nodeSlots, hairpin} }

// A key is the left side of an element. Fields that its map does not use are zero.
type key struct {
	in    string // The name of the map.
	addr  netip.Addr
	proto protocol
	port  uint16
	slot  uint32
}

// A value is the right side: a number of endpoints, or one endpoint, or nothing in a set.
type value struct {
	count  uint32
	target netip.AddrPort
}

// dropCount stands in the place of a number of endpoints where packets are to be dropped.
const dropCount = 0xffff

// slotsOf names the map with the endpoints for the frontends of the map in.
func slotsOf(in string) string {
	if in == nodePorts {
		return nodeSlots
	}
	return endpoints
}

func (f frontend) key() key {
	if !f.addr.IsValid() {
		return key{in: nodePorts, proto: f.proto, port: f.port}
	}
	return key{in: services, addr: f.addr, proto: f.proto, port: f.port}
}

func (k key) withSlot(slot int) key {
	k.in, k.slot = slotsOf(k.in), uint32(slot)
	return k
}

// elements calls yield with each element that s wants.
func (s *service) elements(yield func(key, value)) {
	if s == nil {
		return
	}
	for front, b := range s.backends {
		k := front.key()
		count := uint32(len(b.targets))
		if b.drop {
			count = dropCount
		}
		yield(k, value{count: count})
		for i, target := range b.targets {
			yield(k.withSlot(i), value{target: target})
		}
	}
	for _, addr := range s.hairpin {
		yield(key{in: hairpin, addr: addr}, value{})
	}
}

func compareKeys(a, b key) int {
	return cmp.Or(cmp.Compare(a.in, b.in), a.addr.Compare(b.addr), cmp.Compare(a.proto, b.proto),
		cmp.Compare(a.port, b.port), cmp.Compare(a.slot, b.slot))
}

// String writes the key as nft does.
func (k key) String() string {
	switch k.in {
	case services:
		return fmt.Sprintf("%s . %s . %d", k.addr, k.proto, k.port)
	case endpoints:
		return fmt.Sprintf("%s . %s . %d . %d", k.addr, k.proto, k.port, k.slot)
	case nodePorts:
		return fmt.Sprintf("%s . %d", k.proto, k.port)
	case nodeSlots:
		return fmt.Sprintf("%s . %d . %d", k.proto, k.port, k.slot)
	}
	return fmt.Sprintf("%s . %s", k.addr, k.addr)
}

// text writes the element as nft does.
func text(k key, v value) string {
	switch {
	case v.target.IsValid():
		return fmt.Sprintf("%s : %s . %d", k, v.target.Addr(), v.target.Port())
	case k.in == hairpin:
		return k.String()
	}
	return fmt.Sprintf("%s : %d", k, v.count)
}

// bytes encodes the key for the kernel: every field in network order and padded to four bytes, but for the slot, which the
// kernel compares with the number that it drew, in the machine's own order.
func (k key) bytes() []byte {
	var b []byte
	if k.addr.IsValid() {
		b = append(b, k.addr.AsSlice()...)
	}
	if k.in == hairpin {
		return append(b, k.addr.AsSlice()...)
	}
	b = append(b, byte(k.proto), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, k.port)
	b = append(b, 0, 0)
	if k.in == endpoints || k.in == nodeSlots {
		b = binary.NativeEndian.AppendUint32(b, k.slot)
	}
	return b
}

// bytes encodes the value for the kernel.
func (v value) bytes() []byte {
	if !v.target.IsValid() {
		return binary.BigEndian.AppendUint32(nil, v.count)
	}
	b := v.target.Addr().AsSlice()
	b = binary.BigEndian.AppendUint16(b, v.target.Port())
	return append(b, 0, 0)
}

// decode turns what the kernel holds in the map in back to a key and a value.
func decode(in string, k, v []byte) (key, value, error) {
	wantKey, wantValue := widths(in)
	if len(k) != wantKey || len(v) != wantValue {
		return key{}, value{}, fmt.Errorf("element of %s has %d and %d bytes, want %d and %d", in, len(k), len(v), wantKey, wantValue)
	}
	dec := key{in: in}
	if in == services || in == endpoints || in == hairpin {
		dec.addr, k = netip.AddrFrom4([4]byte(k)), k[4:]
	}
	if in == hairpin {
		return dec, value{}, nil
	}
	dec.proto, dec.port = protocol(k[0]), binary.BigEndian.Uint16(k[4:])
	if in == services || in == nodePorts {
		return dec, value{count: binary.BigEndian.Uint32(v)}, nil
	}
	dec.slot = binary.NativeEndian.Uint32(k[8:])
	return dec, value{target: netip.AddrPortFrom(netip.AddrFrom4([4]byte(v)), binary.BigEndian.Uint16(v[4:]))}, nil
}

// widths returns the sizes in bytes of a key and of a value of the map in.
func widths(in string) (k, v int) {
	switch in {
	case services:
		return 12, 4
	case endpoints:
		return 16, 8
	case nodePorts:
		return 8, 4
	case nodeSlots:
		return 12, 8
	}
	return 8, 0
}
