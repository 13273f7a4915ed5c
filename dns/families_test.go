package dns

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// A cluster of two families: its DNS has an address of each, pods ask by both, and are told of both.

var (
	dns4, dns6 = netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd00:43::a")
	pod4, pod6 = netip.MustParseAddr("10.42.0.7"), netip.MustParseAddr("fd00:42::7")
)

// addressed puts the test into a namespace of the network where the DNS and a pod have their addresses.
func addressed(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a network namespace with a device in it")
	}
	enterNamespace(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatalf("set lo up: %v", err)
	}
	for _, addr := range []netip.Addr{dns4, dns6, pod4, pod6} {
		bits := addr.BitLen()
		own := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, bits)}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(lo, own); err != nil {
			t.Fatalf("give lo the address %v: %v", addr, err)
		}
		waitFor(t, "an address that can be reached", func() bool { // The kernel gets an IPv6 address ready by and by.
			routes, err := netlink.RouteGet(addr.AsSlice())
			return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
		})
	}
}

func dualStackService(name string) *corev1.Service {
	svc := service("default", name, "10.43.0.80")
	svc.Spec.ClusterIPs = []string{"10.43.0.80", "fd00:43::80"}
	return svc
}

// askFrom asks from an address of one's own.
func askFrom(t *testing.T, network string, from netip.Addr, to netip.AddrPort, name string, rrtype uint16) *dns.Msg {
	t.Helper()
	dialer := &net.Dialer{Timeout: patience, LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	if network == "tcp" {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	conn, err := dialer.Dial(network, to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	question := new(dns.Msg)
	question.SetQuestion(name, rrtype)
	reply, _, err := (&dns.Client{Timeout: patience}).ExchangeWithConn(question, &dns.Conn{Conn: conn})
	if err != nil {
		t.Fatalf("%s from %v to %v: %v", network, from, to, err)
	}
	return reply
}

func TestBothFamiliesAsk(t *testing.T) {
	addressed(t)
	running := runningPod("default", "a", pod4.String())
	running.Status.PodIPs = append(running.Status.PodIPs, corev1.PodIP{IP: pod6.String()})
	factory := informers.NewSharedInformerFactory(fake.NewClientset(namespace("default"), namespace("other"),
		dualStackService("web"), service("other", "db", "10.43.0.90"), running), 0)
	s, err := New(Config{
		Addresses: []netip.Addr{dns4, dns6}, Port: 53, Metrics: 9153, Autopath: true, Resolv: "none",
		ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/56")},
		ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")},
	}, factory)
	if err != nil {
		t.Fatal(err)
	}
	run(t, s, factory)
	for _, ends := range [][2]netip.Addr{{pod4, dns4}, {pod6, dns6}, {dns4, dns4}, {dns6, dns6}} { // Pods, and the node itself.
		for _, network := range []string{"udp", "tcp"} {
			for rrtype, want := range map[uint16]string{dns.TypeA: "10.43.0.80", dns.TypeAAAA: "fd00:43::80"} {
				reply := askFrom(t, network, ends[0], netip.AddrPortFrom(ends[1], 53), "web.default.svc.cluster.local.", rrtype)
				if len(reply.Answer) != 1 || !strings.HasSuffix(reply.Answer[0].String(), want) {
					t.Errorf("%v asks %v over %s: got %v, want %s", ends[0], ends[1], network, reply, want)
				}
			}
		}
		conn, err := net.Dial("tcp", netip.AddrPortFrom(ends[1], 9153).String())
		if err != nil {
			t.Errorf("no metrics at %v: %v", ends[1], err)
			continue
		}
		conn.Close()
	}
	for _, from := range []netip.Addr{pod4, pod6} {
		to := netip.AddrPortFrom(dns4, 53)
		if from.Is6() {
			to = netip.AddrPortFrom(dns6, 53)
		}
		reply := askFrom(t, "udp", from, to, "db.other.default.svc.cluster.local.", dns.TypeA)
		if len(reply.Answer) != 2 {
			t.Errorf("the search path of %v is not followed: %v", from, reply)
		}
	}
	nameserver := askFrom(t, "udp", pod6, netip.AddrPortFrom(dns6, 53), "cluster.local.", dns.TypeNS)
	if len(nameserver.Extra) != 2 {
		t.Errorf("the name server has the addresses %v, want one of each family", nameserver.Extra)
	}
}

// A pod that floods from one family leaves the other its places: each address counts by itself.
func TestFairnessKnowsBothFamilies(t *testing.T) {
	places := newTurnstile(8)
	for range 4 {
		if !places.enter(pod6) {
			t.Fatal("half of the places are not free")
		}
	}
	if places.enter(pod6) {
		t.Error("one client got more than half of the places")
	}
	if !places.enter(netip.MustParseAddr("fd00:42::8")) || !places.enter(pod4) {
		t.Error("another client got none")
	}
}

func TestForwardOverIPv6(t *testing.T) {
	upstream, port := startUpstream(t, "::1", 0, answers("192.0.2.1"))
	s, _ := forwarding(t, port, "::1")
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
	if upstream.asked.Load() != 1 {
		t.Errorf("the resolver was asked %d times, want once", upstream.asked.Load())
	}
}

// From packet to packet, over sockets of both families.
func TestAnswersDoNotAllocate(t *testing.T) {
	s, _ := startServer(t, Config{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}},
		namespace("default"), dualStackService("web"))
	question := new(dns.Msg)
	question.SetQuestion("web.default.svc.cluster.local.", dns.TypeAAAA)
	packet, err := question.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range s.Addrs() {
		conn, err := net.Dial("udp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		buf := make([]byte, maxRequest)
		allocations := testing.AllocsPerRun(1000, func() {
			if _, err := conn.Write(packet); err != nil {
				t.Fatal(err)
			}
			if n, err := conn.Read(buf); err != nil || n <= len(packet) {
				t.Fatalf("read %d bytes: %v", n, err)
			}
		})
		if allocations != 0 {
			t.Errorf("asked at %v: %v allocations", addr, allocations)
		}
	}
}
