package network

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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

// All host ends have the same hardware address: each is alone with its pod.
var hostMAC = net.HardwareAddr{0x0a, 0x58, 0, 0, 0, 1}

// podMAC is made of the address, so it needs no memory of its own and is unique on the node.
func podMAC(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

// linkName names the host's end of a pod's pair by the pod's address: "veth0a2a0005" is 10.42.0.5's.
func linkName(a netip.Addr) string {
	b := a.As4()
	return vethPrefix + hex.EncodeToString(b[:])
}

// linkAddr is the inverse of linkName.
func linkAddr(name string) (netip.Addr, bool) {
	b, err := hex.DecodeString(strings.TrimPrefix(name, vethPrefix))
	if err != nil || len(b) != 4 || !strings.HasPrefix(name, vethPrefix) {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(b)), true
}

// host is a prefix of one address.
func host(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// connect joins the namespace to the node, and mends what is missing if it was joined before.
func (n *Network) connect(nsPath string, addr netip.Addr) error {
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
		err = n.addPair(ns, addr)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := n.configurePod(inside, addr); err != nil {
		return fmt.Errorf("configure the pod's end: %w", err)
	}
	if err := n.configureNode(addr); err != nil {
		return fmt.Errorf("configure the node's end: %w", err)
	}
	return awaitUp(inside)
}

// awaitUp waits until the pod's end sends. The node's end does as soon as it is set up, because the other one is there; at
// the pod's end the kernel does the rest in the background, and until then drops what is sent without a word. A pod whose
// first packet is a question to the DNS would wait five seconds until it asks again.
func awaitUp(inside *netlink.Handle) error {
	const (
		every = time.Millisecond // It is there at the first look, or at the second.
		most  = time.Second
	)
	for deadline := time.Now().Add(most); ; time.Sleep(every) {
		link, err := inside.LinkByName(podDevice)
		if err != nil {
			return fmt.Errorf("wait for the pod's end: %w", err)
		}
		if link.Attrs().OperState == netlink.OperUp || time.Now().After(deadline) {
			return nil
		}
	}
}

// addPair makes the veth pair, one end directly in the pod's namespace.
func (n *Network) addPair(ns netns.NsHandle, addr netip.Addr) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkName(addr)
	attrs.MTU = n.config.MTU
	attrs.HardwareAddr = hostMAC
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

func (n *Network) configurePod(inside *netlink.Handle, addr netip.Addr) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	eth, err := inside.LinkByName(podDevice)
	if err != nil {
		return err
	}
	gateway := n.config.gateway().AsSlice()
	index := eth.Attrs().Index
	return inOrder(
		func() error { return inside.LinkSetUp(lo) },
		func() error {
			return inside.AddrReplace(eth, &netlink.Addr{IPNet: host(addr), Flags: unix.IFA_F_NODAD})
		},
		func() error { return inside.LinkSetUp(eth) },
		func() error { return inside.NeighSet(permanent(index, gateway, hostMAC)) },
		func() error {
			return inside.RouteReplace(&netlink.Route{LinkIndex: index, Gw: gateway, Flags: int(netlink.FLAG_ONLINK)})
		})
}

func (n *Network) configureNode(addr netip.Addr) error {
	name := linkName(addr)
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	return inOrder(
		// Also where all/rp_filter is 2, which would be looser: the kernel is strict with a link that has no address.
		func() error { return sysctl("net/ipv4/conf/"+name+"/rp_filter", "1") },
		func() error { return withoutIPv6(name) },
		func() error { return netlink.LinkSetUp(link) },
		func() error { return netlink.NeighSet(permanent(index, addr.AsSlice(), podMAC(addr))) },
		func() error {
			return netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: host(addr), Scope: netlink.SCOPE_LINK,
				Src: n.config.gateway().AsSlice()})
		})
}

// disconnect removes the node's route to the pod.
func (n *Network) disconnect(addr netip.Addr) error {
	err := netlink.RouteDel(&netlink.Route{Dst: host(addr), Scope: netlink.SCOPE_LINK})
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// podLinks lists the host ends of this node's pods, also of those half gone.
func (n *Network) podLinks() ([]netlink.Link, error) {
	all, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ours []netlink.Link
	for _, link := range all {
		if a, ok := linkAddr(link.Attrs().Name); ok && n.config.PodCIDR.Contains(a) {
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

func permanent(index int, ip net.IP, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Family: netlink.FAMILY_V4, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: mac}
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
