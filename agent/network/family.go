package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A family is what the node has of one version of IP. A zero Prefix stands for no range.
type family struct {
	version                 int // netlink.FAMILY_V4 or FAMILY_V6.
	pods, cluster, services netip.Prefix
	local                   []netip.Addr
}

// families are those that the configuration has ranges of.
func (c Config) families() (all []family) {
	for _, v6 := range []bool{false, true} {
		f := family{version: netlink.FAMILY_V4, pods: ofFamily(c.PodCIDR, v6), cluster: ofFamily(c.ClusterCIDR, v6), services: ofFamily(c.ServiceCIDR, v6)}
		if v6 {
			f.version = netlink.FAMILY_V6
		}
		for _, a := range c.LocalAddresses {
			if a.Is6() == v6 {
				f.local = append(f.local, a)
			}
		}
		if f.cluster.IsValid() || f.services.IsValid() {
			all = append(all, f)
		}
	}
	return all
}

// has says whether there are ranges of this version of IP.
func (c Config) has(version int) bool {
	return slices.ContainsFunc(c.families(), func(f family) bool { return f.version == version })
}

func ofFamily(ranges []netip.Prefix, v6 bool) netip.Prefix {
	for _, p := range ranges {
		if p.Addr().Is6() == v6 {
			return p
		}
	}
	return netip.Prefix{}
}

// gateway is the node's address in its pods' eyes: the first one of their range.
func (f family) gateway() netip.Addr { return f.pods.Addr().Next() }

// gatewayOf is the gateway of the family that a pod's address is of.
func (c Config) gatewayOf(pod netip.Addr) netip.Addr {
	return ofFamily(c.PodCIDR, pod.Is6()).Addr().Next()
}

// routerIPv6 is where a pod sends what it sends by IPv6: routers are known by an address of the link, which is the same on all links.
var routerIPv6 = netip.MustParseAddr("fe80::1")

// router is where a pod sends packets that have a source such as this.
func (c Config) router(pod netip.Addr) netip.Addr {
	if pod.Is6() {
		return routerIPv6
	}
	return c.gatewayOf(pod)
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// host is a prefix of one address.
func host(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// checkRanges refuses ranges that are none, are too many, or lie in each other.
func (c Config) checkRanges() error {
	for name, ranges := range map[string][]netip.Prefix{"pod": c.PodCIDR, "cluster": c.ClusterCIDR, "service": c.ServiceCIDR} {
		if len(ranges) == 0 {
			return fmt.Errorf("there is no %s range", name)
		}
		for i, p := range ranges {
			if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
				return fmt.Errorf("the %s range %q is not a network such as 10.42.0.0/16 or fd00:42::/56", name, p)
			}
			if slices.ContainsFunc(ranges[:i], func(other netip.Prefix) bool { return other.Addr().Is6() == p.Addr().Is6() }) {
				return fmt.Errorf("the %s ranges %s and %s are of one family", name, ranges[0], p)
			}
		}
	}
	for _, pods := range c.PodCIDR {
		cluster := ofFamily(c.ClusterCIDR, pods.Addr().Is6())
		switch {
		case pods.Addr().BitLen()-pods.Bits() < 3:
			return fmt.Errorf("the pod range %s is too small: a node needs at least 8 addresses", pods)
		case !cluster.IsValid() || cluster.Bits() > pods.Bits() || !cluster.Contains(pods.Addr()):
			return fmt.Errorf("the pod range %s lies outside of the cluster range %s", pods, joined(c.ClusterCIDR))
		}
	}
	for _, f := range c.families() {
		if f.cluster.IsValid() && f.services.IsValid() && f.cluster.Overlaps(f.services) {
			return fmt.Errorf("the service range %s and the cluster range %s overlap", f.services, f.cluster)
		}
	}
	return nil
}

// joined writes what a flag or a file has with commas.
func joined[T fmt.Stringer](all []T) string {
	var texts []string
	for _, one := range all {
		texts = append(texts, one.String())
	}
	return strings.Join(texts, ",")
}

// forward makes the node a router for the families that it has.
func (c Config) forward() error {
	if c.has(netlink.FAMILY_V4) {
		if err := sysctl("net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
	}
	if !c.has(netlink.FAMILY_V6) {
		return nil
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return fmt.Errorf("the kernel has no IPv6, and the cluster has ranges of it: boot without ipv6.disable=1")
	}
	if err := keepRouters(); err != nil {
		return err
	}
	return sysctl("net/ipv6/conf/all/forwarding", "1")
}

// keepRouters lets the node hear router advertisements on: a router listens to none, and Linux drops what it has heard before, unless
// it is told so of the link. That is done for links that have led to a router, and for those on which one may still speak up.
func keepRouters() error {
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return fmt.Errorf("list the routes of IPv6: %w", err)
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	heard := map[int]bool{}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_RA {
			for _, index := range linksOf(r) {
				heard[index] = true
			}
		}
	}
	for _, link := range links {
		if heard[link.Attrs().Index] || mayHearRouters(link) {
			if err := keepRouter(link.Attrs().Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// mayHearRouters says whether a link can lead to a router of the machine's network. What is at the other end of others is a container or a
// virtual machine, which must not lead the node's packets astray.
func mayHearRouters(link netlink.Link) bool {
	inner := []string{"veth", "bridge", "tuntap", "dummy"}
	return link.Attrs().MasterIndex == 0 && link.Attrs().Flags&net.FlagLoopback == 0 && !slices.Contains(inner, link.Type())
}

// linksOf are the links that a route leads over: several, where several routers are as good.
func linksOf(r netlink.Route) []int {
	if len(r.MultiPath) == 0 {
		return []int{r.LinkIndex}
	}
	var indexes []int
	for _, hop := range r.MultiPath {
		indexes = append(indexes, hop.LinkIndex)
	}
	return indexes
}

func keepRouter(link string) error {
	accepts := "net/ipv6/conf/" + link + "/accept_ra"
	if value, err := os.ReadFile("/proc/sys/" + accepts); err != nil || strings.TrimSpace(string(value)) != "1" {
		return nil // Another program does that here, or the link has just gone.
	}
	if err := sysctl(accepts, "2"); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
