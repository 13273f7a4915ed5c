package dns

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// The order on a real node: the server listens, then the network gives the node the DNS address, then the node's own
// processes ask, and their packets come from that same address.
func TestOnANode(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a network namespace with a device in it")
	}
	enterNamespace(t)
	address := netip.MustParseAddr("10.43.0.10")
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	s, err := New(Config{Addresses: []netip.Addr{address}, Port: 53, Resolv: "none"}, factory)
	if err != nil {
		t.Fatalf("listen before the address exists: %v", err)
	}
	run(t, s, factory)

	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "skiff0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatalf("make a bridge: %v", err)
	}
	for _, setUp := range []func() error{
		func() error {
			return netlink.AddrAdd(bridge, &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}})
		},
		func() error { return netlink.LinkSetUp(bridge) },
		func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			return netlink.LinkSetUp(lo) // What a node sends to itself goes through lo, whatever device has the address.
		},
	} {
		if err := setUp(); err != nil {
			t.Fatalf("set the network up: %v", err)
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		conn, err := net.DialTimeout(network, s.Addr().String(), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		co := &dns.Conn{Conn: conn}
		question := new(dns.Msg)
		question.SetQuestion("dns-version.cluster.local.", dns.TypeTXT)
		if err := co.WriteMsg(question); err != nil {
			t.Fatal(err)
		}
		reply, err := co.ReadMsg()
		if err != nil {
			t.Fatalf("%s: %v", network, err)
		}
		check(t, reply, dns.RcodeSuccess, 1)
	}
}

// enterNamespace puts the test's thread into a network namespace of its own, until the test ends. Sockets belong to the
// namespace of the thread that makes them.
func enterNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	host, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	own, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		own.Close()
		if err := netns.Set(host); err != nil {
			t.Errorf("leave the network namespace: %v", err)
			return // The thread stays locked, and so ends with the test.
		}
		host.Close()
		runtime.UnlockOSThread()
	})
}
