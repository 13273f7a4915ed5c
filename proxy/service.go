package proxy

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A frontend is what clients connect to. The address 0.0.0.0, or ::, stands for any address of the node.
type frontend struct {
	addr  netip.Addr
	proto protocol
	port  uint16
}

// protocol is a number of the IP header's protocol field.
type protocol uint8

const (
	tcp  protocol = 6
	udp  protocol = 17
	sctp protocol = 132

	anyProtocol protocol = 0 // In ranges.
)

func (p protocol) String() string {
	switch p {
	case tcp:
		return "tcp"
	case udp:
		return "udp"
	case sctp:
		return "sctp"
	}
	return "unknown"
}

func protocolOf(p corev1.Protocol) protocol {
	switch p {
	case corev1.ProtocolUDP:
		return udp
	case corev1.ProtocolSCTP:
		return sctp
	}
	return tcp
}

// service is what one Service, or the host ports of one pod, want of the kernel.
type service struct {
	opened []opened
	// hairpin holds the endpoints on this node: they may reach themselves through the Service.
	hairpin []netip.Addr
	// alive holds every endpoint that still exists, ready or not: connections to these are left in peace.
	alive  []netip.AddrPort
	guards []*guardedRanges
	// health is what load balancers ask about the Service. Zero: they have no port to ask on.
	health health
}

// opened is a frontend with what is behind it.
type opened struct {
	frontend
	backends
}

// open has b behind a frontend, instead of what was there. A Service has few: as a list they take a fraction of what they would as a map.
func (s *service) open(at frontend, b backends) {
	for i := range s.opened {
		if s.opened[i].frontend == at {
			s.opened[i].backends = b
			return
		}
	}
	s.opened = append(s.opened, opened{at, b})
}

// backends are the endpoints that new connections to a frontend go to, in order of address. Without any they are refused,
// or dropped where the API wants that.
type backends struct {
	targets    []netip.AddrPort
	drop       bool
	masquerade bool   // The endpoint sees the node's address: it may be on another node, and must answer by way of this one.
	sticky     uint32 // Seconds that a client keeps its endpoint after its last connection. 0: each connection is on its own.
	// outside is what takes their place for clients outside the cluster, or nil. They keep their addresses.
	outside *backends
	guard   *guardedRanges // Who may connect. nil: everybody.
}

// guardedRanges are ranges that may connect to some frontends, none within another, and the number that stands for them.
type guardedRanges struct {
	guardID
	allowed []netip.Prefix
}

// A guardID is of one Service: the kernel refuses ranges of one number that overlap.
type guardID struct {
	family family
	number uint32
}

// newService decides what svc, with its EndpointSlices, wants. nil: nothing, the Service is not for a proxy or not for
// this one. A nil svc is one that is gone. The node is in the given zone, or in none.
func newService(c Config, zone string, svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) *service {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	if _, others := svc.Labels[labelServiceProxyName]; others {
		return nil
	}
	s := &service{}
	for _, f := range c.families() {
		if addr, ok := clusterAddress(f, svc); ok {
			s.serve(c, f, zone, svc, addr, endpointSlices)
		}
	}
	s.hairpin = distinct(s.hairpin, netip.Addr.Compare)
	s.alive = distinct(s.alive, netip.AddrPort.Compare)
	return s
}

// serve adds what svc, which has the cluster address cluster, wants in a family.
func (s *service) serve(c Config, f family, zone string, svc *corev1.Service, cluster netip.Addr, endpointSlices []*discoveryv1.EndpointSlice) {
	external, balanced := c.translated(f, svc.Spec.ExternalIPs...), balancerAddresses(c, f, svc)
	var guard *guardedRanges
	if len(balanced) > 0 && len(svc.Spec.LoadBalancerSourceRanges) > 0 {
		guard = &guardedRanges{guardID{f, guardNumber(cluster)}, sourceRanges(f, svc, balanced)}
		s.guards = append(s.guards, guard)
	}
	var ready []netip.Addr // On this node.
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		all := endpointsOf(c, f, zone, port, endpointSlices)
		inside, outside := insideBackends(svc, all), outsideBackends(svc, all)
		open := func(b backends, number int32, addrs ...netip.Addr) {
			for _, addr := range addrs {
				s.open(frontend{addr, protocolOf(port.Protocol), uint16(number)}, b)
			}
		}
		if port.NodePort != 0 {
			open(outside, port.NodePort, f.anywhere())
		}
		open(outside, port.Port, external...)
		guarded := outside
		guarded.guard = guard
		open(guarded, port.Port, balanced...)
		if !slices.Contains(c.LocalAddresses, cluster) {
			open(inside, port.Port, cluster)
		}
		for _, e := range all {
			s.alive = append(s.alive, e.target)
			if e.local && (e.ready || e.terminating) {
				s.hairpin = append(s.hairpin, e.target.Addr())
			}
			if e.local && e.ready {
				ready = append(ready, e.target.Addr())
			}
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && keepsClient(svc) { // A pod of both families is one.
		s.health.port = uint16(svc.Spec.HealthCheckNodePort)
		s.health.ready = max(s.health.ready, len(distinct(ready, netip.Addr.Compare)))
	}
}

// insideBackends is for the cluster address.
func insideBackends(svc *corev1.Service, all []endpoint) backends {
	serving := pick(all)
	b := backends{targets: targets(nearest(serving)), sticky: stickySeconds(svc)}
	if p := svc.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		here := pick(onThisNode(all))
		b.targets, b.drop = targets(here), len(here) == 0 && len(serving) > 0
	}
	return b
}

// outsideBackends is for every other way into the Service: node ports, external addresses, those of a load balancer.
func outsideBackends(svc *corev1.Service, all []endpoint) backends {
	serving := pick(all)
	b := backends{targets: targets(nearest(serving)), masquerade: true, sticky: stickySeconds(svc)}
	if !keepsClient(svc) {
		return b
	}
	// Pods and the node itself get what the policy Cluster gives them. For others an endpoint of another node would answer
	// by another way than it was asked; without one here they hear nothing, as the load balancer asks elsewhere.
	here := pick(onThisNode(all))
	if len(here) > 0 || len(serving) > 0 {
		b.outside = &backends{targets: targets(here), drop: len(here) == 0, sticky: b.sticky}
	}
	return b
}

func keepsClient(svc *corev1.Service) bool {
	return svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func stickySeconds(svc *corev1.Service) uint32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := int32(corev1.DefaultClientIPServiceAffinitySeconds)
	if a := svc.Spec.SessionAffinityConfig; a != nil && a.ClientIP != nil && a.ClientIP.TimeoutSeconds != nil {
		seconds = *a.ClientIP.TimeoutSeconds
	}
	return uint32(min(max(seconds, 1), maxSticky)) // The API's own bounds.
}

func distinct[T comparable](all []T, compare func(a, b T) int) []T {
	slices.SortFunc(all, compare)
	return slices.Compact(all)
}

// labelServiceProxyName on a Service gives it to another proxy.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// clusterAddress returns the Service's cluster address of a family. One that has none is not there in that family.
func clusterAddress(f family, svc *corev1.Service) (netip.Addr, bool) {
	for _, text := range append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...) {
		if addr, ok := f.parse(text); ok {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// balancerAddresses returns the addresses of the Service's load balancer whose packets come here as they were sent. One of
// mode Proxy sends its own packets, to the node port, and wants to see those of pods too.
func balancerAddresses(c Config, f family, svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var texts []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			texts = append(texts, in.IP)
		}
	}
	return c.translated(f, texts...)
}

// translated returns the addresses of a family among texts, without those that the node itself answers on.
func (c Config) translated(f family, texts ...string) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, ok := f.parse(text); ok && !slices.Contains(c.LocalAddresses, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// sourceRanges returns the ranges that may connect to the Service's load balancer at the addresses balanced. A node that has
// one of these itself is always let in: it talks to itself. Where all ranges are of the other family, nobody else is.
func sourceRanges(f family, svc *corev1.Service, balanced []netip.Addr) []netip.Prefix {
	var ranges []netip.Prefix
	for _, text := range svc.Spec.LoadBalancerSourceRanges {
		if p, ok := f.parseRange(text); ok {
			ranges = append(ranges, p)
		}
	}
	for _, addr := range balanced {
		ranges = append(ranges, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return widest(ranges)
}

// guardNumber makes a number of a Service's cluster address. Only in a range of IPv6 with more addresses than there are numbers may
// two have the same.
func guardNumber(cluster netip.Addr) uint32 {
	b := cluster.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}

// widest leaves out the ranges that are within another one.
func widest(ranges []netip.Prefix) []netip.Prefix {
	slices.SortFunc(ranges, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var kept []netip.Prefix
	for _, p := range ranges {
		if !slices.ContainsFunc(kept, func(w netip.Prefix) bool { return w.Contains(p.Addr()) }) {
			kept = append(kept, p)
		}
	}
	return kept
}
