package proxy

import (
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The rules of NetworkPolicies see what the node forwards, after Services are translated: a pod's connections to other pods and to
// the world, and theirs to it. What goes between the pod and its own node, probes among it, is not forwarded, and never limited.
// Packets of a connection that was let through, and their answers, end at the first rule.
//
// The numbers travel from map to map as the connection's mark and the packet's priority, of which only the first packet of a
// limited pod's connection sees anything. The packet's own mark stays as it is: it says what is to be masqueraded.

func policyChains(families []family) []chain {
	all := []chain{settledChain()}
	for _, f := range families {
		all = append(all, limitChain(f, outgoing), limitChain(f, incoming))
	}
	return append(all, forwardChain(families))
}

// forwardChain asks the policies of both ends. The address of a pod that has just come, and that the proxy has not heard of yet, gets
// nothing through where there are policies: it might be limited.
func forwardChain(families []family) chain {
	ch := chain{name: "forward", hook: "type filter hook forward priority 0;", rules: []rule{established()}}
	for _, f := range families {
		if f == ipv6 {
			ch.rules = append(ch.rules, neighbourDiscovery())
		}
		own, other := f.sideOf(outgoing), f.sideOf(incoming)
		ch.rules = append(ch.rules, dropUnknown(f, own), dropUnknown(f, other), limit(f, own, outgoing), limit(f, other, incoming))
	}
	return ch
}

// A side of a packet is one of its addresses.
type side struct {
	text string
	load func(to uint32) expr.Any
}

// sideOf returns the side of the pod that is limited in a direction.
func (f family) sideOf(d direction) side {
	if d == outgoing {
		return side{f.header() + " saddr", f.source}
	}
	return side{f.header() + " daddr", f.destination}
}

// limitsOf names the map with the pods that are limited in a direction, and the chain with the rules for them.
func limitsOf(f family, d direction) (in, chain string) {
	if d == outgoing {
		return egress.named(f), f.named("outgoing")
	}
	return ingress.named(f), f.named("incoming")
}

func limit(f family, pod side, d direction) rule {
	in, chain := limitsOf(f, d)
	return rule{fmt.Sprintf("ct mark set %s map @%s jump %s", pod.text, in, chain),
		join(f.is(), pod.load(reg(0)), lookup(in), setConnectionMark(result()), &expr.Verdict{Kind: expr.VerdictJump, Chain: chain})}
}

// limitChain drops what no rule of the group in the connection's mark lets through. A packet that looked into some maps before a
// commit and into others after it looks a second time.
func limitChain(f family, d direction) chain {
	in, name := limitsOf(f, d)
	pod, peer := f.sideOf(d), f.sideOf(1-d)
	again := rule{fmt.Sprintf("ct mark set %s map @%s", pod.text, in),
		join(f.is(), pod.load(reg(0)), lookup(in), setConnectionMark(result()))}
	look := []rule{noPriority(), findPeer(f, peer, blocks), findPeer(f, peer, peers), permitPair(), permitAnyone()}
	ch := chain{name: name, rules: []rule{toItself(f)}}
	ch.rules = append(ch.rules, look...)
	ch.rules = append(append(ch.rules, again), look...)
	ch.rules = append(ch.rules, rule{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}})
	return ch
}

// settledChain is where a direction that is let through ends. It wipes the numbers away.
func settledChain() chain {
	return chain{name: "settled", rules: []rule{noPriority(), {"ct mark set 0x0", []expr.Any{
		&expr.Immediate{Register: reg(0), Data: native(0)}, setConnectionMark(reg(0))}}}}
}

func established() rule {
	return rule{"ct state established,related accept",
		join(connectionIs(establishedConnection|relatedConnection), &expr.Verdict{Kind: expr.VerdictAccept})}
}

// neighbourDiscovery lets through what machines on one link ask each other before they can send anything, which is forwarded where
// plug-ins join pods by a bridge. What a router passes on is none: its hop limit is lower than that of RFC 4861 by then, whatever it
// was when it was sent.
func neighbourDiscovery() rule {
	return rule{fmt.Sprintf("ip6 hoplimit %d icmpv6 type %d-%d accept", onLink, routerSolicitation, redirect), join(
		ipv6.is(), hopLimit(reg(0)), equal(reg(0), onLink),
		l4proto(reg(0)), equal(reg(0), unix.IPPROTO_ICMPV6),
		icmpType(reg(0)), &expr.Cmp{Op: expr.CmpOpGte, Register: reg(0), Data: []byte{routerSolicitation}},
		icmpType(reg(0)), &expr.Cmp{Op: expr.CmpOpLte, Register: reg(0), Data: []byte{redirect}},
		&expr.Verdict{Kind: expr.VerdictAccept})}
}

// The first and the last type of neighbour discovery, and the hop limit by which it is known not to have left its link: RFC 4861.
const (
	routerSolicitation = 133
	redirect           = 137
	onLink             = 255
)

func hopLimit(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseNetworkHeader, Offset: 7, Len: 1}
}

func icmpType(to uint32) expr.Any {
	return &expr.Payload{DestRegister: to, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}
}

func dropUnknown(f family, pod side) rule {
	return rule{fmt.Sprintf("%[1]s @%[2]s %[1]s != @%[3]s drop", pod.text, ownRange.named(f), known.named(f)), join(f.is(),
		pod.load(reg(0)), isIn(ownRange.named(f)), pod.load(reg(0)), isNotIn(known.named(f)), &expr.Verdict{Kind: expr.VerdictDrop})}
}

// toItself is for a pod that reaches itself through a Service, which no policy can forbid.
func toItself(f family) rule {
	return rule{fmt.Sprintf("%[1]s saddr . %[1]s daddr @%[2]s goto settled", f.header(), hairpin.named(f)),
		join(f.is(), f.source(reg(0)), f.destination(reg(f.words())), isIn(hairpin.named(f)), gotoChain("settled"))}
}

func noPriority() rule {
	return rule{"meta priority set none", []expr.Any{&expr.Immediate{Register: reg(0), Data: native(0)}, setPriority(reg(0))}}
}

func findPeer(f family, peer side, in mapKind) rule {
	return rule{fmt.Sprintf("meta priority set %s map @%s", peer.text, in.named(f)),
		join(f.is(), peer.load(reg(0)), lookup(in.named(f)), setPriority(result()))}
}

func permitPair() rule {
	text, exprs := permit()
	return rule{fmt.Sprintf("meta priority set ct mark . meta priority map @%s %s", pairs, text),
		join(connectionMark(reg(0)), priority(reg(1)), lookup(pairs.String()), setPriority(result()), exprs)}
}

func permitAnyone() rule {
	text, exprs := permit()
	return rule{fmt.Sprintf("meta priority set ct mark map @%s %s", anyone, text),
		join(connectionMark(reg(0)), lookup(anyone.String()), setPriority(result()), exprs)}
}

// permit lets a packet through whose port is one of the permit in its priority.
func permit() (text string, exprs []expr.Any) {
	return fmt.Sprintf("meta priority . meta l4proto . th dport @%s goto settled", permits),
		join(priority(reg(0)), l4proto(reg(1)), port(reg(2)), isIn(permits.String()), gotoChain("settled"))
}

func connectionMark(to uint32) expr.Any { return &expr.Ct{Key: unix.NFT_CT_MARK, Register: to} }

func setConnectionMark(from uint32) expr.Any {
	return &expr.Ct{Key: unix.NFT_CT_MARK, SourceRegister: true, Register: from}
}
