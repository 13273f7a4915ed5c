package proxy

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
)

// A key is the left side of an element. Fields that its map does not use are zero.
type key struct {
	in       mapKind
	proto    protocol
	port     uint16
	lastPort uint16 // Of a range of ports that begins with port.
	slot     uint32 // Or pin, guard, group or permit.
	peer     uint32 // Second number.
	addr     netip.Addr
	last     netip.Addr // Of a range of addresses that begins with addr.
}

// mapID tells in which map the key is.
func (k key) mapID() mapID {
	if k.in.isShared() {
		return mapID{in: k.in}
	}
	return mapID{k.in, familyOf(k.addr)}
}

// end returns the last key of a range.
func (k key) end() key {
	if k.proto == anyProtocol {
		k.proto = 255
	}
	k.addr, k.port = k.last, k.lastPort
	return k
}

// An element is both sides.
type element struct {
	key
	value
}

// A value is the right side: a choice, one endpoint, a number that stands for one or more things, or nothing in a set.
type value struct {
	choice choice
	target netip.AddrPort
	number uint32
}

// pinOf returns the number by which the rules remember an endpoint: its address, or a sum of that where it is longer. Were it the
// same for two endpoints of one port of a Service, the first would get the clients of both.
func pinOf(target netip.AddrPort) uint32 {
	addr := target.Addr().AsSlice()
	if len(addr) == 4 {
		return binary.BigEndian.Uint32(addr)
	}
	sum := fnv.New32a()
	_, _ = sum.Write(addr)
	return sum.Sum32()
}

func (f frontend) key() key { return key{in: services, addr: f.addr, proto: f.proto, port: f.port} }

// of returns the key of the same frontend in another map.
func (k key) of(in mapKind) key { k.in = in; return k }

func (k key) withSlot(slot uint32) key { k.slot = slot; return k }

// elements calls yield with each element that s wants.
func (s *service) elements(yield func(key, value)) {
	if s == nil {
		return
	}
	for _, b := range s.opened {
		k := b.frontend.key()
		kind := uint32(kindPlain)
		if b.masquerade {
			kind = kindMasquerade
		}
		b.backends.elements(k, kind, yield)
		if b.outside != nil {
			b.outside.elements(k.of(outsiders), kindOutside, yield)
		}
		if b.guard != nil {
			yield(k.of(guarded), value{number: b.guard.number})
		}
	}
	for _, g := range s.guards {
		for _, p := range g.allowed {
			yield(key{in: allowed, slot: g.number, addr: p.Addr(), last: lastOf(p)}, value{})
		}
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
		cmp.Compare(a.slot, b.slot), cmp.Compare(a.peer, b.peer), a.last.Compare(b.last), cmp.Compare(a.lastPort, b.lastPort))
}

// String writes the key as nft does.
func (k key) String() string { return k.mapID().describe().keyText(k) }

func (m elementMap) keyText(k key) string {
	text := m.key[0].text(k)
	for _, f := range m.key[1:] {
		text += " . " + f.text(k)
	}
	return text
}

func (f field) text(k key) string {
	switch f {
	case address:
		return rangeText(k.addr, k.last)
	case transport:
		if k.proto == anyProtocol {
			return "0-255"
		}
		return k.proto.String()
	case portNumber:
		if k.lastPort > k.port {
			return fmt.Sprintf("%d-%d", k.port, k.lastPort)
		}
		return fmt.Sprint(k.port)
	case priorityNumber:
		return priorityText(k.slot)
	case peerNumber:
		return priorityText(k.peer)
	}
	return fmt.Sprint(k.slot)
}

// priorityText writes a number as nft does a priority.
func priorityText(n uint32) string { return fmt.Sprintf("%x:%x", n>>16, n&0xffff) }

// elementText writes an element as nft does.
func (m elementMap) elementText(e element) string {
	text := m.keyText(e.key)
	switch m.value {
	case nothing:
		return text
	case priorityNumber:
		return text + " : " + priorityText(e.number)
	case markNumber:
		return fmt.Sprintf("%s : %d", text, e.number)
	case choiceNumber:
		return fmt.Sprintf("%s : %d", text, uint32(e.choice))
	}
	return fmt.Sprintf("%s : %s . %d", text, e.target.Addr(), e.target.Port())
}

func (c choice) bytes() []byte { return binary.BigEndian.AppendUint32(nil, uint32(c)) }
