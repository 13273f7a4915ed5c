package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

// patience is how long a test waits for what should come at once.
const patience = time.Minute

// startServer runs a server on loopback over a set of objects until the test ends.
func startServer(t testing.TB, cfg Config, objects ...runtime.Object) (*Server, kubernetes.Interface) {
	t.Helper()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	s := newServer(t, cfg, factory)
	run(t, s, factory)
	return s, client
}

// run runs s until the test ends, and returns when it has read what factory has.
func run(t testing.TB, s *Server, factory informers.SharedInformerFactory) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		factory.Shutdown()
	})
	waitFor(t, "the first sync", s.synced.Load)
}

func newServer(t testing.TB, cfg Config, factory informers.SharedInformerFactory) *Server {
	t.Helper()
	if len(cfg.Addresses) == 0 {
		cfg.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	}
	cfg.ClusterCIDR = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/56")}
	cfg.ServiceCIDR = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")}
	if cfg.Resolv == "" {
		cfg.Resolv = filepath.Join(t.TempDir(), "none")
	}
	s, err := New(cfg, factory)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Addr is the first of the addresses on which s listens.
func (s *Server) Addr() netip.AddrPort { return s.Addrs()[0] }

// waitFor polls a condition. (What it waits for happens behind informers and sockets, which offer no signal.)
func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// query asks over the network ("udp" or "tcp"); edit may change the question first.
func query(t testing.TB, s *Server, network, name string, rrtype uint16, edit func(*dns.Msg)) *dns.Msg {
	t.Helper()
	question := new(dns.Msg)
	question.SetQuestion(name, rrtype)
	if edit != nil {
		edit(question)
	}
	client := &dns.Client{Net: network, Timeout: patience}
	reply, _, err := client.Exchange(question, s.Addr().String())
	if err != nil {
		t.Fatalf("%s %s %s: %v", network, name, dns.TypeToString[rrtype], err)
	}
	return reply
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func service(namespace, name, clusterIP string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: clusterIP, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

// crowd is a headless Service with n endpoints.
func crowd(n int) []runtime.Object {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "crowd-1",
			Labels: map[string]string{discoveryv1.LabelServiceName: "crowd"}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for i := range n {
		ip := fmt.Sprintf("10.42.%d.%d", i/250, i%250+1)
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}})
	}
	return []runtime.Object{service("default", "crowd", "None"), slice}
}

// check compares a reply's code and its number of answers with the wanted ones.
func check(t *testing.T, reply *dns.Msg, rcode, answers int) {
	t.Helper()
	if reply.Rcode != rcode || len(reply.Answer) != answers {
		t.Errorf("got %s with %d answers, want %s with %d:\n%v",
			dns.RcodeToString[reply.Rcode], len(reply.Answer), dns.RcodeToString[rcode], answers, reply)
	}
}

func TestAnswersOverUDPAndTCP(t *testing.T) {
	s, _ := startServer(t, Config{}, namespace("default"), service("default", "web", "10.43.0.80"))
	for _, network := range []string{"udp", "tcp"} {
		reply := query(t, s, network, "Web.default.svc.cluster.local.", dns.TypeA, nil)
		check(t, reply, dns.RcodeSuccess, 1)
		if got, want := reply.Answer[0].String(), "Web.default.svc.cluster.local.\t5\tIN\tA\t10.43.0.80"; got != want {
			t.Errorf("%s: got %q, want %q", network, got, want)
		}
		if !reply.Authoritative || !reply.RecursionAvailable || reply.Truncated {
			t.Errorf("%s: flags aa %v ra %v tc %v, want aa and ra only", network, reply.Authoritative, reply.RecursionAvailable, reply.Truncated)
		}
		if reply.IsEdns0() != nil {
			t.Errorf("%s: EDNS in the answer to a client that does not speak it", network)
		}
		check(t, query(t, s, network, "nobody.default.svc.cluster.local.", dns.TypeA, nil), dns.RcodeNameError, 0)
	}
}

func TestChangesAreSeen(t *testing.T) {
	s, client := startServer(t, Config{}, namespace("default"))
	ctx := context.Background()
	const name = "late.default.svc.cluster.local."
	becomes := func(what string, rcode int, ips ...string) {
		t.Helper()
		waitFor(t, what, func() bool {
			reply := query(t, s, "udp", name, dns.TypeA, nil)
			var got []string
			for _, rr := range reply.Answer {
				got = append(got, rr.(*dns.A).A.String())
			}
			return reply.Rcode == rcode && strings.Join(got, " ") == strings.Join(ips, " ")
		})
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	becomes("no such name", dns.RcodeNameError)

	_, err := client.CoreV1().Services("default").Create(ctx, service("default", "late", "10.43.0.7"), metav1.CreateOptions{})
	must(err)
	becomes("the new service", dns.RcodeSuccess, "10.43.0.7")

	_, err = client.CoreV1().Services("default").Update(ctx, service("default", "late", "None"), metav1.UpdateOptions{})
	must(err)
	becomes("a headless service without endpoints", dns.RcodeNameError)

	slice := crowd(1)[1].(*discoveryv1.EndpointSlice)
	slice.Labels[discoveryv1.LabelServiceName] = "late"
	_, err = client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{})
	must(err)
	becomes("its endpoint", dns.RcodeSuccess, "10.42.0.1")

	must(client.DiscoveryV1().EndpointSlices("default").Delete(ctx, slice.Name, metav1.DeleteOptions{}))
	becomes("no endpoint again", dns.RcodeNameError)

	_, err = client.CoreV1().Namespaces().Create(ctx, namespace("fresh"), metav1.CreateOptions{})
	must(err)
	waitFor(t, "the new namespace", func() bool {
		return query(t, s, "udp", "fresh.svc.cluster.local.", dns.TypeA, nil).Rcode == dns.RcodeSuccess
	})
	must(client.CoreV1().Namespaces().Delete(ctx, "fresh", metav1.DeleteOptions{}))
	waitFor(t, "the namespace to be gone", func() bool {
		return query(t, s, "udp", "fresh.svc.cluster.local.", dns.TypeA, nil).Rcode == dns.RcodeNameError
	})
}

// unsynced is a server that has not been able to read anything yet; sync lets it.
func unsynced(t *testing.T, holdUntil time.Time) (s *Server, sync func()) {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(namespace("default"), service("default", "web", "10.43.0.80")), 0)
	s = newServer(t, Config{}, factory)
	s.holdUntil = holdUntil
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		factory.Shutdown()
	})
	return s, func() { factory.Start(ctx.Done()) }
}

// Who asks a moment too early gets the answer a moment later.
func TestQuestionsAreHeldUntilSynced(t *testing.T) {
	s, sync := unsynced(t, time.Now().Add(patience))
	replies := make(chan *dns.Msg, 2)
	for _, network := range []string{"udp", "tcp"} {
		go func() {
			question := new(dns.Msg)
			question.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
			reply, _, _ := (&dns.Client{Net: network, Timeout: patience}).Exchange(question, s.Addr().String())
			replies <- reply
		}()
	}
	waitFor(t, "two questions that are held", func() bool {
		s.forward.places.mu.Lock()
		defer s.forward.places.mu.Unlock()
		return s.forward.places.held == 2
	})
	sync()
	for range 2 {
		if reply := <-replies; reply == nil || reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1 || !reply.Authoritative {
			t.Errorf("got %v, want the address", reply)
		}
	}
}

func TestServfailUntilSynced(t *testing.T) {
	s, sync := unsynced(t, time.Now())
	edns := func(m *dns.Msg) { m.SetEdns0(1232, false) }
	for _, name := range []string{"nobody.default.svc.cluster.local.", "10-42-0-1.default.pod.cluster.local.", "1.0.43.10.in-addr.arpa."} {
		reply := query(t, s, "udp", name, dns.TypeA, edns)
		check(t, reply, dns.RcodeServerFailure, 0)
		if !strings.Contains(reply.String(), "EDE: 14 (Not Ready)") {
			t.Errorf("%s: the reason is not in the reply:\n%v", name, reply)
		}
	}
	sync() // Only now can the server learn what there is.
	waitFor(t, "NXDOMAIN after the sync", func() bool {
		return query(t, s, "udp", "nobody.default.svc.cluster.local.", dns.TypeA, nil).Rcode == dns.RcodeNameError
	})
}

func TestSizes(t *testing.T) {
	const n = 300
	s, _ := startServer(t, Config{}, append(crowd(n), namespace("default"))...)
	ask := func(network string, size uint16) (reply *dns.Msg, length int) {
		t.Helper()
		reply = query(t, s, network, "crowd.default.svc.cluster.local.", dns.TypeA, func(m *dns.Msg) {
			if size > 0 {
				m.SetEdns0(size, false)
			}
		})
		reply.Compress = true
		return reply, reply.Len()
	}
	for _, tc := range []struct {
		name  string
		size  uint16
		limit int
	}{
		{"without EDNS", 0, 512}, {"absurdly small", 100, 512}, {"1000", 1000, 1000}, {"larger than ours", 4096, 1232},
	} {
		reply, length := ask("udp", tc.size)
		if !reply.Truncated || length > tc.limit || length < tc.limit-100 || len(reply.Answer) >= n {
			t.Errorf("%s: tc %v, %d bytes, %d answers; want TC and nearly %d bytes", tc.name, reply.Truncated, length, len(reply.Answer), tc.limit)
		}
	}
	reply, _ := ask("tcp", 0)
	check(t, reply, dns.RcodeSuccess, n)
	if reply.Truncated {
		t.Error("truncated over TCP")
	}
}

func TestAdditionalRecordsGoBeforeTheAnswerIsTruncated(t *testing.T) {
	slice := crowd(17)[1].(*discoveryv1.EndpointSlice)
	name, number := "http", int32(8080)
	slice.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &number}}
	s, _ := startServer(t, Config{}, namespace("default"), service("default", "crowd", "None"), slice)
	reply := query(t, s, "udp", "_http._tcp.crowd.default.svc.cluster.local.", dns.TypeSRV, func(m *dns.Msg) { m.SetEdns0(1232, false) })
	check(t, reply, dns.RcodeSuccess, 17)
	if reply.Truncated || len(reply.Extra) != 1 {
		t.Errorf("tc %v and %d additional records, want neither TC nor any but OPT", reply.Truncated, len(reply.Extra))
	}
}

func TestAnswersAreShuffled(t *testing.T) {
	s, _ := startServer(t, Config{}, append(crowd(5), namespace("default"))...)
	first := map[string]bool{}
	for range 200 { // All the same by chance: once in 5^199 runs.
		reply := query(t, s, "udp", "crowd.default.svc.cluster.local.", dns.TypeA, nil)
		first[reply.Answer[0].String()] = true
	}
	if len(first) < 2 {
		t.Errorf("200 answers all begin with %v", first)
	}
}

func TestWhatIsNotServed(t *testing.T) {
	s, _ := startServer(t, Config{}, namespace("default"), service("default", "web", "10.43.0.80"))
	const name = "web.default.svc.cluster.local."
	for _, tc := range []struct {
		name  string
		edit  func(*dns.Msg)
		rcode int
	}{
		{"class CHAOS", func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		{"zone transfer", func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }, dns.RcodeRefused},
		{"update", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		{"notify", func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		{"two questions", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		{"no question", func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		{"EDNS version 1", func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		t.Run(tc.name, func(t *testing.T) {
			check(t, query(t, s, "tcp", name, dns.TypeA, tc.edit), tc.rcode, 0)
		})
	}
}

func TestOnlyPodsAndTheNodeMayAsk(t *testing.T) {
	s, _ := startServer(t, Config{}, namespace("default"), service("default", "web", "10.43.0.80"))
	question := new(dns.Msg)
	question.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	for client, rcode := range map[string]int{
		"127.0.0.1": dns.RcodeSuccess, "10.42.3.4": dns.RcodeSuccess, "::1": dns.RcodeSuccess, "fd00:42::34": dns.RcodeSuccess,
		"10.44.0.1": dns.RcodeRefused, "192.0.2.1": dns.RcodeRefused, "::ffff:10.42.3.4": dns.RcodeRefused, "fd00::1": dns.RcodeRefused,
	} {
		reply, _, _ := s.begin(netip.MustParseAddr(client), question)
		if got := reply.Rcode; got != rcode {
			t.Errorf("client %s: got %s, want %s", client, dns.RcodeToString[reply.Rcode], dns.RcodeToString[rcode])
		}
	}
}

// Two questions are sent before the first answer is read, and a third after.
func TestSeveralQuestionsInOneConnection(t *testing.T) {
	s, _ := startServer(t, Config{}, namespace("default"), service("default", "web", "10.43.0.80"))
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	co := &dns.Conn{Conn: conn}
	send := func(id uint16) {
		t.Helper()
		question := new(dns.Msg)
		question.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
		question.Id = id
		if err := co.WriteMsg(question); err != nil {
			t.Fatalf("question %d: %v", id, err)
		}
	}
	receive := func(id uint16) {
		t.Helper()
		reply, err := co.ReadMsg()
		if err != nil {
			t.Fatalf("answer %d: %v", id, err)
		}
		if check(t, reply, dns.RcodeSuccess, 1); reply.Id != id {
			t.Errorf("got the answer to question %d, want %d", reply.Id, id)
		}
	}
	send(1)
	send(2)
	receive(1)
	receive(2)
	send(3)
	receive(3)
}

func TestOneClientCannotHoldAllConnections(t *testing.T) {
	s, _ := startServer(t, Config{}, namespace("default"), service("default", "web", "10.43.0.80"))
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			conn.Close()
		}
	}()
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
		return conn
	}
	for range maxConnsPerClient {
		dial()
	}
	over := dial()
	if err := over.SetDeadline(time.Now().Add(idleTimeout / 2)); err != nil {
		t.Fatal(err)
	}
	if n, err := over.Read(make([]byte, 1)); err == nil || isDeadline(err) {
		t.Errorf("connection %d stays open (read %d bytes, %v), want it closed at once", maxConnsPerClient+1, n, err)
	}
	held[0].Close()
	waitFor(t, "a place to become free", func() bool {
		client := &dns.Client{Net: "tcp", Timeout: time.Second}
		question := new(dns.Msg)
		question.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
		_, _, err := client.Exchange(question, s.Addr().String())
		return err == nil
	})
}

func isDeadline(err error) bool {
	netErr, ok := errors.AsType[net.Error](err)
	return ok && netErr.Timeout()
}

func TestGarbageIsSurvived(t *testing.T) {
	s, _ := startServer(t, Config{}, namespace("default"), service("default", "web", "10.43.0.80"))
	conn, err := net.Dial("udp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	response := new(dns.Msg)
	response.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	response.Response = true // Answering an answer could go on for ever between two servers.
	packed, err := response.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, packet := range [][]byte{{}, {1}, make([]byte, 11), []byte(strings.Repeat("\xff", 600)), packed} {
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	// A pointer in a name that points to itself.
	loop := binary.BigEndian.AppendUint16(nil, 9)
	loop = append(loop, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1)
	if _, err := conn.Write(loop); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 512)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("no answer to the last packet: %v", err)
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(buf[:n]); err != nil || reply.Id != 9 || reply.Rcode != dns.RcodeFormatError {
		t.Errorf("got %v (%v), want FORMERR to question 9 and nothing before", reply, err)
	}
	check(t, query(t, s, "udp", "web.default.svc.cluster.local.", dns.TypeA, nil), dns.RcodeSuccess, 1)
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	loopback := []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	for _, tc := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no address", Config{}, "dns: want an address to listen on"},
		{"every address", Config{Addresses: []netip.Addr{netip.IPv4Unspecified()}}, "dns address 0.0.0.0: want the one address to listen on"},
		{"domain", Config{Addresses: loopback, Domain: "a..b"}, `cluster domain "a..b": not a domain name`},
		{"port in use", Config{Addresses: loopback, Port: uint16(taken.Addr().(*net.TCPAddr).Port)}, "address already in use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := New(tc.cfg, informers.NewSharedInformerFactory(fake.NewClientset(), 0))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q", err, tc.want)
			}
		})
	}
}

// The network's device comes after the server: 192.0.2.53 and 2001:db8::53 are nowhere.
func TestAddressNeedNotExistYet(t *testing.T) {
	sockets, err := listen([]netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}, 0)
	if err != nil {
		t.Fatalf("listen on an address that the host does not have: %v", err)
	}
	sockets.Close()
}

// A machine that has no file or memory left for a moment does not end the server.
func TestTemporaryErrors(t *testing.T) {
	for err, want := range map[error]bool{
		&net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", unix.EMFILE)}: true,
		&net.OpError{Op: "read", Err: os.NewSyscallError("recvfrom", unix.ENOBUFS)}: true,
		&net.OpError{Op: "read", Err: os.NewSyscallError("recvfrom", unix.EBADF)}:   false,
		net.ErrClosed: false,
	} {
		if got := isTemporary(err); got != want {
			t.Errorf("%v is temporary: %v, want %v", err, got, want)
		}
	}
}
