package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// A zone is a part of the tree of names that this server alone answers for: the cluster domain, and the reverse names of
// the addresses of pods and Services.
//
// apexRecords are what stands at the top of each: SOA and NS, the name server's own addresses, and the version of the
// specification. serial need not follow the changes: nobody copies these zones.
func apexRecords(domain string, reverse []string, servers []netip.Addr, serial uint32, pods PodNames) recordSet {
	nameserver := "ns.dns." + domain
	records := recordSet{"svc." + domain: nil}
	if pods != PodsDisabled {
		records["pod."+domain] = nil
	}
	for _, zone := range append([]string{domain}, reverse...) {
		records.add(
			&dns.SOA{
				Hdr: header(zone, dns.TypeSOA), Ns: nameserver, Mbox: "hostmaster." + domain,
				Serial: serial, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
			},
			&dns.NS{Hdr: header(zone, dns.TypeNS), Ns: nameserver})
	}
	version := &dns.TXT{Hdr: header("dns-version."+domain, dns.TypeTXT), Txt: []string{schemaVersion}}
	version.Hdr.Ttl = schemaTTL
	records.add(version)
	for _, server := range servers {
		records.add(addressRecord(nameserver, server))
	}
	return records
}

// reverseName is the name whose PTR record belongs to ip: 1.0.43.10.in-addr.arpa.
func reverseName(ip netip.Addr) string {
	name, err := dns.ReverseAddr(ip.WithZone("").String())
	if err != nil {
		panic(fmt.Sprintf("reverse name of %v: %v", ip, err)) // A netip.Addr always has one.
	}
	return name
}

// reverseZones are the zones that hold the reverse names of prefixes and no others. A zone ends at a label, which is one
// byte of an IPv4 address and four bits of an IPv6 address: a prefix that ends within a label makes several zones.
func reverseZones(prefixes []netip.Prefix) []string {
	var zones []string
	for _, prefix := range prefixes {
		prefix = prefix.Masked()
		bitsPerLabel, labels := 8, 4
		if prefix.Addr().Is6() {
			bitsPerLabel, labels = 4, 32
		}
		known := (prefix.Bits() + bitsPerLabel - 1) / bitsPerLabel
		spare := known*bitsPerLabel - prefix.Bits()
		parts := dns.SplitDomainName(reverseName(prefix.Addr()))
		if known == 0 {
			zones = append(zones, dns.Fqdn(strings.Join(parts[labels:], ".")))
			continue
		}
		base, suffix := parts[labels-known], strings.Join(parts[labels-known+1:], ".")
		for n := range 1 << spare {
			zones = append(zones, dns.Fqdn(addToLabel(base, n, bitsPerLabel)+"."+suffix))
		}
	}
	slices.Sort(zones)
	return slices.Compact(zones)
}

// addToLabel counts a label of a reverse name up: decimal for IPv4, one hexadecimal digit for IPv6.
func addToLabel(label string, n, bits int) string {
	base := 10
	if bits == 4 {
		base = 16
	}
	value, err := strconv.ParseUint(label, base, 8)
	if err != nil {
		panic(fmt.Sprintf("label %q of a reverse name: %v", label, err)) // reverseName wrote it.
	}
	return strconv.FormatUint(value+uint64(n), base)
}
