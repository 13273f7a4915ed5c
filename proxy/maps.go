package proxy

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// A mapKind is one of the maps and sets that hold everything that changes. Each is keyed by what a packet shows, and its elements
// cost a packet the same whether there is one or a hundred thousand. Every family has its own, but for the last ones, whose keys
// have no address. A node port has the address 0.0.0.0, or ::, in them.
type mapKind uint8

const (
	services     mapKind = iota
	outsiders            // For clients outside, where they have another choice.
	endpoints            // By slot.
	pins                 // Where clients keep their endpoint: what stands for it,
	pinned               // and which it is.
	guarded              // Frontends to which not everybody may connect,
	allowed              // and who may.
	hairpin              // Pods that may reach themselves.
	serviceRange         // The cluster addresses of Services, those that none has among them.
	egress               // Pods of this node that may not connect to everybody, and the group that they are in.
	ingress              // Pods of this node to which not everybody may connect, likewise.
	peers                // Pods that a NetworkPolicy means, and the peer that they are;
	blocks               // other addresses that one means, likewise.
	ownRange             // The addresses of this node's pods, where there is a NetworkPolicy,
	known                // and those of them about whom all is known.
	pairs                // What a group and a peer may do,
	anyone               // what a group and whoever else may,
	permits              // and which ports that are.
)

func (in mapKind) String() string {
	return [...]string{"services", "outsiders", "endpoints", "pins", "pinned", "guarded", "allowed", "hairpin", "servicerange", "egress", "ingress",
		"peers", "blocks", "ownrange", "known", "pairs", "anyone", "permits"}[in]
}

// isShared reports whether both families have one map of that kind.
func (in mapKind) isShared() bool { return in >= pairs }

// isPolicy reports whether the numbers in that map are those of policies.
func (in mapKind) isPolicy() bool {
	return slices.Contains([]mapKind{egress, ingress, peers, blocks, pairs, anyone, permits}, in)
}

// named is how the map of that kind is called in the kernel.
func (in mapKind) named(f family) string {
	if in.isShared() {
		return in.String()
	}
	return f.named(in.String())
}

// A mapID is one of the maps. Those that families share have none.
type mapID struct {
	in     mapKind
	family family
}

// mapIDs returns all, in the order in which they are printed.
func mapIDs(families []family) []mapID {
	var all []mapID
	for _, f := range families {
		for in := services; in < pairs; in++ {
			all = append(all, mapID{in, f})
		}
	}
	for in := pairs; in <= permits; in++ {
		all = append(all, mapID{in: in})
	}
	return all
}

// An elementMap is what one of them is to nft and to the kernel. An element's key has the given fields; where it is a range, the
// last one of the fields may be many.
type elementMap struct {
	mapID
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

// describe returns the map with its fields.
func (id mapID) describe() elementMap {
	frontend := func(more ...field) []field { return append([]field{address, transport, portNumber}, more...) }
	m := elementMap{mapID: id}
	switch id.in {
	case services, outsiders:
		m.key, m.value = frontend(), choiceNumber
	case endpoints:
		m.key, m.value = frontend(drawn), target
	case pins:
		m.key, m.value = frontend(drawn), priorityNumber
	case pinned:
		m.key, m.value = frontend(priorityNumber), target
	case guarded:
		m.key, m.value = frontend(), markNumber
	case allowed:
		m.key, m.ranges = []field{markNumber, address}, true
	case hairpin:
		m.key = []field{address, address}
	case egress, ingress:
		m.key, m.value = []field{address}, markNumber
	case peers:
		m.key, m.value = []field{address}, priorityNumber
	case blocks:
		m.key, m.value, m.ranges = []field{address}, priorityNumber, true
	case serviceRange, ownRange:
		m.key, m.ranges = []field{address}, true
	case known:
		m.key = []field{address}
	case pairs:
		m.key, m.value = []field{markNumber, peerNumber}, priorityNumber
	case anyone:
		m.key, m.value = []field{markNumber}, priorityNumber
	case permits:
		m.key, m.ranges = []field{priorityNumber, transport, portNumber}, true
	}
	return m
}

// typeText is the type of the map's elements, as nft writes it.
func (m elementMap) typeText() string {
	const number = "meta priority"
	addr, packet := m.family.addressType(), m.family.header()+" daddr"
	target := packet + " . th dport"
	front, frontPacket := addr+" . inet_proto . inet_service", packet+" . meta l4proto . th dport"
	switch m.in {
	case services, outsiders, guarded:
		return "type " + front + " : mark"
	case endpoints:
		return "typeof " + frontPacket + " . numgen random mod 2 : " + target
	case pins:
		return "typeof " + frontPacket + " . numgen random mod 2 : " + number
	case pinned:
		return "typeof " + frontPacket + " . " + number + " : " + target
	case allowed:
		return "type mark . " + addr
	case hairpin:
		return "type " + addr + " . " + addr
	case egress, ingress:
		return "type " + addr + " : mark"
	case peers, blocks:
		return "typeof " + packet + " : " + number
	case pairs:
		return "typeof ct mark . " + number + " : " + number
	case anyone:
		return "typeof ct mark : " + number
	case permits:
		return "typeof " + number + " . meta l4proto . th dport"
	}
	return "type " + addr
}

func (m elementMap) name() string { return m.in.named(m.family) }

func (m elementMap) isSet() bool { return m.value == nothing }

// halved reports whether the kernel has the beginning and the end of a range as an element each. It does so where the key is one field.
func (m elementMap) halved() bool { return m.ranges && len(m.key) == 1 }

// write writes the head of the map in nft's syntax.
func (m elementMap) write(b *strings.Builder) {
	kind := "map"
	if m.isSet() {
		kind = "set"
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\t%s\n", kind, m.name(), m.typeText())
	if m.ranges {
		b.WriteString("\t\tflags interval\n")
	}
}

// set describes the map to the kernel. The number is needed within a batch only.
func (m elementMap) set(t *nftables.Table, number int) *nftables.Set {
	s := &nftables.Set{Table: t, ID: uint32(number), Name: m.name(), IsMap: !m.isSet(), Interval: m.ranges, DataType: m.datatype(m.value)}
	if len(m.key) == 1 {
		s.KeyType = m.datatype(m.key[0])
		return s
	}
	var parts []nftables.SetDatatype
	for _, f := range m.key {
		parts = append(parts, m.datatype(f))
	}
	s.Concatenation, s.KeyType = true, nftables.MustConcatSetType(parts...)
	return s
}

func (m elementMap) datatype(f field) nftables.SetDatatype {
	switch f {
	case address:
		return m.family.datatype()
	case transport:
		return nftables.TypeInetProto
	case portNumber:
		return nftables.TypeInetService
	case markNumber, drawn, choiceNumber:
		return nftables.TypeMark
	case priorityNumber, peerNumber:
		return nftables.TypeClassID
	case target:
		return nftables.MustConcatSetType(m.family.datatype(), nftables.TypeInetService)
	}
	return nftables.SetDatatype{}
}

// width is the number of bytes that a field takes.
func (m elementMap) width(f field) int {
	switch f {
	case nothing:
		return 0
	case address:
		return m.family.width()
	case target:
		return m.family.width() + 4
	}
	return 4
}

func (m elementMap) keyWidth() (n int) {
	for _, f := range m.key {
		n += m.width(f)
	}
	return n
}

// appendKey encodes the key for the kernel: every field in network order and padded to four bytes, but for numbers, which the kernel
// compares with numbers of its own, in the machine's order.
func (m elementMap) appendKey(b []byte, k key) []byte {
	for _, f := range m.key {
		b = f.append(b, k)
	}
	return b
}

func (f field) append(b []byte, k key) []byte {
	switch f {
	case address:
		return appendAddress(b, k.addr)
	case transport:
		return append(b, byte(k.proto), 0, 0, 0)
	case portNumber:
		return append(binary.BigEndian.AppendUint16(b, k.port), 0, 0)
	case peerNumber:
		return binary.NativeEndian.AppendUint32(b, k.peer)
	}
	return binary.NativeEndian.AppendUint32(b, k.slot)
}

func appendAddress(b []byte, addr netip.Addr) []byte {
	if addr.Is4() {
		a := addr.As4()
		return append(b, a[:]...)
	}
	a := addr.As16()
	return append(b, a[:]...)
}

// appendValue encodes the value for the kernel.
func (m elementMap) appendValue(b []byte, v value) []byte {
	switch m.value {
	case nothing:
		return b
	case choiceNumber:
		return append(b, v.choice.bytes()...)
	case target:
		return append(binary.BigEndian.AppendUint16(appendAddress(b, v.target.Addr()), v.target.Port()), 0, 0)
	}
	return binary.NativeEndian.AppendUint32(b, v.number)
}

// decode turns what the kernel holds in the map back to a key and a value. Only a range has an end.
func (m elementMap) decode(start, end, v []byte) (key, value, error) {
	if len(start) != m.keyWidth() || m.ranges && len(end) != len(start) || len(v) != m.width(m.value) {
		return key{}, value{}, fmt.Errorf("element of %s has %d, %d and %d bytes", m.name(), len(start), len(end), len(v))
	}
	k := m.decodeKey(start)
	if m.ranges {
		last := m.decodeKey(end)
		k.last, k.lastPort = last.addr, last.port
		if last.proto != k.proto {
			k.proto = anyProtocol
		}
	}
	return k, m.decodeValue(v), nil
}

func (m elementMap) decodeKey(b []byte) key {
	k := key{in: m.in}
	for _, f := range m.key {
		f.decode(b[:m.width(f)], &k)
		b = b[m.width(f):]
	}
	return k
}

func (f field) decode(b []byte, k *key) {
	switch f {
	case address:
		k.addr, _ = netip.AddrFromSlice(b)
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

func (m elementMap) decodeValue(v []byte) value {
	switch m.value {
	case nothing:
		return value{}
	case choiceNumber:
		return value{choice: choice(binary.BigEndian.Uint32(v))}
	case target:
		addr, _ := netip.AddrFromSlice(v[:m.family.width()])
		return value{target: netip.AddrPortFrom(addr, binary.BigEndian.Uint16(v[m.family.width():]))}
	}
	return value{number: binary.NativeEndian.Uint32(v)}
}
