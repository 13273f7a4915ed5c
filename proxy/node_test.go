package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests in a network namespace of their own, where there is the right to make one: what they do to links, routes
// and tables ends with the process.
func TestMain(m *testing.M) {
	const inside = "SKIFF_TEST_IN_NETNS"
	if os.Getenv(inside) != "" {
		if err := netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}); err != nil {
			fmt.Fprintln(os.Stderr, "set up lo:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig means the thread.
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "run tests in a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: programs nftables in a network namespace of its own")
	}
}

// A host is a network namespace: the node itself, a pod, or a machine outside.
type host struct {
	name string
	ns   netns.NsHandle
	addr netip.Addr
	bind bool // It is one of several in its namespace, and must say so.
}

// newNode makes the test process's namespace look like a node, with a gateway address and the route for Services.
func newNode(t testing.TB) *host {
	t.Helper()
	requireRoot(t)
	ns, err := netns.Get()
	must(t, err)
	must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
	must(t, netlink.ConntrackTableFlush(netlink.ConntrackTable)) // A port used again would find a connection of the test before.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "skiff0"}}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)); must(t, Purge(testConfig().Table)); ns.Close() })
	must(t, netlink.LinkSetUp(bridge))
	for _, addr := range []string{"10.42.0.1/32", "10.43.0.10/32"} {
		a, err := netlink.ParseAddr(addr)
		must(t, err)
		must(t, netlink.AddrAdd(bridge, a))
	}
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Index, Dst: ipNet("10.43.0.0/16"), Src: net.ParseIP("10.42.0.1")}))
	return &host{name: "node", ns: ns, addr: netip.MustParseAddr("10.42.0.1")}
}

// newPod connects a new namespace by a routed veth with a /32 address.
func newPod(t testing.TB, addr string) *host {
	t.Helper()
	return connect(t, "pod", addr, func(node, pod netlink.Link, a netip.Addr) {
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: node.Attrs().Index, Dst: ipNet(addr + "/32"), Scope: netlink.SCOPE_LINK}))
	}, "10.42.0.1")
}

// newOutsider connects a machine that is no node of the cluster, with the node at 192.0.2.1 as its router.
func newOutsider(t testing.TB) *host {
	t.Helper()
	return connect(t, "out", "192.0.2.2", func(node, _ netlink.Link, _ netip.Addr) {
		a, err := netlink.ParseAddr("192.0.2.1/24")
		must(t, err)
		must(t, netlink.AddrAdd(node, a))
	}, "192.0.2.1")
}

// link names the node's end of the cable to h.
func (h *host) link() string { return fmt.Sprintf("v%x", h.addr.As4()) }

func connect(t testing.TB, kind, addr string, onNode func(node, peer netlink.Link, a netip.Addr), gateway string) *host {
	t.Helper()
	a := netip.MustParseAddr(addr)
	h := &host{name: kind + "-" + addr, addr: a, ns: newNamespace(t)}
	names := [2]string{h.link(), "peer0"}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: names[0]}, PeerName: names[1]}
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth); h.ns.Close() })
	peer := link(t, names[1])
	must(t, netlink.LinkSetNsFd(peer, int(h.ns)))
	must(t, netlink.LinkSetUp(veth))
	onNode(veth, peer, a)
	h.do(t, func() {
		must(t, netlink.LinkSetUp(link(t, "lo")))
		p := link(t, names[1])
		must(t, netlink.LinkSetUp(p))
		ones := "/32"
		if kind == "out" {
			ones = "/24"
		}
		pa, err := netlink.ParseAddr(addr + ones)
		must(t, err)
		must(t, netlink.AddrAdd(p, pa))
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: p.Attrs().Index, Gw: net.ParseIP(gateway), Flags: int(netlink.FLAG_ONLINK)}))
	})
	// A new link may lose its first packets, for up to a second.
	eventually(t, h.name+" reaches the node", func() bool {
		c, err := h.dial(t, "udp", gateway+":9")
		must(t, err)
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(50*time.Millisecond)))
		_, _ = c.Write([]byte("?"))
		_, err = c.Read(make([]byte, 1))
		return refused(err)
	})
	return h
}

// newMany connects one pod that plays n hosts, with the first addresses of a range.
func newMany(t testing.TB, addr, cidr string, n int) []*host {
	t.Helper()
	pod := newPod(t, addr)
	must(t, netlink.RouteAdd(&netlink.Route{
		LinkIndex: link(t, pod.link()).Attrs().Index, Dst: ipNet(cidr), Gw: pod.addr.AsSlice(), Flags: int(netlink.FLAG_ONLINK),
	}))
	var many []*host
	next := netip.MustParsePrefix(cidr).Addr()
	for range n {
		next = next.Next()
		pod.do(t, func() {
			must(t, netlink.AddrAdd(link(t, "lo"), &netlink.Addr{IPNet: ipNet(next.String() + "/32")}))
		})
		many = append(many, &host{name: next.String(), ns: pod.ns, addr: next, bind: true})
	}
	return many
}

func newNamespace(t testing.TB) netns.NsHandle {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back, err := netns.Get()
	must(t, err)
	defer back.Close()
	ns, err := netns.New()
	must(t, err)
	must(t, netns.Set(back))
	return ns
}

// do runs f with its system calls in the namespace of h. A socket stays where it was made.
func (h *host) do(t testing.TB, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	back, err := netns.Get()
	must(t, err)
	defer back.Close()
	must(t, netns.Set(h.ns))
	defer func() { must(t, netns.Set(back)) }()
	f()
}

// serve answers on TCP and UDP port n with the name of h, until the test ends or stop is called.
func (h *host) serve(t testing.TB, n uint16) (stop func()) {
	t.Helper()
	var l net.Listener
	var p net.PacketConn
	h.do(t, func() {
		var err error
		l, err = net.Listen("tcp4", netip.AddrPortFrom(h.addr, n).String())
		must(t, err)
		p, err = net.ListenPacket("udp4", netip.AddrPortFrom(h.addr, n).String())
		must(t, err)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = fmt.Fprintf(c, "%s %s", h.name, c.RemoteAddr().(*net.TCPAddr).IP)
				if c, ok := c.(*net.TCPConn); ok {
					_ = c.CloseWrite()
				}
				_, _ = io.Copy(io.Discard, c) // The client closes first: TIME_WAIT is its business.
			}()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(packetTo{p, from}, "%s %s", h.name, from.(*net.UDPAddr).IP)
		}
	}()
	stop = func() { l.Close(); p.Close() }
	t.Cleanup(stop)
	return stop
}

type packetTo struct {
	net.PacketConn
	addr net.Addr
}

func (p packetTo) Write(b []byte) (int, error) { return p.WriteTo(b, p.addr) }

// A reply says who answered and whom that one saw.
type reply struct{ from, saw string }

// How long a request waits for what must come, which on a busy machine takes its time, and for what must not.
const (
	patience = 5 * time.Second
	inVain   = 500 * time.Millisecond
)

// ask sends one request from h.
func (h *host) ask(t testing.TB, network, address string) (reply, error) {
	t.Helper()
	return h.askFor(t, network, address, patience)
}

// askFor is ask with another patience.
func (h *host) askFor(t testing.TB, network, address string, wait time.Duration) (reply, error) {
	t.Helper()
	c, err := h.dialFor(t, network, address, wait)
	if err != nil {
		return reply{}, err
	}
	defer c.Close()
	return exchangeFor(c, wait)
}

func (h *host) dial(t testing.TB, network, address string) (c net.Conn, err error) {
	t.Helper()
	return h.dialFor(t, network, address, patience)
}

func (h *host) dialFor(t testing.TB, network, address string, wait time.Duration) (c net.Conn, err error) {
	t.Helper()
	h.do(t, func() {
		d := &net.Dialer{Timeout: wait}
		if from := netip.AddrPortFrom(h.addr, 0); h.bind && network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(from)
		} else if h.bind {
			d.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
		c, err = d.DialContext(context.Background(), network, address)
	})
	return c, err
}

func exchange(c net.Conn) (reply, error) { return exchangeFor(c, patience) }

func exchangeFor(c net.Conn, wait time.Duration) (r reply, err error) {
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return r, err
	}
	if _, ok := c.(*net.UDPConn); ok {
		if _, err := c.Write([]byte("?")); err != nil {
			return r, err
		}
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil {
		return r, err
	}
	_, err = fmt.Sscanf(string(buf[:n]), "%s %s", &r.from, &r.saw)
	return r, err
}

func refused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

func link(t testing.TB, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func ipNet(cidr string) *net.IPNet {
	_, n, err := net.ParseCIDR(cidr)
	if err != nil {
		panic(err)
	}
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok says true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-tick.C:
		}
	}
}
