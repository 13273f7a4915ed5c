package proxy

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"testing"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
)

// setEverywhere sets a Service with ready endpoints on this node and on another one.
func (p *programmed) setEverywhere(svc *corev1.Service, here, elsewhere []string) {
	p.t.Helper()
	slice := p.slice(svc.Name, append(here, elsewhere...)...)
	for i := range slice.Endpoints[len(here):] {
		slice.Endpoints[len(here)+i].NodeName = new("other")
	}
	p.rules.Set("default/"+svc.Name, svc, list(slice))
	p.tell()
}

// asked says which endpoint answers h, over and over; it fails the test if that changes.
func (h *host) asked(t *testing.T, network, address string) string {
	t.Helper()
	first, err := h.ask(t, network, address)
	if err != nil {
		t.Fatalf("%s from %s to %s: %v", network, h.name, address, err)
	}
	for range 15 {
		r, err := h.ask(t, network, address)
		if err != nil || r.from != first.from {
			t.Fatalf("%s from %s to %s: answer from %s, %v; want %s as before", network, h.name, address, r.from, err, first.from)
		}
	}
	return first.from
}

func wantDropped(t *testing.T, from *host, network, address string) {
	t.Helper()
	r, err := from.askFor(t, network, address, inVain)
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("%s from %s to %s: %v, %v; want no answer at all", network, from.name, address, r, err)
	}
}

// wantSeen wants an answer from an endpoint that saw the given address.
func wantSeen(t *testing.T, from *host, network, address string, endpoint *host, saw string) {
	t.Helper()
	for range 8 {
		r, err := from.ask(t, network, address)
		if err != nil {
			t.Fatalf("%s from %s to %s: %v", network, from.name, address, err)
		}
		if endpoint != nil && r.from != endpoint.name || saw != "" && r.saw != from.family.as(saw) {
			t.Fatalf("%s from %s to %s: %s answered and saw %s, want %v and %s", network, from.name, address, r.from, r.saw, endpoint, saw)
		}
	}
}

func TestSessionAffinity(t *testing.T) { inEachWorld(t, testSessionAffinity) }

func testSessionAffinity(t *testing.T, w world) {
	node := w.newNode(t)
	one, two, client, outsider := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.12"), w.newPod(t, "10.42.0.20"), w.newOutsider(t)
	one.serve(t, 8080)
	two.serve(t, 8080)
	p := w.newProgrammed(t)
	svc := w.service("web", "10.43.0.80")
	svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	p.set(svc, "10.42.0.11", "10.42.0.12")
	stop, err := p.table.watch(func() { t.Error("a client that is remembered looks like a change by somebody") })
	must(t, err)
	t.Cleanup(stop)

	for _, from := range []*host{client, one, node} {
		for _, network := range []string{"tcp", "udp"} {
			from.asked(t, network, "10.43.0.80:80")
			from.asked(t, network, "192.0.2.1:30080")
		}
	}
	outsider.asked(t, "tcp", "192.0.2.1:30080")

	t.Run("an endpoint that goes is forgotten for good", func(t *testing.T) {
		had := client.asked(t, "tcp", "10.43.0.80:80")
		left, gone := "10.42.0.11", "10.42.0.12"
		if had == one.name {
			left, gone = gone, left
		}
		p.set(svc, left)
		now := client.asked(t, "tcp", "10.43.0.80:80")
		if now == had {
			t.Errorf("%s still answers", had)
		}
		p.set(svc, left, gone)
		if again := client.asked(t, "tcp", "10.43.0.80:80"); again != now {
			t.Errorf("%s answers when %s is back, want %s as before", again, had, now)
		}
	})

	t.Run("nft lists the table with clients in it", func(t *testing.T) {
		if _, err := exec.LookPath("nft"); err != nil {
			t.Skip("needs the nft program")
		}
		if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil {
			t.Errorf("nft list ruleset: %v\n%s", err, out)
		}
	})

	t.Run("a client is forgotten after its time", func(t *testing.T) {
		must(t, p.table.replace(p.rules.against(nil).add))
		svc.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: new(int32(1))}}
		p.set(svc, "10.42.0.11", "10.42.0.12")
		_, err := client.ask(t, "tcp", "10.43.0.80:80")
		must(t, err)
		eventually(t, "the map of clients is empty", func() bool {
			conn, err := p.table.dial()
			must(t, err)
			elements, err := conn.GetSetElements(&nftables.Set{Table: p.table.ref(), Name: affinityMap(w.family)})
			must(t, err)
			return len(elements) == 0
		})
	})
}

// TestAffinitySpreads has one pod play many clients.
func TestAffinitySpreads(t *testing.T) { inEachWorld(t, testAffinitySpreads) }

func testAffinitySpreads(t *testing.T, w world) {
	w.newNode(t)
	one, two, many := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.12"), w.newMany(t, "10.42.0.21", "10.42.1.0/24", 30)
	one.serve(t, 8080)
	two.serve(t, 8080)
	p := w.newProgrammed(t)
	svc := w.service("web", "10.43.0.80")
	svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	p.set(svc, "10.42.0.11", "10.42.0.12")
	seen := map[string]int{}
	for _, client := range many {
		r, err := client.ask(t, "udp", "10.43.0.80:80")
		must(t, err)
		seen[r.from]++
		if again, err := client.ask(t, "udp", "10.43.0.80:80"); err != nil || again.from != r.from {
			t.Fatalf("client %s reached %s first and %s then, %v", client.addr, r.from, again.from, err)
		}
	}
	if len(seen) != 2 {
		t.Errorf("30 clients reached %v, want both endpoints", seen)
	}
}

func TestExternalTrafficPolicyLocal(t *testing.T) { inEachWorld(t, testExternalTrafficPolicyLocal) }

func testExternalTrafficPolicyLocal(t *testing.T, w world) {
	node := w.newNode(t)
	one, two, client, outsider := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.12"), w.newPod(t, "10.42.0.20"), w.newOutsider(t)
	one.serve(t, 8080)
	two.serve(t, 8080)
	p := w.newProgrammed(t)
	svc := w.service("web", "10.43.0.80")
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	for _, affinity := range []corev1.ServiceAffinity{corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP} {
		svc.Spec.SessionAffinity = affinity
		for _, network := range []string{"tcp", "udp"} {
			t.Run(fmt.Sprintf("%s affinity %s", network, affinity), func(t *testing.T) {
				p.setEverywhere(svc, []string{"10.42.0.11"}, []string{"10.42.0.12"})
				wantSeen(t, outsider, network, "192.0.2.1:30080", one, "192.0.2.2")
				wantSeen(t, client, network, "192.0.2.1:30080", nil, "")
				wantSeen(t, node, network, "192.0.2.1:30080", nil, "")

				p.setEverywhere(svc, nil, []string{"10.42.0.12"})
				wantDropped(t, outsider, network, "192.0.2.1:30080")
				wantSeen(t, client, network, "192.0.2.1:30080", two, "")
				wantSeen(t, node, network, "192.0.2.1:30080", two, "")

				p.setEverywhere(svc, nil, nil)
				wantRefused(t, outsider, network, "192.0.2.1:30080")
			})
		}
	}
}

func TestExternalAddresses(t *testing.T) { inEachWorld(t, testExternalAddresses) }

func testExternalAddresses(t *testing.T, w world) {
	node := w.newNode(t)
	one, client, outsider := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.20"), w.newOutsider(t)
	one.serve(t, 8080)
	p := w.newProgrammed(t)
	svc := w.service("web", "10.43.0.80")
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	svc.Spec.ExternalIPs = []string{w.family.as("198.51.100.9")}
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: w.family.as("192.0.2.1")}}
	p.set(svc, "10.42.0.11")
	for _, network := range []string{"tcp", "udp"} {
		for _, address := range []string{"192.0.2.1:80", "198.51.100.9:80"} {
			wantSeen(t, outsider, network, address, one, "")
			wantSeen(t, client, network, address, one, "")
		}
		wantSeen(t, node, network, "192.0.2.1:80", one, "")
	}
	wantRefused(t, outsider, "tcp", "192.0.2.1:81")

	svc.Spec.LoadBalancerSourceRanges = w.family.each([]string{"10.0.0.0/8", "10.42.0.0/16"})
	p.set(svc, "10.42.0.11")
	wantDropped(t, outsider, "tcp", "192.0.2.1:80")
	wantDropped(t, outsider, "udp", "192.0.2.1:80")
	wantSeen(t, client, "tcp", "192.0.2.1:80", one, "")
	wantSeen(t, node, "tcp", "192.0.2.1:80", one, "")
	wantSeen(t, outsider, "tcp", "198.51.100.9:80", one, "")
	wantSeen(t, outsider, "tcp", "192.0.2.1:30080", one, "")

	svc.Spec.LoadBalancerSourceRanges = w.family.each([]string{"10.0.0.0/8", "192.0.2.2/32"})
	p.set(svc, "10.42.0.11")
	wantSeen(t, outsider, "tcp", "192.0.2.1:80", one, "")
}

func TestHostPorts(t *testing.T) { inEachWorld(t, testHostPorts) }

func testHostPorts(t *testing.T, w world) {
	node := w.newNode(t)
	one, client, outsider := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.20"), w.newOutsider(t)
	one.serve(t, 8080)
	p := w.newProgrammed(t)
	pod := podWithPort("p", 88)
	ports := &pod.Spec.Containers[0].Ports
	*ports = append(*ports,
		corev1.ContainerPort{ContainerPort: 8080, HostPort: 88, Protocol: corev1.ProtocolUDP},
		corev1.ContainerPort{ContainerPort: 8080, HostPort: 89, HostIP: w.family.as("192.0.2.1"), Protocol: corev1.ProtocolTCP})
	pod.Status.PodIP = one.addr.String()
	set := func(pod *corev1.Pod) {
		p.rules.SetPod("default/p", pod)
		p.tell()
	}
	set(pod)
	for _, network := range []string{"tcp", "udp"} {
		wantSeen(t, outsider, network, "192.0.2.1:88", one, "192.0.2.2")
		wantSeen(t, client, network, "10.42.0.1:88", one, "10.42.0.20")
		wantSeen(t, one, network, "10.42.0.1:88", one, "")
		wantSeen(t, node, network, "192.0.2.1:88", one, "")
	}
	wantSeen(t, outsider, "tcp", "192.0.2.1:89", one, "192.0.2.2")
	wantRefused(t, client, "tcp", "10.42.0.1:89")
	set(nil)
	wantRefused(t, outsider, "tcp", "192.0.2.1:88")
}
