package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// A policyWorld is all that NetworkPolicies depend on, in a random state.
type policyWorld struct {
	world
	policies   map[string]*networkingv1.NetworkPolicy
	namespaces map[string]*corev1.Namespace
	pods       map[string]*corev1.Pod
	ownRanges  []netip.Prefix
}

func (w world) newPolicyWorld() *policyWorld {
	return &policyWorld{w, map[string]*networkingv1.NetworkPolicy{}, map[string]*corev1.Namespace{}, map[string]*corev1.Pod{}, nil}
}

var worldNamespaces = []string{"default", "shop", "watch"}

// change changes some of it, and tells r what it was.
func (w *policyWorld) change(rnd *rand.Rand, r *Ruleset) {
	namespace := worldNamespaces[rnd.IntN(3)]
	switch rnd.IntN(8) {
	case 0, 1:
		name := fmt.Sprintf("p%d", rnd.IntN(3))
		w.policies[namespace+"/"+name] = w.anyPolicy(rnd, namespace, name)
		r.SetPolicy(namespace+"/"+name, w.policies[namespace+"/"+name])
	case 2:
		w.namespaces[namespace] = nil
		if rnd.IntN(4) > 0 {
			w.namespaces[namespace] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: anyLabels(rnd)}}
		}
		r.SetNamespace(namespace, w.namespaces[namespace])
	case 3:
		w.ownRanges = nil
		for _, f := range w.families {
			w.ownRanges = append(w.ownRanges, netip.MustParsePrefix(f.as([]string{"10.42.0.0/24", "10.42.0.0/28"}[rnd.IntN(2)])))
		}
		r.setOwnRanges(w.ownRanges)
	default:
		name := fmt.Sprintf("%s/pod%d", namespace, rnd.IntN(3))
		w.pods[name] = w.anyPod(rnd, namespace, 20+10*slices.Index(worldNamespaces, namespace)+int(name[len(name)-1]-'0'))
		r.SetPod(name, w.pods[name])
	}
}

// tell tells everything to a new Ruleset.
func (w *policyWorld) tell(r *Ruleset) {
	for name, pod := range w.pods {
		r.SetPod(name, pod)
	}
	for name, ns := range w.namespaces {
		r.SetNamespace(name, ns)
	}
	for name, p := range w.policies {
		r.SetPolicy(name, p)
	}
	r.setOwnRanges(w.ownRanges)
	r.enforce()
}

func anyLabels(rnd *rand.Rand) map[string]string {
	return []map[string]string{nil, {"a": "1"}, {"a": "2"}, {"a": "1", "b": "1"}}[rnd.IntN(4)]
}

func anySelector(rnd *rand.Rand) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: anyLabels(rnd)}
}

func (w world) anyPod(rnd *rand.Rand, namespace string, last int) *corev1.Pod {
	if rnd.IntN(6) == 0 {
		return nil
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: anyLabels(rnd)}}
	pod.Spec.NodeName = []string{"node", "other"}[rnd.IntN(2)]
	pod.Spec.HostNetwork = rnd.IntN(10) == 0
	for _, f := range w.families {
		if rnd.IntN(6) > 0 {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: f.as(fmt.Sprintf("10.42.0.%d", last))})
		}
	}
	pod.Status.Phase = []corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodSucceeded}[rnd.IntN(3)]
	pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(80 + rnd.IntN(2)), Protocol: corev1.ProtocolTCP}}}}
	return pod
}

func (w world) anyPolicy(rnd *rand.Rand, namespace, name string) *networkingv1.NetworkPolicy {
	if rnd.IntN(4) == 0 {
		return nil
	}
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	p.Spec.PodSelector = *anySelector(rnd)
	types := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	p.Spec.PolicyTypes = types[rnd.IntN(2) : 1+rnd.IntN(2)]
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = types
	}
	for range rnd.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: w.anyPeers(rnd), Ports: anyPorts(rnd)})
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: w.anyPeers(rnd), Ports: anyPorts(rnd)})
	}
	return p
}

func (w world) anyPeers(rnd *rand.Rand) (all []networkingv1.NetworkPolicyPeer) {
	for range rnd.IntN(3) {
		peer := networkingv1.NetworkPolicyPeer{}
		switch rnd.IntN(4) {
		case 0:
			peer.PodSelector = anySelector(rnd)
		case 1:
			peer.NamespaceSelector = anySelector(rnd)
		case 2:
			peer.PodSelector, peer.NamespaceSelector = anySelector(rnd), anySelector(rnd)
		case 3:
			f, kind := w.families[rnd.IntN(len(w.families))], rnd.IntN(4)
			peer.IPBlock = &networkingv1.IPBlock{CIDR: f.as([]string{"0.0.0.0/0", "10.42.0.0/16", "10.42.0.16/28", "192.0.2.0/24"}[kind])}
			for range rnd.IntN(3) {
				if kind == 0 {
					peer.IPBlock.Except = append(peer.IPBlock.Except, f.as([]string{"10.42.0.20/30", "192.0.2.0/25", "10.0.0.0/8"}[rnd.IntN(3)]))
				}
			}
		}
		all = append(all, peer)
	}
	return all
}

func anyPorts(rnd *rand.Rand) (all []networkingv1.NetworkPolicyPort) {
	for range rnd.IntN(3) {
		port := networkingv1.NetworkPolicyPort{Protocol: new([]corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}[rnd.IntN(2)])}
		switch rnd.IntN(4) {
		case 0:
			port.Port = new(intstr.FromInt32(int32(79 + rnd.IntN(3))))
		case 1:
			port.Port = new(intstr.FromInt32(int32(70 + rnd.IntN(11))))
			port.EndPort = new(int32(81))
		case 2:
			port.Port = new(intstr.FromString("http"))
		}
		all = append(all, port)
	}
	return all
}

// TestPolicyMeaning asks random worlds for every connection twice: of the elements, as the rules would look them up, and of the
// objects, as Kubernetes' documentation reads.
func TestPolicyMeaning(t *testing.T) {
	for _, w := range worlds() {
		t.Run(w.name, func(t *testing.T) {
			seed := rand.Uint64()
			rnd := rand.New(rand.NewPCG(seed, 0))
			allowed, denied := 0, 0
			for number := range 150 {
				w, r := w.newPolicyWorld(), NewRuleset(w.config())
				for range 40 {
					w.change(rnd, r)
				}
				r.enforce()
				elements := elementsOf(r.all())
				for _, c := range w.connections() {
					want := w.allows(incoming, c.to, c.from, c.to, c.port) && w.allows(outgoing, c.from, c.to, c.to, c.port)
					got := look(elements, ingress, c.to, c.from, c.port) && look(elements, egress, c.from, c.to, c.port)
					if c.from == c.to {
						want = true
						got = got || elements.has(key{in: hairpin, addr: netip.MustParseAddr(c.from)}) || !limited(elements, c.from)
					}
					if got != want {
						t.Fatalf("seed %d world %d: %+v: allowed %v, want %v\n%s\n%s", seed, number, c, got, want, w, r)
					}
					if want {
						allowed++
					} else {
						denied++
					}
				}
			}
			if allowed < 100 || denied < 100 {
				t.Errorf("%d connections allowed and %d denied: that tests nothing", allowed, denied)
			}
		})
	}
}

// An attempt is a connection that may be allowed or not.
type attempt struct {
	from, to string
	port     portRange
}

// connections returns those between all pods and some other addresses, each within its family.
func (w *policyWorld) connections() []attempt {
	var all []attempt
	for _, f := range w.families {
		addrs := f.each([]string{"192.0.2.1", "192.0.2.200", "198.51.100.1", "10.42.0.99"})
		for _, pod := range w.pods {
			for _, addr := range policyAddresses([]family{f}, pod) {
				addrs = append(addrs, addr.String())
			}
		}
		for _, from := range addrs {
			for _, to := range addrs {
				for _, port := range []portRange{{tcp, 80, 80}, {tcp, 81, 81}, {udp, 80, 80}, {1, 0, 0}} {
					all = append(all, attempt{from, to, port})
				}
			}
		}
	}
	return all
}

type elementsOf map[key]value

func (e elementsOf) has(k key) bool { _, ok := e[k]; return ok }

func limited(elements elementsOf, addr string) bool {
	a := netip.MustParseAddr(addr)
	return elements.has(key{in: ingress, addr: a}) || elements.has(key{in: egress, addr: a})
}

// look does what the rules of one direction do.
func look(elements elementsOf, in mapKind, pod, peer string, port portRange) bool {
	group, limited := elements[key{in: in, addr: netip.MustParseAddr(pod)}]
	if !limited {
		return true
	}
	var peerNumber uint32
	addr := netip.MustParseAddr(peer)
	for k, v := range elements {
		if k.in == blocks && k.addr.Compare(addr) <= 0 && addr.Compare(k.last) <= 0 {
			peerNumber = v.number
		}
	}
	if v, ok := elements[key{in: peers, addr: addr}]; ok {
		peerNumber = v.number
	}
	for _, k := range []key{{in: pairs, slot: group.number, peer: peerNumber}, {in: anyone, slot: group.number}} {
		permit, ok := elements[k]
		for p := range elements {
			if ok && p.in == permits && p.slot == permit.number && (p.proto == anyProtocol || p.proto == port.proto) && p.port <= port.first && port.first <= p.lastPort {
				return true
			}
		}
	}
	return false
}

// podAt returns the pod with that address, if policies know it.
func (w *policyWorld) podAt(addr string) *corev1.Pod {
	for _, pod := range w.pods {
		if slices.Contains(policyAddresses(w.families, pod), netip.MustParseAddr(addr)) {
			return pod
		}
	}
	return nil
}

// allows reads the policies that select the pod at addr. to is who gives names to ports.
func (w *policyWorld) allows(d direction, addr, peer, to string, port portRange) bool {
	pod := w.podAt(addr)
	if pod == nil || pod.Spec.NodeName != "node" {
		return true
	}
	isolated := false
	for _, p := range w.policies {
		kind := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}[d]
		if p == nil || p.Namespace != pod.Namespace || !slices.Contains(p.Spec.PolicyTypes, kind) || !selects(&p.Spec.PodSelector, pod.Labels) {
			continue
		}
		isolated = true
		if d == incoming {
			for _, r := range p.Spec.Ingress {
				if w.peerMatches(p.Namespace, r.From, peer) && w.portMatches(r.Ports, to, port) {
					return true
				}
			}
		} else {
			for _, r := range p.Spec.Egress {
				if w.peerMatches(p.Namespace, r.To, peer) && w.portMatches(r.Ports, to, port) {
					return true
				}
			}
		}
	}
	return !isolated
}

func selects(s *metav1.LabelSelector, labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (w *policyWorld) peerMatches(namespace string, all []networkingv1.NetworkPolicyPeer, addr string) bool {
	pod := w.podAt(addr)
	for _, peer := range all {
		if b := peer.IPBlock; b != nil {
			in := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(netip.MustParseAddr(addr)) }
			if in(b.CIDR) && !slices.ContainsFunc(b.Except, in) {
				return true
			}
			continue
		}
		if pod == nil || peer.PodSelector != nil && !selects(peer.PodSelector, pod.Labels) {
			continue
		}
		var labels map[string]string
		if ns := w.namespaces[pod.Namespace]; ns != nil {
			labels = ns.Labels
		}
		if peer.NamespaceSelector == nil && pod.Namespace == namespace || peer.NamespaceSelector != nil && selects(peer.NamespaceSelector, labels) {
			return true
		}
	}
	return len(all) == 0
}

func (w *policyWorld) portMatches(all []networkingv1.NetworkPolicyPort, to string, port portRange) bool {
	for _, p := range all {
		if protocolOf(*p.Protocol) != port.proto {
			continue
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.StrVal != "":
			if pod := w.podAt(to); pod != nil && pod.Spec.Containers[0].Ports[0].ContainerPort == int32(port.first) && port.proto == tcp {
				return true
			}
		case p.EndPort != nil:
			if p.Port.IntVal <= int32(port.first) && int32(port.first) <= *p.EndPort {
				return true
			}
		case p.Port.IntVal == int32(port.first):
			return true
		}
	}
	return len(all) == 0
}

func (w *policyWorld) String() string {
	var b strings.Builder
	for name, p := range w.policies {
		if p != nil {
			fmt.Fprintf(&b, "policy %s: %+v\n", name, p.Spec)
		}
	}
	for name, p := range w.pods {
		if p != nil {
			fmt.Fprintf(&b, "pod %s: %v %s %s\n", name, p.Labels, p.Spec.NodeName, p.Status.PodIPs)
		}
	}
	return b.String()
}

func TestMix(t *testing.T) {
	for _, tc := range []struct {
		name  string
		lists []string // Of prefixes, "!" before those that are cut out.
		want  string
	}{
		{"nothing", nil, ""},
		{"one", []string{"10.0.0.0/8"}, "10.0.0.0/8 [0]"},
		{"two that follow each other are one", []string{"10.0.0.0/9 10.128.0.0/9"}, "10.0.0.0/8 [0]"},
		{"one within another", []string{"10.0.0.0/8", "10.1.0.0/16"}, "10.0.0.0/16 [0], 10.1.0.0/16 [0 1], 10.2.0.0-10.255.255.255 [0]"},
		{"everything but", []string{"0.0.0.0/0 !10.0.0.0/8 !255.255.255.0/24"}, "0.0.0.0-9.255.255.255 [0], 11.0.0.0-255.255.254.255 [0]"},
		{"up to the last address", []string{"255.0.0.0/8", "0.0.0.0/0"}, "0.0.0.0-254.255.255.255 [1], 255.0.0.0/8 [0 1]"},
		{"twice in one list", []string{"10.0.0.0/8 10.1.0.0/16"}, "10.0.0.0/8 [0]"},
		{"all cut out", []string{"10.0.0.0/8 !10.0.0.0/9 !10.128.0.0/9"}, ""},
		{"everything of IPv6 but", []string{"::/0 !fd00::/8 !10.0.0.0/8"}, "::-fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff [0], fe00::/7 [0]"},
		{"one of IPv6 within another", []string{"fd00::/16", "fd00:1::/32"}, "fd00::/32 [0], fd00:1::/32 [0 1], fd00:2::-fd00:ffff:ffff:ffff:ffff:ffff:ffff:ffff [0]"},
	} {
		var lists [][]span
		for _, list := range tc.lists {
			var in, out []netip.Prefix
			for _, text := range strings.Fields(list) {
				if cidr, without := strings.CutPrefix(text, "!"); without {
					out = append(out, netip.MustParsePrefix(cidr))
				} else {
					in = append(in, netip.MustParsePrefix(text))
				}
			}
			var spans []span
			for _, p := range in {
				spans = append(spans, cut(p, out)...)
			}
			lists = append(lists, spans)
		}
		var got []string
		for _, m := range mix(lists) {
			got = append(got, fmt.Sprint(rangeText(m.first, m.last), " ", m.in))
		}
		if diff := cmp.Diff(tc.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
