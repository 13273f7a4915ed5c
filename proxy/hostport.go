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
	rangesOwner    = "servicecidr:" // All of them are one.
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
	addrs := podAddresses(c.families(), pod)
	if len(addrs) == 0 {
		return nil
	}
	s := &service{hairpin: addrs}
	for _, addr := range addrs {
		for _, p := range hostPorts(pod) {
			target := netip.AddrPortFrom(addr, uint16(p.ContainerPort))
			for _, at := range hostAddresses(c, familyOf(addr), p.HostIP) {
				// The pod is on this node, so its answers come by here: clients keep their addresses.
				s.open(frontend{at, protocolOf(p.Protocol), uint16(p.HostPort)}, backends{targets: []netip.AddrPort{target}})
			}
			s.alive = append(s.alive, target)
		}
	}
	s.alive = distinct(s.alive, netip.AddrPort.Compare)
	return s
}

// hostAddresses returns the addresses of a family on which a host port is open: what hostIP says, or all that the node has.
func hostAddresses(c Config, f family, hostIP string) []netip.Addr {
	if hostIP == "" || hostIP == f.anywhere().String() {
		return []netip.Addr{f.anywhere()}
	}
	return c.translated(f, hostIP)
}

// podAddresses returns the pod's addresses, one of each family at most.
func podAddresses(families []family, pod *corev1.Pod) []netip.Addr {
	texts := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	var addrs []netip.Addr
	for _, f := range families {
		for _, text := range texts {
			if addr, ok := f.parse(text); ok {
				addrs = append(addrs, addr)
				break
			}
		}
	}
	return addrs
}
