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

// tableName is the nft table of this package. It is replaced whole, in one transaction.
const tableName = "skiff_network"

// prepareNode makes what all pods share. It may be done again and again.
func (n *Network) prepareNode() error {
	if n.config.CNI != nil {
		if err := n.letBridgesBeSeen(); err != nil {
			return err
		}
	}
	return inOrder(
		func() error { return sysctl("net/ipv4/ip_forward", "1") },
		n.addNodeDevice,
		n.addRoutes,
		n.writeRules)
}

// addNodeDevice makes skiff0. A dummy link would do, but not every kernel has them; a bridge without ports is the same.
func (n *Network) addNodeDevice() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nodeDevice
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add link %s: %w", nodeDevice, err)
	}
	link, err := netlink.LinkByName(nodeDevice)
	if err != nil {
		return fmt.Errorf("find link %s: %w", nodeDevice, err)
	}
	if err := withoutIPv6(nodeDevice); err != nil {
		return err
	}
	wanted := n.config.LocalAddresses
	if n.config.CNI == nil {
		wanted = append([]netip.Addr{n.config.gateway()}, wanted...)
	}
	for _, a := range wanted {
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: host(a)}); err != nil {
			return fmt.Errorf("add address %s to %s: %w", a, nodeDevice, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", nodeDevice, err)
	}
	return n.removeOtherAddresses(link, wanted)
}

// removeOtherAddresses drops what an earlier configuration left on skiff0.
func (n *Network) removeOtherAddresses(link netlink.Link, wanted []netip.Addr) error {
	have, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", nodeDevice, err)
	}
	keep := map[string]bool{}
	for _, a := range wanted {
		keep[host(a).String()] = true
	}
	for _, a := range have {
		if !keep[a.IPNet.String()] {
			if err := netlink.AddrDel(link, &a); err != nil {
				return fmt.Errorf("remove address %s from %s: %w", a.IPNet, nodeDevice, err)
			}
		}
	}
	return nil
}

// addRoutes keeps both ranges from the default route.
func (n *Network) addRoutes() error {
	link, err := netlink.LinkByName(nodeDevice)
	if err != nil {
		return err
	}
	from := n.config.gateway()
	if n.config.CNI != nil {
		from = n.config.CNI.NodeAddress
	}
	services := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(n.config.ServiceCIDR), Scope: netlink.SCOPE_LINK, Src: from.AsSlice()}
	if err := netlink.RouteReplace(&services); err != nil {
		return fmt.Errorf("route %s to %s: %w", n.config.ServiceCIDR, nodeDevice, err)
	}
	if n.config.CNI != nil { // Its plugins know which addresses are pods'.
		return nil
	}
	if err := netlink.RouteReplace(n.unreachable()); err != nil {
		return fmt.Errorf("make the rest of %s unreachable: %w", n.config.ClusterCIDR, err)
	}
	return nil
}

// unreachable is the route for addresses that no pod has. Its metric is the last, so that any other route goes before it.
func (n *Network) unreachable() *netlink.Route {
	return &netlink.Route{Dst: ipNet(n.config.ClusterCIDR), Type: unix.RTN_UNREACHABLE, Priority: 1 << 30}
}

// restoreNode removes what prepareNode made. Forwarding stays on: others may rely on it by now.
func (n *Network) restoreNode() error {
	var errs []error
	if link, err := netlink.LinkByName(nodeDevice); err == nil {
		errs = append(errs, netlink.LinkDel(link))
	} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
		errs = append(errs, err)
	}
	if err := netlink.RouteDel(n.unreachable()); err != nil && !errors.Is(err, unix.ESRCH) {
		errs = append(errs, fmt.Errorf("remove the route of %s: %w", n.config.ClusterCIDR, err))
	}
	return errors.Join(append(errs, n.removeRules())...)
}

func (n *Network) removeRules() error {
	conn := &nftables.Conn{}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName})
	if err := conn.Flush(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove nft table %s: %w", tableName, err)
	}
	return nil
}

// writeRules writes the table, which in nft's language is
//
//	table ip skiff_network {
//		chain prerouting {
//			type nat hook prerouting priority -90; policy accept;
//			ip daddr SERVICES fib daddr type != local goto refuse
//		}
//		chain output {
//			type nat hook output priority -90; policy accept;
//			ip daddr SERVICES fib daddr type != local goto refuse
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
// The proxy's chains have priority -100. Once they have translated a connection, the kernel asks no later nat chain.
//
// (A rule for each protocol, where nft would make a set.) Questions to the node's own DNS and their answers are not translated, so that there is no need to track them either: a
// busy pod would fill the table of connections, and two questions from one socket would race for one entry there, which
// costs the loser its packet and the pod five seconds.
func (n *Network) writeRules() error {
	conn := &nftables.Conn{}
	table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: tableName}
	conn.AddTable(table) // So that there is one to delete: both and the new one are one transaction.
	conn.DelTable(table)
	conn.AddTable(table)

	refuse := conn.AddChain(&nftables.Chain{Name: "refuse", Table: table})
	conn.AddRule(&nftables.Rule{Table: table, Chain: refuse, Exprs: rejectTCP()})
	conn.AddRule(&nftables.Rule{Table: table, Chain: refuse, Exprs: []expr.Any{
		&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: icmpPortUnreachable}}})

	behindProxy := nftables.ChainPriorityRef(-90)
	for _, hook := range []struct {
		name string
		num  *nftables.ChainHook
	}{{"prerouting", nftables.ChainHookPrerouting}, {"output", nftables.ChainHookOutput}} {
		chain := conn.AddChain(&nftables.Chain{Name: hook.name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook.num, Priority: behindProxy})
		exprs := append(destination(n.config.ServiceCIDR, expr.CmpOpEq), notLocal()...)
		exprs = append(exprs, &expr.Verdict{Kind: expr.VerdictGoto, Chain: refuse.Name})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}

	if n.config.CNI == nil {
		n.masquerade(conn, table)
	}
	n.addUntracked(conn, table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nft table %s: %w", tableName, err)
	}
	return nil
}

// masquerade has what leaves the cluster come from the node. CNI plugins see to that themselves.
func (n *Network) masquerade(conn *nftables.Conn, table *nftables.Table) {
	post := conn.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	exprs := source(n.config.PodCIDR, expr.CmpOpEq)
	exprs = append(exprs, destination(n.config.ClusterCIDR, expr.CmpOpNeq)...)
	exprs = append(exprs, destination(n.config.ServiceCIDR, expr.CmpOpNeq)...)
	conn.AddRule(&nftables.Rule{Table: table, Chain: post, Exprs: append(exprs, &expr.Masq{})})
}

// addUntracked keeps what goes to and from the node's own DNS out of connection tracking.
func (n *Network) addUntracked(conn *nftables.Conn, table *nftables.Table) {
	in := conn.AddChain(&nftables.Chain{Name: "untracked-prerouting", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	out := conn.AddChain(&nftables.Chain{Name: "untracked-output", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw})
	for _, addr := range n.config.LocalAddresses {
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

const icmpPortUnreachable = 3

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

// Offsets in the IPv4 header.
const (
	sourceOffset      = 12
	destinationOffset = 16
)

func source(p netip.Prefix, op expr.CmpOp) []expr.Any      { return address(sourceOffset, p, op) }
func destination(p netip.Prefix, op expr.CmpOp) []expr.Any { return address(destinationOffset, p, op) }

func address(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: ipNet(p).Mask, Xor: make([]byte, 4)},
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
