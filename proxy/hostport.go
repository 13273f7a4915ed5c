package proxy

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// podOwner stands before "namespace/name" where a Ruleset's owner is a pod with host ports, not a Service. No namespace has a
// colon in its name. The others are for what has to be looked at.
const (
	podOwner       = "pod:"
	policyOwner    = "policy:"
	namespaceOwner = "namespace:"
)

// hasHostPorts reports whether obj is a pod of this node that wants ports of the node for its own.
func (c Config) hasHostPorts(obj any) bool {
	pod, ok := obj.(*corev1.Pod)
	return ok && pod.Spec.NodeName == c.NodeName && !pod.Spec.HostNetwork && len(hostPorts(pod)) > 0
}

// podOfInterest returns what a Ruleset calls the pod, if it is one with host ports, or one for policies.
func (c Config) podOfInterest(obj any) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok || !(c.HostPorts && c.hasHostPorts(obj)) && !(c.Policies && !pod.Spec.HostNetwork) {
		return nil
	}
	return []string{podOwner + pod.Namespace + "/" + pod.Name}
}

// hostPorts returns the ports of the pod's containers, sidecars among them, that are to be open on the node.
func hostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.HostPort != 0 {
					ports = append(ports, p)
				}
			}
		}
	}
	return ports
}

// newHostPorts decides what the host ports of pod want. They are open as soon as the pod has an address, ready or not. nil:
// nothing, the pod is over or not of this node.
func newHostPorts(c Config, pod *corev1.Pod) *service {
	if pod == nil || !c.HostPorts || !c.hasHostPorts(pod) || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	addr, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil || !addr.Is4() {
		return nil
	}
	s := &service{backends: map[frontend]backends{}, hairpin: []netip.Addr{addr}}
	for _, p := range hostPorts(pod) {
		at := []netip.Addr{netip.IPv4Unspecified()}
		if p.HostIP != "" && p.HostIP != "0.0.0.0" {
			at = c.translated(p.HostIP)
		}
		target := netip.AddrPortFrom(addr, uint16(p.ContainerPort))
		for _, a := range at {
			// The pod is on this node, so its answers come by here: clients keep their addresses.
			s.backends[frontend{a, protocolOf(p.Protocol), uint16(p.HostPort)}] = backends{targets: []netip.AddrPort{target}}
		}
		s.alive = append(s.alive, target)
	}
	s.alive = distinct(s.alive, netip.AddrPort.Compare)
	return s
}
