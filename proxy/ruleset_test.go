package proxy

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"skiff/api"
	"skiff/reconcile"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden turns the Services and EndpointSlices of each testdata/*.yaml into the ruleset beside it.
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.yaml")
	must(t, err)
	if len(inputs) == 0 {
		t.Fatal("no testdata/*.yaml")
	}
	for _, input := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(input), ".yaml"), func(t *testing.T) {
			got := readRuleset(t, input).String()
			golden := strings.TrimSuffix(input, ".yaml") + ".nft"
			if *update {
				must(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			must(t, err)
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("%s and %s (-want +got):\n%s", input, golden, diff)
			}
		})
	}
}

// TestGoldenLoads feeds the golden files to nft: the text is what it claims to be.
func TestGoldenLoads(t *testing.T) {
	requireRoot(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the nft program")
	}
	files, err := filepath.Glob("testdata/*.nft")
	must(t, err)
	for _, file := range files {
		if out, err := exec.Command("nft", "-c", "-f", file).CombinedOutput(); err != nil {
			t.Errorf("nft -c -f %s: %v\n%s", file, err, out)
		}
	}
}

// TestKernelListsOurText has the kernel say what it holds: nft lists the rules in the words of the golden files.
func TestKernelListsOurText(t *testing.T) { inEachWorld(t, testKernelListsOurText) }

func testKernelListsOurText(t *testing.T, w world) {
	requireRoot(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the nft program")
	}
	p := w.newProgrammed(t)
	t.Cleanup(func() { must(t, Purge(testConfig().Table)) })
	p.set(w.service("web", "10.43.0.80"), "10.42.0.1", "10.42.0.2")
	shop := w.service("shop", "10.43.0.81")
	shop.Spec.Ports = shop.Spec.Ports[:1]
	shop.Spec.Ports[0].NodePort = 30081
	shop.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	shop.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	p.set(shop, "10.42.0.1", "10.42.0.2")
	out, err := exec.Command("nft", "list", "table", "inet", testConfig().Table).CombinedOutput()
	if err != nil {
		t.Fatalf("nft list table: %v\n%s", err, out)
	}
	listed := strings.NewReplacer("0x00004000", "0x4000", "0x00000000", "0x0", "type local meta nfproto ipv4", "type local", "type local meta nfproto ipv6", "type local").Replace(string(out))
	for _, ch := range chains(w.config(), choicesOf(p.rules.against(nil).add)) {
		for _, r := range ch.rules {
			if text := strings.TrimSuffix(r.text, " with icmpx port-unreachable"); !strings.Contains(listed, text) {
				t.Errorf("chain %s: nft does not list %q, but\n%s", ch.name, r.text, out)
			}
		}
	}
}

// readRuleset parses YAML documents of Services, EndpointSlices and Pods.
func readRuleset(t *testing.T, file string) *Ruleset {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	var all []*corev1.Service
	bySvc := map[string][]*discoveryv1.EndpointSlice{}
	c, own := testConfig(), []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}
	if strings.Contains(string(text), "addressType: IPv6") {
		c.ClusterCIDR = append(c.ClusterCIDR, netip.MustParsePrefix("fd42::/56"))
		c.ServiceCIDR = append(c.ServiceCIDR, netip.MustParsePrefix("fd43::/112"))
		own = append(own, netip.MustParsePrefix("fd42::/64"))
	}
	r := NewRuleset(c)
	r.setOwnRanges(own)
	var cidrs []*networkingv1.ServiceCIDR
	for _, doc := range strings.Split(string(text), "\n---\n") {
		if strings.Contains(doc, "kind: ServiceCIDR") {
			cidr := &networkingv1.ServiceCIDR{}
			must(t, yaml.UnmarshalStrict([]byte(doc), cidr))
			cidrs = append(cidrs, cidr)
			continue
		}
		if strings.Contains(doc, "kind: EndpointSlice") {
			s := &discoveryv1.EndpointSlice{}
			must(t, yaml.UnmarshalStrict([]byte(doc), s))
			name := serviceOf(s)[0]
			bySvc[name] = append(bySvc[name], s)
			continue
		}
		if strings.Contains(doc, "kind: Pod") {
			pod := &corev1.Pod{}
			must(t, yaml.UnmarshalStrict([]byte(doc), pod))
			r.SetPod(pod.Namespace+"/"+pod.Name, pod)
			continue
		}
		if strings.Contains(doc, "kind: NetworkPolicy") {
			policy := &networkingv1.NetworkPolicy{}
			must(t, yaml.UnmarshalStrict([]byte(doc), policy))
			r.SetPolicy(policy.Namespace+"/"+policy.Name, policy)
			continue
		}
		if strings.Contains(doc, "kind: Namespace") {
			ns := &corev1.Namespace{}
			must(t, yaml.UnmarshalStrict([]byte(doc), ns))
			r.SetNamespace(ns.Name, ns)
			continue
		}
		s := &corev1.Service{}
		must(t, yaml.UnmarshalStrict([]byte(doc), s))
		all = append(all, s)
	}
	r.SetRanges(api.ServiceRanges(cidrs))
	for _, svc := range all {
		name := svc.Namespace + "/" + svc.Name
		r.Set(name, svc, bySvc[name])
	}
	return r
}

func TestEndpointChoice(t *testing.T) {
	remote := func(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
		s.Endpoints[0].NodeName = new("other")
		return s
	}
	local := func(svc *corev1.Service) *corev1.Service {
		svc.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
		return svc
	}
	hinted := func(s *discoveryv1.EndpointSlice, nodes ...string) *discoveryv1.EndpointSlice {
		for i, node := range nodes {
			s.Endpoints[i].Hints = &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: node}}}
		}
		return s
	}
	zoned := func(s *discoveryv1.EndpointSlice, zones ...string) *discoveryv1.EndpointSlice {
		for i, zone := range zones {
			if s.Endpoints[i].Hints == nil {
				s.Endpoints[i].Hints = &discoveryv1.EndpointHints{}
			}
			s.Endpoints[i].Hints.ForZones = []discoveryv1.ForZone{{Name: zone}}
		}
		return s
	}
	published := newTestSlice("web", "(10.42.0.3)")
	published.Endpoints[0].Conditions.Ready = new(true)
	web := newTestService("web", "10.43.0.80")
	for _, tc := range []struct {
		name   string
		svc    *corev1.Service
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{"ready ones only", web, list(newTestSlice("web", "10.42.0.1", "-10.42.0.2", "(10.42.0.3)")), "10.42.0.1:8080"},
		{"none ready: those that terminate", web, list(newTestSlice("web", "-10.42.0.2", "(10.42.0.3)")), "10.42.0.3:8080"},
		{"none at all", web, list(newTestSlice("web", "-10.42.0.2")), ""},
		{"no slice", web, nil, ""},
		{"twice in two slices", web, list(newTestSlice("web", "10.42.0.1"), newTestSlice("web", "(10.42.0.1)", "10.42.0.2")), "10.42.0.1:8080 10.42.0.2:8080"},
		{"ready though it terminates: publishNotReadyAddresses", web, list(published, newTestSlice("web", "10.42.0.4")), "10.42.0.3:8080 10.42.0.4:8080"},
		{"hints for this node", web, list(hinted(newTestSlice("web", "10.42.0.1", "10.42.1.1"), "node", "other")), "10.42.0.1:8080"},
		{"hints for another node only", web, list(hinted(newTestSlice("web", "10.42.0.1", "10.42.1.1"), "other", "other")), "10.42.0.1:8080 10.42.1.1:8080"},
		{"hints for this zone", web, list(zoned(newTestSlice("web", "10.42.0.1", "10.42.1.1"), "east", "west")), "10.42.0.1:8080"},
		{"hints for another zone only", web, list(zoned(newTestSlice("web", "10.42.0.1", "10.42.1.1"), "west", "west")), "10.42.0.1:8080 10.42.1.1:8080"},
		{"hints for another node in this zone", web, list(zoned(hinted(newTestSlice("web", "10.42.0.1", "10.42.1.1"), "other", "other"), "east", "west")), "10.42.0.1:8080"},
		{"hints for some only", web, list(hinted(newTestSlice("web", "10.42.0.1", "10.42.1.1"), "node")), "10.42.0.1:8080 10.42.1.1:8080"},
		{"only this node's", local(newTestService("web", "10.43.0.80")), list(remote(newTestSlice("web", "10.42.1.1", "10.42.0.1"))), "10.42.0.1:8080"},
		{"none on this node", local(newTestService("web", "10.43.0.80")), list(remote(newTestSlice("web", "10.42.1.1"))), "drop"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := behind(newService(testConfig(), "east", tc.svc, tc.slices), frontend{netip.MustParseAddr("10.43.0.80"), tcp, 80})
			var got []string
			for _, target := range b.targets {
				got = append(got, target.String())
			}
			if b.drop {
				got = append(got, "drop")
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("endpoints (-want +got):\n%s", diff)
			}
		})
	}
}

func behind(s *service, at frontend) backends {
	for _, o := range s.opened {
		if o.frontend == at {
			return o.backends
		}
	}
	return backends{}
}

func list[T any](ts ...T) []T { return ts }

func TestNotForThisProxy(t *testing.T) {
	for name, change := range map[string]func(*corev1.Service){
		"headless":      func(s *corev1.Service) { s.Spec.ClusterIP = "None" },
		"external name": func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
		"another proxy": func(s *corev1.Service) { s.Labels = map[string]string{labelServiceProxyName: "x"} },
	} {
		svc := newTestService("web", "10.43.0.80")
		change(svc)
		if got := newService(testConfig(), "", svc, nil); got != nil {
			t.Errorf("%s: %+v, want nothing", name, got)
		}
	}
}

func TestElementsSurviveTheKernel(t *testing.T) {
	r := NewRuleset(testConfig())
	r.Set("default/web", newTestService("web", "10.43.0.80"), list(newTestSlice("web", "10.42.0.1", "10.42.0.2")))
	for k, c := range r.elements {
		m := k.mapID().describe()
		var end []byte
		if m.ranges {
			end = m.appendKey(nil, k.end())
		}
		gotKey, gotValue, err := m.decode(m.appendKey(nil, k), end, m.appendValue(nil, c.value))
		if err != nil || gotKey != k || gotValue != c.value {
			t.Errorf("%s came back as %s, %v", m.elementText(element{k, c.value}), m.elementText(element{gotKey, gotValue}), err)
		}
	}
}

// TestGuardsOfTheirOwn: two Services whose cluster addresses end with the same four bytes do not share their ranges.
func TestGuardsOfTheirOwn(t *testing.T) {
	c := testConfig()
	c.ClusterCIDR, c.ServiceCIDR = []netip.Prefix{netip.MustParsePrefix("fd42::/48")}, []netip.Prefix{netip.MustParsePrefix("fd43::/64")}
	r := NewRuleset(c)
	guarded := func(name, ip string, balancer string) {
		svc := newTestService(name, ip)
		svc.Spec.Type, svc.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, []string{"2001:db8::/32"}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: balancer}}
		r.Set("default/"+name, svc, nil)
	}
	numbers := func() map[uint32]int {
		ranges := map[uint32]int{}
		for k := range r.elements {
			if k.in == allowed {
				ranges[k.slot]++
			}
		}
		return ranges
	}
	guarded("a", "fd43::1:0:5", "2001:db8:1::1")
	guarded("b", "fd43::2:0:5", "2001:db8:2::1")
	guarded("a", "fd43::1:0:5", "2001:db8:3::1")
	if diff := cmp.Diff(map[uint32]int{5: 1, 6: 1}, numbers()); diff != "" {
		t.Errorf("ranges by number (-want +got):\n%s", diff)
	}
	r.Set("default/a", nil, nil)
	guarded("c", "fd43::3:0:5", "2001:db8:4::1")
	if diff := cmp.Diff(map[uint32]int{5: 1, 6: 1}, numbers()); diff != "" {
		t.Errorf("ranges by number after one left and another came (-want +got):\n%s", diff)
	}
}

// memory is a kernel that keeps what it is told, and objects to what the real one objects to.
type memory struct{ elements map[key]value }

func (m *memory) load() (map[key]value, error) {
	if m.elements == nil {
		return nil, errDamaged
	}
	return maps.Clone(m.elements), nil
}

func (m *memory) replace(all []element) error {
	m.elements = map[key]value{}
	return m.commit(diff{add: all})
}

func (m *memory) expect([]flow) error { return nil }

func (m *memory) commit(d diff) error {
	next := maps.Clone(m.elements)
	for _, e := range d.remove {
		if _, ok := next[e.key]; !ok {
			return fmt.Errorf("remove %s from %s: not there", e, e.in)
		}
		delete(next, e.key)
	}
	for _, e := range d.add {
		if _, ok := next[e.key]; ok {
			return fmt.Errorf("add %s to %s: there already", e, e.in)
		}
		next[e.key] = e.value
	}
	m.elements = next
	return nil
}

func (m *memory) close() {}

// watch has nothing to tell: nobody else has this memory.
func (m *memory) watch(func()) (stop func(), err error) { return func() {}, nil }

func (r *Ruleset) all() map[key]value {
	all := map[key]value{}
	for k, c := range r.elements {
		all[k] = c.value
	}
	return all
}

func listOf(elements map[key]value) []element {
	var all []element
	for k, v := range elements {
		all = append(all, element{k, v})
	}
	return all
}

// TestRandomWalk goes through random states of a few Services that get into each other's way (addresses that change hands, shared
// pods, node ports and host ports) and compares what the kernel holds with a Ruleset made from nothing. Sometimes the kernel is disturbed.
func TestRandomWalk(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w world) {
		t.Run("memory", func(t *testing.T) { walk(t, w, &memory{}, 3000, func(m *memory) { m.elements = nil }) })
		t.Run("kernel", func(t *testing.T) {
			requireRoot(t)
			t.Cleanup(func() { must(t, Purge(testConfig().Table)) })
			k := &table{config: w.config()}
			t.Cleanup(k.close)
			walk(t, w, k, 300, func(*table) { must(t, Purge(testConfig().Table)) })
		})
	})
}

func walk[K kernel](t *testing.T, w world, k K, steps int, disturb func(K)) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	p := &Proxy{kernel: k, rules: NewRuleset(w.config()), metrics: newMetrics()}
	p.flowsLoop = newIdleLoop()
	now := map[string]serviceState{}
	var pod *corev1.Pod
	var ranges []netip.Prefix
	policies := w.newPolicyWorld()
	for step := range steps {
		for range 1 + rnd.IntN(3) {
			name := fmt.Sprintf("s%d", rnd.IntN(5))
			now["default/"+name] = w.anyService(rnd, name)
			p.rules.Set("default/"+name, now["default/"+name].svc, now["default/"+name].slices)
		}
		pod = w.hostPortPod(rnd)
		p.rules.SetPod("default/p", pod)
		policies.change(rnd, p.rules)
		if rnd.IntN(3) == 0 {
			ranges = w.anyRanges(rnd)
			p.rules.SetRanges(ranges)
		}
		switch rnd.IntN(20) {
		case 0:
			disturb(k)
			p.known = false
		case 1:
			p.known = false
		}
		p.rules.enforce()
		if _, err := p.program(); err != nil {
			t.Fatalf("seed %d step %d: %v", seed, step, err)
		}
		p.rules.told()

		fresh := NewRuleset(w.config())
		for _, name := range shuffledKeys(rnd, now) {
			fresh.Set(name, now[name].svc, now[name].slices)
		}
		fresh.SetPod("default/p", pod)
		policies.tell(fresh)
		fresh.SetRanges(ranges)
		have, err := k.load()
		if err != nil {
			t.Fatalf("seed %d step %d: load: %v", seed, step, err)
		}
		var b strings.Builder
		writeTable(&b, w.config(), listOf(have), nil)
		if want, got := fresh.String(), b.String(); want != got {
			diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n"))
			t.Fatalf("seed %d step %d: kernel differs from the wanted ruleset (-want +got):\n%s", seed, step, diff)
		}
		if !maps.Equal(fresh.alive, p.rules.alive) {
			t.Fatalf("seed %d step %d: live endpoints are %v, want %v", seed, step, p.rules.alive, fresh.alive)
		}
	}
}

// anyRanges overlap, follow each other, or are those of the configuration once more.
func (w world) anyRanges(rnd *rand.Rand) (ranges []netip.Prefix) {
	for range rnd.IntN(4) {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(42 + rnd.IntN(4)), byte(rnd.IntN(2) << 7)}), 14+rnd.IntN(4))
		ranges = append(ranges, netip.MustParsePrefix(w.families[rnd.IntN(len(w.families))].as(p.Masked().String())))
	}
	return ranges
}

// A serviceState is a Service with its EndpointSlices, or without both.
type serviceState struct {
	svc    *corev1.Service
	slices []*discoveryv1.EndpointSlice
}

// anyService is of some of the families.
func (w world) anyService(rnd *rand.Rand, name string) (s serviceState) {
	if rnd.IntN(5) == 0 {
		return s
	}
	some := slices.Clone(w.families)
	rnd.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	some = some[:1+rnd.IntN(len(some))]
	s.svc = newTestService(name, "")
	s.svc.Spec.Ports[0].NodePort = int32(30080 + rnd.IntN(2))
	anySpec(rnd, s.svc, some)
	for range rnd.IntN(3) {
		f := w.families[rnd.IntN(len(w.families))]
		var addrs []string
		for range rnd.IntN(6) {
			addrs = append(addrs, []string{"", "", "", "-", "("}[rnd.IntN(5)]+fmt.Sprintf("10.42.0.%d", 1+rnd.IntN(8)))
		}
		slice := world{family: f}.slice(name, addrs...)
		for i := range slice.Endpoints {
			slice.Endpoints[i].NodeName = new([]string{"node", "node", "other"}[rnd.IntN(3)])
		}
		s.slices = append(s.slices, slice)
	}
	return s
}

// anySpec has svc ask for some of all that the proxy can do.
func anySpec(rnd *rand.Rand, svc *corev1.Service, families []family) {
	chance := func() bool { return rnd.IntN(3) == 0 }
	in := func(format string, n int) (texts []string) {
		text := fmt.Sprintf(format, n)
		for _, f := range families {
			texts = append(texts, f.as(text))
		}
		return texts
	}
	svc.Spec.ClusterIPs = in("10.43.0.%d", 11+rnd.IntN(4))
	if chance() {
		svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		svc.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(10 + rnd.IntN(2)))}}
	}
	if chance() {
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	if chance() {
		svc.Spec.InternalTrafficPolicy = new(corev1.ServiceInternalTrafficPolicyLocal)
	}
	if chance() {
		svc.Spec.ExternalIPs = in("198.51.100.%d", rnd.IntN(2))
	}
	if chance() {
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		for _, ip := range in("198.51.100.%d", rnd.IntN(3)) {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
		svc.Spec.ClusterIPs = in("10.43.9.%d", int(svc.Name[1]-'0')) // Those of two Services with ranges are never the same.
		for range rnd.IntN(4) {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(rnd.IntN(4)), byte(rnd.IntN(4))}), 14+rnd.IntN(19))
			svc.Spec.LoadBalancerSourceRanges = append(svc.Spec.LoadBalancerSourceRanges, families[rnd.IntN(len(families))].as(p.Masked().String()))
		}
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
}

// hostPortPod is a pod that may take a port away from a Service.
func (w world) hostPortPod(rnd *rand.Rand) *corev1.Pod {
	if rnd.IntN(2) == 0 {
		return nil
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: "node", Containers: make([]corev1.Container, 1)}}
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: int32(30080 + rnd.IntN(2)), HostIP: []string{"", w.family.as("198.51.100.0")}[rnd.IntN(2)]}}
	for _, f := range w.families {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: f.as(fmt.Sprintf("10.42.0.%d", 1+rnd.IntN(8)))})
	}
	return pod
}

func shuffledKeys[V any](rnd *rand.Rand, m map[string]V) []string {
	names := slices.Sorted(maps.Keys(m))
	rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}

func newIdleLoop() *reconcile.Loop {
	return reconcile.New("idle", func(context.Context, string) (time.Duration, error) { return 0, nil })
}
