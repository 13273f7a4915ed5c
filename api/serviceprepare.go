package api

import (
	"net/netip"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// prepareService makes a new service ready for the API server to give it families, addresses and node ports: clusterIP and
// clusterIPs agree.
func prepareService(s *corev1.Service) {
	if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
	dropInternalPolicy(s)
}

// dropInternalPolicy takes a policy from an ExternalName, of which nothing is routed here. What is none stays, and is refused.
func dropInternalPolicy(s *corev1.Service) {
	policy := s.Spec.InternalTrafficPolicy
	if s.Spec.Type == corev1.ServiceTypeExternalName && policy != nil &&
		(*policy == corev1.ServiceInternalTrafficPolicyCluster || *policy == corev1.ServiceInternalTrafficPolicyLocal) {
		s.Spec.InternalTrafficPolicy = nil
	}
}

// prepareServiceUpdate lets a client send the same YAML again without what was allocated for it, and takes back what
// a change of type leaves without a use, unless the client changed that too: then validation speaks.
func prepareServiceUpdate(s, old *corev1.Service) {
	keepAllocated(s, old)
	agreeClusterIPs(s, old)
	releaseUnused(s, old)
	dropInternalPolicy(s)
}

func keepAllocated(s, old *corev1.Service) {
	if needsClusterIP(s) && needsClusterIP(old) {
		setDefault(&s.Spec.ClusterIP, old.Spec.ClusterIP)
		if len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if allocatesNodePorts(s) && allocatesNodePorts(old) {
		keepNodePorts(s.Spec.Ports, old.Spec.Ports)
	}
	if needsHealthCheckPort(s) && needsHealthCheckPort(old) {
		setDefault(&s.Spec.HealthCheckNodePort, old.Spec.HealthCheckNodePort)
	}
}

// keepNodePorts gives each port without a node port the one that the port of the same name had, unless the client
// now uses it elsewhere.
func keepNodePorts(ports, old []corev1.ServicePort) {
	taken := map[int32]bool{}
	for _, p := range ports {
		taken[p.NodePort] = true
	}
	had := map[string]int32{}
	for _, p := range old {
		had[p.Name] = p.NodePort
	}
	for i := range ports {
		if p := &ports[i]; p.NodePort == 0 && !taken[had[p.Name]] {
			p.NodePort = had[p.Name]
		}
	}
}

// agreeClusterIPs brings clusterIPs after clusterIP where the client, knowing only the older field, left the other one out or
// changed that one alone.
func agreeClusterIPs(s, old *corev1.Service) {
	switch same := s.Spec.ClusterIP == old.Spec.ClusterIP; {
	case same && len(s.Spec.ClusterIPs) == 0:
		s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
	case same || !slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs):
	case s.Spec.ClusterIP == "":
		s.Spec.ClusterIPs = nil
	default:
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

func releaseUnused(s, old *corev1.Service) {
	if needsClusterIP(old) && !needsClusterIP(s) {
		if s.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		}
		if slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			s.Spec.IPFamilies = nil
		}
		release(&s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy)
	}
	if hasNodePorts(old) && !hasNodePorts(s) && noNewNodePort(s.Spec.Ports, old.Spec.Ports) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheckPort(old) && !needsHealthCheckPort(s) {
		release(&s.Spec.HealthCheckNodePort, old.Spec.HealthCheckNodePort)
	}
	if old.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		release(&s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts)
		release(&s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass)
	}
	if reachableFromOutside(&old.Spec) && !reachableFromOutside(&s.Spec) {
		release(&s.Spec.ExternalTrafficPolicy, old.Spec.ExternalTrafficPolicy)
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// release empties a field that the client left as it was.
func release[T any](field *T, old T) {
	if reflect.DeepEqual(*field, old) {
		var zero T
		*field = zero
	}
}

// familyOf is the family of an address; IPv4 where it is none.
func familyOf(ip string) corev1.IPFamily {
	if addr, err := netip.ParseAddr(ip); err == nil && addr.Is6() && !addr.Is4In6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func needsClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

// hasNodePorts tells the types whose ports may have node ports; allocatesNodePorts those that get them unasked.
func hasNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func allocatesNodePorts(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

func needsHealthCheckPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// noNewNodePort reports whether every node port was there before.
func noNewNodePort(ports, old []corev1.ServicePort) bool {
	return !slices.ContainsFunc(ports, func(p corev1.ServicePort) bool {
		return p.NodePort != 0 && !slices.ContainsFunc(old, func(o corev1.ServicePort) bool { return o.NodePort == p.NodePort })
	})
}
