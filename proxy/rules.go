package proxy

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A chain is a list of rules. One with a hook sees packets by itself, the others are jumped to.
type chain struct {
	name  string
	hook  string // As nft writes it, or empty.
	rules []rule
}

// A rule is one line in nft's language and the same as the kernel's expressions: what `nft list` shows is the text.
type rule struct {
	text  string
	exprs []expr.Any
}

// masqueradeMark is set on packets whose source must become the node's. It is the bit that kube-proxy uses too.
const masqueradeMark = 0x4000

// counts holds, for each verdict map, the numbers of endpoints in use, ascending. A chain is there for each: the number of
// rules depends on how many sizes of Service there are, not on how many Services.
type counts map[string][]uint32

func countsOf(elements map[key]value) counts {
	seen := map[string]map[uint32]bool{pickService: {}, pickNodePort: {}}
	for k, v := range elements {
		if in := verdictsOf(k.in); in != "" && v.count != 0 && v.count != dropCount {
			seen[in][v.count] = true
		}
	}
	c := counts{}
	for in, numbers := range seen {
		c[in] = slices.Sorted(maps.Keys(numbers))
	}
	return c
}

// The maps from a number of endpoints to the chain that picks one of so many.
const (
	pickService  = "pick4"
	pickNodePort = "nodepick4"
)

// verdictsOf names the verdict map for the numbers in the map in, or "" if it holds none.
func verdictsOf(in string) string {
	switch in {
	case services:
		return pickService
	case nodePorts:
		return pickNodePort
	}
	return ""
}

type verdictMap struct{ name string }

func verdictMaps() []verdictMap { return []verdictMap{{pickService}, {pickNodePort}} }

// A verdictElement says where packets for so many endpoints go. No chain: they are dropped.
type verdictElement struct {
	count uint32
	chain string
}

func (m verdictMap) chain(count uint32) string { return fmt.Sprintf("%s-%d", m.name, count) }

// elements returns those of the map, in order: refuse first, drop last.
func (m verdictMap) elements(c counts) []verdictElement {
	es := []verdictElement{{0, "refuse"}}
	for _, n := range c[m.name] {
		es = append(es, verdictElement{n, m.chain(n)})
	}
	return append(es, verdictElement{count: dropCount})
}

func (e verdictElement) verdictText() string {
	if e.chain == "" {
		return "drop"
	}
	return "goto " + e.chain
}

// chains returns all chains, each after those that it jumps to.
func chains(c Config, in counts) []chain {
	all := []chain{refuseChain()}
	for _, m := range verdictMaps() {
		for _, n := range in[m.name] {
			all = append(all, pickChain(m, n))
		}
	}
	return append(all, servicesChain(c),
		chain{name: "prerouting", hook: "type nat hook prerouting priority -100;", rules: []rule{outside(c), jump("services")}},
		chain{name: "output", hook: "type nat hook output priority -100;", rules: []rule{jump("services")}},
		chain{name: "postrouting", hook: "type nat hook postrouting priority 100;", rules: []rule{masqueradeMarked(), masqueradeHairpin()}},
	)
}

// servicesChain finds the frontend that a packet is for. A packet may look into one map before a commit and into the next
// one after it: it then finds no verdict for the number, and the second look finds the new state whole.
func servicesChain(c Config) chain {
	ch := chain{name: "services"}
	for _, addr := range c.LocalAddresses {
		ch.rules = append(ch.rules, rule{fmt.Sprintf("ip daddr %s accept", addr),
			join(destinationIs(netip.PrefixFrom(addr, addr.BitLen())), &expr.Verdict{Kind: expr.VerdictAccept})})
	}
	ch.rules = append(ch.rules, lookupService(), lookupService(),
		rule{fmt.Sprintf("ip daddr %s goto refuse", c.ServiceCIDR), join(destinationIs(c.ServiceCIDR), gotoChain("refuse"))},
		lookupNodePort(), lookupNodePort())
	return ch
}

// outside keeps those out who are neither on the node nor in a pod: a cluster address means nothing to them.
func outside(c Config) rule {
	return rule{
		fmt.Sprintf("ip daddr %s ip saddr != %s drop", c.ServiceCIDR, c.ClusterCIDR),
		join(destinationIs(c.ServiceCIDR), sourceIsNot(c.ClusterCIDR), &expr.Verdict{Kind: expr.VerdictDrop}),
	}
}

// lookupService goes where the maps say for the packet's address and port.
func lookupService() rule {
	return rule{
		"meta mark set ip daddr . meta l4proto . th dport map @services4 meta mark vmap @pick4",
		join(isIPv4(), destination(reg(0)), l4proto(reg(1)), port(reg(2)), lookup(services, reg(0), reg(8)), vmap(pickService, reg(8))),
	}
}

func lookupNodePort() rule {
	return rule{
		"fib daddr type local ip daddr != 127.0.0.0/8 meta mark set meta l4proto . th dport map @nodeports4 meta mark vmap @nodepick4",
		join(isLocal(), isIPv4(), destinationIsNot(netip.MustParsePrefix("127.0.0.0/8")),
			l4proto(reg(0)), port(reg(1)), lookup(nodePorts, reg(0), reg(8)), vmap(pickNodePort, reg(8))),
	}
}

// pickChain sends the packet to one of n endpoints. A packet that got its number before a commit that left fewer finds
// slot 0 instead; where there is no endpoint any more it is dropped, and its sender tries again.
func pickChain(m verdictMap, n uint32) chain {
	ch := chain{name: m.chain(n), rules: []rule{mark(0)}}
	keyText, load := "ip daddr . meta l4proto . th dport", join(isIPv4(), destination(reg(0)), l4proto(reg(1)), port(reg(2)))
	slots, slot := endpoints, reg(3)
	if m.name == pickNodePort {
		keyText, load = "meta l4proto . th dport", join(l4proto(reg(0)), port(reg(1)))
		slots, slot = nodeSlots, reg(2)
		// The endpoint may be on another node, and must answer by way of this one.
		ch.rules = []rule{mark(masqueradeMark)}
	}
	for _, mod := range []uint32{n, 1} {
		ch.rules = append(ch.rules, rule{
			fmt.Sprintf("dnat ip to %s . numgen random mod %d map @%s", keyText, mod, slots),
			join(load, &expr.Numgen{Register: slot, Modulus: mod, Type: unix.NFT_NG_RANDOM}, lookup(slots, reg(0), reg(8)),
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: reg(8), RegProtoMin: reg(9)}),
		})
	}
	ch.rules = append(ch.rules, rule{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	return ch
}

// refuseChain answers at once, so that a client need not wait for its time-out.
func refuseChain() chain {
	return chain{name: "refuse", rules: []rule{
		{"meta l4proto tcp reject with tcp reset", join(l4proto(reg(0)), equal(reg(0), byte(tcp)), &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})},
		{"reject with icmpx port-unreachable", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}},
	}}
}

// mark sets the packet's mark to m, in place of the number of endpoints: a routing rule of the host might mean that.
func mark(m uint32) rule {
	return rule{fmt.Sprintf("meta mark set %#x", m), []expr.Any{
		&expr.Immediate{Register: reg(0), Data: native(m)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg(0)},
	}}
}

func masqueradeMarked() rule {
	return rule{fmt.Sprintf("meta mark & %#x == %#x masquerade fully-random", masqueradeMark, masqueradeMark), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: native(masqueradeMark), Xor: native(0)},
		equal(reg(0), native(masqueradeMark)...),
		&expr.Masq{FullyRandom: true},
	}}
}

// masqueradeHairpin is for a pod that reaches itself: it would take an answer from its own address for its own packet.
func masqueradeHairpin() rule {
	return rule{"ip saddr . ip daddr @hairpin4 masquerade fully-random", join(isIPv4(), source(reg(0)), destination(reg(1)),
		&expr.Lookup{SourceRegister: reg(0), SetName: hairpin}, &expr.Masq{FullyRandom: true})}
}

func jump(name string) rule {
	return rule{"jump " + name, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}}}
}

// Below: the pieces of rules as expressions.

// reg numbers the 4-byte registers, 0 to 15.
func reg(n uint32) uint32 { return unix.NFT_REG32_00 + n }

func native(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// join makes one list of expressions and lists of them.
func join(parts ...any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		switch part := part.(type) {
		case []expr.Any:
			all = append(all, part...)
		case expr.Any:
			all = append(all, part)
		}
	}
	return all
}

func isIPv4() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg(0)}, equal(reg(0), unix.NFPROTO_IPV4)}
}

// isLocal asks the routing table whether the destination is the node itself.
func isLocal() []expr.Any {
	return []expr.Any{&expr.Fib{Register: reg(0), FlagDADDR: true, ResultADDRTYPE: true}, equal(reg(0), native(unix.RTN_LOCAL)...)}
}

func source(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

func destination(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
}

// port loads the destination port, at the same place in TCP, UDP and SCTP.
func port(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

func l4proto(to uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: to} }

func equal(register uint32, data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
}

func destinationIs(p netip.Prefix) []expr.Any { return within(destination(reg(0)), p, expr.CmpOpEq) }
func destinationIsNot(p netip.Prefix) []expr.Any {
	return within(destination(reg(0)), p, expr.CmpOpNeq)
}
func sourceIsNot(p netip.Prefix) []expr.Any { return within(source(reg(0)), p, expr.CmpOpNeq) }

// within compares the address that load puts into register 0 with a prefix.
func within(load expr.Any, p netip.Prefix, op expr.CmpOp) []expr.Any {
	var mask [4]byte
	binary.BigEndian.PutUint32(mask[:], ^uint32(0)<<(32-p.Bits()))
	return join(isIPv4(), load,
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: mask[:], Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: reg(0), Data: p.Masked().Addr().AsSlice()})
}

func lookup(in string, from, to uint32) expr.Any {
	return &expr.Lookup{SourceRegister: from, DestRegister: to, IsDestRegSet: true, SetName: in}
}

// vmap goes where the map in says for the number in register from. The number takes the way over the packet's mark, which pickChain
// sets right again. A register alone would do for the kernel, but nft's language has no words for that, and nft 1.0.6 crashes when
// it is to list such a rule.
func vmap(in string, from uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: from},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: from},
		&expr.Lookup{SourceRegister: from, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: in},
	}
}

func gotoChain(name string) expr.Any { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: name} }
