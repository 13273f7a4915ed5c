package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// prepareNode makes what all pods share. It may be done again and again.
func (n *Network) prepareNode() error {
	if n.config.CNI != nil {
		if err := n.letBridgesBeSeen(); err != nil {
			return err
		}
	}
	return inOrder(
		n.config.forward,
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
	if err := n.prepareIPv6(nodeDevice); err != nil {
		return err
	}
	wanted := slices.Clone(n.config.LocalAddresses)
	if n.config.CNI == nil {
		for _, pods := range n.config.PodCIDR {
			wanted = append(wanted, pods.Addr().Next())
		}
	}
	for _, a := range wanted {
		if err := netlink.AddrReplace(link, atOnce(a, a.BitLen())); err != nil {
			return fmt.Errorf("add address %s to %s: %w", a, nodeDevice, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", nodeDevice, err)
	}
	if err := await(func() (bool, error) { return areLocal(&netlink.Handle{}, wanted), nil }); err != nil {
		return err
	}
	return n.removeOtherAddresses(link, wanted)
}

// removeOtherAddresses drops what an earlier configuration left on skiff0.
func (n *Network) removeOtherAddresses(link netlink.Link, wanted []netip.Addr) error {
	have, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
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

// addRoutes keeps the ranges from the default route.
func (n *Network) addRoutes() error {
	link, err := netlink.LinkByName(nodeDevice)
	if err != nil {
		return err
	}
	for _, f := range n.config.families() {
		for _, route := range n.serviceRoutes(f) {
			route.LinkIndex = link.Attrs().Index
			if err := netlink.RouteReplace(route); err != nil {
				return fmt.Errorf("route %s to %s: %w", route.Dst, nodeDevice, err)
			}
		}
		if !f.cluster.IsValid() || n.config.CNI != nil { // Its plugins know which addresses are pods'.
			continue
		}
		if err := netlink.RouteReplace(f.unreachable()); err != nil {
			return fmt.Errorf("make the rest of %s unreachable: %w", f.cluster, err)
		}
	}
	return n.removeUnreachable(n.unreachableRanges())
}

// unreachableRanges are those of which everything that is no pod's is unreachable.
func (n *Network) unreachableRanges() (ranges []netip.Prefix) {
	for _, f := range n.config.families() {
		if f.cluster.IsValid() && n.config.CNI == nil {
			ranges = append(ranges, f.cluster)
		}
	}
	return ranges
}

// removeUnreachable removes what an earlier configuration made unreachable, but for some ranges.
func (n *Network) removeUnreachable(but []netip.Prefix) error {
	filter := &netlink.Route{Type: unix.RTN_UNREACHABLE, Priority: lastMetric}
	routes, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_PRIORITY)
	})
	if err != nil {
		return fmt.Errorf("list unreachable routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || slices.ContainsFunc(but, func(p netip.Prefix) bool { return ipNet(p).String() == r.Dst.String() }) {
			continue
		}
		if err := netlink.RouteDel(&netlink.Route{Dst: r.Dst, Type: r.Type, Priority: r.Priority}); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove the route of %s: %w", r.Dst, err)
		}
	}
	return nil
}

// towardsServices is from where the node talks to Services.
func (n *Network) towardsServices(f family) net.IP {
	switch {
	case n.config.CNI == nil && f.pods.IsValid():
		return f.gateway().AsSlice()
	case n.config.CNI != nil:
		for _, a := range n.nodeAddresses {
			if familyOf(a) == f.version {
				return a.AsSlice()
			}
		}
	}
	return nil // The kernel chooses.
}

// SetNodeAddresses tells from where the node talks to Services, where CNI plugins connect the pods. With its own links that is the gateway.
func (n *Network) SetNodeAddresses(addrs []netip.Addr) error {
	if n.config.CNI == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodeAddresses = addrs
	return n.addRoutes()
}

// lastMetric lets any other route for the same addresses go before.
const lastMetric = 1 << 30

// unreachable is the route for addresses that no pod has.
func (f family) unreachable() *netlink.Route {
	return &netlink.Route{Dst: ipNet(f.cluster), Type: unix.RTN_UNREACHABLE, Priority: lastMetric}
}

// restoreNode removes what prepareNode made. Forwarding stays on: others may rely on it by now.
func (n *Network) restoreNode() error {
	var errs []error
	if link, err := netlink.LinkByName(nodeDevice); err == nil {
		errs = append(errs, netlink.LinkDel(link))
	} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, n.removeUnreachable(nil), n.removeRules())...)
}
