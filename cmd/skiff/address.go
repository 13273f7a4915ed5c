package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
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
		s.addresses = s.nodeAddresses()
		return nil
	}
	s.address = hostAddress(first.Is6())
	if !s.address.IsValid() {
		// A machine without a network: the node's own side of the pod network will do.
		pods := s.clusterRanges.v4()
		if first.Is6() {
			pods = s.clusterRanges.v6()
		}
		s.address = pods.Addr().Next()
	}
	s.addresses = s.nodeAddresses()
	return nil
}

// nodeAddresses looks for the machine's address of each family that pods have.
func (s *settings) nodeAddresses() (all []netip.Addr) {
	for _, p := range s.clusterRanges {
		addr := s.address
		if family(p.Addr()) != family(addr) {
			addr = hostAddress(p.Addr().Is6())
		}
		if addr.IsValid() {
			all = append(all, addr)
		}
	}
	return all
}

// hostAddress is the machine's address on the default route of a family, else the first one that is not local; none is not valid.
func hostAddress(v6 bool) netip.Addr {
	routesOf := netlink.FAMILY_V4
	if v6 {
		routesOf = netlink.FAMILY_V6
	}
	routes, err := netlink.RouteList(nil, routesOf)
	if err == nil {
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				continue
			}
			if link, err := net.InterfaceByIndex(r.LinkIndex); err == nil {
				if addr := firstAddress(*link, v6); addr.IsValid() {
					return addr
				}
			}
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}
	}
	for _, link := range links {
		if link.Flags&net.FlagLoopback != 0 || strings.HasPrefix(link.Name, "skiff") {
			continue
		}
		if addr := firstAddress(link, v6); addr.IsValid() {
			return addr
		}
	}
	return netip.Addr{}
}

func firstAddress(link net.Interface, v6 bool) netip.Addr {
	addrs, err := link.Addrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is6() == v6 && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
