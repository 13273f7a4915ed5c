package network

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mostFurther bounds the ranges of Services besides those of the configuration: each is a route.
const mostFurther = 64

// SetServiceRanges tells which ranges Services have addresses of now. Those of the configuration are always among them; what is for the
// others stays on the node, too, until they are not named any more. They outlive this process, and end with Purge.
func (n *Network) SetServiceRanges(all []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	wanted := n.config.further(all)
	further := wanted[:min(len(wanted), mostFurther)]
	if n.settled && slices.Equal(further, n.further) {
		return nil
	}
	if len(wanted) > len(further) {
		n.log.Warn("too many ranges of Services: what is for the last ones is not kept on the node", "ranges", len(wanted), "most", mostFurther)
	}
	n.further, n.settled = further, false
	if err := inOrder(n.addRoutes, n.removeOtherRoutes, n.writeRules); err != nil {
		return err
	}
	n.settled = true
	return nil
}

// further are the ranges that are none of the configuration's, but of its families. One that overlaps the pods' range is left out: pods
// are not to be refused.
func (c Config) further(all []netip.Prefix) (further []netip.Prefix) {
	for _, p := range all {
		cluster := ofFamily(c.ClusterCIDR, p.Addr().Is6())
		if cluster.IsValid() && !cluster.Overlaps(p) && !slices.Contains(c.ServiceCIDR, p) && !slices.Contains(further, p) {
			further = append(further, p)
		}
	}
	return further
}

// serviceRanges are those of a family.
func (n *Network) serviceRanges(f family) (ranges []netip.Prefix) {
	if f.services.IsValid() {
		ranges = append(ranges, f.services)
	}
	for _, p := range n.further {
		if familyOf(p.Addr()) == f.version {
			ranges = append(ranges, p)
		}
	}
	return ranges
}

// serviceRoutes lead what is for Services to the proxy. Somebody made up a further range while the cluster runs: a route that the node
// has for the same addresses stays the better one.
func (n *Network) serviceRoutes(f family) (routes []*netlink.Route) {
	for _, p := range n.serviceRanges(f) {
		route := &netlink.Route{Dst: ipNet(p), Scope: netlink.SCOPE_LINK, Src: n.towardsServices(f)}
		if p != f.services {
			route.Priority = lastMetric
		}
		routes = append(routes, route)
	}
	return routes
}

// removeOtherRoutes removes those of ranges that Services have no addresses of any more, be it since an earlier process.
func (n *Network) removeOtherRoutes() error {
	link, err := netlink.LinkByName(nodeDevice)
	if err != nil {
		return err
	}
	filter := &netlink.Route{LinkIndex: link.Attrs().Index, Protocol: unix.RTPROT_BOOT} // The kernel's own are for skiff0's addresses.
	for _, f := range n.config.families() {
		have, err := whole(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(f.version, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return fmt.Errorf("list the routes to %s: %w", nodeDevice, err)
		}
		wanted := n.serviceRoutes(f)
		for _, route := range have {
			if slices.ContainsFunc(wanted, func(w *netlink.Route) bool { return w.Dst.String() == route.Dst.String() }) {
				continue
			}
			if err := netlink.RouteDel(&route); err != nil {
				return fmt.Errorf("remove the route of %s: %w", route.Dst, err)
			}
		}
	}
	return nil
}
