package proxy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
)

// The maps and sets that hold everything that changes. Each is keyed by what a packet shows, and its elements cost a packet the
// same whether there is one or a hundred thousand. A node port has the address 0.0.0.0 in them.
const (
	services  = "services4"  // address . protocol . port : choice
	outsiders = "outsiders4" // address . protocol . port : choice; for clients outside, where they have another one
	endpoints = "endpoints4" // address . protocol . port . slot : endpoint address . port
	pins      = "pins4"      // address . protocol . port . slot : pin, where clients keep their endpoint
	pinned    = "pinned4"    // address . protocol . port . pin : endpoint address . port
	guarded   = "guarded4"   // address . protocol . port : guard, where not everybody may connect
	allowed   = "allowed4"   // a set: guard . range of clients that may
	hairpin   = "hairpin4"   // a set: address . the same address
)

// elementMaps names them in the order in which they are printed.
func elementMaps() []string {
	return []string{services, outsiders, endpoints, pins, pinned, guarded, allowed, hairpin}
}

func isSet(in string) bool { return in == allowed || in == hairpin }

// A key is the left side of an element. Fields that its map does not use are zero.
type key struct {
	in      string // The name of the map.
	addr    netip.Addr
	proto   protocol
	port    uint16
	slot    uint32 // Or pin, or guard.
	sources netip.Prefix
}

// A value is the right side: a choice, one endpoint, the pin or guard that stands for one or more things, or nothing in a set.
type value struct {
	choice choice
	target netip.AddrPort
	number uint32
}

// pinOf returns the number by which the rules remember an endpoint. Two endpoints of one port of a Service are different pods,
// with different addresses; were they not, the first would get the clients of both.
func pinOf(target netip.AddrPort) uint32 { return binary.BigEndian.Uint32(target.Addr().AsSlice()) }

func (f frontend) key() key { return key{in: services, addr: f.addr, proto: f.proto, port: f.port} }

// of returns the key of the same frontend in another map.
func (k key) of(in string) key { k.in = in; return k }

func (k key) withSlot(slot uint32) key { k.slot = slot; return k }

// elements calls yield with each element that s wants.
func (s *service) elements(yield func(key, value)) {
	if s == nil {
		return
	}
	for front, b := range s.backends {
		k := front.key()
		kind := uint32(kindPlain)
		if b.masquerade {
			kind = kindMasquerade
		}
		b.elements(k, kind, yield)
		if b.outside != nil {
			b.outside.elements(k.of(outsiders), kindOutside, yield)
		}
		if b.guarded {
			yield(k.of(guarded), value{number: s.guard})
		}
	}
	for _, p := range s.allowed {
		yield(key{in: allowed, slot: s.guard, sources: p}, value{})
	}
	for _, addr := range s.hairpin {
		yield(key{in: hairpin, addr: addr}, value{})
	}
}

// elements calls yield with the choice, for k, and the slots that it is made from.
func (b backends) elements(k key, kind uint32, yield func(key, value)) {
	way := newChoice(len(b.targets), b.sticky, kind)
	if b.drop {
		way = drop
	}
	yield(k, value{choice: way})
	first, _ := way.slots()
	for i, target := range b.targets {
		slot := first + uint32(i)
		yield(k.of(endpoints).withSlot(slot), value{target: target})
		if b.sticky > 0 {
			yield(k.of(pins).withSlot(slot), value{number: pinOf(target)})
		}
	}
	if b.sticky > 0 {
		for _, target := range slices.Backward(b.targets) { // So that the first of two with one pin stays.
			yield(k.of(pinned).withSlot(pinOf(target)), value{target: target})
		}
	}
}

func compareKeys(a, b key) int {
	return cmp.Or(cmp.Compare(a.in, b.in), a.addr.Compare(b.addr), cmp.Compare(a.proto, b.proto), cmp.Compare(a.port, b.port),
		cmp.Compare(a.slot, b.slot), a.sources.Addr().Compare(b.sources.Addr()), cmp.Compare(a.sources.Bits(), b.sources.Bits()))
}

// String writes the key as nft does.
func (k key) String() string {
	front := fmt.Sprintf("%s . %s . %d", k.addr, k.proto, k.port)
	switch k.in {
	case endpoints, pins:
		return fmt.Sprintf("%s . %d", front, k.slot)
	case pinned:
		return fmt.Sprintf("%s . %s", front, pinText(k.slot))
	case allowed:
		return fmt.Sprintf("%d . %s", k.slot, k.sources)
	case hairpin:
		return fmt.Sprintf("%s . %s", k.addr, k.addr)
	}
	return front
}

// pinText writes a pin as nft does a priority, for it travels there.
func pinText(pin uint32) string { return fmt.Sprintf("%x:%x", pin>>16, pin&0xffff) }

// text writes the element as nft does.
func text(k key, v value) string {
	switch {
	case isSet(k.in):
		return k.String()
	case k.in == pins:
		return fmt.Sprintf("%s : %s", k, pinText(v.number))
	case k.in == guarded:
		return fmt.Sprintf("%s : %d", k, v.number)
	case k.in == services || k.in == outsiders:
		return fmt.Sprintf("%s : %d", k, uint32(v.choice))
	}
	return fmt.Sprintf("%s : %s . %d", k, v.target.Addr(), v.target.Port())
}

// bytes encodes the key for the kernel: every field in network order and padded to four bytes, but for slots and other numbers,
// which the kernel compares with numbers of its own, in the machine's order. An interval has an end, other keys have nil.
func (k key) bytes() (start, end []byte) {
	switch k.in {
	case hairpin:
		return append(k.addr.AsSlice(), k.addr.AsSlice()...), nil
	case allowed:
		first := binary.BigEndian.Uint32(k.sources.Addr().AsSlice())
		last := first | uint32(1<<(32-k.sources.Bits())-1)
		guard := binary.NativeEndian.AppendUint32(nil, k.slot)
		return binary.BigEndian.AppendUint32(slices.Clone(guard), first), binary.BigEndian.AppendUint32(slices.Clone(guard), last)
	}
	b := append(k.addr.AsSlice(), byte(k.proto), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, k.port)
	b = append(b, 0, 0)
	if k.in == endpoints || k.in == pins || k.in == pinned {
		b = binary.NativeEndian.AppendUint32(b, k.slot)
	}
	return b, nil
}

// bytes encodes the value in the map in for the kernel.
func (v value) bytes(in string) []byte {
	switch in {
	case allowed, hairpin:
		return nil
	case pins, guarded:
		return binary.NativeEndian.AppendUint32(nil, v.number)
	case services, outsiders:
		return v.choice.bytes()
	}
	b := v.target.Addr().AsSlice()
	b = binary.BigEndian.AppendUint16(b, v.target.Port())
	return append(b, 0, 0)
}

func (c choice) bytes() []byte { return binary.BigEndian.AppendUint32(nil, uint32(c)) }

// decode turns what the kernel holds in the map in back to a key and a value.
func decode(in string, k, end, v []byte) (key, value, error) {
	wantKey, wantValue := widths(in)
	if len(k) != wantKey || len(v) != wantValue || in == allowed && len(end) != wantKey {
		return key{}, value{}, fmt.Errorf("element of %s has %d and %d bytes, want %d and %d", in, len(k), len(v), wantKey, wantValue)
	}
	if in == allowed {
		first, last := binary.BigEndian.Uint32(k[4:]), binary.BigEndian.Uint32(end[4:])
		sources := netip.PrefixFrom(netip.AddrFrom4([4]byte(k[4:])), bits.LeadingZeros32(first^last))
		return key{in: in, slot: binary.NativeEndian.Uint32(k), sources: sources}, value{}, nil
	}
	dec := key{in: in, addr: netip.AddrFrom4([4]byte(k))}
	if in == hairpin {
		return dec, value{}, nil
	}
	dec.proto, dec.port = protocol(k[4]), binary.BigEndian.Uint16(k[8:])
	switch in {
	case services, outsiders:
		return dec, value{choice: choice(binary.BigEndian.Uint32(v))}, nil
	case guarded:
		return dec, value{number: binary.NativeEndian.Uint32(v)}, nil
	}
	dec.slot = binary.NativeEndian.Uint32(k[12:])
	if in == pins {
		return dec, value{number: binary.NativeEndian.Uint32(v)}, nil
	}
	return dec, value{target: netip.AddrPortFrom(netip.AddrFrom4([4]byte(v)), binary.BigEndian.Uint16(v[4:]))}, nil
}

// widths returns the sizes in bytes of a key and of a value of the map in.
func widths(in string) (k, v int) {
	switch in {
	case services, outsiders, guarded:
		return 12, 4
	case endpoints, pinned:
		return 16, 8
	case pins:
		return 16, 4
	}
	return 8, 0
}
