package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tableName is the nft table of this package, one of each family. They are replaced whole, in one transaction.
const tableName = "skiff_network"

// removeRules removes the tables of both families.
func (n *Network) removeRules() error {
	return errors.Join(removeTable(netlink.FAMILY_V4), removeTable(netlink.FAMILY_V6))
}

func removeTable(version int) error {
	conn := &nftables.Conn{}
	conn.DelTable(table(version))
	err := conn.Flush()
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) { // A kernel without IPv6.
		return fmt.Errorf("remove nft table %s: %w", tableName, err)
	}
	return nil
}

func table(version int) *nftables.Table {
	if version == netlink.FAMILY_V6 {
		return &nftables.Table{Family: nftables.TableFamilyIPv6, Name: tableName}
	}
	return &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
}

// writeRules writes the tables. That of IPv4 is, in nft's language,
//
//	table ip skiff_network {
//		set services {
//			type ipv4_addr; flags interval; elements = { SERVICES, ... }
//		}
//		chain prerouting {
//			type nat hook prerouting priority -90; policy accept;
//			ip daddr @services fib daddr type != local goto refuse
//		}
//		chain output {
//			type nat hook output priority -90; policy accept;
//			ip daddr @services fib daddr type != local goto refuse
//		}
//		chain refuse {
//			meta l4proto tcp reject with tcp reset
//			reject with icmp type port-unreachable
//		}
//		chain postrouting {
//			type nat hook postrouting priority srcnat; policy accept;
//			ip saddr PODS ip daddr != CLUSTER ip daddr != SERVICES masquerade
//		}
//		chain untracked-prerouting {
//			type filter hook prerouting priority raw; policy accept;
//			ip daddr LOCAL meta l4proto { tcp, udp } th dport 53 notrack
//		}
//		chain untracked-output {
//			type filter hook output priority raw; policy accept;
//			ip daddr LOCAL meta l4proto { tcp, udp } th dport 53 notrack
//			ip saddr LOCAL meta l4proto { tcp, udp } th sport 53 notrack
//		}
//	}
//
// That of IPv6 says ip6 and icmpv6 instead, and has a chain more, for what in IPv4 is the parameter rp_filter:
//
//	chain forged {
//		type filter hook prerouting priority raw; policy accept;
//		iifgroup PODS fib saddr . iif oif 0 drop
//	}
//
// The proxy's chains have priority -100. Once they have translated a connection, the kernel asks no later nat chain.
//
// (A rule for each protocol, where nft would make a set.) Questions to the node's own DNS and their answers are not
// translated, so that there is no need to track them either: a busy pod would fill the table of connections, and two
// questions from one socket would race for one entry there, which costs the loser its packet and the pod five seconds.
func (n *Network) writeRules() error {
	for _, version := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		if n.config.has(version) {
			continue
		}
		if err := removeTable(version); err != nil { // Of an earlier configuration.
			return err
		}
	}
	conn := &nftables.Conn{}
	for _, f := range n.config.families() {
		t := table(f.version)
		conn.AddTable(t) // So that there is one to delete: both and the new one are one transaction.
		conn.DelTable(t)
		conn.AddTable(t)
		if ranges := n.serviceRanges(f); len(ranges) > 0 {
			if err := refuse(conn, t, ranges); err != nil {
				return err
			}
		}
		if f.version == netlink.FAMILY_V6 {
			dropForged(conn, t)
		}
		if f.pods.IsValid() && n.config.CNI == nil {
			f.masquerade(conn, t)
		}
		f.addUntracked(conn, t)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nft table %s: %w", tableName, err)
	}
	return nil
}

// refuse answers what is for a Service that there is not.
func refuse(conn *nftables.Conn, table *nftables.Table, ranges []netip.Prefix) error {
	services, err := addRanges(conn, table, "services", ranges)
	if err != nil {
		return err
	}
	refuse := conn.AddChain(&nftables.Chain{Name: "refuse", Table: table})
	conn.AddRule(&nftables.Rule{Table: table, Chain: refuse, Exprs: rejectTCP()})
	conn.AddRule(&nftables.Rule{Table: table, Chain: refuse, Exprs: []expr.Any{
		&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable(table.Family)}}})

	behindProxy := nftables.ChainPriorityRef(-90)
	for _, hook := range []struct {
		name string
		num  *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"output", nftables.ChainHookOutput}} {
		chain := conn.AddChain(&nftables.Chain{Name: hook.name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook.num, Priority: behindProxy})
		exprs := append(destinationIn(services), notLocal()...)
		exprs = append(exprs, &expr.Verdict{Kind: expr.VerdictGoto, Chain: refuse.Name})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	return nil
}

// addRanges makes a set of ranges, but for those that lie in another: the kernel refuses what overlaps.
func addRanges(conn *nftables.Conn, table *nftables.Table, name string, ranges []netip.Prefix) (*nftables.Set, error) {
	set := &nftables.Set{Table: table, Name: name, Interval: true, KeyType: nftables.TypeIPAddr}
	if table.Family == nftables.TableFamilyIPv6 {
		set.KeyType = nftables.TypeIP6Addr
	}
	var elements []nftables.SetElement
	for _, p := range ranges {
		if slices.ContainsFunc(ranges, func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Contains(p.Addr()) }) {
			continue
		}
		elements = append(elements, nftables.SetElement{Key: p.Addr().AsSlice()})
		if behind := behind(p); behind.IsValid() { // The last range of all has no end.
			elements = append(elements, nftables.SetElement{Key: behind.AsSlice(), IntervalEnd: true})
		}
	}
	if err := conn.AddSet(set, elements); err != nil {
		return nil, fmt.Errorf("add set %s to nft table %s: %w", name, table.Name, err)
	}
	return set, nil
}

// behind is the address that follows a range.
func behind(p netip.Prefix) netip.Addr {
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(last); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr.Next()
}

// dropForged drops what a pod sends from an address that is not routed to it.
func dropForged(conn *nftables.Conn, table *nftables.Table) {
	chain := conn.AddChain(&nftables.Chain{Name: "forged", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(podGroup)},
		&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
}

// masquerade has what leaves the cluster come from the node. CNI plugins see to that themselves.
func (f family) masquerade(conn *nftables.Conn, table *nftables.Table) {
	post := conn.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	exprs := source(f.pods, expr.CmpOpEq)
	exprs = append(exprs, destination(f.cluster, expr.CmpOpNeq)...)
	if f.services.IsValid() {
		exprs = append(exprs, destination(f.services, expr.CmpOpNeq)...)
	}
	conn.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: append(exprs, &expr.Masq{})})
}

// addUntracked keeps what goes to and from the node's own DNS out of connection tracking.
func (f family) addUntracked(conn *nftables.Conn, table *nftables.Table) {
	in := conn.AddChain(&nftables.Chain{Name: "untracked-prerouting", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	out := conn.AddChain(&nftables.Chain{Name: "untracked-output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw})
	for _, addr := range f.local {
		p := netip.PrefixFrom(addr, addr.BitLen())
		for _, protocol := range []byte{unix.IPPROTO_UDP, unix.IPPROTO_TCP} {
			question := append(destination(p, expr.CmpOpEq), toDNS(protocol, destinationPortOffset)...)
			answer := append(source(p, expr.CmpOpEq), toDNS(protocol, sourcePortOffset)...)
			for _, rule := range []struct {
				chain *nftables.Chain
				exprs []expr.Any
			}{{in, question}, {out, question}, {out, answer}} {
				conn.AddRule(&nftables.Rule{Table: table, Chain: rule.chain, Exprs: append(slices.Clone(rule.exprs), &expr.Notrack{})})
			}
		}
	}
}

// portUnreachable is the code of that in ICMP, or in ICMPv6.
func portUnreachable(family nftables.TableFamily) byte {
	if family == nftables.TableFamilyIPv6 {
		return 4
	}
	return 3
}

// The port of DNS, and where ports stand in the headers of UDP and TCP.
const (
	dnsPort               = 53
	sourcePortOffset      = 0
	destinationPortOffset = 2
)

// toDNS matches a protocol and the port of DNS, which stands at offset.
func toDNS(protocol byte, offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, dnsPort}},
	}
}

// Where addresses stand in the headers.
const (
	sourceIPv4, destinationIPv4 = 12, 16
	sourceIPv6, destinationIPv6 = 8, 24
)

func source(p netip.Prefix, op expr.CmpOp) []expr.Any {
	if p.Addr().Is6() {
		return address(sourceIPv6, p, op)
	}
	return address(sourceIPv4, p, op)
}

func destination(p netip.Prefix, op expr.CmpOp) []expr.Any {
	if p.Addr().Is6() {
		return address(destinationIPv6, p, op)
	}
	return address(destinationIPv4, p, op)
}

// destinationIn asks whether the destination is in a set.
func destinationIn(set *nftables.Set) []expr.Any {
	load := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: destinationIPv4, Len: 4}
	if set.Table.Family == nftables.TableFamilyIPv6 {
		load.Offset, load.Len = destinationIPv6, 16
	}
	return []expr.Any{load, &expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID}}
}

func address(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	length := uint32(p.Addr().BitLen() / 8)
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: length, Mask: ipNet(p).Mask, Xor: make([]byte, length)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Addr().AsSlice()},
	}
}

func notLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func rejectTCP() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	}
}
