package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// ttl is how long a client may keep an answer, in seconds: short, because Services come and go. It is CoreDNS' default.
const ttl = 5

// schemaVersion and schemaTTL make up the TXT record that says which specification is followed (section 2.2).
const (
	schemaVersion = "1.1.0"
	schemaTTL     = 28800
)

// recordSet is a set of names that exist, each with the records at it. A name may have none: it exists all the same, and a
// question about it is answered with "no data" and not with "no such name". Names are lower case and end with a dot.
type recordSet map[string][]dns.RR

func (r recordSet) add(rrs ...dns.RR) {
	for _, rr := range rrs {
		name := rr.Header().Name
		r[name] = append(r[name], rr)
	}
}

// namespaceRecords are the names that exist because a Namespace does. They carry no records.
func namespaceRecords(domain, namespace string, pods PodNames) recordSet {
	records := recordSet{namespace + ".svc." + domain: nil}
	if pods != PodsDisabled {
		records[namespace+".pod."+domain] = nil
	}
	return records
}

// podRecords is section 2.6 for an address that a pod of a Namespace has.
func podRecords(domain, namespace string, ip netip.Addr) recordSet {
	records := recordSet{}
	records.add(addressRecord(dashed(ip)+"."+namespace+".pod."+domain, ip))
	return records
}

// serviceRecords are all records of a Service and the EndpointSlices that belong to it, as sections 2.3 to 2.5 of the
// specification want them. slices may be in any order and may repeat an endpoint.
func serviceRecords(domain string, svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) recordSet {
	name := strings.ToLower(svc.Name + "." + svc.Namespace + ".svc." + domain)
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		return externalNameRecords(name, svc)
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		return headlessRecords(name, svc, endpointSlices)
	default:
		return clusterIPRecords(name, svc)
	}
}

// clusterIPRecords is section 2.3: the addresses whether or not there are endpoints, a SRV record for each named port, and
// the way back from address to name.
func clusterIPRecords(name string, svc *corev1.Service) recordSet {
	records := recordSet{}
	for _, ip := range clusterIPs(svc) {
		records.add(addressRecord(name, ip), pointerRecord(ip, name))
	}
	if len(records) == 0 {
		return records // It has no address yet.
	}
	for _, port := range svc.Spec.Ports {
		if port.Name != "" {
			records.add(portRecord(name, port.Name, port.Protocol, uint16(port.Port), 100, name))
		}
	}
	return records
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var ips []netip.Addr
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil {
			ips = append(ips, ip)
		}
	}
	return ips
}

// externalNameRecords is section 2.5. An externalName that is written like an address is no name, and has no records.
func externalNameRecords(name string, svc *corev1.Service) recordSet {
	target := dns.CanonicalName(svc.Spec.ExternalName)
	if _, err := netip.ParseAddr(strings.TrimSuffix(target, ".")); err == nil || target == "." {
		return nil
	}
	if _, ok := dns.IsDomainName(target); !ok {
		return nil
	}
	return recordSet{name: {&dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: target}}}
}

// headlessRecords is section 2.4: every ready endpoint with its own address and its own name. Without ready endpoints
// there is no record at all, so that the name does not exist, as the specification asks.
func headlessRecords(name string, svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) recordSet {
	records := recordSet{}
	endpoints, ports := readyEndpoints(svc, endpointSlices)
	for _, ip := range endpointAddresses(endpoints) {
		records.add(addressRecord(name, ip))
	}
	for _, ep := range endpoints {
		host := ep.host + "." + name
		records.add(addressRecord(host, ep.ip), pointerRecord(ep.ip, host))
	}
	sharing := map[port]int{}
	for _, p := range ports {
		sharing[p.port]++
	}
	for _, p := range ports {
		weight := max(1, 100/sharing[p.port])
		records.add(portRecord(name, p.name, p.protocol, p.number, uint16(weight), p.host+"."+name))
	}
	return records
}

// endpoint is an address of a headless Service and the label that tells it from the others.
type endpoint struct {
	host string
	ip   netip.Addr
}

// port is what a SRV record is asked by.
type port struct {
	name     string
	protocol corev1.Protocol
}

// endpointPort is a named port as one endpoint serves it: its number may differ from endpoint to endpoint.
type endpointPort struct {
	port
	number uint16
	host   string
}

// readyEndpoints flattens slices, each endpoint and port once, in a fixed order.
func readyEndpoints(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) ([]endpoint, []endpointPort) {
	var endpoints []endpoint
	var ports []endpointPort
	for _, slice := range endpointSlices {
		for _, ep := range slice.Endpoints {
			ready := ep.Conditions.Ready == nil || *ep.Conditions.Ready
			if !ready && !svc.Spec.PublishNotReadyAddresses {
				continue
			}
			for _, text := range ep.Addresses {
				ip, err := netip.ParseAddr(text)
				if err != nil {
					continue // A slice of addressType FQDN, which Services do not use.
				}
				host := endpointHost(ep, ip)
				endpoints = append(endpoints, endpoint{host, ip})
				for _, p := range slice.Ports {
					if p.Name != nil && *p.Name != "" && p.Port != nil {
						ports = append(ports, endpointPort{port{*p.Name, protocolOf(p)}, uint16(*p.Port), host})
					}
				}
			}
		}
	}
	slices.SortFunc(endpoints, func(a, b endpoint) int {
		return cmp.Or(a.ip.Compare(b.ip), strings.Compare(a.host, b.host))
	})
	slices.SortFunc(ports, func(a, b endpointPort) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(a.protocol, b.protocol),
			strings.Compare(a.host, b.host), cmp.Compare(a.number, b.number))
	})
	return slices.Compact(endpoints), slices.Compact(ports)
}

// endpointAddresses are the addresses of endpoints, which come sorted, each once.
func endpointAddresses(endpoints []endpoint) []netip.Addr {
	ips := make([]netip.Addr, 0, len(endpoints))
	for _, ep := range endpoints {
		ips = append(ips, ep.ip)
	}
	return slices.Compact(ips)
}

// endpointHost is the endpoint's hostname, else its address with dashes: 10-42-0-7, 2001-db8--1. A label may not end with a
// dash, so 2001:db8:: is 2001-db8--0.
func endpointHost(ep discoveryv1.Endpoint, ip netip.Addr) string {
	if ep.Hostname != nil && *ep.Hostname != "" {
		return strings.ToLower(*ep.Hostname)
	}
	return dashed(ip)
}

var dashes = strings.NewReplacer(".", "-", ":", "-")

func dashed(ip netip.Addr) string {
	label := dashes.Replace(ip.String())
	if strings.HasSuffix(label, "-") {
		label += "0"
	}
	return label
}

// undashed is the way back; false if label is no address.
func undashed(label string) (netip.Addr, bool) {
	if ip, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ".")); err == nil {
		return ip, true
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(label, "-", ":"))
	return ip, err == nil && ip.Zone() == ""
}

func protocolOf(p discoveryv1.EndpointPort) corev1.Protocol {
	if p.Protocol == nil {
		return corev1.ProtocolTCP
	}
	return *p.Protocol
}

func addressRecord(name string, ip netip.Addr) dns.RR {
	if ip.Is4() {
		return &dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: ip.AsSlice()}
}

func portRecord(service, port string, protocol corev1.Protocol, number, weight uint16, target string) dns.RR {
	name := strings.ToLower("_" + port + "._" + string(protocol) + "." + service)
	return &dns.SRV{Hdr: header(name, dns.TypeSRV), Weight: weight, Port: number, Target: target}
}

func pointerRecord(ip netip.Addr, target string) dns.RR {
	return &dns.PTR{Hdr: header(reverseName(ip), dns.TypePTR), Ptr: target}
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}
