package proxy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// endpoint is one address and port behind a port of a Service.
type endpoint struct {
	target      netip.AddrPort
	ready       bool
	terminating bool // And still serving.
	local       bool
	forNode     hint
	forZone     hint
}

// A hint says whether a slice recommends the endpoint for here, or for others.
type hint int

const (
	noHint hint = iota
	hintHere
	hintElsewhere
)

func newHint(names []string, here string) hint {
	switch {
	case len(names) == 0:
		return noHint
	case slices.Contains(names, here):
		return hintHere
	}
	return hintElsewhere
}

// hintsOf returns what e recommends to a node, and to a zone.
func hintsOf(e *discoveryv1.Endpoint, node, zone string) (forNode, forZone hint) {
	if e.Hints == nil {
		return noHint, noHint
	}
	var nodes, zones []string
	for _, n := range e.Hints.ForNodes {
		nodes = append(nodes, n.Name)
	}
	for _, z := range e.Hints.ForZones {
		zones = append(zones, z.Name)
	}
	return newHint(nodes, node), newHint(zones, zone)
}

// endpointsOf returns the endpoints of a family behind port, each once, in order of address. The slices give a port's number by its
// name, already resolved where the Service names a port of the container.
func endpointsOf(c Config, f family, zone string, port *corev1.ServicePort, endpointSlices []*discoveryv1.EndpointSlice) []endpoint {
	var all []endpoint
	for _, slice := range endpointSlices {
		if slice.AddressType != f.slices() {
			continue
		}
		for _, number := range portNumbers(port, slice) {
			for i := range slice.Endpoints {
				if e, ok := newEndpoint(c, f, zone, &slice.Endpoints[i], number); ok {
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

func newEndpoint(c Config, f family, zone string, e *discoveryv1.Endpoint, port uint16) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	// All addresses of an endpoint mean the same pod, and the API says to use the first.
	addr, ok := f.parse(e.Addresses[0])
	if !ok {
		return endpoint{}, false
	}
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	serving := ready
	if e.Conditions.Serving != nil {
		serving = *e.Conditions.Serving
	}
	terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
	forNode, forZone := hintsOf(e, c.NodeName, zone)
	return endpoint{
		target:      netip.AddrPortFrom(addr, port),
		ready:       ready,
		terminating: serving && terminating,
		local:       e.NodeName == nil || *e.NodeName == c.NodeName,
		forNode:     forNode,
		forZone:     forZone,
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

// Bounds of what one port of a Service may ask of the kernel; a choice has room for no more.
const (
	maxEndpoints = 8000  // The others get no connections.
	maxSticky    = 86400 // Seconds.
)

func onThisNode(all []endpoint) []endpoint {
	return slices.DeleteFunc(slices.Clone(all), func(e endpoint) bool { return !e.local })
}

// nearest leaves the endpoints that EndpointSlices recommend for this node, or else for its zone. They must recommend for every
// endpoint, and some for here: otherwise a wish to stay near would cost connections.
func nearest(chosen []endpoint) []endpoint {
	for _, hintOf := range []func(endpoint) hint{
		func(e endpoint) hint { return e.forNode },
		func(e endpoint) hint { return e.forZone },
	} {
		near := slices.DeleteFunc(slices.Clone(chosen), func(e endpoint) bool { return hintOf(e) == hintElsewhere })
		all := !slices.ContainsFunc(near, func(e endpoint) bool { return hintOf(e) == noHint })
		if all && len(near) > 0 {
			return near
		}
	}
	return chosen
}

func targets(endpoints []endpoint) []netip.AddrPort {
	ts := make([]netip.AddrPort, len(endpoints))
	for i, e := range endpoints {
		ts[i] = e.target
	}
	return ts
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
