package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// ranges are one range of addresses, or two of different families. The first says which family is taken where one has to do.
// https://kubernetes.io/docs/concepts/services-networking/dual-stack/
type ranges []netip.Prefix

// rangeFlag says what may stand behind one of the two flags for ranges.
type rangeFlag struct {
	name     string
	min, max [2]int // Bits of the largest and of the smallest prefix, by family: IPv4, IPv6.
}

// A node gets a /24 of the pods' range and a /64 of its IPv6 one, as Kubernetes has it, and at most 65536 nodes do. Services
// have addresses that all differ in the last 64 bits, and a tenth one for the DNS.
var (
	clusterFlag = rangeFlag{"--cluster-cidr", [2]int{8, 48}, [2]int{24, 64}}
	serviceFlag = rangeFlag{"--service-cidr", [2]int{8, 64}, [2]int{24, 120}}
)

func (f rangeFlag) parse(text string) (ranges, error) {
	parts := strings.Split(text, ",")
	if len(parts) > 2 {
		return nil, fmt.Errorf("%s %s: it must not have more than two ranges", f.name, text)
	}
	var all ranges
	for _, part := range parts {
		p, err := netip.ParsePrefix(part)
		if err != nil || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%s %s: it must be a range of addresses, like 10.42.0.0/16, or two of different families, like 10.42.0.0/16,fd42::/56", f.name, text)
		}
		if err := f.fits(p); err != nil {
			return nil, err
		}
		all = append(all, p.Masked())
	}
	if len(all) == 2 && family(all[0].Addr()) == family(all[1].Addr()) {
		return nil, fmt.Errorf("%s %s: two ranges must be of different families, IPv4 and IPv6", f.name, text)
	}
	return all, nil
}

func (f rangeFlag) fits(p netip.Prefix) error {
	i := 0
	if p.Addr().Is6() {
		i = 1
	}
	if p.Bits() < f.min[i] || p.Bits() > f.max[i] {
		return fmt.Errorf("%s %s: it must be between a /%d and a /%d for %s", f.name, p, f.min[i], f.max[i], family(p.Addr()))
	}
	return nil
}

func (r ranges) String() string {
	var all []string
	for _, p := range r {
		all = append(all, p.String())
	}
	return strings.Join(all, ",")
}

// v4 and v6 are the range of one family; none is not valid.
func (r ranges) v4() netip.Prefix { return r.find(netip.Addr.Is4) }
func (r ranges) v6() netip.Prefix { return r.find(netip.Addr.Is6) }

func (r ranges) find(is func(netip.Addr) bool) netip.Prefix {
	for _, p := range r {
		if is(p.Addr()) {
			return p
		}
	}
	return netip.Prefix{}
}

// contains says whether an address is in one of the ranges.
func (r ranges) contains(addr netip.Addr) bool {
	return slices.ContainsFunc(r, func(p netip.Prefix) bool { return p.Contains(addr) })
}

func (r ranges) overlap(others ranges) bool {
	return slices.ContainsFunc(r, func(p netip.Prefix) bool { return slices.ContainsFunc(others, p.Overlaps) })
}

func family(addr netip.Addr) string {
	if addr.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

func (o *options) rangeFlags(f *pflag.FlagSet) {
	f.StringVar(&o.clusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods: one range, or two of different families, like 10.42.0.0/16,fd42::/56")
	f.StringVar(&o.serviceCIDR, "service-cidr", "10.43.0.0/16", "addresses of Services: one range, or two of different families, like 10.43.0.0/16,fd43::/112; the first is that of Services that do not say")
	f.StringVar(&o.clusterDNS, "cluster-dns", "", "address of the cluster's DNS, in each range of the Services (default: the tenth, like 10.43.0.10)")
}

// parseRanges reads the two flags, and what they must be to each other: a Service's family is one that pods have.
func (s *settings) parseRanges() (err error) {
	if s.clusterRanges, err = clusterFlag.parse(s.clusterCIDR); err != nil {
		return err
	}
	if s.serviceRanges, err = serviceFlag.parse(s.serviceCIDR); err != nil {
		return err
	}
	if s.clusterRanges.overlap(s.serviceRanges) {
		return fmt.Errorf("--cluster-cidr %s and --service-cidr %s overlap", s.clusterRanges, s.serviceRanges)
	}
	for _, p := range s.serviceRanges {
		if !slices.ContainsFunc(s.clusterRanges, func(c netip.Prefix) bool { return family(c.Addr()) == family(p.Addr()) }) {
			return fmt.Errorf("--service-cidr %s: pods have no %s address to serve it at, by --cluster-cidr %s", p, family(p.Addr()), s.clusterRanges)
		}
	}
	s.dns, err = parseClusterDNS(s.clusterDNS, s.serviceRanges)
	return err
}

// parseClusterDNS returns an address of each range of the Services: the one that is given for it, else its tenth.
func parseClusterDNS(text string, services ranges) ([]netip.Addr, error) {
	all := make([]netip.Addr, len(services))
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		addr, err := netip.ParseAddr(part)
		i := slices.IndexFunc(services, func(p netip.Prefix) bool { return p.Contains(addr) })
		if err != nil || i < 0 {
			return nil, fmt.Errorf("--cluster-dns %s: it must be an address in --service-cidr %s", part, services)
		}
		if all[i].IsValid() {
			return nil, fmt.Errorf("--cluster-dns %s: it must be one address of each range of --service-cidr %s", text, services)
		}
		all[i] = addr
	}
	for i, p := range services {
		if !all[i].IsValid() {
			all[i] = tenth(p)
		}
	}
	return all, nil
}

// tenth is where the DNS of a cluster is by custom.
func tenth(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	b[len(b)-1] += 10 // A range is larger than that: its last byte is 0.
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

// join writes addresses as they are given to a flag.
func join(addrs []netip.Addr) string {
	return strings.Join(texts(addrs), ",")
}

func texts(addrs []netip.Addr) (all []string) {
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return all
}
