package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

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

// choices holds, for each verdict map, the choices in use, ascending.
type choices map[string][]choice

func choicesOf(elements map[key]value) choices {
	seen := map[string]map[choice]bool{pickService: {}, pickNodePort: {}}
	for k, v := range elements {
		if (k.in == services || k.in == outsiders) && v.choice != refuse && v.choice != drop {
			seen[verdictsOf(k).name][v.choice] = true
		}
	}
	c := choices{}
	for in, numbers := range seen {
		c[in] = slices.Sorted(maps.Keys(numbers))
	}
	return c
}

// The maps from a choice to the chain that makes it.
const (
	pickService  = "pick4"
	pickNodePort = "nodepick4"
)

// A verdictMap is one of these two. Their chains differ in what they make the keys of the other maps from.
type verdictMap struct{ name string }

func verdictMaps() []verdictMap { return []verdictMap{{pickService}, {pickNodePort}} }

// verdictsOf returns the map with the chain for the choice of the frontend k.
func verdictsOf(k key) verdictMap {
	if k.addr.IsUnspecified() {
		return verdictMap{pickNodePort}
	}
	return verdictMap{pickService}
}

// front is what a packet shows of its frontend, in registers from first to first+2. For node ports the address is blotted out.
func (m verdictMap) front(first uint32) (text string, load []expr.Any) {
	load = join(destination(reg(first)), l4proto(reg(first+1)), port(reg(first+2)))
	if m.name == pickNodePort {
		zero := native(0)
		blot := &expr.Bitwise{SourceRegister: reg(first), DestRegister: reg(first), Len: 4, Mask: zero, Xor: zero}
		return "ip daddr & 0.0.0.0 . meta l4proto . th dport", slices.Insert(load, 1, expr.Any(blot))
	}
	return "ip daddr . meta l4proto . th dport", load
}

// A verdictElement says where packets with a choice go. No chain: they are dropped.
type verdictElement struct {
	choice choice
	chain  string
}

func (m verdictMap) chain(c choice) string { return fmt.Sprintf("%s-%s", m.name, c) }

// elements returns those of the map, in order: refuse first, drop last.
func (m verdictMap) elements(c choices) []verdictElement {
	es := []verdictElement{{refuse, "refuse"}}
	for _, way := range c[m.name] {
		es = append(es, verdictElement{way, m.chain(way)})
	}
	return append(es, verdictElement{choice: drop})
}

func (e verdictElement) verdictText() string {
	if e.chain == "" {
		return "drop"
	}
	return "goto " + e.chain
}

// chains returns all chains, each after those that it jumps to.
func chains(c Config, in choices) []chain {
	all := []chain{refuseChain()}
	for _, m := range verdictMaps() {
		for _, way := range in[m.name] {
			all = append(all, pickChain(m, way))
		}
	}
	return append(all, servicesChain(c), outsidersChain(),
		chain{name: "prerouting", hook: "type nat hook prerouting priority -100;", rules: []rule{
			keepOut(c), guard(), jumpOutsiders(c), jump("services")}},
		chain{name: "output", hook: "type nat hook output priority -100;", rules: []rule{guard(), jump("services")}},
		chain{name: "postrouting", hook: "type nat hook postrouting priority 100;", rules: []rule{masqueradeMarked(), masqueradeHairpin()}},
		lateChain(), settledChain(), limitChain(outgoing), limitChain(incoming), forwardChain(),
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
	ch.rules = append(ch.rules, lookupService(services), lookupService(services),
		rule{fmt.Sprintf("ip daddr %s goto refuse", c.ServiceCIDR), join(destinationIs(c.ServiceCIDR), gotoChain("refuse"))},
		lookupNodePort(services), lookupNodePort(services))
	return ch
}

// outsidersChain is for clients that are neither on the node nor in a pod, before servicesChain: some Services have endpoints
// of their own for them.
func outsidersChain() chain {
	return chain{name: outsiders, rules: []rule{
		lookupService(outsiders), lookupService(outsiders), lookupNodePort(outsiders), lookupNodePort(outsiders),
	}}
}

// keepOut drops what comes for a cluster address from outside, where it means nothing.
func keepOut(c Config) rule {
	return rule{
		fmt.Sprintf("ip daddr %s ip saddr != %s drop", c.ServiceCIDR, c.ClusterCIDR),
		join(destinationIs(c.ServiceCIDR), sourceIsNot(c.ClusterCIDR), &expr.Verdict{Kind: expr.VerdictDrop}),
	}
}

// guard drops what comes for a guarded frontend from a range that is not allowed. The number that it leaves in the mark is not
// there for long: a guarded frontend has a choice.
func guard() rule {
	front, load := verdictMap{pickService}.front(0)
	return rule{
		fmt.Sprintf("meta mark set %s map @%s meta mark . ip saddr != @%s drop", front, guarded, allowed),
		join(isIPv4(), load, lookup(guarded, reg(0), reg(8)), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg(8)},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)}, source(reg(1)),
			&expr.Lookup{SourceRegister: reg(0), SetName: allowed, Invert: true}, &expr.Verdict{Kind: expr.VerdictDrop}),
	}
}

// lookupService goes where the maps say for the packet's address and port.
func lookupService(in string) rule {
	m := verdictMap{pickService}
	front, load := m.front(0)
	return rule{
		fmt.Sprintf("meta mark set %s map @%s meta mark vmap @%s", front, in, m.name),
		join(isIPv4(), load, lookup(in, reg(0), reg(8)), vmap(m.name, reg(8))),
	}
}

func lookupNodePort(in string) rule {
	m := verdictMap{pickNodePort}
	front, load := m.front(0)
	return rule{
		fmt.Sprintf("fib daddr type local ip daddr != 127.0.0.0/8 meta mark set %s map @%s meta mark vmap @%s", front, in, m.name),
		join(isLocal(), isIPv4(), destinationIsNot(netip.MustParsePrefix("127.0.0.0/8")), load, lookup(in, reg(0), reg(8)), vmap(m.name, reg(8))),
	}
}

// pickChain sends the packet to one of the endpoints of the choice. A packet that got its number before a commit that left fewer
// finds the first slot instead; where there is no endpoint any more it is dropped, and its sender tries again.
func pickChain(m verdictMap, c choice) chain {
	ch := chain{name: m.chain(c), rules: []rule{mark(0)}}
	if c.kind() == kindMasquerade {
		ch.rules = []rule{mark(masqueradeMark)}
	}
	if c.sticky() > 0 {
		ch.rules = append(ch.rules, stickyRules(m, c)...)
	}
	first, n := c.slots()
	front, load := m.front(0)
	for _, count := range []uint32{n, 1} {
		text, draw := numgen(reg(3), count, first)
		ch.rules = append(ch.rules, rule{
			fmt.Sprintf("dnat ip to %s . %s map @%s", front, text, endpoints),
			join(isIPv4(), load, draw, lookup(endpoints, reg(0), reg(8)), dnat(reg(8))),
		})
	}
	ch.rules = append(ch.rules, rule{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	return ch
}

func numgen(to, count, first uint32) (text string, draw expr.Any) {
	text = fmt.Sprintf("numgen random mod %d", count)
	if first > 0 {
		text += fmt.Sprintf(" offset %d", first)
	}
	return text, &expr.Numgen{Register: to, Modulus: count, Type: unix.NFT_NG_RANDOM, Offset: first}
}

func dnat(from uint32) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: from, RegProtoMin: from + 1}
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

func jumpOutsiders(c Config) rule {
	return rule{fmt.Sprintf("ip saddr != %s jump %s", c.ClusterCIDR, outsiders),
		join(sourceIsNot(c.ClusterCIDR), &expr.Verdict{Kind: expr.VerdictJump, Chain: outsiders})}
}

func jump(name string) rule {
	return rule{"jump " + name, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: name}}}
}
