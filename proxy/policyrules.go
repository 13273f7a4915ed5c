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

// forwardChain asks the policies of both ends. The address of a pod that has just come, and that the proxy has not heard of yet, gets
// nothing through where there are policies: it might be limited.
func forwardChain() chain {
	own, other := source, destination
	limits := func(d direction, addr string, load func(uint32) expr.Any) rule {
		in, chain := limitsOf(d)
		return rule{fmt.Sprintf("ct mark set %s map @%s jump %s", addr, in, chain),
			join(isIPv4(), load(reg(0)), lookup(in, reg(0), reg(8)), setConnectionMark(reg(8)), &expr.Verdict{Kind: expr.VerdictJump, Chain: chain})}
	}
	return chain{name: "forward", hook: "type filter hook forward priority 0;", rules: []rule{
		established(), dropUnknown("ip saddr", own), dropUnknown("ip daddr", other),
		limits(outgoing, "ip saddr", own), limits(incoming, "ip daddr", other),
	}}
}

// limitsOf names the map with the pods that are limited in a direction, and the chain with the rules for them.
func limitsOf(d direction) (in, chain string) {
	if d == outgoing {
		return egress, "outgoing"
	}
	return ingress, "incoming"
}

// limitChain drops what no rule of the group in the connection's mark lets through. A packet that looked into some maps before a
// commit and into others after it looks a second time.
func limitChain(d direction) chain {
	in, name := limitsOf(d)
	pod, peer, loadPod, loadPeer := "ip daddr", "ip saddr", destination, source
	if d == outgoing {
		pod, peer, loadPod, loadPeer = peer, pod, loadPeer, loadPod
	}
	again := rule{fmt.Sprintf("ct mark set %s map @%s", pod, in),
		join(isIPv4(), loadPod(reg(0)), lookup(in, reg(0), reg(8)), setConnectionMark(reg(8)))}
	look := []rule{noPriority(), findPeer(peer, loadPeer, blocks), findPeer(peer, loadPeer, peers), permitPair(), permitAnyone()}
	ch := chain{name: name, rules: []rule{toItself()}}
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

func dropUnknown(addr string, load func(uint32) expr.Any) rule {
	return rule{fmt.Sprintf("%s @%s %s != @%s drop", addr, ownRange, addr, known), join(isIPv4(),
		load(reg(0)), &expr.Lookup{SourceRegister: reg(0), SetName: ownRange},
		load(reg(0)), &expr.Lookup{SourceRegister: reg(0), SetName: known, Invert: true}, &expr.Verdict{Kind: expr.VerdictDrop})}
}

// toItself is for a pod that reaches itself through a Service, which no policy can forbid.
func toItself() rule {
	return rule{fmt.Sprintf("ip saddr . ip daddr @%s goto settled", hairpin), join(isIPv4(), source(reg(0)), destination(reg(1)),
		&expr.Lookup{SourceRegister: reg(0), SetName: hairpin}, gotoChain("settled"))}
}

func noPriority() rule {
	return rule{"meta priority set none", []expr.Any{&expr.Immediate{Register: reg(0), Data: native(0)}, setPriority(reg(0))}}
}

func findPeer(addr string, load func(uint32) expr.Any, in string) rule {
	return rule{fmt.Sprintf("meta priority set %s map @%s", addr, in),
		join(isIPv4(), load(reg(0)), lookup(in, reg(0), reg(8)), setPriority(reg(8)))}
}

func permitPair() rule {
	text, exprs := permit()
	return rule{fmt.Sprintf("meta priority set ct mark . meta priority map @%s %s", pairs, text),
		join(connectionMark(reg(0)), priority(reg(1)), lookup(pairs, reg(0), reg(8)), setPriority(reg(8)), exprs)}
}

func permitAnyone() rule {
	text, exprs := permit()
	return rule{fmt.Sprintf("meta priority set ct mark map @%s %s", anyone, text),
		join(connectionMark(reg(0)), lookup(anyone, reg(0), reg(8)), setPriority(reg(8)), exprs)}
}

// permit lets a packet through whose port is one of the permit in its priority.
func permit() (text string, exprs []expr.Any) {
	return fmt.Sprintf("meta priority . meta l4proto . th dport @%s goto settled", permits),
		join(priority(reg(0)), l4proto(reg(1)), port(reg(2)), &expr.Lookup{SourceRegister: reg(0), SetName: permits}, gotoChain("settled"))
}

func connectionMark(to uint32) expr.Any { return &expr.Ct{Key: unix.NFT_CT_MARK, Register: to} }

func setConnectionMark(from uint32) expr.Any {
	return &expr.Ct{Key: unix.NFT_CT_MARK, SourceRegister: true, Register: from}
}
