package proxy

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func testConfig() Config {
	return Config{
		NodeName:       "node",
		ClusterCIDR:    []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceCIDR:    []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		LocalAddresses: []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		HostPorts:      true,
		Policies:       true,
		Table:          "skifftest",
	}
}

// newTestService has TCP and UDP port 80, both of them also open as node port 30080.
func newTestService(name, clusterIP string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
			Ports: []corev1.ServicePort{
				{Name: "web", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080},
				{Name: "dgram", Protocol: corev1.ProtocolUDP, Port: 80, NodePort: 30080},
			},
		},
	}
}

// newTestSlice has the addresses as ready endpoints with both ports as number 8080. "(10.0.0.1)" is terminating, "-10.0.0.1" not ready.
func newTestSlice(service string, addrs ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: new("web"), Protocol: new(corev1.ProtocolTCP), Port: new(int32(8080))},
			{Name: new("dgram"), Protocol: new(corev1.ProtocolUDP), Port: new(int32(8080))},
		},
	}
	for _, addr := range addrs {
		terminating, down := strings.HasPrefix(addr, "("), strings.HasPrefix(addr, "-")
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{strings.Trim(addr, "()-")},
			NodeName:  new("node"),
			Conditions: discoveryv1.EndpointConditions{
				Ready: new(!terminating && !down), Serving: new(!down), Terminating: new(terminating),
			},
		})
	}
	return s
}

// programmed is a Ruleset and the kernel kept like it, without informers in between.
type programmed struct {
	world
	t     testing.TB
	rules *Ruleset
	table *table
}

func (w world) newProgrammed(t testing.TB) *programmed {
	t.Helper()
	p := &programmed{w, t, NewRuleset(w.config()), &table{config: w.config()}}
	t.Cleanup(p.table.close)
	must(t, p.table.replace(nil))
	return p
}

func (p *programmed) set(svc *corev1.Service, addrs ...string) {
	p.t.Helper()
	p.rules.Set("default/"+svc.Name, svc, list(p.slice(svc.Name, addrs...)))
	p.tell()
}

// tell brings the kernel up to date.
func (p *programmed) tell() {
	p.t.Helper()
	p.rules.enforce()
	must(p.t, p.table.commit(p.rules.news()))
	p.rules.told()
}

// service is newTestService in the language of w, and slice is newTestSlice.
func (w world) service(name, clusterIP string) *corev1.Service {
	return newTestService(name, w.family.as(clusterIP))
}

func (w world) slice(service string, addrs ...string) *discoveryv1.EndpointSlice {
	s := newTestSlice(service, w.family.each(addrs)...)
	s.AddressType = w.family.slices()
	return s
}

func TestTraffic(t *testing.T) { inEachWorld(t, testTraffic) }

func testTraffic(t *testing.T, w world) {
	node := w.newNode(t)
	one, two, client, outsider := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.12"), w.newPod(t, "10.42.0.20"), w.newOutsider(t)
	one.serve(t, 8080)
	two.serve(t, 8080)
	(&host{world: w, name: "dns", ns: node.ns, addr: w.addr("10.43.0.10")}).serve(t, 53)
	p := w.newProgrammed(t)
	svc := w.service("web", "10.43.0.80")
	p.set(svc, "10.42.0.11", "10.42.0.12")

	t.Run("a pod and the node reach both endpoints", func(t *testing.T) {
		for _, from := range []*host{client, node} {
			for _, network := range []string{"tcp", "udp"} {
				seen := map[string]int{}
				for range 40 {
					r, err := from.ask(t, network, "10.43.0.80:80")
					if err != nil {
						t.Fatalf("%s from %s: %v", network, from.name, err)
					}
					seen[r.from]++
					if from.addr.String() != r.saw {
						t.Fatalf("%s from %s: endpoint saw %s, want %s", network, from.name, r.saw, from.addr)
					}
				}
				if len(seen) != 2 {
					t.Errorf("%s from %s: 40 connections went to %v, want both endpoints", network, from.name, seen)
				}
			}
		}
	})

	t.Run("a pod reaches itself", func(t *testing.T) {
		for range 20 {
			if _, err := one.ask(t, "tcp", "10.43.0.80:80"); err != nil {
				t.Fatal(err)
			}
			if _, err := one.ask(t, "udp", "10.43.0.80:80"); err != nil {
				t.Fatal(err)
			}
		}
	})

	t.Run("the node's own address in the service range is not translated", func(t *testing.T) {
		for _, from := range []*host{client, node} {
			if r, err := from.ask(t, "udp", "10.43.0.10:53"); err != nil || r.from != "dns" {
				t.Errorf("from %s: answer %v, %v; want dns's", from.name, r, err)
			}
		}
	})

	t.Run("what no Service uses is refused at once", func(t *testing.T) {
		for _, from := range []*host{client, node} {
			for _, address := range []string{"10.43.0.80:81", "10.43.9.9:80"} {
				for _, network := range []string{"tcp", "udp"} {
					wantRefused(t, from, network, address)
				}
			}
		}
	})

	t.Run("cluster addresses do not answer the outside", func(t *testing.T) {
		for _, address := range []string{"10.43.0.80:80", "10.43.0.10:53", "10.43.9.9:80"} {
			if r, err := outsider.askFor(t, "tcp", address, inVain); err == nil {
				t.Errorf("%s answered %v", address, r)
			}
		}
	})

	t.Run("node ports answer the outside and pods", func(t *testing.T) {
		for _, from := range []*host{outsider, client, node} {
			for _, network := range []string{"tcp", "udp"} {
				if _, err := from.ask(t, network, "192.0.2.1:30080"); err != nil {
					t.Errorf("%s from %s: %v", network, from.name, err)
				}
			}
		}
	})

	t.Run("no endpoints: refused at once", func(t *testing.T) {
		p.set(svc)
		for _, from := range []*host{client, node} {
			wantRefused(t, from, "tcp", "10.43.0.80:80")
			wantRefused(t, from, "udp", "10.43.0.80:80")
		}
		wantRefused(t, outsider, "tcp", "192.0.2.1:30080")
	})
}

// TestDualStack has a Service, a node port and a pod in both families at once, then in one of them.
func TestDualStack(t *testing.T) {
	six := worlds()[1]
	four := world{"IPv4 of both", ipv4, six.families}
	six.newNode(t)
	pod, client, outsider := six.newPod(t, "10.42.0.11"), six.newPod(t, "10.42.0.20"), six.newOutsider(t)
	in := func(w world, h *host) *host {
		return &host{world: w, name: h.name, ns: h.ns, addr: w.addr(strings.TrimLeft(h.name, "podut-"))}
	}
	for _, w := range []world{four, six} {
		in(w, pod).serve(t, 8080)
	}
	p := six.newProgrammed(t)
	set := func(families ...family) {
		svc := newTestService("web", "")
		svc.Spec.ClusterIPs = nil
		for _, f := range families {
			svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, f.as("10.43.0.80"))
		}
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
		p.rules.Set("default/web", svc, list(four.slice("web", "10.42.0.11"), six.slice("web", "10.42.0.11")))
		p.tell()
	}
	set(ipv6, ipv4)
	for _, w := range []world{four, six} {
		for _, network := range []string{"tcp", "udp"} {
			wantSeen(t, in(w, client), network, "10.43.0.80:80", pod, "10.42.0.20")
			wantSeen(t, in(w, outsider), network, "192.0.2.1:30080", pod, "10.42.0.1")
			wantSeen(t, in(w, pod), network, "10.43.0.80:80", pod, "")
		}
	}
	set(ipv6)
	wantSeen(t, in(six, client), "tcp", "10.43.0.80:80", pod, "10.42.0.20")
	wantRefused(t, in(four, client), "tcp", "10.43.0.80:80")
	wantRefused(t, in(four, outsider), "udp", "192.0.2.1:30080")
}

func wantRefused(t *testing.T, from *host, network, address string) {
	t.Helper()
	_, err := from.ask(t, network, address)
	// The kernel tells a local sender of UDP by EPERM that its packet got nowhere.
	if !refused(err) && !(network == "udp" && from.name == "node" && err != nil) {
		t.Errorf("%s from %s to %s: %v, want connection refused", network, from.name, address, err)
	}
}

// TestTrafficManyEndpoints has one pod play seventy.
func TestTrafficManyEndpoints(t *testing.T) { inEachWorld(t, testTrafficManyEndpoints) }

func testTrafficManyEndpoints(t *testing.T, w world) {
	w.newNode(t)
	client := w.newPod(t, "10.42.0.20")
	var addrs []string
	for _, h := range w.newMany(t, "10.42.0.21", "10.42.1.0/24", 70) {
		h.serve(t, 8080)
		addrs = append(addrs, h.addr.String())
	}
	p := w.newProgrammed(t)
	p.set(w.service("web", "10.43.0.80"), addrs...)
	seen := map[string]int{}
	for range 70 * 12 {
		r, err := client.ask(t, "udp", "10.43.0.80:80")
		if err != nil {
			t.Fatal(err)
		}
		seen[r.from]++
	}
	if len(seen) != 70 {
		t.Errorf("840 datagrams reached %d of 70 endpoints", len(seen))
	}
}
