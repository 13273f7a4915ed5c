package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// parseAddress wants an address of the first family of Services, as Kubernetes does: it is the endpoint of the Service "kubernetes".
func (s *settings) parseAddress() error {
	first := s.serviceRanges[0].Addr()
	if s.advertise != "auto" {
		addr, err := netip.ParseAddr(s.advertise)
		switch {
		case err != nil, family(addr) != family(first), addr.Zone() != "":
			return fmt.Errorf("--advertise-address %s: it must be an %s address of this machine", s.advertise, family(first))
		case !addr.IsGlobalUnicast():
			return fmt.Errorf("--advertise-address %s: nobody but this machine itself can reach it there, pods included; leave the flag out, or give an address of a network", s.advertise)
		case s.serviceRanges.contains(addr):
			return fmt.Errorf("--advertise-address %s: it is one of the Services' addresses, --service-cidr %s", s.advertise, s.serviceRanges)
		}
		s.address = addr
		*s = s.located()
		return nil
	}
	*s = s.located()
	if !s.address.IsValid() {
		// A machine without a network: the node's own side of the pod network will do.
		pods := s.clusterRanges.v4()
		if first.Is6() {
			pods = s.clusterRanges.v6()
		}
		s.address = pods.Addr().Next()
		*s = s.located()
	}
	return nil
}

// located are the settings with the machine's addresses as they are now. One that is gone stays until there is another of its family.
func (s settings) located() settings {
	if addr := hostAddress(s.serviceRanges[0].Addr().Is6()); addr.IsValid() && s.advertise == "auto" {
		s.address = addr
	}
	before := s.addresses
	s.addresses = nil
	for _, p := range s.clusterRanges {
		addr := s.address
		if family(p.Addr()) != family(addr) {
			addr = hostAddress(p.Addr().Is6())
		}
		if i := slices.IndexFunc(before, func(b netip.Addr) bool { return family(b) == family(p.Addr()) }); !addr.IsValid() && i >= 0 {
			addr = before[i]
		}
		if addr.IsValid() && family(addr) == family(p.Addr()) {
			s.addresses = append(s.addresses, addr)
		}
	}
	return s
}

// hostAddress is the machine's address on the default route of a family, else the first one that is not local; none is not valid.
func hostAddress(v6 bool) netip.Addr {
	version := netlink.FAMILY_V4
	if v6 {
		version = netlink.FAMILY_V6
	}
	all, err := netlink.AddrList(nil, version)
	if err != nil {
		return netip.Addr{}
	}
	routes, _ := netlink.RouteList(nil, version) // Without, the first address has to do.
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return !isDefault(r) })
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range routes {
		if len(r.MultiPath) > 0 {
			r.LinkIndex = r.MultiPath[0].LinkIndex
		}
		for _, a := range all {
			if addr := lasting(a); a.LinkIndex == r.LinkIndex && addr.IsValid() {
				return addr
			}
		}
	}
	for _, a := range all {
		link, err := net.InterfaceByIndex(a.LinkIndex)
		if err != nil || link.Flags&net.FlagLoopback != 0 || strings.HasPrefix(link.Name, "skiff") {
			continue
		}
		if addr := lasting(a); addr.IsValid() {
			return addr
		}
	}
	return netip.Addr{}
}

func isDefault(r netlink.Route) bool {
	return (r.Dst == nil || r.Dst.IP.IsUnspecified()) && r.Type == unix.RTN_UNICAST
}

// lasting is an address by which the machine can be known, if it is one: others reach it there, and it is not one of those that hosts of
// IPv6 make up for a day, or do not use yet or any more.
func lasting(a netlink.Addr) netip.Addr {
	addr, ok := netip.AddrFromSlice(a.IP)
	addr = addr.Unmap()
	passing := a.Flags & (unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED)
	if addr.Is6() {
		passing |= a.Flags & unix.IFA_F_TEMPORARY // In IPv4 the same bit says that it is the second on its link.
	}
	if !ok || passing != 0 || !addr.IsGlobalUnicast() {
		return netip.Addr{}
	}
	return addr
}
