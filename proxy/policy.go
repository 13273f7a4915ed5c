package proxy

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// A policy is a NetworkPolicy, ready to be asked. What it means is told at
// https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that a policy selects is isolated in the
// policy's directions, and only what a rule of any of its policies lets through may pass.
type policy struct {
	name      string // "namespace/name".
	namespace string
	selects   labels.Selector
	limits    [2]bool // By direction.
	rules     []*policyRule
}

// A direction is of connections, as the selected pod sees them.
type direction int

const (
	incoming direction = iota
	outgoing
)

func (d direction) String() string { return [...]string{"ingress", "egress"}[d] }

// A policyRule lets connections through.
type policyRule struct {
	name      string // Unique: "namespace/name/ingress/0".
	direction direction
	everybody bool // No peers are named.
	peers     []policyPeer
	ports     []policyPort // None: every port of every protocol.
}

// A policyPeer is pods by their labels and those of their namespaces, or a range of addresses.
type policyPeer struct {
	pods       labels.Selector // Of the namespaces.
	namespace  string          // Where there is no selector of namespaces.
	namespaces labels.Selector
	block      []span
}

// A policyPort has numbers, or a name that pods give to a number.
type policyPort struct {
	ports portRange
	name  string
}

// A portRange is of one protocol, or with anyProtocol everything.
type portRange struct {
	proto       protocol
	first, last uint16
}

func (p portRange) String() string { return fmt.Sprintf("%s/%d-%d", p.proto, p.first, p.last) }

// newPolicy reads a NetworkPolicy.
func newPolicy(p *networkingv1.NetworkPolicy) *policy {
	all := &policy{name: p.Namespace + "/" + p.Name, namespace: p.Namespace, selects: selectorOf(&p.Spec.PodSelector)}
	for _, t := range p.Spec.PolicyTypes {
		all.limits[incoming] = all.limits[incoming] || t == networkingv1.PolicyTypeIngress
		all.limits[outgoing] = all.limits[outgoing] || t == networkingv1.PolicyTypeEgress
	}
	add := func(d direction, i int, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		if all.limits[d] {
			r := &policyRule{name: fmt.Sprintf("%s/%s/%d", all.name, d, i), direction: d, everybody: len(peers) == 0}
			for _, peer := range peers {
				r.peers = append(r.peers, newPolicyPeer(p.Namespace, peer))
			}
			for _, port := range ports {
				r.ports = append(r.ports, newPolicyPort(port))
			}
			all.rules = append(all.rules, r)
		}
	}
	for i, r := range p.Spec.Ingress {
		add(incoming, i, r.From, r.Ports)
	}
	for i, r := range p.Spec.Egress {
		add(outgoing, i, r.To, r.Ports)
	}
	return all
}

// selectorOf reads a selector that the API has validated; one that cannot be read selects nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

func newPolicyPeer(namespace string, peer networkingv1.NetworkPolicyPeer) policyPeer {
	if b := peer.IPBlock; b != nil {
		return policyPeer{block: blockOf(b)}
	}
	p := policyPeer{pods: labels.Everything(), namespace: namespace}
	if peer.PodSelector != nil {
		p.pods = selectorOf(peer.PodSelector)
	}
	if peer.NamespaceSelector != nil {
		p.namespaces = selectorOf(peer.NamespaceSelector)
	}
	return p
}

func blockOf(b *networkingv1.IPBlock) []span {
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return nil
	}
	var without []netip.Prefix
	for _, text := range b.Except {
		if p, err := netip.ParsePrefix(text); err == nil {
			without = append(without, p.Masked())
		}
	}
	return cut(whole, without)
}

func newPolicyPort(port networkingv1.NetworkPolicyPort) policyPort {
	p := policyPort{ports: portRange{tcp, 0, 65535}}
	if port.Protocol != nil {
		p.ports.proto = protocolOf(*port.Protocol)
	}
	switch {
	case port.Port == nil:
	case port.Port.StrVal != "":
		p.name = port.Port.StrVal
	default:
		p.ports.first = uint16(port.Port.IntVal)
		p.ports.last = p.ports.first
		if port.EndPort != nil {
			p.ports.last = uint16(*port.EndPort)
		}
	}
	return p
}

// bound returns the ports of the rule where names mean what pod calls so; without a pod they mean nothing.
func (r *policyRule) bound(pod *corev1.Pod) []portRange {
	if len(r.ports) == 0 {
		return []portRange{{anyProtocol, 0, 65535}}
	}
	var all []portRange
	for _, p := range r.ports {
		if p.name == "" {
			all = append(all, p.ports)
		} else if pod != nil {
			all = append(all, namedPorts(pod, p.name, p.ports.proto)...)
		}
	}
	return all
}

func (r *policyRule) named() bool {
	for _, p := range r.ports {
		if p.name != "" {
			return true
		}
	}
	return false
}

func namedPorts(pod *corev1.Pod, name string, proto protocol) []portRange {
	var all []portRange
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.Name == name && protocolOf(p.Protocol) == proto {
					all = append(all, portRange{proto, uint16(p.ContainerPort), uint16(p.ContainerPort)})
				}
			}
		}
	}
	return all
}

// means reports whether the rule names pod as a peer, by its labels or by its address.
func (r *policyRule) means(pod *corev1.Pod, addr netip.Addr, namespaces map[string]labels.Set) bool {
	for _, p := range r.peers {
		switch {
		case p.pods == nil:
			for _, s := range p.block {
				if s.first.Compare(addr) <= 0 && addr.Compare(s.last) <= 0 {
					return true
				}
			}
		case !p.pods.Matches(labels.Set(pod.Labels)):
		case p.namespaces == nil && p.namespace == pod.Namespace:
			return true
		case p.namespaces != nil && p.namespaces.Matches(namespaces[pod.Namespace]):
			return true
		}
	}
	return false
}

// policyAddresses returns the pod's addresses, if NetworkPolicies know the pod: one on the node's own network is the node to them.
func policyAddresses(families []family, pod *corev1.Pod) []netip.Addr {
	if pod == nil || pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	return podAddresses(families, pod)
}

// portsText is the same for ports that mean the same in the same order.
func portsText(ports []portRange) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = p.String()
	}
	return strings.Join(texts, " ")
}
