package proxy

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// NetworkPolicies become elements like this. Pods of this node to which the same rules apply are one group; pods and other
// addresses that the same rules let in or out are one peer. For a group and a peer, the rules that they have in common say which
// ports are open between them: their permit. So the kernel finds for a new connection
//
//	address of the pod        -> group    (maps ingress4 and egress4; who is in none is free)
//	address of the other side -> peer     (maps peers4 and blocks4; for IPv6 there are others)
//	group . peer              -> permit   (map pairs; and anyone, for rules that name no peers)
//	permit . protocol . port              (set permits)
//
// which are as many steps for ten thousand peers as for one. Groups, peers and permits are numbered by sums of what they mean, so
// that numbers do not depend on what happened before.

// policies is what the API says of NetworkPolicies, and what follows from it.
type policies struct {
	families []family

	all        map[string]*policy // By "namespace/name".
	namespaces map[string]labels.Set
	pods       map[string]*corev1.Pod
	addresses  map[netip.Addr]int // How many of the pods have it.
	ownRanges  []netip.Prefix     // Of this node's pods, as far as they are known.

	members map[string][]*member
	blocks  []mixedBlock
	groups  map[string]*counted[*group]
	peers   map[string]*counted[*group]
	numbers map[string]uint32 // By what they stand for: a group, a peer or a permit.

	stale   bool            // All members are, as the policies have changed,
	touched map[string]bool // or these.
}

// A member is an address of a pod as the policies see it: a block may name one of two.
type member struct {
	addr   netip.Addr
	own    bool // It is on this node.
	limits [2]*group
	peer   *group // nil: no rule names it.
}

// A group is a number of rules with their ports. Where names of ports mean what a pod calls so, it is the pod in it that has them.
type group struct {
	text  string // The same for equal groups.
	rules []boundRule
}

type boundRule struct {
	*policyRule
	ports []portRange
}

// counted is something with the number of its users.
type counted[T any] struct {
	it    T
	users int
}

// A mixedBlock is a range of addresses that the same rules name.
type mixedBlock struct {
	span
	peer *group
}

func newPolicies(families []family) policies {
	return policies{
		families: families,
		all:      map[string]*policy{}, namespaces: map[string]labels.Set{}, pods: map[string]*corev1.Pod{}, addresses: map[netip.Addr]int{}, members: map[string][]*member{},
		groups: map[string]*counted[*group]{}, peers: map[string]*counted[*group]{}, numbers: map[string]uint32{}, touched: map[string]bool{},
	}
}

// SetPolicy makes the Ruleset enforce a NetworkPolicy called name ("namespace/name"). nil is one that is gone.
func (r *Ruleset) SetPolicy(name string, p *networkingv1.NetworkPolicy) {
	if p == nil {
		delete(r.policies.all, name)
	} else {
		r.policies.all[name] = newPolicy(p)
	}
	r.policies.stale = true
}

// SetNamespace tells the labels of a namespace. nil is one that is gone.
func (r *Ruleset) SetNamespace(name string, ns *corev1.Namespace) {
	p := &r.policies
	switch have, there := p.namespaces[name]; {
	case ns == nil:
		delete(p.namespaces, name)
	case there && maps.Equal(have, ns.Labels):
		return
	default:
		p.namespaces[name] = labels.Set(ns.Labels)
	}
	p.stale = true
}

// setOwnRanges tells which addresses this node gives to its pods.
func (r *Ruleset) setOwnRanges(ranges []netip.Prefix) {
	r.policies.ownRanges, r.policies.stale = ranges, true
}

// setPod notes the pod for the policies. left are the addresses that no pod has any more.
func (p *policies) setPod(name string, pod *corev1.Pod) (left []netip.Addr) {
	for _, addr := range policyAddresses(p.families, pod) {
		p.addresses[addr]++
	}
	for _, addr := range policyAddresses(p.families, p.pods[name]) {
		if p.addresses[addr]--; p.addresses[addr] == 0 {
			delete(p.addresses, addr)
			left = append(left, addr)
		}
	}
	if pod == nil {
		delete(p.pods, name)
	} else {
		p.pods[name] = pod
	}
	p.touched[name] = true
	return left
}

// enforce brings the elements up to date with policies, namespaces and pods.
func (r *Ruleset) enforce() {
	p := &r.policies
	if !p.stale && len(p.touched) == 0 {
		return
	}
	names := slices.Collect(maps.Keys(p.touched))
	if p.stale {
		names = slices.Collect(maps.Keys(p.pods))
		for name := range p.members {
			if p.pods[name] == nil {
				names = append(names, name)
			}
		}
		p.mixBlocks()
	}
	fresh := p.stale
	for _, name := range names {
		fresh = p.see(r.config.NodeName, name) || fresh
	}
	if fresh {
		if p.number() {
			names = slices.Collect(maps.Keys(p.members))
		}
		r.limit("policies", p.elements)
	}
	for _, name := range names {
		r.limit(memberOwner+name, func(yield func(key, value)) {
			for _, m := range p.members[name] {
				m.elements(p.numbers, yield)
			}
		})
	}
	p.stale, p.touched = false, map[string]bool{}
}

// limit is replace for what policies want.
func (r *Ruleset) limit(owner string, want func(yield func(key, value))) {
	var now []key
	r.replace(owner,
		func(yield func(key, value)) {
			for _, k := range r.enforced[owner] {
				yield(k, value{})
			}
		},
		func(yield func(key, value)) {
			want(func(k key, v value) {
				now = append(now, k)
				yield(k, v)
			})
		})
	if len(now) == 0 {
		delete(r.enforced, owner)
	} else {
		r.enforced[owner] = now
	}
}

// memberOwner stands before "namespace/name" where a Ruleset's owner is a pod as NetworkPolicies see it.
const memberOwner = "member:"

// see works out what the pod called name is to the policies. It reports whether there is a group or peer more or less.
func (p *policies) see(node, name string) (fresh bool) {
	have := p.members[name]
	delete(p.members, name)
	for _, addr := range policyAddresses(p.families, p.pods[name]) {
		if m := p.newMember(node, p.pods[name], addr); m != nil {
			p.members[name] = append(p.members[name], m)
			fresh = p.count(m, 1) || fresh
		}
	}
	for _, m := range have {
		fresh = p.count(m, -1) || fresh
	}
	return fresh
}

func (p *policies) count(m *member, n int) (fresh bool) {
	fresh = count(p.peers, m.peer, n)
	for _, g := range m.limits {
		fresh = count(p.groups, g, n) || fresh
	}
	return fresh
}

// count adds to the users of g, and reports whether it is the first or has none any more.
func count(in map[string]*counted[*group], g *group, n int) (fresh bool) {
	if g == nil {
		return false
	}
	c := in[g.text]
	if c == nil {
		c = &counted[*group]{it: g}
		in[g.text] = c
	}
	if n > 0 {
		c.it = g // Its rules may be newer ones of the same names.
	}
	c.users += n
	if c.users == 0 {
		delete(in, g.text)
		return true
	}
	return n > 0 && c.users == n
}

// newMember decides what a pod is by one of its addresses. nil: nothing to any policy.
func (p *policies) newMember(node string, pod *corev1.Pod, addr netip.Addr) *member {
	if len(p.all) == 0 {
		return nil
	}
	m := &member{addr: addr, own: pod.Spec.NodeName == node}
	var limits [2][]boundRule
	var limited [2]bool
	var peer []boundRule
	for _, pol := range p.all {
		selected := m.own && pol.namespace == pod.Namespace && pol.selects.Matches(labels.Set(pod.Labels))
		for d, limits := range pol.limits {
			limited[d] = limited[d] || selected && limits
		}
		for _, rule := range pol.rules {
			if selected {
				limits[rule.direction] = append(limits[rule.direction], rule.protecting(pod))
			}
			// A rule for everybody that names ports means, on the way out, something else for each pod.
			if !rule.everybody && rule.means(pod, addr, p.namespaces) || rule.everybody && rule.direction == outgoing && rule.named() {
				peer = append(peer, rule.naming(pod))
			}
		}
	}
	for d := range limits {
		if limited[d] {
			m.limits[d] = newGroup(direction(d).String(), limits[d])
		}
	}
	if len(peer) > 0 {
		m.peer = newGroup("peer", peer)
	}
	return m
}

// protecting binds the names of ports to a pod that the rule protects.
func (r *policyRule) protecting(pod *corev1.Pod) boundRule {
	if r.direction == outgoing {
		pod = nil // They are those of the other pod.
	}
	return boundRule{r, r.bound(pod)}
}

// naming binds the names of ports to a pod that is the rule's peer.
func (r *policyRule) naming(pod *corev1.Pod) boundRule {
	if r.direction == incoming {
		pod = nil
	}
	return boundRule{r, r.bound(pod)}
}

func newGroup(kind string, rules []boundRule) *group {
	slices.SortFunc(rules, func(a, b boundRule) int { return cmp.Compare(a.name, b.name) })
	var text strings.Builder
	text.WriteString(kind)
	for _, r := range rules {
		text.WriteString("\n" + r.name)
		if r.named() {
			text.WriteString(" " + portsText(r.ports))
		}
	}
	return &group{text.String(), rules}
}

// mixBlocks works out which rules name the addresses outside.
func (p *policies) mixBlocks() {
	var rules []*policyRule
	for _, pol := range p.all {
		rules = append(rules, pol.rules...)
	}
	slices.SortFunc(rules, func(a, b *policyRule) int { return cmp.Compare(a.name, b.name) })
	for _, b := range p.blocks {
		count(p.peers, b.peer, -1)
	}
	p.blocks = nil
	for _, f := range p.families {
		for _, m := range mix(blocksOf(f, rules)) {
			var bound []boundRule
			for _, i := range m.in {
				bound = append(bound, rules[i].naming(nil))
			}
			b := mixedBlock{m.span, newGroup("peer", bound)}
			count(p.peers, b.peer, 1)
			p.blocks = append(p.blocks, b)
		}
	}
}

// blocksOf returns the blocks of a family that each of the rules names.
func blocksOf(f family, rules []*policyRule) [][]span {
	lists := make([][]span, len(rules))
	for i, r := range rules {
		for _, peer := range r.peers {
			for _, s := range peer.block {
				if familyOf(s.first) == f {
					lists[i] = append(lists[i], s)
				}
			}
		}
	}
	return lists
}

// number gives everything its number: a sum of its text, or the next one that is free. It reports whether a number has changed.
func (p *policies) number() (changed bool) {
	texts := map[string]bool{}
	for _, in := range []map[string]*counted[*group]{p.groups, p.peers} {
		for text := range in {
			texts[text] = true
		}
	}
	p.eachPermit(func(_, _ *group, ports []portRange) { texts[portsText(ports)] = true })
	taken, numbers := map[uint32]bool{0: true}, make(map[string]uint32, len(texts))
	for _, text := range slices.Sorted(maps.Keys(texts)) {
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(text))
		n := sum.Sum32()
		for taken[n] {
			n++
		}
		taken[n] = true
		numbers[text] = n
		if before, there := p.numbers[text]; there && before != n {
			changed = true
		}
	}
	p.numbers = numbers
	return changed
}

// eachPermit calls yield with each group and peer that have something to do with each other, and the ports that are open between
// them. A nil peer stands for everybody.
func (p *policies) eachPermit(yield func(g, peer *group, ports []portRange)) {
	byRule := map[string][]protection{}
	for _, g := range p.groups {
		var open []portRange
		for _, r := range g.it.rules {
			byRule[r.name] = append(byRule[r.name], protection{g.it, r})
			if r.everybody {
				open = append(open, r.ports...)
			}
		}
		if len(open) > 0 {
			yield(g.it, nil, merge(open))
		}
	}
	for _, peer := range p.peers {
		open := map[*group][]portRange{}
		for _, r := range peer.it.rules {
			for _, protected := range byRule[r.name] {
				ports := r.ports
				if r.direction == incoming {
					ports = protected.rule.ports
				}
				open[protected.by] = append(open[protected.by], ports...)
			}
		}
		for g, ports := range open {
			if len(ports) > 0 {
				yield(g, peer.it, merge(ports))
			}
		}
	}
}

// A protection is a rule with the ports that it has for a group.
type protection struct {
	by   *group
	rule boundRule
}

// merge puts ports in order, each once.
func merge(ports []portRange) []portRange {
	slices.SortFunc(ports, func(a, b portRange) int {
		return cmp.Or(cmp.Compare(a.proto, b.proto), cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last))
	})
	if ports[0].proto == anyProtocol {
		return ports[:1]
	}
	merged := ports[:1]
	for _, p := range ports[1:] {
		if end := &merged[len(merged)-1]; p.proto == end.proto && int(p.first) <= int(end.last)+1 {
			end.last = max(end.last, p.last)
		} else {
			merged = append(merged, p)
		}
	}
	return merged
}

// elements calls yield with what is not about a single pod.
func (p *policies) elements(yield func(key, value)) {
	for _, own := range p.ownRanges {
		if len(p.all) > 0 && slices.Contains(p.families, familyOf(own.Addr())) {
			yield(key{in: ownRange, addr: own.Addr(), last: lastOf(own)}, value{})
		}
	}
	for _, b := range p.blocks {
		yield(key{in: blocks, addr: b.first, last: b.last}, value{number: p.numbers[b.peer.text]})
	}
	p.eachPermit(func(g, peer *group, ports []portRange) {
		permit := p.numbers[portsText(ports)]
		k := key{in: anyone, slot: p.numbers[g.text]}
		if peer != nil {
			k.in, k.peer = pairs, p.numbers[peer.text]
		}
		yield(k, value{number: permit})
		for _, r := range ports {
			yield(key{in: permits, slot: permit, proto: r.proto, port: r.first, lastPort: r.last}, value{})
		}
	})
}

// elements calls yield with those of one address of a pod.
func (m *member) elements(numbers map[string]uint32, yield func(key, value)) {
	if m.peer != nil {
		yield(key{in: peers, addr: m.addr}, value{number: numbers[m.peer.text]})
	}
	if !m.own {
		return
	}
	yield(key{in: known, addr: m.addr}, value{})
	if m.limits != [2]*group{} { // It may reach itself.
		yield(key{in: hairpin, addr: m.addr}, value{})
	}
	for d, in := range []mapKind{ingress, egress} {
		if g := m.limits[d]; g != nil {
			yield(key{in: in, addr: m.addr}, value{number: numbers[g.text]})
		}
	}
}
