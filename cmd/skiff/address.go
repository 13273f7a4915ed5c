package main

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

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
	before := append(slices.Clone(s.addresses), s.address)
	if addr := s.hostAddress(s.address, s.serviceRanges[0].Addr().Is6()); addr.IsValid() && s.advertise == "auto" {
		s.address = addr
	}
	s.addresses = nil
	for _, p := range s.clusterRanges {
		addr := s.address
		if family(p.Addr()) != family(addr) {
			i := slices.IndexFunc(before, func(b netip.Addr) bool { return b.IsValid() && family(b) == family(p.Addr()) })
			present := netip.Addr{}
			if i >= 0 {
				present = before[i]
			}
			addr = s.hostAddress(present, p.Addr().Is6())
		}
		if addr.IsValid() && family(addr) == family(p.Addr()) {
			s.addresses = append(s.addresses, addr)
		}
	}
	s.earlier = s.stillHeld(append(slices.Clone(s.earlier), before...))
	return s
}

// stillHeld are those of the addresses that clients may know this machine by, although it goes by others now.
func (s settings) stillHeld(known []netip.Addr) (held []netip.Addr) {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return s.earlier
	}
	has := map[netip.Addr]bool{}
	for _, a := range all {
		addr, _ := netip.AddrFromSlice(a.IP)
		has[addr.Unmap()] = true
	}
	for _, addr := range known {
		if has[addr] && addr != s.address && !slices.Contains(s.addresses, addr) && !slices.Contains(held, addr) {
			held = append(held, addr)
		}
	}
	return held
}

// hostAddress is the machine's address of a family; none is not valid. The present one stays while the machine has it, and while a
// network with a default route is away.
func (s *settings) hostAddress(present netip.Addr, v6 bool) netip.Addr {
	if s.clusterRanges.contains(present) {
		present = netip.Addr{} // It stood for a network.
	}
	version := netlink.FAMILY_V4
	if v6 {
		version = netlink.FAMILY_V6
	}
	all, err := netlink.AddrList(nil, version)
	if err != nil {
		return present
	}
	if v6 {
		slices.Reverse(all) // The kernel has the newest first.
	}
	had := &s.hadRoute.v4
	if v6 {
		had = &s.hadRoute.v6
	}
	if outward := choose(present, outwardOnes(all, version)); outward.IsValid() {
		*had = true
		return outward
	}
	if *had && present.IsValid() {
		return present
	}
	return cmp.Or(choose(present, s.inwardOnes(all)), present)
}

// choose keeps the present address if it is one of those that there are. Otherwise it takes the first that is known to the world, and only
// then a local one of IPv6.
func choose(present netip.Addr, all []netip.Addr) netip.Addr {
	if slices.Contains(all, present) {
		return present
	}
	if i := slices.IndexFunc(all, func(a netip.Addr) bool { return a.Is4() || !a.IsPrivate() }); i >= 0 {
		return all[i]
	}
	if len(all) > 0 {
		return all[0]
	}
	return netip.Addr{}
}

// outwardOnes are the addresses of links with a default route, those of the best route first.
func outwardOnes(all []netlink.Addr, version int) (outward []netip.Addr) {
	routes, _ := netlink.RouteList(nil, version) // Without, another address has to do.
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return !isDefault(r) })
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, r := range routes {
		if len(r.MultiPath) > 0 {
			r.LinkIndex = r.MultiPath[0].LinkIndex
		}
		for _, a := range all {
			if addr := lasting(a); a.LinkIndex == r.LinkIndex && addr.IsValid() {
				outward = append(outward, addr)
			}
		}
	}
	return outward
}

// inwardOnes are addresses for a machine without a default route. Bridges, where there is no such route, are those of other programs'
// containers and virtual machines.
func (s settings) inwardOnes(all []netlink.Addr) (inward []netip.Addr) {
	for _, a := range all {
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err != nil || link.Attrs().Flags&net.FlagLoopback != 0 || link.Type() == "bridge" {
			continue
		}
		if addr := lasting(a); addr.IsValid() && !s.clusterRanges.contains(addr) && !s.serviceRanges.contains(addr) {
			inward = append(inward, addr)
		}
	}
	return inward
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
