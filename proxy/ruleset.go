package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A Ruleset says what the kernel should hold: the fixed rules and, for each Service, its elements. It is declarative: two
// Rulesets with the same Services are equal, whatever happened in between.
type Ruleset struct {
	config   Config
	zone     string              // Of the node, by its label. It matters for what is Set from then on.
	services map[string]*service // By "namespace/name".
	elements map[key]claim
	rivals   map[key]map[string]value // Further claims to the same key, by owner.
	guards   map[guardID]bool         // Those in use.
	alive    map[netip.AddrPort]int   // How many Services know this endpoint.
	changed  map[key]change           // What was touched since the kernel was last told. nil: it never was, and nobody keeps a list.
	died     []netip.Addr             // Of endpoints that left alive since then, and of pods that are gone and were served.
	served   map[netip.Addr]bool      // Connections to Services may lead there: it is or was an endpoint, or nobody knows.
	policies policies
	enforced map[string][]key // What policies want, by owner.
	ranges   []netip.Prefix   // Of which Services have cluster addresses.
}

// A claim is a Service's wish for an element. Two Services may want the same key: the endpoint of both is the same pod (hairpin),
// or one took over the address of the other and the news of that one's end is still on its way. The first by name wins.
type claim struct {
	owner string
	value value
}

// A change remembers what an element was before the first touch.
type change struct {
	value value
	there bool
}

// NewRuleset returns the Ruleset without any Service.
func NewRuleset(c Config) *Ruleset {
	r := &Ruleset{
		config:   c,
		services: map[string]*service{},
		elements: map[key]claim{},
		rivals:   map[key]map[string]value{},
		guards:   map[guardID]bool{},
		alive:    map[netip.AddrPort]int{},
		served:   map[netip.Addr]bool{},
		policies: newPolicies(c.families()),
		enforced: map[string][]key{},
	}
	r.SetRanges(nil)
	return r
}

// Set makes the Ruleset hold what the Service called name ("namespace/name") wants, instead of what it wanted before. A nil svc
// is one that is gone.
func (r *Ruleset) Set(name string, svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice) {
	r.set(name, newService(r.config, r.zone, svc, endpointSlices))
}

// SetPod does the same for the pod called name ("namespace/name"): its host ports, and what NetworkPolicies say of it.
func (r *Ruleset) SetPod(name string, pod *corev1.Pod) {
	r.set(podOwner+name, newHostPorts(r.config, pod))
	// What it was an endpoint of before, while nobody looked, cannot be told; and host ports may be others' work.
	if pod != nil && (r.changed == nil || len(hostPorts(pod)) > 0) {
		for _, addr := range policyAddresses(r.policies.families, pod) {
			r.served[addr] = true
		}
	}
	for _, addr := range r.policies.setPod(name, pod) {
		if r.served[addr] { // To look for connections to the others would take the kernel milliseconds for nothing.
			r.died = append(r.died, addr)
			delete(r.served, addr)
		}
	}
}

// health returns what the load balancer of the Service called name is told.
func (r *Ruleset) health(name string) health {
	if s := r.services[name]; s != nil {
		return s.health
	}
	return health{}
}

func (r *Ruleset) set(name string, want *service) {
	have := r.services[name]
	r.number(have, want)
	if have == nil {
		want.elements(func(k key, v value) { r.claim(k, claim{owner: name, value: v}) })
	} else {
		r.replace(name, have.elements, want.elements)
	}
	if want != nil {
		r.services[name] = want
		for _, target := range want.alive {
			r.alive[target]++
			r.served[target.Addr()] = true
		}
	} else {
		delete(r.services, name)
	}
	if have != nil {
		for _, target := range have.alive {
			if r.alive[target]--; r.alive[target] == 0 {
				delete(r.alive, target)
				r.died = append(r.died, target.Addr())
				if r.policies.addresses[target.Addr()] == 0 {
					delete(r.served, target.Addr())
				}
			}
		}
	}
}

// number gives the guards of want numbers that no other Service has.
func (r *Ruleset) number(have, want *service) {
	if have != nil {
		for _, g := range have.guards {
			delete(r.guards, g.guardID)
		}
	}
	if want != nil {
		for _, g := range want.guards {
			for r.guards[g.guardID] {
				g.number++
			}
			r.guards[g.guardID] = true
		}
	}
}

// replace has owner claim the elements that want yields, and withdraw those of have that are not among them.
func (r *Ruleset) replace(owner string, have, want func(yield func(key, value))) {
	kept := make(map[key]value)
	want(func(k key, v value) { kept[k] = v })
	have(func(k key, _ value) {
		if _, ok := kept[k]; !ok {
			r.withdraw(k, owner)
		}
	})
	for k, v := range kept {
		r.claim(k, claim{owner: owner, value: v})
	}
}

func (r *Ruleset) claim(k key, c claim) {
	first, taken := r.elements[k]
	switch {
	case !taken, first.owner == c.owner:
		r.put(k, c)
	case c.owner < first.owner:
		delete(r.rivals[k], c.owner)
		r.contest(k, first)
		r.put(k, c)
	default:
		r.contest(k, c)
	}
}

func (r *Ruleset) contest(k key, c claim) {
	if r.rivals[k] == nil {
		r.rivals[k] = map[string]value{}
	}
	r.rivals[k][c.owner] = c.value
}

func (r *Ruleset) withdraw(k key, owner string) {
	others := r.rivals[k]
	delete(others, owner)
	if r.elements[k].owner == owner {
		if len(others) == 0 {
			r.touch(k)
			delete(r.elements, k)
		} else {
			next := slices.Min(slices.Collect(maps.Keys(others)))
			r.put(k, claim{next, others[next]})
			delete(others, next)
		}
	}
	if len(others) == 0 {
		delete(r.rivals, k)
	}
}

func (r *Ruleset) put(k key, c claim) {
	before, there := r.elements[k]
	if !there || before.value != c.value {
		r.touch(k)
	}
	r.elements[k] = c
}

func (r *Ruleset) touch(k key) {
	if _, touched := r.changed[k]; !touched && r.changed != nil {
		before, there := r.elements[k]
		r.changed[k] = change{before.value, there}
	}
}

// A diff leads the kernel from one state to another. An element that changes is in both.
type diff struct {
	remove []element
	add    []element
}

func (d diff) empty() bool { return len(d.remove) == 0 && len(d.add) == 0 }

// news returns what changed since the last call of told.
func (r *Ruleset) news() diff {
	if r.changed == nil {
		return r.against(nil)
	}
	var d diff
	for k, before := range r.changed {
		now, there := r.elements[k]
		d.compare(k, before.value, before.there, now.value, there)
	}
	return d
}

// against returns what leads from the elements have to r.
func (r *Ruleset) against(have map[key]value) diff {
	d := diff{add: make([]element, 0, max(0, len(r.elements)-len(have)))}
	for k, v := range have {
		now, there := r.elements[k]
		d.compare(k, v, true, now.value, there)
	}
	for k, c := range r.elements {
		if _, there := have[k]; !there {
			d.add = append(d.add, element{k, c.value})
		}
	}
	return d
}

func (d *diff) compare(k key, before value, wasThere bool, now value, isThere bool) {
	if wasThere && (!isThere || before != now) {
		d.remove = append(d.remove, element{k, before})
	}
	if isThere && (!wasThere || before != now) {
		d.add = append(d.add, element{k, now})
	}
}

// told forgets what changed: the kernel holds r now.
func (r *Ruleset) told() {
	r.changed = map[key]change{} // Not clear: after the first time it is large.
	r.died = nil
}

// String writes the Ruleset in nft's syntax, as `nft -f` reads it. Equal Rulesets have the same text.
func (r *Ruleset) String() string {
	r.enforce()
	return r.write(nil)
}

// Dump is String with a comment behind every element: whose it is, and what a number of policies stands for.
func (r *Ruleset) Dump() string {
	meanings := map[uint32]string{}
	for text, n := range r.policies.numbers {
		meanings[n] = strings.ReplaceAll(text, "\n", ", ")
	}
	return r.write(func(e element) string {
		note := " # " + r.elements[e.key].owner
		for _, n := range []uint32{e.slot, e.peer, e.number} {
			if meaning, ok := meanings[n]; ok && e.in.isPolicy() {
				note += "; " + meaning
			}
		}
		return note
	})
}

func (r *Ruleset) write(note func(element) string) string {
	var b strings.Builder
	writeTable(&b, r.config, r.against(nil).add, note)
	return b.String()
}

// writeTable writes the table with what note, if there is one, says of each element.
func writeTable(b *strings.Builder, c Config, elements []element, note func(element) string) {
	fmt.Fprintf(b, "table inet %s {\n", c.Table)
	families, sorted := c.families(), byMap(elements)
	for _, id := range mapIDs(families) {
		writeMap(b, id.describe(), sorted[id], note)
	}
	for _, f := range families {
		fmt.Fprintf(b, "\tmap %s {\n\t\ttypeof %[2]s daddr . meta l4proto . th dport . %[2]s saddr : meta priority\n", affinityMap(f), f.header())
		fmt.Fprintf(b, "\t\tsize %d\n\t\tflags dynamic,timeout\n\t}\n", maxClients)
		for _, m := range lateMaps(f) {
			b.WriteString(m.text())
		}
	}
	ways := choicesOf(elements)
	for _, v := range verdictMaps(families) {
		fmt.Fprintf(b, "\tmap %s {\n\t\ttype mark : verdict\n\t\telements = {\n", v.name())
		for _, e := range v.elements(ways) {
			fmt.Fprintf(b, "\t\t\t%d : %s,\n", uint32(e.choice), e.verdictText())
		}
		b.WriteString("\t\t}\n\t}\n")
	}
	for _, ch := range chains(c, ways) {
		fmt.Fprintf(b, "\tchain %s {\n", ch.name)
		if ch.hook != "" {
			fmt.Fprintf(b, "\t\t%s\n", ch.hook)
		}
		for _, r := range ch.rules {
			fmt.Fprintf(b, "\t\t%s\n", r.text)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
}

func writeMap(b *strings.Builder, m elementMap, elements []element, note func(element) string) {
	m.write(b)
	if len(elements) > 0 {
		b.WriteString("\t\telements = {\n")
		slices.SortFunc(elements, func(a, b element) int { return compareKeys(a.key, b.key) })
		for _, e := range elements {
			fmt.Fprintf(b, "\t\t\t%s,", m.elementText(e))
			if note != nil {
				b.WriteString(note(e))
			}
			b.WriteString("\n")
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}
