package apiserver

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"skiff/api"
)

// serviceRanges are the ranges that Services get their addresses from: those that the server was started with, and those of
// ServiceCIDRs that users made.
type serviceRanges []netip.Prefix

// serviceRanges are those that addresses may be given from now.
func (s *Server) serviceRanges() serviceRanges {
	own := serviceRanges(s.allocator.cidrs)
	var more serviceRanges
	for _, it := range s.shelf(serviceCIDRs).state(s.cache).items(selectAll(s.shelf(serviceCIDRs).resource)) {
		c := it.obj.(*networkingv1.ServiceCIDR)
		switch {
		case !mayGive(c) && c.Name == api.DefaultServiceCIDR:
			own = nil
		case mayGive(c) && c.Name != api.DefaultServiceCIDR:
			more = append(more, api.ServiceCIDRRanges(c)...)
		}
	}
	return append(slices.Clip(own), more...)
}

// mayGive tells a ServiceCIDR from which addresses are given: it does not go, and nobody says that it is not ready.
func mayGive(c *networkingv1.ServiceCIDR) bool {
	return c.DeletionTimestamp == nil && !meta.IsStatusConditionFalse(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
}

// families are those of the ranges, each once, in their order.
func (r serviceRanges) families() (all []corev1.IPFamily) {
	for _, p := range r {
		if f := familyOf(p.Addr()); !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

// of are the ranges of one family.
func (r serviceRanges) of(family corev1.IPFamily) serviceRanges {
	return slices.DeleteFunc(slices.Clone(r), func(p netip.Prefix) bool { return familyOf(p.Addr()) != family })
}

func (r serviceRanges) contain(addr netip.Addr) bool {
	return slices.ContainsFunc(r, func(p netip.Prefix) bool { return api.RangeHolds(p, addr) })
}

func (r serviceRanges) String() string {
	var all []string
	for _, p := range r {
		all = append(all, p.String())
	}
	return strings.Join(all, ",")
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// free picks an address by chance, of the first range that has one.
func (r serviceRanges) free(taken func(string) bool) (netip.Addr, bool) {
	for _, p := range r {
		if addr, ok := freeOf(p, taken); ok {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// freeOf picks an address of a range by chance. The lowest ones are left to those who ask for one by number.
// https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/#avoid-ClusterIP-conflict
func freeOf(p netip.Prefix, taken func(string) bool) (netip.Addr, bool) {
	base := p.Masked().Addr()
	size := uint64(1) << min(base.BitLen()-p.Bits(), 62) // How far the numbers of its addresses go. Nobody has so many Services.
	if base.Is4() && size > 0 {
		size--
	}
	first := min(max(16, size/16), 256)
	if first >= size {
		first = 1
	}
	if first >= size {
		return netip.Addr{}, false
	}
	count := size - first
	start := rand.Uint64N(count)
	for i := range count {
		if addr := addTo(base, first+(start+i)%count); !taken(addr.String()) {
			return addr, true
		}
	}
	for i := uint64(1); i < first; i++ {
		if addr := addTo(base, i); !taken(addr.String()) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// addTo is the address n after addr, which has room for n in its last 64 bits, or 32 of an IPv4 address.
func addTo(addr netip.Addr, n uint64) netip.Addr {
	if addr.Is4() {
		b := addr.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := addr.As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+n)
	return netip.AddrFrom16(b)
}

// canonical is the one way to write an address that its record has for a name.
func canonical(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	return addr.String()
}
