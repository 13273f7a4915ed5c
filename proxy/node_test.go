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
	"regexp"
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

// A world is a cluster of one family, or of both, and its tests speak IPv6 if it has that. What tests write as addresses of IPv4
// stands for others there: 10.42.0.11 for fd00::a2a:b, 10.42.0.0/16 for fd00::a2a:0/112.
type world struct {
	name     string
	family   family // In which tests speak.
	families []family
}

// worlds are an IPv4 cluster, and one of both families, in which IPv6 is spoken. TestDualStack speaks both at once.
func worlds() []world {
	return []world{{"IPv4", ipv4, []family{ipv4}}, {"IPv6", ipv6, []family{ipv4, ipv6}}}
}

// oneFamily is the world of what does not depend on the family.
func oneFamily() world { return worlds()[0] }

// inEachWorld runs a test for each family.
func inEachWorld(t *testing.T, test func(t *testing.T, w world)) {
	for _, w := range worlds() {
		t.Run(w.name, func(t *testing.T) { test(t, w) })
	}
}

func (w world) config() Config {
	c := testConfig()
	c.ClusterCIDR, c.ServiceCIDR, c.LocalAddresses = nil, nil, nil
	for _, f := range w.families {
		c.ClusterCIDR = append(c.ClusterCIDR, netip.MustParsePrefix(f.as("10.42.0.0/16")))
		c.ServiceCIDR = append(c.ServiceCIDR, netip.MustParsePrefix(f.as("10.43.0.0/16")))
		c.LocalAddresses = append(c.LocalAddresses, netip.MustParseAddr(f.as("10.43.0.10")))
	}
	return c
}

// as rewrites the addresses in a text, with their prefixes and ports, for the family.
func (f family) as(text string) string {
	if f == ipv4 {
		return text
	}
	return regexp.MustCompile(`(\d+\.\d+\.\d+\.\d+)(/\d+|:\d+)?`).ReplaceAllStringFunc(text, func(one string) string {
		if p, err := netip.ParsePrefix(one); err == nil {
			if p.Bits() == 0 {
				return "::/0"
			}
			return fmt.Sprintf("%s/%d", f.asAddr(p.Addr()), 96+p.Bits())
		}
		if p, err := netip.ParseAddrPort(one); err == nil {
			return netip.AddrPortFrom(f.asAddr(p.Addr()), p.Port()).String()
		}
		return f.asAddr(netip.MustParseAddr(one)).String()
	})
}

func (f family) asAddr(a netip.Addr) netip.Addr {
	switch {
	case a.IsUnspecified():
		return f.anywhere()
	case f == ipv4:
		return a
	}
	four, six := a.As4(), [16]byte{0: 0xfd}
	copy(six[12:], four[:])
	return netip.AddrFrom16(six)
}

func (w world) addr(text string) netip.Addr { return netip.MustParseAddr(w.family.as(text)) }

// each rewrites several texts.
func (f family) each(texts []string) []string {
	var all []string
	for _, text := range texts {
		all = append(all, f.as(text))
	}
	return all
}

// A host is a network namespace: the node itself, a pod, or a machine outside.
type host struct {
	world
	name string
	ns   netns.NsHandle
	addr netip.Addr
	bind bool // It is one of several in its namespace, and must say so.
}

// newNode makes the test process's namespace look like a node, with a gateway address and the route for Services.
func (w world) newNode(t testing.TB) *host {
	t.Helper()
	requireRoot(t)
	ns, err := netns.Get()
	must(t, err)
	for name, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
		"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0", // Tests ask more often than a client is told in vain.
	} {
		must(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0))
	}
	forgetConnections(t) // A port used again would find a connection of the test before.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "skiff0"}}
	must(t, netlink.LinkAdd(bridge))
	t.Cleanup(func() { must(t, netlink.LinkDel(bridge)); must(t, Purge(testConfig().Table)); ns.Close() })
	must(t, netlink.LinkSetUp(bridge))
	for _, f := range w.families {
		addAddress(t, bridge, f.as("10.42.0.1/32"))
		addAddress(t, bridge, f.as("10.43.0.10/32"))
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Index, Dst: ipNet(f.as("10.43.0.0/16")), Src: net.ParseIP(f.as("10.42.0.1"))}))
	}
	return &host{world: w, name: "node", ns: ns, addr: w.addr("10.42.0.1")}
}

func forgetConnections(t testing.TB) {
	t.Helper()
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, f, every{})
		must(t, err)
	}
}

// every matches every connection.
type every struct{}

func (every) MatchConntrackFlow(*netlink.ConntrackFlow) bool { return true }

// addAddress adds an address that is there when it returns. Nobody asks whether another machine has it; but of IPv6 the kernel answers for
// it only when it comes to that, later.
func addAddress(t testing.TB, to netlink.Link, text string) {
	t.Helper()
	a, err := netlink.ParseAddr(text)
	must(t, err)
	a.Flags = unix.IFA_F_NODAD
	must(t, netlink.AddrAdd(to, a))
	if a.IP.IsLinkLocalUnicast() { // Other links have it, too.
		return
	}
	eventually(t, text+" is there", func() bool {
		routes, err := netlink.RouteGet(a.IP)
		return err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
	})
}

// newPod connects a new namespace by a routed veth with a /32 address, or the like.
func (w world) newPod(t testing.TB, addr string) *host {
	t.Helper()
	return w.connect(t, "pod", addr, "/32", "10.42.0.1", func(f family, node netlink.Link) {
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: node.Attrs().Index, Dst: ipNet(f.as(addr + "/32")), Scope: netlink.SCOPE_LINK}))
	})
}

// newOutsider connects a machine that is no node of the cluster, with the node at 192.0.2.1 as its router.
func (w world) newOutsider(t testing.TB) *host {
	t.Helper()
	return w.connect(t, "out", "192.0.2.2", "/24", "192.0.2.1", func(f family, node netlink.Link) {
		addAddress(t, node, f.as("192.0.2.1/24"))
	})
}

// link names the node's end of the cable to h.
func (h *host) link() string {
	b := h.addr.AsSlice()
	return fmt.Sprintf("v%x", b[len(b)-4:])
}

func (w world) connect(t testing.TB, kind, addr, ones, gateway string, onNode func(f family, node netlink.Link)) *host {
	t.Helper()
	h := &host{world: w, name: kind + "-" + addr, addr: w.addr(addr), ns: newNamespace(t)}
	names := [2]string{h.link(), "peer0"}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: names[0]}, PeerName: names[1]}
	must(t, netlink.LinkAdd(veth))
	t.Cleanup(func() { _ = netlink.LinkDel(veth); h.ns.Close() })
	peer := link(t, names[1])
	must(t, netlink.LinkSetNsFd(peer, int(h.ns)))
	must(t, netlink.LinkSetUp(veth))
	addAddress(t, veth, linkGateway+"/64")
	for _, f := range w.families {
		onNode(f, veth)
	}
	h.do(t, func() {
		must(t, netlink.LinkSetUp(link(t, "lo")))
		p := link(t, names[1])
		must(t, netlink.LinkSetUp(p))
		for _, f := range w.families {
			via := gateway
			if f == ipv6 { // It answers for an address of its link only.
				via = linkGateway
			}
			addAddress(t, p, f.as(addr+ones))
			must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: p.Attrs().Index, Gw: net.ParseIP(via), Flags: int(netlink.FLAG_ONLINK)}))
		}
	})
	// A new link may lose its first packets, for up to a second.
	eventually(t, h.name+" reaches the node", func() bool {
		c, err := h.dial(t, "udp", gateway+":9")
		if err != nil { // Its address may not be there yet.
			return false
		}
		defer c.Close()
		must(t, c.SetDeadline(time.Now().Add(50*time.Millisecond)))
		_, _ = c.Write([]byte("?"))
		_, err = c.Read(make([]byte, 1))
		return refused(err)
	})
	return h
}

// linkGateway is the node's address on the cable of each pod.
const linkGateway = "fe80::1"

// newMany connects one pod that plays n hosts, with the first addresses of a range.
func (w world) newMany(t testing.TB, addr, cidr string, n int) []*host {
	t.Helper()
	pod, at := w.newPod(t, addr), netip.MustParsePrefix(w.family.as(cidr))
	route := &netlink.Route{LinkIndex: link(t, pod.link()).Attrs().Index, Dst: ipNet(at.String()), Gw: pod.addr.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}
	must(t, netlink.RouteAdd(route))
	var many []*host
	next := at.Addr()
	for range n {
		next = next.Next()
		pod.do(t, func() { addAddress(t, link(t, "lo"), netip.PrefixFrom(next, next.BitLen()).String()) })
		many = append(many, &host{world: w, name: next.String(), ns: pod.ns, addr: next, bind: true})
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
		l, err = net.Listen("tcp", netip.AddrPortFrom(h.addr, n).String())
		must(t, err)
		p, err = net.ListenPacket("udp", netip.AddrPortFrom(h.addr, n).String())
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
	patience = 30 * time.Second
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
		c, err = d.DialContext(context.Background(), network, h.family.as(address))
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
