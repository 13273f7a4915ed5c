package apiserver

import (
	"fmt"
	"math/rand/v2"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

func (r PortRange) contains(port int32) bool {
	return port >= int32(r.First) && port <= int32(r.Last)
}

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// free picks a port by chance. The lowest ones are left to those who ask for one by number, for as long as there are others.
// https://kubernetes.io/docs/concepts/services-networking/service/#avoid-nodeport-collisions
func (r PortRange) free(taken func(int32) bool) (int32, bool) {
	size := int32(r.Last) - int32(r.First) + 1
	reserved := min(max(16, size/32), 128)
	if size <= 16 {
		reserved = 0
	}
	for _, band := range [][2]int32{{reserved, size}, {0, reserved}} {
		count := band[1] - band[0]
		if count == 0 {
			continue
		}
		start := rand.Int32N(count)
		for i := range count {
			if port := int32(r.First) + band[0] + (start+i)%count; !taken(port) {
				return port, true
			}
		}
	}
	return 0, false
}

// nodePorts gives the ports of a Service node ports where they are wanted, and one for the load balancer's health check.
// A node port belongs to one Service, which may use it once for each protocol.
func (a *allocator) nodePorts(svc *corev1.Service, t taken) field.ErrorList {
	wants := svc.Spec.Type == corev1.ServiceTypeNodePort ||
		svc.Spec.Type == corev1.ServiceTypeLoadBalancer && ptrOr(svc.Spec.AllocateLoadBalancerNodePorts, true)
	own := ownPorts{}
	for _, p := range svc.Spec.Ports {
		own.add(p.NodePort, p.Protocol)
	}
	var errs field.ErrorList
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
		switch {
		case p.NodePort != 0:
			errs = append(errs, a.mayHavePort(path, p.NodePort, t)...)
		case wants:
			port, err := a.freePort(path, svc, p, own, t)
			errs = append(errs, err...)
			p.NodePort = port
			own.add(port, p.Protocol)
		}
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return errs
	}
	path := field.NewPath("spec", "healthCheckNodePort")
	if svc.Spec.HealthCheckNodePort != 0 {
		return append(errs, a.mayHavePort(path, svc.Spec.HealthCheckNodePort, t)...)
	}
	port, err := a.freePort(path, svc, nil, own, t)
	svc.Spec.HealthCheckNodePort = port
	return append(errs, err...)
}

// ownPorts are the node ports of the Service that is written, with the protocols that use them.
type ownPorts map[int32][]corev1.Protocol

func (o ownPorts) add(port int32, protocol corev1.Protocol) {
	if port != 0 {
		o[port] = append(o[port], protocol)
	}
}

func (a *allocator) mayHavePort(path *field.Path, port int32, t taken) field.ErrorList {
	switch {
	case t.port(port):
		return portTaken(path, port)
	case !a.ports.contains(port) && !slices.Contains(t.ownPorts, port):
		return field.ErrorList{field.Invalid(path, port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %s", a.ports))}
	}
	return nil
}

func portTaken(path *field.Path, port int32) field.ErrorList {
	return field.ErrorList{field.Invalid(path, port, "provided port is already allocated")}
}

// freePort picks a node port by chance; for a port that the Service has in another protocol too (DNS), the same.
func (a *allocator) freePort(path *field.Path, svc *corev1.Service, p *corev1.ServicePort, own ownPorts, t taken) (int32, field.ErrorList) {
	for _, twin := range svc.Spec.Ports {
		if p != nil && twin.Port == p.Port && twin.NodePort != 0 && !slices.Contains(own[twin.NodePort], p.Protocol) {
			return twin.NodePort, nil
		}
	}
	port, ok := a.ports.free(func(port int32) bool { return t.port(port) || own[port] != nil })
	if !ok {
		return 0, field.ErrorList{field.InternalError(path, fmt.Errorf("failed to allocate a nodePort: range %s is full", a.ports))}
	}
	return port, nil
}
