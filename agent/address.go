package agent

import (
	"cmp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// A node's addresses may change while it runs: DHCP, or a network that comes later than the node. Whatever names them is worked out anew
// then. In Kubernetes the kubelet does so for the Node; a pod on the host's network keeps the addresses that it began with.

// nodeIPs are the node's addresses now, one a family.
func (a *Agent) nodeIPs() []string { return *a.addresses.Load() }

// SetNodeIPs tells the agent that the node has other addresses than Config.NodeIPs, or than it was told before. It may be called at any time.
func (a *Agent) SetNodeIPs(ips []string) {
	ips = slices.Clone(ips)
	if len(ips) == 0 || slices.Equal(ips, *a.addresses.Swap(&ips)) {
		return
	}
	select {
	case a.moved <- struct{}{}:
	default: // The node is to be looked at in any case.
	}
	for _, pod := range a.ownPods() {
		a.loop.Add(podKey(pod))
	}
}

// addresses are what a Node's status names.
func (a *Agent) nodeAddresses() (all []v1.NodeAddress) {
	for _, ip := range a.nodeIPs() {
		all = append(all, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
	}
	return append(all, v1.NodeAddress{Type: v1.NodeHostName, Address: a.NodeName})
}

// place is what a status says of where the pod is.
type place struct {
	nodeIPs []string
	network *PodNetwork // nil: not set up.
	scheme  string      // Of container IDs: "containerd".
}

// podIPs are the pod's own addresses, or the node's for a pod on the host's network.
func (at place) podIPs(pod *v1.Pod) []string {
	switch {
	case pod.Spec.HostNetwork:
		return at.nodeIPs
	case at.network != nil:
		return at.network.IPs
	}
	return nil
}

// address fills in where the pod is, as far as that is known.
func (at place) address(pod *v1.Pod, status *v1.PodStatus) {
	status.HostIP, status.HostIPs = at.nodeIPs[0], nil
	for _, ip := range at.nodeIPs {
		status.HostIPs = append(status.HostIPs, v1.HostIP{IP: ip})
	}
	ips := at.podIPs(pod)
	if len(ips) == 0 {
		return
	}
	status.PodIP, status.PodIPs = ips[0], nil
	for _, ip := range ips {
		status.PodIPs = append(status.PodIPs, v1.PodIP{IP: ip})
	}
}

// where is the place of a pod, as far as it is prepared.
func (a *Agent) where(m *memory) place {
	at := place{nodeIPs: a.nodeIPs(), scheme: containerScheme}
	if m.ready != nil {
		at.network = &m.ready.network
	}
	return at
}

// reached returns where the pod's probes and hooks find it. On the host's network that follows the node.
func (a *Agent) reached(pod *v1.Pod, m *memory) func() string {
	if pod.Spec.HostNetwork {
		return func() string { return a.nodeIPs()[0] }
	}
	ip := pod.Status.PodIP
	if ips := a.where(m).podIPs(pod); len(ips) > 0 {
		ip = ips[0]
	}
	return func() string { return ip }
}

// addressField resolves a fieldRef that asks where the pod is.
func (at place) addressField(pod *v1.Pod, path string) (value string, ok bool) {
	ips, all := at.podIPs(pod), false
	switch path {
	case "status.hostIP":
		ips = at.nodeIPs
	case "status.hostIPs":
		ips, all = at.nodeIPs, true
	case "status.podIP":
	case "status.podIPs":
		all = true
	default:
		return "", false
	}
	if !all {
		ips = ips[:min(1, len(ips))]
	}
	return strings.Join(ips, ","), true
}

// hostPorts are the ports of the node that a pod asks for.
func hostPorts(pod *v1.Pod) (all []HostPort) {
	if pod.Spec.HostNetwork {
		return nil // Its ports are the node's.
	}
	for _, c := range allContainers(&pod.Spec) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				all = append(all, HostPort{Host: uint16(p.HostPort), Container: uint16(p.ContainerPort), Protocol: cmp.Or(string(p.Protocol), string(v1.ProtocolTCP)), HostIP: p.HostIP})
			}
		}
	}
	return all
}
