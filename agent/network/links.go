package network

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	nodeDevice = "skiff0" // Holds the gateway and local addresses; the service range is routed to it.
	podDevice  = "eth0"
	vethPrefix = "veth"
)

// podGroup is the kernel's group of links that the host ends are in: what comes from them is known by it.
const podGroup = 0x736b

// All host ends have the same hardware address: each is alone with its pod.
var hostMAC = net.HardwareAddr{0x0a, 0x58, 0, 0, 0, 1}

// podMAC is made of the pod's first address, so it needs no memory of its own and is unique on the node.
func podMAC(a netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x0a, 0x58}, tail(a)...)
}

// tail is the end of an address, which tells this node's pods apart: of IPv6, too, no more than that is given out.
func tail(a netip.Addr) []byte { return a.AsSlice()[a.BitLen()/8-4:] }

// linkName names the host's end of a pod's pair by the pod's first address: "veth0a2a0005" is 10.42.0.5's.
func linkName(a netip.Addr) string { return vethPrefix + hex.EncodeToString(tail(a)) }

// linkAddr is the inverse of linkName, for a pod whose first address is of this range.
func linkAddr(name string, pods netip.Prefix) (netip.Addr, bool) {
	b, err := hex.DecodeString(strings.TrimPrefix(name, vethPrefix))
	if err != nil || len(b) != 4 || !strings.HasPrefix(name, vethPrefix) {
		return netip.Addr{}, false
	}
	whole := pods.Addr().AsSlice()
	a, _ := netip.AddrFromSlice(append(whole[:len(whole)-4], b...))
	return a, pods.Contains(a) && lowest(a)-lowest(pods.Addr()) < maxPool
}

// connect joins the namespace to the node, and mends what is missing if it was joined before.
func (n *Network) connect(nsPath string, addrs []netip.Addr) error {
	ns, err := netns.GetFromPath(nsPath)
	if err != nil {
		return err
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink in the pod's namespace: %w", err)
	}
	defer inside.Close()
	if _, err := inside.LinkByName(podDevice); errors.As(err, &netlink.LinkNotFoundError{}) {
		err = n.addPair(ns, addrs[0])
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := n.configurePod(inside, addrs); err != nil {
		return fmt.Errorf("configure the pod's end: %w", err)
	}
	if err := n.configureNode(addrs); err != nil {
		return fmt.Errorf("configure the node's end: %w", err)
	}
	return awaitReady(inside, addrs)
}

// awaitReady waits until the pod's end sends and gets. The node's end does as soon as it is set up, because the other one is there; at
// the pod's end the kernel does the rest in the background, and until then drops what is sent without a word. A pod whose
// first packet is a question to the DNS would wait five seconds until it asks again.
func awaitReady(inside *netlink.Handle, addrs []netip.Addr) error {
	return await(func() (bool, error) {
		link, err := inside.LinkByName(podDevice)
		if err != nil {
			return false, fmt.Errorf("wait for the pod's end: %w", err)
		}
		return link.Attrs().OperState == netlink.OperUp && areLocal(inside, addrs), nil
	})
}

// await looks again and again, but not for ever. What it waits for is there at the first look, or at the second.
func await(done func() (bool, error)) error {
	const (
		every = time.Millisecond
		most  = time.Second
	)
	for deadline := time.Now().Add(most); ; time.Sleep(every) {
		if ok, err := done(); ok || err != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// areLocal says whether packets to the addresses arrive. An address of IPv6 can be sent from at once, but it is in the background that the
// kernel makes the route by which it is the host's own.
func areLocal(where *netlink.Handle, addrs []netip.Addr) bool {
	return !slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		if !a.Is6() {
			return false
		}
		routes, err := where.RouteGet(a.AsSlice())
		return err != nil || len(routes) == 0 || routes[0].Type != unix.RTN_LOCAL
	})
}

// addPair makes the veth pair, one end directly in the pod's namespace.
func (n *Network) addPair(ns netns.NsHandle, addr netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkName(addr)
	attrs.MTU = n.config.MTU
	attrs.HardwareAddr = hostMAC
	attrs.Group = podGroup
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: podDevice, PeerNamespace: netlink.NsFd(ns), PeerHardwareAddr: podMAC(addr)}
	if n.config.MTU > 0 {
		veth.PeerMTU = uint32(n.config.MTU)
	}
	err := netlink.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// The last pod with this address, whose namespace the kernel has not cleaned up yet.
		if old, err := netlink.LinkByName(attrs.Name); err == nil {
			if err := netlink.LinkDel(old); err != nil {
				return fmt.Errorf("delete old link %s: %w", attrs.Name, err)
			}
		}
		err = netlink.LinkAdd(veth)
	}
	if err != nil {
		return fmt.Errorf("add link %s: %w", attrs.Name, err)
	}
	return nil
}

func (n *Network) configurePod(inside *netlink.Handle, addrs []netip.Addr) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := inside.LinkByName(podDevice)
	if err != nil {
		return err
	}
	if err := inside.LinkSetUp(lo); err != nil {
		return err
	}
	for _, addr := range addrs {
		if err := inside.AddrReplace(eth, atOnce(addr, addr.BitLen())); err != nil {
			return err
		}
	}
	if err := inside.LinkSetUp(eth); err != nil {
		return err
	}
	index := eth.Attrs().Index
	for _, addr := range addrs {
		router := n.config.router(addr)
		if err := inside.NeighSet(permanent(index, router, hostMAC)); err != nil {
			return err
		}
		if err := inside.RouteReplace(&netlink.Route{Family: familyOf(addr), LinkIndex: index, Gw: router.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) configureNode(addrs []netip.Addr) error {
	name := linkName(addrs[0])
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	if err := inOrder(
		// Also where all/rp_filter is 2, which would be looser: the kernel is strict with a link that has no address.
		func() error { return sysctl("net/ipv4/conf/"+name+"/rp_filter", "1") },
		// Known as a pod's before it can speak: a link of an earlier version is not.
		func() error { return netlink.LinkSetGroup(link, podGroup) },
		func() error { return n.prepareEnd(name, addrs) },
		func() error { return netlink.LinkSetUp(link) },
	); err != nil {
		return err
	}
	for _, addr := range addrs {
		if addr.Is6() {
			if err := netlink.AddrReplace(link, atOnce(routerIPv6, 64)); err != nil {
				return err
			}
		}
		if err := netlink.NeighSet(permanent(index, addr, podMAC(addrs[0]))); err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: host(addr), Scope: netlink.SCOPE_LINK,
			Src: n.config.gatewayOf(addr).AsSlice()}); err != nil {
			return err
		}
	}
	return nil
}

// atOnce is an address that can be used without asking first whether others on the link have it.
func atOnce(addr netip.Addr, bits int) *netlink.Addr {
	return &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, bits)), Flags: unix.IFA_F_NODAD}
}

// disconnect removes the node's routes to a pod. The kernel removes the pair some time after its namespace, and they must not lead there
// meanwhile.
func disconnect(addrs []netip.Addr) error {
	for _, addr := range addrs {
		err := netlink.RouteDel(&netlink.Route{Dst: host(addr), Scope: netlink.SCOPE_LINK})
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// podLinks lists the host ends of this node's pods, also of those half gone.
func (n *Network) podLinks() ([]netlink.Link, error) {
	all, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ours []netlink.Link
	for _, link := range all {
		if _, ok := linkAddr(link.Attrs().Name, n.config.PodCIDR[0]); ok {
			ours = append(ours, link)
		}
	}
	return ours, nil
}

// whole lists again when the kernel says that something changed in the middle of its answer.
func whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 20 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func permanent(index int, ip netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Family: familyOf(ip), State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac}
}

// prepareIPv6 readies the node's end of a link for IPv6. The kernel is kept from making up an address of the link and announcing it, and
// from listening to a pod that says it were a router. Without ranges of IPv6 the link has none.
func (n *Network) prepareIPv6(link string) error {
	if !n.config.has(netlink.FAMILY_V6) {
		return withoutIPv6(link)
	}
	const noAddress = "1" // IN6_ADDR_GEN_MODE_NONE
	conf := "net/ipv6/conf/" + link + "/"
	return inOrder(
		func() error { return sysctl(conf+"addr_gen_mode", noAddress) },
		func() error { return sysctl(conf+"accept_ra", "0") },
		func() error { return sysctl(conf+"disable_ipv6", "0") })
}

// prepareEnd readies the node's end for what its pod has: one from before the cluster had IPv6 gets none.
func (n *Network) prepareEnd(link string, addrs []netip.Addr) error {
	if !slices.ContainsFunc(addrs, netip.Addr.Is6) {
		return withoutIPv6(link)
	}
	return n.prepareIPv6(link)
}

// withoutIPv6 keeps the kernel from giving the link a link-local address and announcing it. A kernel without IPv6 is fine.
func withoutIPv6(name string) error {
	if err := sysctl("net/ipv6/conf/"+name+"/disable_ipv6", "1"); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// inOrder does one step after the other up to the first error.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}
