package proxy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A frontend is what clients connect to. A node port has the zero address: any address of the node.
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

// service is what one Service wants of the kernel.
type service struct {
	backends map[frontend]backends
	// hairpin holds the endpoints on this node: they may reach themselves through the Service.
	hairpin []netip.Addr
	// alive holds every endpoint that still exists, ready or not: connections to these are left in peace.
	alive []netip.AddrPort
	// unsupported names what the Service asks for and does not get.
	unsupported []string
}

// backends are the endpoints that new connections to a frontend go to, in order of address. Without any they are refused,
// or dropped where the API wants that.
type backends struct {
	targets []netip.AddrPort
	drop    bool
}

// newService decides what svc, with its EndpointSlices, wants. nil: nothing, the Service is not for a proxy or not for
// this one. A nil svc is one that is gone.
func newService(c Config, svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) *service {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	if _, others := svc.Labels[labelServiceProxyName]; others {
		return nil
	}
	s := &service{backends: map[frontend]backends{}, unsupported: unsupported(svc)}
	addrs := clusterAddresses(c, svc)
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		all := endpointsOf(c, port, endpointSlices)
		serving := pick(all)
		inside := backends{targets: targets(serving)}
		if p := svc.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
			here := pick(slices.DeleteFunc(slices.Clone(all), func(e endpoint) bool { return !e.local }))
			inside = backends{targets: targets(here), drop: len(here) == 0 && len(serving) > 0}
		}
		for _, addr := range addrs {
			s.backends[frontend{addr, protocolOf(port.Protocol), uint16(port.Port)}] = inside
		}
		if port.NodePort != 0 {
			s.backends[frontend{proto: protocolOf(port.Protocol), port: uint16(port.NodePort)}] = backends{targets: targets(serving)}
		}
		s.alive = append(s.alive, targets(all)...)
		for _, e := range serving {
			if e.local {
				s.hairpin = append(s.hairpin, e.target.Addr())
			}
		}
	}
	slices.SortFunc(s.hairpin, netip.Addr.Compare)
	s.hairpin = slices.Compact(s.hairpin)
	slices.SortFunc(s.alive, netip.AddrPort.Compare)
	s.alive = slices.Compact(s.alive)
	return s
}

// labelServiceProxyName on a Service gives it to another proxy.
const labelServiceProxyName = "service.kubernetes.io/service-proxy-name"

// clusterAddresses returns the Service's IPv4 cluster addresses, without those that the node itself answers on.
func clusterAddresses(c Config, svc *corev1.Service) []netip.Addr {
	texts := svc.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{svc.Spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err == nil && addr.Is4() && !slices.Contains(c.LocalAddresses, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// endpoint is one address and port behind a port of a Service.
type endpoint struct {
	target      netip.AddrPort
	ready       bool
	terminating bool // And still serving.
	local       bool
}

// endpointsOf returns the endpoints behind port, each once, in order of address. The slices give a port's number by its
// name, already resolved where the Service names a port of the container.
func endpointsOf(c Config, port *corev1.ServicePort, endpointSlices []*discoveryv1.EndpointSlice) []endpoint {
	var all []endpoint
	for _, slice := range endpointSlices {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, number := range portNumbers(port, slice) {
			for i := range slice.Endpoints {
				if e, ok := newEndpoint(c, &slice.Endpoints[i], number); ok {
					all = append(all, e)
				}
			}
		}
	}
	// While an endpoint moves from one slice to another it may be in both: the better condition counts.
	slices.SortFunc(all, func(a, b endpoint) int {
		return cmp.Or(a.target.Compare(b.target), compareBool(b.ready, a.ready), compareBool(b.terminating, a.terminating))
	})
	return slices.CompactFunc(all, func(a, b endpoint) bool { return a.target == b.target })
}

func newEndpoint(c Config, e *discoveryv1.Endpoint, port uint16) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	// All addresses of an endpoint mean the same pod, and the API says to use the first.
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || !addr.Is4() {
		return endpoint{}, false
	}
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	serving := ready
	if e.Conditions.Serving != nil {
		serving = *e.Conditions.Serving
	}
	terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
	return endpoint{
		target:      netip.AddrPortFrom(addr, port),
		ready:       ready,
		terminating: serving && terminating,
		local:       e.NodeName == nil || *e.NodeName == c.NodeName,
	}, true
}

func portNumbers(port *corev1.ServicePort, slice *discoveryv1.EndpointSlice) []uint16 {
	var numbers []uint16
	for _, p := range slice.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if p.Port != nil && name == port.Name && protocolOf(proto) == protocolOf(port.Protocol) {
			numbers = append(numbers, uint16(*p.Port))
		}
	}
	return numbers
}

// pick returns the endpoints that get new connections: the ready ones, and where none is, those that are on their way
// out but still serve, so that the last pods of a rollout lose nobody.
func pick(all []endpoint) []endpoint {
	chosen := slices.DeleteFunc(slices.Clone(all), func(e endpoint) bool { return !e.ready })
	if len(chosen) == 0 {
		chosen = slices.DeleteFunc(slices.Clone(all), func(e endpoint) bool { return !e.terminating })
	}
	return chosen[:min(len(chosen), maxEndpoints)]
}

// maxEndpoints bounds what one port of a Service may put into the kernel. The others would get no connections.
const maxEndpoints = 10000

func targets(endpoints []endpoint) []netip.AddrPort {
	ts := make([]netip.AddrPort, len(endpoints))
	for i, e := range endpoints {
		ts[i] = e.target
	}
	return ts
}

// unsupported lists the fields of svc that this proxy does not act on.
func unsupported(svc *corev1.Service) []string {
	var fields []string
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		fields = append(fields, "sessionAffinity: ClientIP")
	}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		fields = append(fields, "externalTrafficPolicy: Local")
	}
	if len(svc.Spec.ExternalIPs) > 0 {
		fields = append(fields, "externalIPs")
	}
	if len(svc.Status.LoadBalancer.Ingress) > 0 {
		fields = append(fields, "status.loadBalancer")
	}
	return fields
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
