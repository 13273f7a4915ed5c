package proxy

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A family is IPv4 or IPv6. The two differ in how long an address is and where a packet has it, and in nothing else: each family
// of a cluster has the same maps, chains and rules, called like those of the other but for the number at the end. What a cluster
// does not have costs it nothing.
type family uint8

const (
	ipv4 family = 4
	ipv6 family = 6
)

func familyOf(addr netip.Addr) family {
	if addr.Is4() {
		return ipv4
	}
	return ipv6
}

// families returns those of the cluster.
func (c Config) families() []family {
	return slices.DeleteFunc([]family{ipv4, ipv6}, func(f family) bool { return !f.rangeOf(c.ClusterCIDR).IsValid() })
}

// rangeOf returns the one of that family, or none.
func (f family) rangeOf(ranges []netip.Prefix) netip.Prefix {
	for _, p := range ranges {
		if familyOf(p.Addr()) == f {
			return p
		}
	}
	return netip.Prefix{}
}

// parse reads an address of the family. What cannot be the address of another machine is none.
func (f family) parse(text string) (addr netip.Addr, ok bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil || familyOf(addr) != f || addr.Is4In6() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsLoopback() {
		return netip.Addr{}, false
	}
	return addr, true
}

// parseRange reads a range of the family.
func (f family) parseRange(text string) (p netip.Prefix, ok bool) {
	p, err := netip.ParsePrefix(strings.TrimSpace(text))
	return p.Masked(), err == nil && familyOf(p.Addr()) == f
}

// slices is the type of the EndpointSlices of the family.
func (f family) slices() discoveryv1.AddressType {
	if f == ipv6 {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// named is how a map or chain of the family is called.
func (f family) named(name string) string {
	if f == ipv6 {
		return name + "6"
	}
	return name + "4"
}

// header is the word of nft's language before a field of the family's header.
func (f family) header() string {
	if f == ipv6 {
		return "ip6"
	}
	return "ip"
}

func (f family) addressType() string {
	if f == ipv6 {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

func (f family) datatype() nftables.SetDatatype {
	if f == ipv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// width is the number of bytes of an address.
func (f family) width() int {
	if f == ipv6 {
		return 16
	}
	return 4
}

// words is the number of registers that an address takes.
func (f family) words() uint32 { return uint32(f.width() / 4) }

// anywhere stands for every address of the node.
func (f family) anywhere() netip.Addr {
	if f == ipv6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// loopback is what a node port does not answer on.
func (f family) loopback() netip.Prefix {
	if f == ipv6 {
		return netip.MustParsePrefix("::1/128")
	}
	return netip.MustParsePrefix("127.0.0.0/8")
}

// protocol is the family's number among those of netfilter.
func (f family) protocol() byte {
	if f == ipv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func (f family) protocolText() string {
	if f == ipv6 {
		return "ipv6"
	}
	return "ipv4"
}

// is asks whether a packet is of the family.
func (f family) is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg(0)}, equal(reg(0), f.protocol())}
}

// sourceOffset is where the header has the source; the destination follows.
func (f family) sourceOffset() uint32 {
	if f == ipv6 {
		return 8
	}
	return 12
}

func (f family) source(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: f.sourceOffset(), Len: uint32(f.width())}
}

func (f family) destination(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: f.sourceOffset() + uint32(f.width()), Len: uint32(f.width())}
}

// within compares the address that load puts into the first registers with a prefix.
func (f family) within(load expr.Any, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return join(f.is(), load,
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: uint32(f.width()), Mask: maskOf(p), Xor: make([]byte, f.width())},
		&expr.Cmp{Op: op, Register: reg(0), Data: p.Masked().Addr().AsSlice()})
}

func (f family) destinationIs(p netip.Prefix) []expr.Any {
	return f.within(f.destination(reg(0)), p, expr.CmpOpEq)
}
func (f family) destinationIsNot(p netip.Prefix) []expr.Any {
	return f.within(f.destination(reg(0)), p, expr.CmpOpNeq)
}
func (f family) sourceIsNot(p netip.Prefix) []expr.Any {
	return f.within(f.source(reg(0)), p, expr.CmpOpNeq)
}

// blot wipes an address out.
func (f family) blot(register uint32) expr.Any {
	zero := make([]byte, f.width())
	return &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(f.width()), Mask: zero, Xor: zero}
}

// maskOf has the bits that all addresses of a range have in common.
func maskOf(p netip.Prefix) []byte {
	mask := make([]byte, p.Addr().BitLen()/8)
	for bit := range p.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	return mask
}
