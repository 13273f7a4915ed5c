package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// policed is a node with a proxy that enforces policies between real pods.
type policed struct {
	*programmed
	node, outsider   *host
	front, db, watch *host
}

func (w world) newPoliced(t *testing.T) *policed {
	t.Helper()
	p := &policed{node: w.newNode(t), front: w.newPod(t, "10.42.0.11"), db: w.newPod(t, "10.42.0.12"), watch: w.newPod(t, "10.42.0.13"), outsider: w.newOutsider(t)}
	p.programmed = w.newProgrammed(t)
	for _, h := range []*host{p.front, p.db, p.watch, p.outsider} {
		h.serve(t, 80)
		h.serve(t, 81)
	}
	p.rules.SetNamespace("watch", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "watch", Labels: map[string]string{"team": "ops"}}})
	p.pod("shop", "front", "10.42.0.11")
	p.pod("shop", "db", "10.42.0.12")
	p.pod("watch", "watch", "10.42.0.13")
	p.rules.setOwnRanges([]netip.Prefix{netip.MustParsePrefix(w.family.as("10.42.0.0/24"))})
	p.tell()
	return p
}

// pod tells of a pod called name, with the label app of the same name and port 80 called http. The pod without address is gone.
func (p *policed) pod(namespace, name, addr string) {
	var pod *corev1.Pod
	if addr != "" {
		pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}}}
		pod.Spec = corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80, Protocol: corev1.ProtocolTCP}}}}}
		pod.Status.PodIP = p.family.as(addr)
	}
	p.rules.SetPod(namespace+"/"+name, pod)
}

// policy sets the only policy there is, of the namespace shop. Without a spec there is none.
func (p *policed) policy(spec string) {
	p.t.Helper()
	p.rules.SetPolicy("shop/p", nil)
	if spec != "" {
		np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "p"}}
		must(p.t, yaml.UnmarshalStrict([]byte(p.quoted(spec)), &np.Spec))
		p.rules.SetPolicy("shop/p", np)
	}
	p.tell()
}

// quoted rewrites the addresses in what people write, where those of IPv6 are between quotation marks.
func (p *policed) quoted(spec string) string {
	return regexp.MustCompile(`\d+\.\d+\.\d+\.\d+/\d+`).ReplaceAllStringFunc(spec, func(one string) string { return `"` + p.family.as(one) + `"` })
}

// TestPolicyTraffic sets one policy after the other and asks who reaches whom.
func TestPolicyTraffic(t *testing.T) { inEachWorld(t, testPolicyTraffic) }

func testPolicyTraffic(t *testing.T, w world) {
	p := w.newPoliced(t)
	web := w.service("web", "10.43.0.80")
	web.Spec.Ports[0].NodePort, web.Spec.Ports = 30080, web.Spec.Ports[:1]
	slice := w.slice("web", "10.42.0.12")
	slice.Ports[0].Port = new(int32(80))
	p.rules.Set("default/web", web, list(slice))
	for _, tc := range []struct {
		name string
		spec string
		pass string // "from>to:port", tcp but for a "u".
		drop string
	}{
		{"no policy", "", "front>db:80 front>db:80u watch>db:81 db>outsider:80 outsider>db:80 outsider>node:30080 front>vip:80", ""},
		{"default deny of what comes in", "{podSelector: {}, policyTypes: [Ingress]}",
			"node>db:80 node>front:81u db>node:9999 db>outsider:80 front>watch:80 db>watch:81u db>vip:80",
			"front>db:80 front>db:80u watch>db:81 outsider>db:80 outsider>node:30080 front>vip:80"},
		{"default deny of what goes out", "{podSelector: {}, policyTypes: [Egress]}",
			"node>db:80 watch>db:80 outsider>front:81 outsider>node:30080 watch>front:80u watch>outsider:80 db>vip:80",
			"front>db:80 db>watch:80u db>outsider:80 front>vip:80"},
		{"some pods only", "{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress]}", "db>front:80 watch>front:80 db>db:81", "front>db:80 watch>db:80"},
		{"a pod by its labels", "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: front}}}]}]}",
			"front>db:80 front>db:81u front>vip:80", "watch>db:80 outsider>db:80 db>front:80"},
		{"a namespace by its labels", "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: ops}}}]}]}",
			"watch>db:80 watch>front:80", "front>db:80"},
		{"a pod of a namespace", "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: watch}}}]}]}",
			"watch>db:80", "front>db:80"},
		{"a block", "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}",
			"outsider>db:80 outsider>node:30080", "front>db:80 watch>db:80"},
		{"a block but for some", "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/30]}}]}]}",
			"front>db:80 watch>db:80", "outsider>db:80"},
		{"one port", "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 80}]}]}",
			"front>db:80 outsider>db:80 front>vip:80", "front>db:81 front>db:80u"},
		{"one port of UDP", "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 80, protocol: UDP}]}]}",
			"front>db:80u", "front>db:80 front>db:81u"},
		{"a port by name", "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: http}]}]}", "watch>db:80", "watch>db:81"},
		{"several ports", "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 70, endPort: 80}]}]}", "watch>db:80", "watch>db:81"},
		{"every port of a protocol", "{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{protocol: TCP}]}]}", "watch>db:80 watch>db:81", "watch>db:80u"},
		{"out to a pod's port by name", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}}], ports: [{port: http}]}]}",
			"front>db:80 db>watch:80 front>vip:80", "front>db:81 front>outsider:80"},
		{"out to any port by name", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}, {port: 81, protocol: UDP}]}]}",
			"front>db:80 front>outsider:81u front>db:81u", "front>db:81 front>outsider:80"},
		{"out to a block", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}", "db>outsider:80 db>outsider:81u", "db>watch:80"},
		{"everything", "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}", "front>db:80 db>outsider:81u outsider>db:80", ""},
		{"no policy any more", "", "front>db:80 outsider>db:80u", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p.policy(tc.spec)
			p.askAll(t, tc.pass, true)
			p.askAll(t, tc.drop, false)
		})
	}
}

// askAll wants every connection to pass, or none.
func (p *policed) askAll(t *testing.T, text string, pass bool) {
	t.Helper()
	var drops sync.WaitGroup // They take their time.
	defer drops.Wait()
	hosts := map[string]*host{"node": p.node, "outsider": p.outsider, "front": p.front, "db": p.db, "watch": p.watch}
	for _, c := range fields(text) {
		to, ok := hosts[c.to]
		address := "10.43.0.80"
		if ok {
			address = to.addr.String()
		}
		if c.to == "node" {
			address = "192.0.2.1"
		}
		address = net.JoinHostPort(address, c.port)
		from := hosts[c.from]
		if !pass {
			drops.Go(func() { wantDropped(t, from, c.network, address) })
			continue
		}
		if _, err := from.ask(t, c.network, address); err != nil && !(c.port == "9999" && refused(err)) {
			t.Errorf("%s from %s to %s (%s): %v", c.network, c.from, c.to, address, err)
		}
	}
}

type connection struct{ from, to, port, network string }

func fields(text string) (all []connection) {
	for _, one := range strings.Fields(text) {
		c := connection{network: "tcp"}
		if trimmed, datagrams := strings.CutSuffix(one, "u"); datagrams {
			c.network, one = "udp", trimmed
		}
		c.from, one, _ = strings.Cut(one, ">")
		c.to, c.port, _ = strings.Cut(one, ":")
		all = append(all, c)
	}
	return all
}

func TestPolicyKeepsConnections(t *testing.T) { inEachWorld(t, testPolicyKeepsConnections) }

func testPolicyKeepsConnections(t *testing.T, w world) {
	p := w.newPoliced(t)
	stream, err := p.front.dial(t, "tcp", "10.42.0.12:80")
	must(t, err)
	defer stream.Close()
	p.policy("{podSelector: {}, policyTypes: [Ingress, Egress]}")
	wantDropped(t, p.front, "tcp", "10.42.0.12:80")
	if _, err := exchange(stream); err != nil {
		t.Errorf("a connection from before the policy: %v, want it to live on", err)
	}
}

// TestPolicyKnowsPods: where there are policies, a pod gets nothing through until the proxy knows what it is.
func TestPolicyKnowsPods(t *testing.T) { inEachWorld(t, testPolicyKnowsPods) }

func testPolicyKnowsPods(t *testing.T, w world) {
	p := w.newPoliced(t)
	p.policy("{podSelector: {}, policyTypes: [Ingress]}")
	young := w.newPod(t, "10.42.0.14")
	young.serve(t, 80)
	wantDropped(t, p.watch, "tcp", "10.42.0.14:80")
	wantDropped(t, young, "tcp", "10.42.0.13:80")
	if _, err := p.node.ask(t, "tcp", "10.42.0.14:80"); err != nil {
		t.Errorf("the node, to a pod that is not known yet: %v", err)
	}
	p.pod("watch", "young", "10.42.0.14")
	p.tell()
	if _, err := p.watch.ask(t, "tcp", "10.42.0.14:80"); err != nil {
		t.Errorf("to a pod that is known: %v", err)
	}
	if _, err := young.ask(t, "tcp", "10.42.0.13:80"); err != nil {
		t.Errorf("from a pod that is known: %v", err)
	}
	p.policy("")
	p.pod("watch", "young", "")
	p.tell()
	if _, err := p.watch.ask(t, "tcp", "10.42.0.14:80"); err != nil {
		t.Errorf("without policies, to a pod that is not known: %v", err)
	}
}

// TestPolicyLeavesMarks: the mark that has a connection masqueraded is there behind the rules of policies.
func TestPolicyLeavesMarks(t *testing.T) { inEachWorld(t, testPolicyLeavesMarks) }

func testPolicyLeavesMarks(t *testing.T, w world) {
	p := w.newPoliced(t)
	web := w.service("web", "10.43.0.80")
	slice := w.slice("web", "10.42.0.12")
	slice.Ports[0].Port = new(int32(80))
	p.rules.Set("default/web", web, list(slice))
	p.policy("{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 192.0.2.2/32}}]}]}")
	// The policy sees the client, the endpoint the node.
	wantSeen(t, p.outsider, "tcp", "192.0.2.1:30080", p.db, "10.42.0.1")
}

// TestPolicyFollowsEvents has a whole proxy enforce a policy that comes, and labels that change.
func TestPolicyFollowsEvents(t *testing.T) { inEachWorld(t, testPolicyFollowsEvents) }

func testPolicyFollowsEvents(t *testing.T, w world) {
	w.newNode(t)
	one, two := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.12")
	one.serve(t, 80)
	c := w.newCluster(t)
	ctx, core := t.Context(), c.client.CoreV1()
	for name, addr := range map[string]string{"one": "10.42.0.11", "two": "10.42.0.12"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: "node"}}
		pod.Status.PodIP = w.family.as(addr)
		_, err := core.Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		must(t, err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err := core.Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	must(t, err)
	c.start(&table{config: w.config()})
	reaches := func() bool {
		_, err := two.askFor(t, "tcp", "10.42.0.11:80", inVain)
		return err == nil
	}
	eventually(t, "two reaches one", reaches)
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
	must(t, yaml.UnmarshalStrict([]byte("{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {a: b}}}]}]}"), &np.Spec))
	_, err = c.client.NetworkingV1().NetworkPolicies("default").Create(ctx, np, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "a policy keeps two from one", func() bool { return !reaches() })
	ns.Labels = map[string]string{"a": "b"}
	_, err = core.Namespaces().Update(ctx, ns, metav1.UpdateOptions{})
	must(t, err)
	eventually(t, "the namespace's label lets two in", reaches)
	must(t, c.client.NetworkingV1().NetworkPolicies("default").Delete(ctx, "p", metav1.DeleteOptions{}))
	ns.Labels = nil
	_, err = core.Namespaces().Update(ctx, ns, metav1.UpdateOptions{})
	must(t, err)
	eventually(t, "without the policy two reaches one", reaches)
}

// TestNeighbourDiscovery has two pods on one bridge, as plug-ins may have it, who must ask for each other before they can connect,
// and may do nothing but that.
func TestNeighbourDiscovery(t *testing.T) {
	w := worlds()[1]
	w.newNode(t)
	must(t, os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("1"), 0))
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)) })
	must(t, netlink.LinkSetUp(bridge))
	one, two := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.12")
	for _, pod := range []*host{one, two} {
		must(t, netlink.LinkSetMaster(link(t, pod.link()), bridge))
		pod.do(t, func() {
			must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link(t, "peer0").Attrs().Index, Dst: ipNet(w.family.as("10.42.0.0/24")), Scope: netlink.SCOPE_LINK}))
		})
	}
	two.serve(t, 80)
	p := w.newProgrammed(t)
	for name, pod := range map[string]*host{"one": one, "two": two} {
		p.rules.SetPod("default/"+name, peerPod("node", pod.addr.String(), name))
	}
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
	must(t, yaml.UnmarshalStrict([]byte("{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80}]}], egress: [{ports: [{port: 80}]}]}"), &np.Spec))
	p.rules.SetPolicy("default/p", np)
	p.rules.setOwnRanges([]netip.Prefix{netip.MustParsePrefix(w.family.as("10.42.0.0/24"))})
	p.tell()
	if _, err := one.ask(t, "tcp", "10.42.0.12:80"); err != nil {
		t.Errorf("a connection that is allowed, over the bridge: %v", err)
	}
	wantDropped(t, one, "udp", "10.42.0.12:80")
}

// TestRoutedNeighbourDiscovery: what only looks like neighbour discovery is routed between pods like anything else, and no way around
// policies.
func TestRoutedNeighbourDiscovery(t *testing.T) {
	w := worlds()[1]
	p := w.newPoliced(t)
	heard := p.db.listen(t, unix.IPPROTO_ICMPV6)
	p.policy("{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 80, protocol: UDP}]}], egress: [{ports: [{port: 80, protocol: UDP}]}]}")
	for kind := byte(routerSolicitation); kind <= redirect; kind++ {
		p.front.sendICMPv6(t, p.db.addr, kind)
	}
	if _, err := p.front.ask(t, "udp", "10.42.0.12:80"); err != nil {
		t.Fatal(err)
	}
	p.policy("")
	p.front.sendICMPv6(t, p.db.addr, routerSolicitation-1) // The first to come: none of those before it did.
	must(t, heard.SetReadDeadline(time.Now().Add(patience)))
	for message := make([]byte, 64); ; {
		n, from, err := heard.ReadFrom(message)
		must(t, err)
		if n == 0 || from.String() != p.front.addr.String() {
			continue // The node and its pod ask for each other.
		}
		if message[0] != routerSolicitation-1 {
			t.Errorf("a message of ICMPv6 of type %d passed the policy", message[0])
			continue
		}
		return
	}
}

// listen hears the packets of a protocol that come to h.
func (h *host) listen(t *testing.T, protocol int) (heard net.PacketConn) {
	t.Helper()
	h.do(t, func() {
		var err error
		heard, err = net.ListenPacket(fmt.Sprintf("ip6:%d", protocol), "::")
		must(t, err)
	})
	t.Cleanup(func() { heard.Close() })
	return heard
}

// sendICMPv6 sends a message with the highest hop limit that there is.
func (h *host) sendICMPv6(t *testing.T, to netip.Addr, kind byte) {
	t.Helper()
	h.do(t, func() {
		socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		must(t, err)
		defer unix.Close(socket)
		must(t, unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, onLink))
		must(t, unix.Sendto(socket, append([]byte{kind}, make([]byte, 23)...), 0, &unix.SockaddrInet6{Addr: to.As16()}))
	})
}
