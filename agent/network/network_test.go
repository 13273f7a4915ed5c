package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// alone runs the test in a process of its own with network and mount namespaces of its own: whatever the test does there
// ends with it. It says true in that process.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: links, routes and namespaces are made for real")
	}
	const mark = "SKIFF_NETWORK_TEST_ALONE"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("%s", out)
	}
	return false
}

func testConfig(t *testing.T) Config {
	return Config{
		Dir: filepath.Join(t.TempDir(), "ns"), NoteDir: filepath.Join(t.TempDir(), "cni"), PodCIDR: prefixes("10.42.0.0/24", "fd00:42::/64"),
		ClusterCIDR: prefixes("10.42.0.0/16", "fd00:42::/56"), ServiceCIDR: prefixes("10.43.0.0/16", "fd00:43::/112"),
		LocalAddresses: []netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd00:43::a")},
	}
}

// only is a configuration without the other family.
func only(c Config, v6 bool) Config {
	c.PodCIDR = []netip.Prefix{ofFamily(c.PodCIDR, v6)}
	c.ClusterCIDR = []netip.Prefix{ofFamily(c.ClusterCIDR, v6)}
	c.ServiceCIDR = []netip.Prefix{ofFamily(c.ServiceCIDR, v6)}
	c.LocalAddresses = slices.DeleteFunc(slices.Clone(c.LocalAddresses), func(a netip.Addr) bool { return a.Is6() != v6 })
	return c
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func newNetwork(t *testing.T, c Config) *Network {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Purge(context.Background()); err != nil {
			t.Errorf("purge: %v", err)
		}
	})
	return n
}

func setup(t *testing.T, n *Network, uid string) Result {
	t.Helper()
	result, err := n.Setup(t.Context(), Pod{UID: uid, Hostname: "host-" + uid})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// world is what lies behind the node's default routes: a namespace with the addresses 203.0.113.2 and 2001:db8::2, the node being
// 203.0.113.1 and 2001:db8::1 there.
type world struct {
	ns     string
	socket int // Hears what comes in there.
}

func newWorld(t *testing.T) *world {
	t.Helper()
	path := filepath.Join(t.TempDir(), "world")
	if err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return pinOne(unix.Gettid(), "net", path)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inside.Close)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "uplink", net.HardwareAddr{2, 0, 0, 0, 0, 1}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "world", PeerNamespace: netlink.NsFd(ns),
		PeerHardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 2}}); err != nil {
		t.Fatal(err)
	}
	// No addresses that the kernel makes up, and permanent neighbours: so every packet that is counted is one that somebody sent on
	// purpose.
	quiet := func(link string) func() error {
		return func() error { return sysctl("net/ipv6/conf/"+link+"/addr_gen_mode", "1") }
	}
	if err := errors.Join(quiet("uplink")(), inNamespace(path, quiet("world"))); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		handle   *netlink.Handle
		link     string
		own      []string
		others   []string
		otherMAC net.HardwareAddr
	}{
		{inside, "world", []string{"203.0.113.2/24", "2001:db8::2/64"}, []string{"203.0.113.1", "2001:db8::1"}, net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		{&netlink.Handle{}, "uplink", []string{"203.0.113.1/24", "2001:db8::1/64"}, []string{"203.0.113.2", "2001:db8::2"}, net.HardwareAddr{2, 0, 0, 0, 0, 2}},
	} {
		link, err := end.handle.LinkByName(end.link)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range prefixes(end.own...) {
			if err := end.handle.AddrAdd(link, atOnce(p.Addr(), p.Bits())); err != nil {
				t.Fatal(err)
			}
		}
		if err := end.handle.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
		for _, other := range end.others {
			if err := end.handle.NeighSet(permanent(link.Attrs().Index, netip.MustParseAddr(other), end.otherMAC)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, gateway := range []string{"203.0.113.2", "2001:db8::2"} {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{ns: path}
	if err := inNamespace(path, func() (err error) {
		everything := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		w.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(everything))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(w.socket) })
	return w
}

// received counts the packets that have come out there since it was asked last. What is for a group does not count: by that a host says
// which groups of IPv6 it is in.
func (w *world) received(t *testing.T) (count int) {
	t.Helper()
	for {
		_, from, err := unix.Recvfrom(w.socket, make([]byte, 64), unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return count
		}
		if err != nil {
			t.Fatal(err)
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_HOST {
			count++
		}
	}
}

// serve answers every TCP connection with the client's address. An empty ns is the node.
func serve(t *testing.T, ns, addr string) {
	t.Helper()
	var listener net.Listener
	listen := func() (err error) {
		listener, err = net.Listen("tcp", addr)
		return err
	}
	if err := at(ns, listen); err != nil {
		t.Fatalf("listen on %s: %v", addr, err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			fmt.Fprint(conn, host)
			conn.Close()
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
}

func at(ns string, do func() error) error {
	if ns == "" {
		return do()
	}
	return inNamespace(ns, do)
}

// ask connects and returns as whom the server sees it.
func ask(ns, addr string) (seen string, err error) {
	err = at(ns, func() error {
		conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		text, err := io.ReadAll(conn)
		seen = string(text)
		return err
	})
	return seen, err
}

// Whoever should reach another does, and is seen with the right address.
func TestReachability(t *testing.T) {
	if !alone(t) {
		return
	}
	world := newWorld(t)
	n := newNetwork(t, testConfig(t))
	a, b := setup(t, n, "a"), setup(t, n, "b")
	if joined(a.Addrs) != "10.42.0.2,fd00:42::2" || joined(b.Addrs) != "10.42.0.3,fd00:42::3" {
		t.Fatalf("the pods have the addresses %s and %s", a.Addrs, b.Addrs)
	}
	serve(t, a.NetNS, "10.42.0.2:80")
	serve(t, a.NetNS, "127.0.0.1:81")
	serve(t, b.NetNS, "10.42.0.3:80")
	serve(t, "", "10.42.0.1:80")
	serve(t, "", "10.43.0.10:53")
	serve(t, world.ns, "203.0.113.2:80")
	serve(t, a.NetNS, "[fd00:42::2]:80")
	serve(t, a.NetNS, "[::1]:83")
	serve(t, b.NetNS, "[fd00:42::3]:80")
	serve(t, "", "[fd00:42::1]:80")
	serve(t, "", "[fd00:43::a]:53")
	serve(t, world.ns, "[2001:db8::2]:80")
	for _, tc := range []struct{ name, from, to, seen string }{
		{"node to pod", "", "10.42.0.2:80", "10.42.0.1"},
		{"pod to pod", a.NetNS, "10.42.0.3:80", "10.42.0.2"},
		{"and back", b.NetNS, "10.42.0.2:80", "10.42.0.3"},
		{"pod to itself", a.NetNS, "10.42.0.2:80", "10.42.0.2"},
		{"pod to its loopback", a.NetNS, "127.0.0.1:81", "127.0.0.1"},
		{"pod to node", a.NetNS, "10.42.0.1:80", "10.42.0.2"},
		{"pod to DNS", a.NetNS, "10.43.0.10:53", "10.42.0.2"},
		{"node to DNS", "", "10.43.0.10:53", "10.43.0.10"},
		{"pod to the world", a.NetNS, "203.0.113.2:80", "203.0.113.1"},
		{"node to the world", "", "203.0.113.2:80", "203.0.113.1"},
		{"node to pod, by IPv6", "", "[fd00:42::2]:80", "fd00:42::1"},
		{"pod to pod, by IPv6", a.NetNS, "[fd00:42::3]:80", "fd00:42::2"},
		{"and back, by IPv6", b.NetNS, "[fd00:42::2]:80", "fd00:42::3"},
		{"pod to itself, by IPv6", a.NetNS, "[fd00:42::2]:80", "fd00:42::2"},
		{"pod to node, by IPv6", a.NetNS, "[fd00:42::1]:80", "fd00:42::2"},
		{"pod to DNS, by IPv6", a.NetNS, "[fd00:43::a]:53", "fd00:42::2"},
		{"node to DNS, by IPv6", "", "[fd00:43::a]:53", "fd00:43::a"},
		{"pod to the world, by IPv6", a.NetNS, "[2001:db8::2]:80", "2001:db8::1"},
		{"node to the world, by IPv6", "", "[2001:db8::2]:80", "2001:db8::1"},
	} {
		if seen, err := ask(tc.from, tc.to); err != nil || seen != tc.seen {
			t.Errorf("%s: seen as %q, %v; want %s", tc.name, seen, err, tc.seen)
		}
	}
	for port, want := range map[uint16]string{81: "127.0.0.1", 83: "::1"} {
		conn, err := n.Dial(t.Context(), "a", port)
		if err != nil {
			t.Fatalf("dial the pod's loopback: %v", err)
		}
		text, err := io.ReadAll(conn)
		if conn.Close(); err != nil || string(text) != want {
			t.Errorf("the pod's loopback saw %q, %v; want %s", text, err, want)
		}
	}
	if _, err := n.Dial(t.Context(), "a", 82); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial a port where nobody listens: %v", err)
	}
	if _, err := n.Dial(t.Context(), "nobody", 81); err == nil {
		t.Error("a pod that is not there could be dialled")
	}
}

// What a pod sends as if it were another is dropped, whatever the node's own rp_filter is.
func TestForgedSource(t *testing.T) {
	if !alone(t) {
		return
	}
	newWorld(t) // A way to foreign addresses: that it is another one is what matters.
	n := newNetwork(t, testConfig(t))
	a, b := setup(t, n, "a"), setup(t, n, "b")
	for _, all := range []string{"0", "1", "2"} {
		t.Run(all, func(t *testing.T) {
			if err := sysctl("net/ipv4/conf/all/rp_filter", all); err != nil {
				t.Fatal(err)
			}
			testForgedSource(t, n, a, b)
		})
	}
}

func testForgedSource(t *testing.T, n *Network, a, b Result) {
	t.Helper()
	for i, gateway := range []string{"10.42.0.1", "fd00:42::1"} {
		server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(gateway)})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		foreign := netip.MustParseAddr("203.0.113.9")
		if i == 1 {
			foreign = netip.MustParseAddr("2001:db8::9")
		}
		for _, sender := range []netip.Addr{b.Addrs[i], foreign, a.Addrs[i]} { // All by a.
			if err := at(a.NetNS, func() error { return send(sender, server.LocalAddr().String()) }); err != nil {
				t.Fatal(err)
			}
		}
		if err := server.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, from, err := server.ReadFromUDPAddrPort(make([]byte, 64)); err != nil || from.Addr().Unmap() != a.Addrs[i] {
			t.Errorf("a datagram came from %v (%v), want one of %s only", from, err, a.Addrs[i])
		}
	}
}

// say sends a datagram.
func say(to string) error {
	conn, err := net.Dial("udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("hello"))
	return err
}

// send sends a datagram from any address.
func send(from netip.Addr, to string) error {
	level, option := unix.SOL_IP, unix.IP_TRANSPARENT
	if from.Is6() {
		level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: from.AsSlice()}, Control: func(_, _ string, c syscall.RawConn) (err error) {
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }), err)
	}}
	conn, err := dialer.Dial("udp", to)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte("hello"))
	return err
}

// slowNeighbours has the kernel look for neighbours for longer than ask waits: what is not sent by a route to nowhere gets no answer
// at all, instead of the same one a few seconds later.
func slowNeighbours(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob("/proc/sys/net/ipv[46]/neigh/*/mcast_solicit")
	if err != nil || len(files) == 0 {
		t.Fatalf("the kernel does not say how often it asks for a neighbour: %v", err)
	}
	for _, file := range files {
		if err := os.WriteFile(file, []byte("100"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// What belongs to nobody is refused at once and does not leave by the default route: not even without our nft table.
func TestNothingLeaves(t *testing.T) {
	if !alone(t) {
		return
	}
	world := newWorld(t)
	n := newNetwork(t, testConfig(t))
	a := setup(t, n, "a")
	slowNeighbours(t)
	for _, tc := range []struct {
		name, from, to string
		want           error
	}{
		{"pod to no pod", a.NetNS, "10.42.0.99:80", unix.EHOSTUNREACH},
		{"pod to no other node's pod", a.NetNS, "10.42.9.9:80", unix.EHOSTUNREACH},
		{"node to no pod", "", "10.42.0.99:80", unix.EHOSTUNREACH},
		{"pod to no service", a.NetNS, "10.43.0.99:80", unix.ECONNREFUSED},
		{"node to no service", "", "10.43.0.99:80", unix.ECONNREFUSED},
		{"pod to DNS, where nobody listens", a.NetNS, "10.43.0.10:53", unix.ECONNREFUSED},
		{"pod to no pod, by IPv6", a.NetNS, "[fd00:42::99]:80", unix.ENETUNREACH}, // As the kernel has it for routes to nowhere.
		{"pod to no other node's pod, by IPv6", a.NetNS, "[fd00:42:0:9::9]:80", unix.ENETUNREACH},
		{"node to no pod, by IPv6", "", "[fd00:42::99]:80", unix.EHOSTUNREACH},
		{"pod to no service, by IPv6", a.NetNS, "[fd00:43::99]:80", unix.ECONNREFUSED},
		{"node to no service, by IPv6", "", "[fd00:43::99]:80", unix.ECONNREFUSED},
		{"pod to DNS by IPv6, where nobody listens", a.NetNS, "[fd00:43::a]:53", unix.ECONNREFUSED},
	} {
		if _, err := ask(tc.from, tc.to); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v; want %v at once", tc.name, err, tc.want)
		}
	}
	send := func() {
		for _, from := range []string{"", a.NetNS} {
			for _, to := range []string{"10.42.0.99:53", "10.43.0.99:53", "[fd00:42::99]:53", "[fd00:43::99]:53"} {
				err := at(from, func() error { return say(to) })
				// Refused here, unreachable there: any error is right, and none if the packet was dropped later.
				t.Logf("UDP from %q to %s: %v", from, to, err)
			}
		}
	}
	send()
	if err := n.removeRules(); err != nil {
		t.Fatal(err)
	}
	send()
	if got := world.received(t); got != 0 {
		t.Errorf("%d packets left by the default route", got)
	}
	for _, to := range []string{"198.51.100.9:53", "[2001:db8:9::9]:53"} {
		if err := at(a.NetNS, func() error { return say(to) }); err != nil {
			t.Errorf("to the world: %v", err)
		}
	}
	for deadline := time.Now().Add(time.Minute); world.received(t) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what is for the world is not heard there: the test is deaf")
		}
	}
}

// Questions to the node's DNS leave no trace in the table of connections, and other packets to the same address do.
func TestDNSIsNotTracked(t *testing.T) {
	if !alone(t) {
		return
	}
	n := newNetwork(t, testConfig(t))
	a := setup(t, n, "a")
	for _, server := range []string{"10.43.0.10", "fd00:43::a"} {
		for _, port := range []int{53, 54} {
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(server), Port: port})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go echo(conn)
			for _, from := range []string{"", a.NetNS} {
				if err := at(from, func() error { return askEcho(conn.LocalAddr().String()) }); err != nil {
					t.Fatalf("from %q to %s: %v", from, conn.LocalAddr(), err)
				}
			}
			tcp := net.JoinHostPort(server, strconv.Itoa(port))
			serve(t, "", tcp)
			if got, err := ask(a.NetNS, tcp); err != nil || got != a.Addrs[0].String() && got != a.Addrs[1].String() {
				t.Errorf("by TCP to %s: seen as %q, %v", tcp, got, err)
			}
		}
	}
	for _, version := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, version)
		if err != nil {
			t.Fatal(err)
		}
		tracked := map[uint16]int{}
		for _, flow := range flows {
			tracked[flow.Forward.DstPort]++
		}
		if tracked[53] != 0 || tracked[54] != 3 {
			t.Errorf("connections tracked by port: %v; want none to 53, and three to 54, or we see nothing", tracked)
		}
	}
}

func echo(conn *net.UDPConn) {
	buf := make([]byte, 64)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
	}
}

func askEcho(address string) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 64))
	return err
}

// A proxy that rewrites a service's address gets to do so, for pods and for the node.
func TestProxyGoesFirst(t *testing.T) {
	if !alone(t) {
		return
	}
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs the nft program: apt-get install nftables")
	}
	newWorld(t)
	n := newNetwork(t, testConfig(t))
	a, b := setup(t, n, "a"), setup(t, n, "b")
	serve(t, b.NetNS, "10.42.0.3:8080")
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(`table ip test {
		chain pre { type nat hook prerouting priority -100; ip daddr 10.43.0.7 tcp dport 80 dnat to 10.42.0.3:8080; }
		chain out { type nat hook output priority -100; ip daddr 10.43.0.7 tcp dport 80 dnat to 10.42.0.3:8080; }
	}`)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	for from, seen := range map[string]string{a.NetNS: "10.42.0.2", "": "10.42.0.1"} {
		if got, err := ask(from, "10.43.0.7:80"); err != nil || got != seen {
			t.Errorf("service from %q: seen as %q, %v; want %s", from, got, err, seen)
		}
		if _, err := ask(from, "10.43.0.7:81"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("another port of it from %q: %v, want refused", from, err)
		}
	}
}

// A new Network finds the pods of the last one as they were, and removes what was not finished.
func TestRestart(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	n := newNetwork(t, c)
	a := setup(t, n, "a")
	setup(t, n, "b")
	serve(t, a.NetNS, "10.42.0.2:80")
	hostPod := Pod{UID: "h", Hostname: "node", HostNetwork: true}
	h, err := n.Setup(t.Context(), hostPod)
	if err != nil || len(h.Addrs) > 0 || h.NetNS != "" || h.UTSNS == "" || h.IPCNS == "" {
		t.Errorf("a pod on the host's network got %+v, %v", h, err)
	}
	if err := os.Mkdir(filepath.Join(c.Dir, "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := n.pin(Pod{UID: "killed", Hostname: "x"}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(c.Dir, "rebooted"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "rebooted", addressFile), []byte("10.42.0.50 fd00:42::50\n"), 0o644); err != nil {
		t.Fatal(err)
	}

	again, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	uids, err := again.Pods(t.Context())
	if err != nil || len(uids) != 3 {
		t.Errorf("after the restart the pods are %v, %v; want a, b and h", uids, err)
	}
	if got := setup(t, again, "a"); !reflect.DeepEqual(got, a) {
		t.Errorf("pod a got %+v, had %+v", got, a)
	}
	if got, err := again.Setup(t.Context(), hostPod); err != nil || !reflect.DeepEqual(got, h) {
		t.Errorf("pod h got %+v, %v; had %+v", got, err, h)
	}
	if got := setup(t, again, "c"); joined(got.Addrs) != "10.42.0.4,fd00:42::4" {
		t.Errorf("the next pod got %s, want 10.42.0.4 and fd00:42::4", got.Addrs)
	}
	serve(t, a.NetNS, "[fd00:42::2]:80")
	reached := func(when string) {
		t.Helper()
		for to, want := range map[string]string{"10.42.0.2:80": "10.42.0.1", "[fd00:42::2]:80": "fd00:42::1"} {
			if seen, err := ask("", to); err != nil || seen != want {
				t.Errorf("pod a %s, at %s: seen as %q, %v", when, to, seen, err)
			}
		}
	}
	reached("after the restart")

	// Somebody took the node's end away: Setup mends it.
	link, err := netlink.LinkByName(linkName(a.Addrs[0]))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	setup(t, again, "a")
	reached("after it was mended")
	if got := hostname(t, a.UTSNS); got != "host-a" {
		t.Errorf("pod a's hostname is %q", got)
	}
	if err := again.Purge(t.Context()); err != nil {
		t.Error(err)
	}
}

func hostname(t *testing.T, uts string) (name string) {
	t.Helper()
	if err := onOwnThread(func() error {
		f, err := os.Open(uts)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWUTS); err != nil {
			return err
		}
		name, err = os.Hostname()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return name
}

// Many pods at once have addresses of their own; torn down and purged, nothing of them is left.
func TestManyPodsAndNothingLeft(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	n := newNetwork(t, c)
	const count = 40
	results := make([]Result, count)
	var setups sync.WaitGroup
	start := time.Now()
	for i := range results {
		setups.Go(func() { results[i] = setup(t, n, fmt.Sprint("pod-", i)) })
	}
	setups.Wait()
	t.Logf("%d pods set up in %s", count, time.Since(start))
	owner := map[netip.Addr]int{}
	for i, r := range results {
		for _, addr := range r.Addrs {
			if other, taken := owner[addr]; taken {
				t.Errorf("pods %d and %d both have %s", other, i, addr)
			}
			owner[addr] = i
		}
	}
	start = time.Now()
	for i := range count / 2 {
		for range 2 { // The second time there is nothing to do.
			if err := n.Teardown(t.Context(), fmt.Sprint("pod-", i)); err != nil {
				t.Errorf("tear down pod %d: %v", i, err)
			}
		}
	}
	t.Logf("%d pods torn down in %s", count/2, time.Since(start))
	for _, addr := range results[0].Addrs {
		if _, err := ask("", netip.AddrPortFrom(addr, 80).String()); !errors.Is(err, unix.EHOSTUNREACH) {
			t.Errorf("a pod that is gone, at %s: %v, want unreachable", addr, err)
		}
	}
	if err := n.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name := link.Attrs().Name; name == nodeDevice || strings.HasPrefix(name, vethPrefix) {
			t.Errorf("link %s is left", name)
		}
	}
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil || len(routes) > 0 {
		t.Errorf("routes are left: %v (%v)", routes, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), c.Dir) {
		t.Errorf("mounts are left (%v):\n%s", err, mounts)
	}
	if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left (%v)", err)
	}
	if err := n.removeRules(); err != nil {
		t.Errorf("purge again: %v", err)
	}
	tables, err := (&nftables.Conn{}).ListTables()
	if err != nil || len(tables) > 0 {
		t.Errorf("%d nft tables are left (%v)", len(tables), err)
	}
}

// A cluster of one family leaves the other alone, and its pods have one address.
func TestSingleStack(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	for _, tc := range []struct {
		name, own, seen, world, nobody string
		v6                             bool
	}{
		{"IPv4", "10.42.0.2", "10.42.0.1", "203.0.113.2", "10.43.0.99", false},
		{"IPv6", "fd00:42::2", "fd00:42::1", "2001:db8::2", "fd00:43::99", true},
	} {
		world := newWorld(t)
		serve(t, world.ns, net.JoinHostPort(tc.world, "80"))
		n := newNetwork(t, only(c, tc.v6))
		a := setup(t, n, "a")
		if joined(a.Addrs) != tc.own {
			t.Fatalf("%s: the pod has %s, want %s", tc.name, a.Addrs, tc.own)
		}
		serve(t, a.NetNS, net.JoinHostPort(tc.own, "80"))
		if seen, err := ask("", net.JoinHostPort(tc.own, "80")); err != nil || seen != tc.seen {
			t.Errorf("%s: node to pod: seen as %q, %v", tc.name, seen, err)
		}
		if _, err := ask(a.NetNS, net.JoinHostPort(tc.world, "80")); err != nil {
			t.Errorf("%s: pod to the world: %v", tc.name, err)
		}
		if _, err := ask(a.NetNS, net.JoinHostPort(tc.nobody, "80")); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: pod to no service: %v, want refused", tc.name, err)
		}
		for _, link := range []string{nodeDevice, linkName(a.Addrs[0])} {
			if off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link + "/disable_ipv6"); err != nil || (string(off) == "1\n") == tc.v6 {
				t.Errorf("%s: disable_ipv6 of %s is %q, %v", tc.name, link, off, err)
			}
		}
		if err := n.Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		if link, err := netlink.LinkByName("uplink"); err != nil || netlink.LinkDel(link) != nil {
			t.Fatal(err)
		}
	}
}

// A pod of an earlier version, from before the cluster had IPv6, cannot speak it when the cluster has, and its link is known as a pod's.
func TestPodFromBeforeIPv6(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	a := setup(t, newNetwork(t, only(c, false)), "a")
	link, err := netlink.LinkByName(linkName(a.Addrs[0]))
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetGroup(link, 0); err != nil {
		t.Fatal(err)
	}
	c.PodCIDR = c.PodCIDR[:1] // The node keeps what it has.
	setup(t, newNetwork(t, c), "a")
	if link, err = netlink.LinkByName(link.Attrs().Name); err != nil || link.Attrs().Group != podGroup {
		t.Errorf("the link's group is %x, %v; want %x", link.Attrs().Group, err, podGroup)
	}
	if off, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link.Attrs().Name + "/disable_ipv6"); err != nil || string(off) != "1\n" {
		t.Errorf("disable_ipv6 of the link is %q, %v; want 1", off, err)
	}
}

// A pod of both families keeps its network, and the address that is left, when the node has one family again.
func TestPodFromBothFamilies(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	a := setup(t, newNetwork(t, c), "a")
	serve(t, a.NetNS, "10.42.0.2:80")
	again := setup(t, newNetwork(t, only(c, false)), "a")
	if joined(again.Addrs) != "10.42.0.2" || again.NetNS != a.NetNS {
		t.Errorf("the pod has %s in %s, want its address of IPv4 in %s", again.Addrs, again.NetNS, a.NetNS)
	}
	if _, err := ask("", "10.42.0.2:80"); err != nil {
		t.Errorf("node to pod: %v", err)
	}
}

// A node with other ranges has nothing left of those before.
func TestEarlierRangesGo(t *testing.T) {
	if !alone(t) {
		return
	}
	c := testConfig(t)
	newNetwork(t, c)
	c = only(c, false)
	c.PodCIDR, c.ClusterCIDR, c.ServiceCIDR, c.LocalAddresses = prefixes("10.52.0.0/24"), prefixes("10.52.0.0/16"), prefixes("10.53.0.0/16"), nil
	n := newNetwork(t, c)
	unreachable := func() (ranges []string) {
		routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Type == unix.RTN_UNREACHABLE {
				ranges = append(ranges, r.Dst.String())
			}
		}
		return ranges
	}
	if got := unreachable(); !slices.Equal(got, []string{"10.52.0.0/16"}) {
		t.Errorf("%s are unreachable, want 10.52.0.0/16", got)
	}
	if tables, err := (&nftables.Conn{}).ListTables(); err != nil || len(tables) != 1 {
		t.Errorf("there are %d nft tables, %v; want that of IPv4 alone", len(tables), err)
	}
	if err := n.Purge(t.Context()); err != nil || len(unreachable()) > 0 {
		t.Errorf("after a purge %s are unreachable (%v)", unreachable(), err)
	}
}

// A router hears no router advertisements, unless it is told to: the node must not lose its own way out by becoming one.
func TestDefaultRouteStays(t *testing.T) {
	if !alone(t) {
		return
	}
	newWorld(t)
	link, err := netlink.LinkByName("uplink")
	if err != nil {
		t.Fatal(err)
	}
	second := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "second"}}
	if err := inOrder(func() error { return netlink.LinkAdd(second) }, func() error { return netlink.LinkSetUp(second) }); err != nil {
		t.Fatal(err)
	}
	one := netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP("2001:db8::2"), Protocol: unix.RTPROT_RA, Priority: 100}
	equals := netlink.Route{Dst: ipNet(netip.MustParsePrefix("::/0")), Protocol: unix.RTPROT_RA, Priority: 200, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: second.Index, Gw: net.ParseIP("fe80::2")}, {LinkIndex: second.Index, Gw: net.ParseIP("fe80::3")},
	}}
	for _, route := range []netlink.Route{one, equals} {
		if err := netlink.RouteAdd(&route); err != nil {
			t.Fatal(err)
		}
	}
	newNetwork(t, testConfig(t))
	for name, want := range map[string]string{"uplink/accept_ra": "2", "second/accept_ra": "2", "all/forwarding": "1", "lo/accept_ra": "1"} {
		if got, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v; want %s", name, got, err, want)
		}
	}
}

// A router may speak up on links that lead out of the machine, and on no others.
func TestMayHearRouters(t *testing.T) {
	for _, tc := range []struct {
		link netlink.Link
		want bool
	}{
		{&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}, true},
		{&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth0.7"}}, true},
		{&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "eth1", MasterIndex: 7}}, false},
		{&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Flags: net.FlagLoopback}}, false},
		{&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}, false},
		{&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "veth0a2a0002"}}, false},
		{&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "vnet0"}}, false},
	} {
		if got := mayHearRouters(tc.link); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.link.Attrs().Name, got, tc.want)
		}
	}
}

// A pod uses its IPv6 address at once, and what says that it is a router is not heard: neither in the pod nor on the node.
func TestIPv6IsQuiet(t *testing.T) {
	if !alone(t) {
		return
	}
	n := newNetwork(t, testConfig(t))
	a := setup(t, n, "a")
	inside := func() error {
		link, err := netlink.LinkByName(podDevice)
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			if addr.IP.IsGlobalUnicast() && addr.Flags&unix.IFA_F_TENTATIVE != 0 {
				return fmt.Errorf("%s cannot be used yet", addr.IPNet)
			}
		}
		for _, name := range []string{"accept_ra", "accept_dad"} {
			if value, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + podDevice + "/" + name); err != nil || string(value) != "0\n" {
				return fmt.Errorf("%s of the pod is %q, %v; want 0", name, value, err)
			}
		}
		return nil
	}
	if err := inNamespace(a.NetNS, inside); err != nil {
		t.Error(err)
	}
	if accept, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + linkName(a.Addrs[0]) + "/accept_ra"); err != nil || string(accept) != "0\n" {
		t.Errorf("the node listens to what its pod says: %q, %v", accept, err)
	}
}

// A pod with users of its own has a network that belongs to them, so that its root may do there what root may.
func TestUsers(t *testing.T) {
	if !alone(t) {
		return
	}
	n := newNetwork(t, testConfig(t))
	got, err := n.Setup(t.Context(), Pod{UID: "mine", Hostname: "mine", FirstUser: 0x70000000, Users: 1 << 16})
	if err != nil {
		t.Fatal(err)
	}
	users, err := os.Stat(got.UserNS)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{got.NetNS, got.IPCNS, got.UTSNS} {
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		owner, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_USERNS)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(owner)
		var stat unix.Stat_t
		if err := unix.Fstat(owner, &stat); err != nil || stat.Ino != users.Sys().(*syscall.Stat_t).Ino {
			t.Errorf("%s belongs to others than the pod's users: %v", path, err)
		}
	}
	again, err := n.Setup(t.Context(), Pod{UID: "mine", Hostname: "mine", FirstUser: 0x70000000, Users: 1 << 16})
	if err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("the second time %+v (%v), the first %+v", again, err, got)
	}
	plain, err := n.Setup(t.Context(), Pod{UID: "plain", Hostname: "plain"})
	if err != nil || plain.UserNS != "" {
		t.Errorf("a pod that asks for no users has %q: %v", plain.UserNS, err)
	}
}
