package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
)

// The maps and sets that hold everything that changes. Each is keyed by what a packet shows, and its elements cost a packet the
// same whether there is one or a hundred thousand. A node port has the address 0.0.0.0 in them.
const (
	services  = "services4"
	outsiders = "outsiders4" // For clients outside, where they have another choice.
	endpoints = "endpoints4"
	pins      = "pins4"     // Where clients keep their endpoint: what stands for it,
	pinned    = "pinned4"   // and which it is.
	guarded   = "guarded4"  // Frontends to which not everybody may connect,
	allowed   = "allowed4"  // and who may.
	hairpin   = "hairpin4"  // Pods that may reach themselves.
	egress    = "egress4"   // Pods of this node that may not connect to everybody, and the group that they are in.
	ingress   = "ingress4"  // Pods of this node to which not everybody may connect, likewise.
	peers     = "peers4"    // Pods that a NetworkPolicy means, and the peer that they are;
	blocks    = "blocks4"   // other addresses that one means, likewise.
	pairs     = "pairs"     // What a group and a peer may do,
	anyone    = "anyone"    // what a group and whoever else may,
	permits   = "permits"   // and which ports that are.
	ownRange  = "ownrange4" // The addresses of this node's pods, where there is a NetworkPolicy,
	known     = "known4"    // and those of them about whom all is known.
)

// isPolicy reports whether the numbers in that map are those of policies.
func isPolicy(in string) bool {
	switch in {
	case egress, ingress, peers, blocks, pairs, anyone, permits:
		return true
	}
	return false
}

// An elementMap is what one of them is to nft and to the kernel. An element's key has the given fields; where it is a range, the
// last one of the fields may be many.
type elementMap struct {
	name   string
	text   string // Its type, as nft writes it.
	key    []field
	value  field // Or nothing, in a set.
	ranges bool
}

// A field is a part of a key or a value.
type field int

const (
	nothing field = iota
	address
	transport // protocol
	portNumber
	markNumber     // A number that travels in the packet's mark, or the connection's,
	priorityNumber // in the packet's priority,
	drawn          // or is drawn by chance.
	peerNumber     // The second number of a key; it travels in the priority.
	choiceNumber
	target // address . port
)

// elementMaps describes them in the order in which they are printed.
func elementMaps() []elementMap {
	const (
		front  = "type ipv4_addr . inet_proto . inet_service"
		packet = "typeof ip daddr . meta l4proto . th dport"
		slot   = "numgen random mod 2"
		number = "meta priority"
	)
	frontend := func(more ...field) []field { return append([]field{address, transport, portNumber}, more...) }
	return []elementMap{
		{name: services, text: front + " : mark", key: frontend(), value: choiceNumber},
		{name: outsiders, text: front + " : mark", key: frontend(), value: choiceNumber},
		{name: endpoints, text: packet + " . " + slot + " : ip daddr . th dport", key: frontend(drawn), value: target},
		{name: pins, text: packet + " . " + slot + " : " + number, key: frontend(drawn), value: priorityNumber},
		{name: pinned, text: packet + " . " + number + " : ip daddr . th dport", key: frontend(priorityNumber), value: target},
		{name: guarded, text: front + " : mark", key: frontend(), value: markNumber},
		{name: allowed, text: "type mark . ipv4_addr", key: []field{markNumber, address}, ranges: true},
		{name: hairpin, text: "type ipv4_addr . ipv4_addr", key: []field{address, address}},
		{name: egress, text: "type ipv4_addr : mark", key: []field{address}, value: markNumber},
		{name: ingress, text: "type ipv4_addr : mark", key: []field{address}, value: markNumber},
		{name: peers, text: "typeof ip daddr : " + number, key: []field{address}, value: priorityNumber},
		{name: blocks, text: "typeof ip daddr : " + number, key: []field{address}, value: priorityNumber, ranges: true},
		{name: pairs, text: "typeof ct mark . " + number + " : " + number, key: []field{markNumber, peerNumber}, value: priorityNumber},
		{name: anyone, text: "typeof ct mark : " + number, key: []field{markNumber}, value: priorityNumber},
		{name: permits, text: "typeof " + number + " . meta l4proto . th dport", key: []field{priorityNumber, transport, portNumber}, ranges: true},
		{name: ownRange, text: "type ipv4_addr", key: []field{address}, ranges: true},
		{name: known, text: "type ipv4_addr", key: []field{address}},
	}
}

// elementMapOf returns the one of that name.
func elementMapOf(name string) elementMap {
	for _, m := range elementMaps() {
		if m.name == name {
			return m
		}
	}
	panic("no map is called " + name)
}

func (m elementMap) isSet() bool { return m.value == nothing }

// halved reports whether the kernel has the beginning and the end of a range as an element each. It does so where the key is one field.
func (m elementMap) halved() bool { return m.ranges && len(m.key) == 1 }

// write writes the head of the map in nft's syntax.
func (m elementMap) write(b *strings.Builder) {
	kind := "map"
	if m.isSet() {
		kind = "set"
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\t%s\n", kind, m.name, m.text)
	if m.ranges {
		b.WriteString("\t\tflags interval\n")
	}
}

// set describes the map to the kernel. The number is needed within a batch only.
func (m elementMap) set(t *nftables.Table, number int) *nftables.Set {
	s := &nftables.Set{Table: t, ID: uint32(number), Name: m.name, IsMap: !m.isSet(), Interval: m.ranges, DataType: m.value.datatype()}
	if len(m.key) == 1 {
		s.KeyType = m.key[0].datatype()
		return s
	}
	var parts []nftables.SetDatatype
	for _, f := range m.key {
		parts = append(parts, f.datatype())
	}
	s.Concatenation, s.KeyType = true, nftables.MustConcatSetType(parts...)
	return s
}

func (f field) datatype() nftables.SetDatatype {
	switch f {
	case address:
		return nftables.TypeIPAddr
	case transport:
		return nftables.TypeInetProto
	case portNumber:
		return nftables.TypeInetService
	case markNumber, drawn, choiceNumber:
		return nftables.TypeMark
	case priorityNumber, peerNumber:
		return nftables.TypeClassID
	case target:
		return nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	}
	return nftables.SetDatatype{}
}

// bytes encodes the key for the kernel: every field in network order and padded to four bytes, but for numbers, which the kernel
// compares with numbers of its own, in the machine's order. A range has an end, other keys have nil.
func (m elementMap) bytes(k key) (start, end []byte) {
	start = make([]byte, 0, 4*len(m.key))
	for _, f := range m.key {
		start = f.append(start, k)
	}
	if m.ranges {
		last := k.end()
		for _, f := range m.key {
			end = f.append(end, last)
		}
	}
	return start, end
}

func (f field) append(b []byte, k key) []byte {
	switch f {
	case address:
		return append(b, k.addr.AsSlice()...)
	case transport:
		return append(b, byte(k.proto), 0, 0, 0)
	case portNumber:
		return append(binary.BigEndian.AppendUint16(b, k.port), 0, 0)
	case peerNumber:
		return binary.NativeEndian.AppendUint32(b, k.peer)
	}
	return binary.NativeEndian.AppendUint32(b, k.slot)
}

// valueBytes encodes the value for the kernel.
func (m elementMap) valueBytes(v value) []byte {
	switch m.value {
	case nothing:
		return nil
	case choiceNumber:
		return v.choice.bytes()
	case target:
		b := binary.BigEndian.AppendUint16(v.target.Addr().AsSlice(), v.target.Port())
		return append(b, 0, 0)
	}
	return binary.NativeEndian.AppendUint32(nil, v.number)
}

// decode turns what the kernel holds in the map back to a key and a value.
func (m elementMap) decode(start, end, v []byte) (key, value, error) {
	width := 4 * len(m.key)
	if len(start) != width || m.ranges && len(end) != width || len(v) != m.valueWidth() {
		return key{}, value{}, fmt.Errorf("element of %s has %d, %d and %d bytes", m.name, len(start), len(end), len(v))
	}
	k, last := key{in: m.name}, key{in: m.name}
	for i, f := range m.key {
		f.decode(start[4*i:], &k)
		if m.ranges {
			f.decode(end[4*i:], &last)
		}
	}
	if m.ranges {
		k.last, k.lastPort = last.addr, last.port
		if last.proto != k.proto {
			k.proto = anyProtocol
		}
	}
	return k, m.decodeValue(v), nil
}

func (f field) decode(b []byte, k *key) {
	switch f {
	case address:
		k.addr = netip.AddrFrom4([4]byte(b))
	case transport:
		k.proto = protocol(b[0])
	case portNumber:
		k.port = binary.BigEndian.Uint16(b)
	case peerNumber:
		k.peer = binary.NativeEndian.Uint32(b)
	default:
		k.slot = binary.NativeEndian.Uint32(b)
	}
}

func (m elementMap) valueWidth() int {
	switch m.value {
	case nothing:
		return 0
	case target:
		return 8
	}
	return 4
}

func (m elementMap) decodeValue(v []byte) value {
	switch m.value {
	case nothing:
		return value{}
	case choiceNumber:
		return value{choice: choice(binary.BigEndian.Uint32(v))}
	case target:
		return value{target: netip.AddrPortFrom(netip.AddrFrom4([4]byte(v)), binary.BigEndian.Uint16(v[4:]))}
	}
	return value{number: binary.NativeEndian.Uint32(v)}
}
