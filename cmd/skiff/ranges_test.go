package main

import (
	"strings"
	"testing"
)

// Pods and Services have one range of addresses each, or one of each family.
func TestAddressRanges(t *testing.T) {
	for _, tc := range []struct {
		name, cluster, service, dns string
		wantDNS, why                string // The addresses of the DNS, or what the one line says that refuses it.
	}{
		{"IPv4", "10.42.0.0/16", "10.43.0.0/16", "", "10.43.0.10", ""},
		{"IPv6", "fd42::/56", "fd43::/112", "", "fd43::a", ""},
		{"IPv4 first", "10.42.0.0/16,fd42::/56", "10.43.0.0/16,fd43::/112", "", "10.43.0.10,fd43::a", ""},
		{"IPv6 first", "fd42::/56,10.42.0.0/16", "fd43::/112,10.43.0.0/16", "", "fd43::a,10.43.0.10", ""},
		{"pods of both families, Services of one", "10.42.0.0/16,fd42::/56", "10.43.0.0/16", "", "10.43.0.10", ""},
		{"in another order", "fd42::/56,10.42.0.0/16", "10.43.0.0/16,fd43::/112", "", "10.43.0.10,fd43::a", ""},
		{"not the first address of a range", "10.42.7.9/16", "fd43::7/112,10.43.1.1/24", "fd43::5", "", "pods have no IPv6 address"},
		{"DNS of one range", "10.42.0.0/16,fd42::/56", "10.43.0.0/16,fd43::/112", "fd43::5", "10.43.0.10,fd43::5", ""},
		{"DNS of both", "10.42.0.0/16,fd42::/56", "10.43.0.0/16,fd43::/112", "fd43::5,10.43.0.9", "10.43.0.9,fd43::5", ""},
		{"smallest and largest", "10.0.0.0/8,fd42::/48", "11.0.0.0/24,fd43::/120", "", "11.0.0.10,fd43::a", ""},

		{"three", "10.42.0.0/16,fd42::/56,10.44.0.0/16", "10.43.0.0/16", "", "", "--cluster-cidr 10.42.0.0/16,fd42::/56,10.44.0.0/16: it must not have more than two ranges"},
		{"two of IPv4", "10.42.0.0/16", "10.43.0.0/16,10.44.0.0/16", "", "", "--service-cidr 10.43.0.0/16,10.44.0.0/16: two ranges must be of different families"},
		{"no range", "10.42.0.0", "10.43.0.0/16", "", "", "--cluster-cidr 10.42.0.0: it must be a range of addresses"},
		{"half a range", "10.42.0.0/16,", "10.43.0.0/16", "", "", "--cluster-cidr 10.42.0.0/16,: it must be a range of addresses"},
		{"IPv4 in IPv6", "::ffff:10.42.0.0/112", "10.43.0.0/16", "", "", "it must be a range of addresses"},
		{"too small for a node", "10.42.0.0/25", "10.43.0.0/16", "", "", "--cluster-cidr 10.42.0.0/25: it must be between a /8 and a /24 for IPv4"},
		{"too small for a node, IPv6", "fd42::/112", "fd43::/112", "", "", "--cluster-cidr fd42::/112: it must be between a /48 and a /64 for IPv6"},
		{"too large", "fd42::/56", "fd43::/48", "", "", "--service-cidr fd43::/48: it must be between a /64 and a /120 for IPv6"},
		{"overlapping", "10.42.0.0/16,fd42::/56", "10.43.0.0/16,fd42::/112", "", "", "overlap"},
		{"Services that pods cannot serve", "10.42.0.0/16", "10.43.0.0/16,fd43::/112", "", "", "--service-cidr fd43::/112: pods have no IPv6 address"},
		{"DNS elsewhere", "10.42.0.0/16", "10.43.0.0/16", "10.44.0.10", "", "--cluster-dns 10.44.0.10: it must be an address in --service-cidr 10.43.0.0/16"},
		{"DNS without a number", "10.42.0.0/16", "10.43.0.0/16", "dns", "", "--cluster-dns dns: it must be an address"},
		{"two DNS of one range", "10.42.0.0/16", "10.43.0.0/16", "10.43.0.9,10.43.0.10", "", "it must be one address of each range"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := settings{options: options{clusterCIDR: tc.cluster, serviceCIDR: tc.service, clusterDNS: tc.dns}}
			err := s.parseRanges()
			switch {
			case tc.why == "" && err != nil:
				t.Fatal(err)
			case tc.why != "" && (err == nil || !strings.Contains(err.Error(), tc.why) || strings.Contains(err.Error(), "\n")):
				t.Fatalf("error %v, want one line that has %q", err, tc.why)
			}
			if got := join(s.dns); tc.why == "" && got != tc.wantDNS {
				t.Errorf("the DNS is at %s, want %s", got, tc.wantDNS)
			}
		})
	}
}

// A cluster that gives up a family, or goes elsewhere, has nodes with ranges of before.
func TestRangesWithin(t *testing.T) {
	for _, tc := range []struct{ pods, cluster, want, err string }{
		{"10.42.0.0/24,fd00:42::/64", "10.42.0.0/16,fd00:42::/56", "10.42.0.0/24,fd00:42::/64", ""},
		{"10.42.0.0/24,fd00:42::/64", "10.42.0.0/16", "10.42.0.0/24", ""},
		{"10.42.0.0/24,fd00:42::/64", "fd00:42::/56", "fd00:42::/64", ""},
		{"10.42.0.0/24", "10.52.0.0/16", "", "delete the Node"},
		{"10.42.0.0/15", "10.42.0.0/16", "", "delete the Node"},
	} {
		pods, err1 := parsePodRanges(strings.Split(tc.pods, ","))
		cluster, err2 := parsePodRanges(strings.Split(tc.cluster, ","))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		got, err := pods.within(cluster)
		if got.String() != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s in %s: %s, %v; want %q, %q", tc.pods, tc.cluster, got, err, tc.want, tc.err)
		}
	}
}
