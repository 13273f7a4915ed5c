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
type choices map[verdictMap][]choice

func choicesOf(elements []element) choices {
	seen := map[verdictMap]map[choice]bool{}
	for _, e := range elements {
		if (e.in == services || e.in == outsiders) && e.choice != refuse && e.choice != drop {
			m := verdictsOf(e.key)
			if seen[m] == nil {
				seen[m] = map[choice]bool{}
			}
			seen[m][e.choice] = true
		}
	}
	c := choices{}
	for m, ways := range seen {
		c[m] = slices.Sorted(maps.Keys(ways))
	}
	return c
}

// A verdictMap leads from a choice to the chain that makes it. Each family has two, for Services and for node ports, whose
// chains differ in what they make the keys of the other maps from.
type verdictMap struct {
	family   family
	nodePort bool
}

func verdictMaps(families []family) []verdictMap {
	var all []verdictMap
	for _, f := range families {
		all = append(all, verdictMap{f, false}, verdictMap{f, true})
	}
	return all
}

// verdictsOf returns the map with the chain for the choice of the frontend k.
func verdictsOf(k key) verdictMap { return verdictMap{familyOf(k.addr), k.addr.IsUnspecified()} }

func (m verdictMap) name() string {
	if m.nodePort {
		return m.family.named("nodepick")
	}
	return m.family.named("pick")
}

// front loads what a packet shows of its frontend into the first registers. For node ports the address is blotted out.
func (m verdictMap) front() (text string, load []expr.Any) {
	f, words := m.family, m.family.words()
	addr := f.header() + " daddr"
	load = []expr.Any{f.destination(reg(0))}
	if m.nodePort {
		addr += " & " + f.anywhere().String()
		load = append(load, f.blot(reg(0)))
	}
	return addr + " . meta l4proto . th dport", append(load, l4proto(reg(words)), port(reg(words+1)))
}

// behindFront is the register for the next part of a key.
func (f family) behindFront() uint32 { return reg(f.words() + 2) }

// A verdictElement says where packets with a choice go. No chain: they are dropped.
type verdictElement struct {
	choice choice
	chain  string
}

func (m verdictMap) chain(c choice) string { return fmt.Sprintf("%s-%s", m.name(), c) }

// elements returns those of the map, in order: refuse first, drop last.
func (m verdictMap) elements(c choices) []verdictElement {
	es := []verdictElement{{refuse, "refuse"}}
	for _, way := range c[m] {
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
	families := c.families()
	all := []chain{refuseChain()}
	for _, m := range verdictMaps(families) {
		for _, way := range in[m] {
			all = append(all, pickChain(m, way))
		}
	}
	prerouting := chain{name: "prerouting", hook: "type nat hook prerouting priority -100;"}
	output := chain{name: "output", hook: "type nat hook output priority -100;"}
	postrouting := chain{name: "postrouting", hook: "type nat hook postrouting priority 100;", rules: []rule{masqueradeMarked()}}
	late := chain{name: "late", hook: "type filter hook postrouting priority 150;"}
	for _, f := range families {
		all = append(all, servicesChain(c, f), outsidersChain(f))
		prerouting.rules = append(prerouting.rules, keepOut(c, f), guard(f), jumpOutsiders(c, f), jumpServices(f))
		output.rules = append(output.rules, guard(f), jumpServices(f))
		postrouting.rules = append(postrouting.rules, masqueradeHairpin(f))
		late.rules = append(late.rules, translateLate(f))
	}
	return append(append(all, prerouting, output, postrouting, late), policyChains(families)...)
}

// servicesChain finds the frontend that a packet is for. A packet may look into one map before a commit and into the next
// one after it: it then finds no verdict for the number, and the second look finds the new state whole.
func servicesChain(c Config, f family) chain {
	ch := chain{name: f.named("services")}
	for _, addr := range c.LocalAddresses {
		if familyOf(addr) == f {
			ch.rules = append(ch.rules, rule{fmt.Sprintf("%s daddr %s accept", f.header(), addr),
				join(f.destinationIs(netip.PrefixFrom(addr, addr.BitLen())), &expr.Verdict{Kind: expr.VerdictAccept})})
		}
	}
	ch.rules = append(ch.rules, lookupService(f, services), lookupService(f, services))
	text, inRange := f.toService()
	ch.rules = append(ch.rules, rule{text + " goto refuse", join(inRange, gotoChain("refuse"))})
	ch.rules = append(ch.rules, lookupNodePort(f, services), lookupNodePort(f, services))
	return ch
}

// outsidersChain is for clients that are neither on the node nor in a pod, before servicesChain: some Services have endpoints
// of their own for them.
func outsidersChain(f family) chain {
	return chain{name: f.named("outsiders"), rules: []rule{
		lookupService(f, outsiders), lookupService(f, outsiders), lookupNodePort(f, outsiders), lookupNodePort(f, outsiders),
	}}
}

// keepOut drops what comes for a cluster address from outside, where it means nothing.
func keepOut(c Config, f family) rule {
	pods := f.rangeOf(c.ClusterCIDR)
	text, inRange := f.toService()
	return rule{
		fmt.Sprintf("%s %s saddr != %s drop", text, f.header(), pods),
		join(inRange, f.sourceIsNot(pods), &expr.Verdict{Kind: expr.VerdictDrop}),
	}
}

// toService asks whether a packet is for a cluster address, be it one that a Service has or not.
func (f family) toService() (text string, ask []expr.Any) {
	in := serviceRange.named(f)
	return fmt.Sprintf("%s daddr @%s", f.header(), in), join(f.is(), f.destination(reg(0)), isIn(in))
}

// guard drops what comes for a guarded frontend from a range that is not allowed. The number that it leaves in the mark is not
// there for long: a guarded frontend has a choice.
func guard(f family) rule {
	front, load := verdictMap{family: f}.front()
	guarded, allowed := guarded.named(f), allowed.named(f)
	return rule{
		fmt.Sprintf("meta mark set %s map @%s meta mark . %s saddr != @%s drop", front, guarded, f.header(), allowed),
		join(f.is(), load, lookup(guarded), &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: result()},
			&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)}, f.source(reg(1)), isNotIn(allowed), &expr.Verdict{Kind: expr.VerdictDrop}),
	}
}

// lookupService goes where the maps say for the packet's address and port.
func lookupService(f family, in mapKind) rule {
	m := verdictMap{family: f}
	front, load := m.front()
	return rule{
		fmt.Sprintf("meta mark set %s map @%s meta mark vmap @%s", front, in.named(f), m.name()),
		join(f.is(), load, lookup(in.named(f)), vmap(m.name())),
	}
}

func lookupNodePort(f family, in mapKind) rule {
	m := verdictMap{family: f, nodePort: true}
	front, load := m.front()
	return rule{
		fmt.Sprintf("fib daddr type local %s daddr != %s meta mark set %s map @%s meta mark vmap @%s", f.header(), prefixText(f.loopback()), front, in.named(f), m.name()),
		join(isLocal(), f.destinationIsNot(f.loopback()), load, lookup(in.named(f)), vmap(m.name())),
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
	f := m.family
	first, n := c.slots()
	front, load := m.front()
	for _, count := range []uint32{n, 1} {
		text, draw := numgen(f.behindFront(), count, first)
		ch.rules = append(ch.rules, rule{
			fmt.Sprintf("dnat %s to %s . %s map @%s", f.header(), front, text, endpoints.named(f)),
			join(f.is(), load, draw, lookup(endpoints.named(f)), dnat(f)),
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

// dnat translates to the address and port that were looked up.
func dnat(f family) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.protocol()), RegAddrMin: result(), RegProtoMin: result() + f.words()}
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
func masqueradeHairpin(f family) rule {
	return rule{fmt.Sprintf("%[1]s saddr . %[1]s daddr @%[2]s masquerade fully-random", f.header(), hairpin.named(f)),
		join(f.is(), f.source(reg(0)), f.destination(reg(f.words())), isIn(hairpin.named(f)), &expr.Masq{FullyRandom: true})}
}

func jumpOutsiders(c Config, f family) rule {
	pods, name := f.rangeOf(c.ClusterCIDR), f.named("outsiders")
	return rule{fmt.Sprintf("%s saddr != %s jump %s", f.header(), pods, name),
		join(f.sourceIsNot(pods), &expr.Verdict{Kind: expr.VerdictJump, Chain: name})}
}

func jumpServices(f family) rule {
	name := f.named("services")
	return rule{fmt.Sprintf("meta nfproto %s jump %s", f.protocolText(), name), join(f.is(), &expr.Verdict{Kind: expr.VerdictJump, Chain: name})}
}
