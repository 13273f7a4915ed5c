package proxy

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// trackedFlow puts a connection into the kernel's table.
func trackedFlow(t testing.TB, proto protocol, client, dialed, answer netip.AddrPort) {
	t.Helper()
	ip := func(a netip.AddrPort) net.IP { return a.Addr().AsSlice() }
	family := uint8(unix.AF_INET)
	if client.Addr().Is6() {
		family = unix.AF_INET6
	}
	must(t, netlink.ConntrackCreate(netlink.ConntrackTable, netlink.InetFamily(family), &netlink.ConntrackFlow{
		FamilyType: family, TimeOut: 100,
		Forward: netlink.IPTuple{SrcIP: ip(client), SrcPort: client.Port(), DstIP: ip(dialed), DstPort: dialed.Port(), Protocol: uint8(proto)},
		Reverse: netlink.IPTuple{SrcIP: ip(answer), SrcPort: answer.Port(), DstIP: ip(client), DstPort: client.Port(), Protocol: uint8(proto)},
	}))
}

func (w world) answeredFrom(addrs ...string) suspects {
	s := suspects{left: map[netip.Addr]bool{}}
	for _, a := range addrs {
		s.left[w.addr(a)] = true
	}
	return s
}

func (w world) openedAt(address string) suspects {
	a := netip.MustParseAddrPort(w.family.as(address))
	return suspects{opened: map[frontend]bool{{a.Addr(), udp, a.Port()}: true}}
}

// TestWhoseFlowsAreSuspect holds whose connections are looked for when a pod is gone: not those of a pod that nobody was ever led to.
func TestWhoseFlowsAreSuspect(t *testing.T) { inEachWorld(t, testWhoseFlowsAreSuspect) }

func testWhoseFlowsAreSuspect(t *testing.T, w world) {
	pod := func(address string, hostPorts ...int32) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: make([]corev1.Container, 1)}, Status: corev1.PodStatus{PodIP: w.family.as(address)}}
		for _, port := range hostPorts {
			p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{ContainerPort: 80, HostPort: port})
		}
		return p
	}
	r := NewRuleset(w.config())
	r.SetPod("default/before", pod("10.42.0.1"))
	r.told()
	r.SetPod("default/lone", pod("10.42.0.2"))
	r.SetPod("default/served", pod("10.42.0.3"))
	r.SetPod("default/freed", pod("10.42.0.4"))
	r.SetPod("default/open", pod("10.42.0.5", 8080))
	r.Set("default/web", w.service("web", "10.43.0.80"), list(w.slice("web", "10.42.0.3", "10.42.0.4")))
	r.Set("default/web", w.service("web", "10.43.0.80"), list(w.slice("web", "10.42.0.3"))) // Connections to a pod that lives stay.
	for _, step := range []struct {
		gone string
		want []netip.Addr
	}{
		{"before", []netip.Addr{w.addr("10.42.0.1")}},
		{"lone", nil},
		{"served", []netip.Addr{w.addr("10.42.0.3")}},
		{"freed", []netip.Addr{w.addr("10.42.0.4")}},
		{"open", []netip.Addr{w.addr("10.42.0.5")}},
	} {
		r.told()
		r.SetPod("default/"+step.gone, nil)
		if !slices.Equal(r.died, step.want) {
			t.Errorf("when %s is gone the connections to %v are suspect, want %v", step.gone, r.died, step.want)
		}
	}
	r.told()
	r.SetPod("default/lone", pod("10.42.0.1")) // An address that another had.
	r.SetPod("default/lone", nil)
	if len(r.died) > 0 {
		t.Errorf("when a lone pod is gone the connections to %v are suspect", r.died)
	}
}

// TestStale holds what is to be forgotten.
func TestStale(t *testing.T) { inEachWorld(t, testStale) }

func testStale(t *testing.T, w world) {
	r := NewRuleset(w.config())
	r.SetRanges([]netip.Prefix{netip.MustParsePrefix(w.family.as("10.60.0.0/24"))})
	r.Set("default/web", w.service("web", "10.43.0.80"), list(w.slice("web", "10.42.0.1", "(10.42.0.2)")))
	r.SetPod("default/lone", &corev1.Pod{Status: corev1.PodStatus{PodIP: w.family.as("10.42.0.9")}})
	local := map[netip.Addr]bool{w.addr("192.0.2.1"): true}
	for _, tc := range []struct {
		name   string
		proto  protocol
		dialed string
		answer string
		want   bool
	}{
		{"datagrams to an endpoint", udp, "10.43.0.80:80", "10.42.0.1:8080", false},
		{"datagrams to one that terminates", udp, "10.43.0.80:80", "10.42.0.2:8080", true},
		{"datagrams to one that is gone", udp, "10.43.0.80:80", "10.42.0.3:8080", true},
		{"datagrams of a Service that is gone", udp, "10.43.0.81:80", "10.42.0.1:8080", true},
		{"datagrams of a Service that is gone, to no pod", udp, "10.43.0.81:80", "198.51.100.1:8080", true},
		{"datagrams of such a one with an address of a later range", udp, "10.60.0.81:80", "198.51.100.1:8080", true},
		{"datagrams to a node port", udp, "192.0.2.1:30080", "10.42.0.1:8080", false},
		{"datagrams to a node port whose endpoint is gone", udp, "192.0.2.1:30080", "10.42.0.3:8080", true},
		{"datagrams that reached the node before its port was a Service's", udp, "192.0.2.1:30080", "192.0.2.1:30080", true},
		{"datagrams to the same port elsewhere", udp, "198.51.100.1:30080", "198.51.100.1:30080", false},
		{"datagrams to a port that was a Service's", udp, "192.0.2.1:30081", "10.42.0.1:8080", true},
		{"datagrams to a pod", udp, "10.42.0.1:8080", "10.42.0.1:8080", false},
		{"datagrams that somebody else translates", udp, "192.0.2.1:53", "172.17.0.2:53", false},
		{"a stream to an endpoint", tcp, "10.43.0.80:80", "10.42.0.1:8080", false},
		{"a stream to one that terminates", tcp, "10.43.0.80:80", "10.42.0.2:8080", false},
		{"a stream to one that is gone", tcp, "10.43.0.80:80", "10.42.0.3:8080", true},
		{"a stream to a pod that is no endpoint any more", tcp, "10.43.0.80:80", "10.42.0.9:8080", false},
		{"a stream of a Service that is gone, to a pod that is not", tcp, "10.43.0.81:80", "10.42.0.9:8080", false},
		{"a stream of a Service that is gone, to a pod that is, too", tcp, "10.43.0.81:80", "10.42.0.3:8080", true},
		{"a stream that the node itself took before", tcp, "192.0.2.1:30080", "192.0.2.1:30080", false},
		{"a stream to the node", tcp, "192.0.2.1:22", "192.0.2.1:22", false},
		{"a stream to the world", tcp, "198.51.100.1:443", "198.51.100.1:443", false},
	} {
		dialed := netip.MustParseAddrPort(w.family.as(tc.dialed))
		f := flow{dialed: frontend{dialed.Addr(), tc.proto, dialed.Port()}, answer: netip.MustParseAddrPort(w.family.as(tc.answer))}
		if got := r.stale(f, local); got != tc.want {
			t.Errorf("%s: stale is %v, want %v", tc.name, got, tc.want)
		}
	}
}

// TestForget removes some of four connections, each to another address.
func TestForget(t *testing.T) { inEachWorld(t, testForget) }

func testForget(t *testing.T, w world) {
	requireRoot(t)
	port := func(text string) netip.AddrPort { return netip.MustParseAddrPort(w.family.as(text)) }
	flows := w.family.each([]string{"10.42.0.1:80", "10.42.0.2:80", "10.42.0.3:80", "10.42.0.4:80"})
	dialed := map[string]netip.AddrPort{flows[0]: port("10.43.0.81:53"), flows[1]: port("10.43.0.82:53"), flows[2]: port("10.43.0.83:53"), flows[3]: port("10.43.0.84:53")}
	for _, tc := range []struct {
		name     string
		suspects suspects
		stale    []string
		want     []string // Left.
	}{
		{"all are looked at", suspects{all: true}, flows[:2], flows[2:]},
		{"one address is looked at", w.answeredFrom("10.42.0.2"), flows[:2], []string{flows[0], flows[2], flows[3]}},
		{"what is not stale stays", w.answeredFrom("10.42.0.3", "10.42.0.1"), flows[:2], flows[1:]},
		{"an address without connections", w.answeredFrom("10.42.0.9"), flows, flows},
		{"one frontend is looked at", w.openedAt("10.43.0.81:53"), flows, flows[1:]},
		{"one port of every address is looked at", w.openedAt("0.0.0.0:53"), flows, nil},
		{"another port is looked at", w.openedAt("0.0.0.0:54"), flows, flows},
	} {
		t.Run(tc.name, func(t *testing.T) {
			forgetConnections(t)
			t.Cleanup(func() { forgetConnections(t) })
			for _, f := range flows {
				trackedFlow(t, udp, port("10.42.0.20:5000"), dialed[f], netip.MustParseAddrPort(f))
			}
			n, err := forgetFlows(tc.suspects, func(f flow) bool {
				to := dialed[f.answer.String()]
				if want := (frontend{to.Addr(), udp, to.Port()}); f.dialed != want {
					t.Errorf("flow to %s: dialed %+v, want %+v", f.answer, f.dialed, want)
				}
				return slices.Contains(tc.stale, f.answer.String())
			})
			must(t, err)
			var left []string
			_, err = forgetFlows(suspects{all: true}, func(f flow) bool { left = append(left, f.answer.String()); return false })
			must(t, err)
			slices.Sort(left)
			if diff := cmp.Diff(tc.want, left); diff != "" || n != len(flows)-len(tc.want) {
				t.Errorf("forgot %d; left (-want +got):\n%s", n, diff)
			}
		})
	}
}

// TestForgetAll: what becomes a connection after the list was read is found by another look, and looking has an end.
func TestForgetAll(t *testing.T) {
	passes := []int{3, 1, 0, 7}
	n, err := forgetAll(func() (int, error) {
		found := passes[0]
		passes = passes[1:]
		return found, nil
	})
	if err != nil || n != 4 || len(passes) != 1 {
		t.Errorf("forgot %d (%v), passes left: %v; want to stop at the first that finds nothing", n, err, passes)
	}
	if n, err := forgetAll(func() (int, error) { return 1, nil }); err != nil || n != mostPasses {
		t.Errorf("of what never ends %d were forgotten (%v)", n, err)
	}
}

// BenchmarkForget looks for stale connections among 50,000, of which one endpoint answers one in a hundred.
func BenchmarkForget(b *testing.B) {
	requireRoot(b)
	b.Cleanup(func() { forgetConnections(b) })
	for i := range 50000 {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 44, byte(i >> 8), byte(i)}), 5000)
		answer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, 0, byte(i % 100)}), 53)
		trackedFlow(b, udp, client, netip.MustParseAddrPort("10.43.0.80:53"), answer)
	}
	for name, s := range map[string]suspects{"answered by one": oneFamily().answeredFrom("10.42.0.1"), "dialed at one": oneFamily().openedAt("10.43.0.81:53"), "all": {all: true}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, err := forgetFlows(s, func(flow) bool { return false })
				must(b, err)
			}
		})
	}
}
