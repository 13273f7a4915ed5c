package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resolver is an upstream of the test's own. All of a test share a port, for resolv.conf has no place for one, and differ
// by address. It keeps no count of the questions by which the server looks for loops.
type resolver struct {
	asked atomic.Int32
}

// startUpstream answers on address with what handle makes of a question; port 0 means any.
func startUpstream(t testing.TB, address string, port uint16, handle func(network string, reply *dns.Msg)) (*resolver, uint16) {
	t.Helper()
	return startServerOf(t, address, port, func(network string, question *dns.Msg) *dns.Msg {
		reply := new(dns.Msg)
		reply.SetReply(question)
		handle(network, reply)
		return reply
	})
}

// startServerOf is startUpstream with the whole question. No reply is a code below 0.
func startServerOf(t testing.TB, address string, port uint16, answer func(network string, question *dns.Msg) *dns.Msg) (*resolver, uint16) {
	t.Helper()
	sockets, err := listen([]netip.Addr{netip.MustParseAddr(address)}, port)
	if err != nil {
		t.Fatal(err)
	}
	u := &resolver{}
	var servers []*dns.Server
	for _, conn := range sockets.udp {
		servers = append(servers, &dns.Server{PacketConn: conn})
	}
	servers = append(servers, &dns.Server{Listener: sockets.tcp[0]})
	for _, server := range servers {
		server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
			if question.Question[0].Qtype != dns.TypeHINFO {
				u.asked.Add(1)
			}
			if reply := answer(w.LocalAddr().Network(), question); reply.Rcode >= 0 {
				_ = w.WriteMsg(reply) // Who asked may have given up.
			}
		})
		started, done := make(chan struct{}), make(chan error, 1)
		server.NotifyStartedFunc = func() { close(started) }
		go func() { done <- server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			_ = server.Shutdown()
			if err := <-done; err != nil {
				t.Errorf("upstream: %v", err)
			}
		})
	}
	return u, sockets.port()
}

// answers is an upstream that knows every name; silent one that takes questions and says nothing; fails one that cannot.
func answers(ip string) func(string, *dns.Msg) {
	return func(_ string, reply *dns.Msg) {
		reply.RecursionAvailable = true
		name := reply.Question[0].Name
		reply.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.ParseIP(ip)}}
	}
}

func silent(_ string, reply *dns.Msg) { reply.Rcode = -1 }

func fails(_ string, reply *dns.Msg) { reply.Rcode = dns.RcodeServerFailure }

// writeResolv writes a resolv.conf, replacing the file as most programs do.
func writeResolv(t testing.TB, path string, addresses ...string) {
	t.Helper()
	text := "# by a test\nsearch example.org\noptions ndots:2\n"
	for _, address := range addresses {
		text += "nameserver " + address + "\n"
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// forwarding is a server whose resolv.conf has the given addresses, on the port of the test's upstreams.
func forwarding(t testing.TB, port uint16, addresses ...string) (*Server, string) {
	t.Helper()
	return forwardingWith(t, Config{}, port, addresses...)
}

func forwardingWith(t testing.TB, cfg Config, port uint16, addresses ...string) (*Server, string) {
	t.Helper()
	cfg.Resolv = filepath.Join(t.TempDir(), "resolv.conf")
	writeResolv(t, cfg.Resolv, addresses...)
	external := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "out"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.com"},
	}
	s, _ := startServer(t, cfg, namespace("default"), external)
	s.forward.mu.Lock()
	s.forward.port = port
	s.forward.mu.Unlock()
	return s, cfg.Resolv
}

// newTestForwarder is the part of a server that asks others, alone.
func newTestForwarder(t testing.TB, resolv string, port uint16, zones ...string) *forwarder {
	t.Helper()
	var forwards []Forward
	for _, zone := range zones {
		forward, err := ParseForward(zone)
		if err != nil {
			t.Fatal(err)
		}
		forwards = append(forwards, forward)
	}
	none := func() float64 { return 0 }
	f := newForwarder(resolv, []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, forwards, nil, newMetrics(none, none))
	f.port = port
	t.Cleanup(f.close)
	return f
}

// keyFor is the key of an ordinary question.
func keyFor(name string, rrtype uint16) string {
	question := new(dns.Msg)
	question.SetQuestion(name, rrtype)
	wire, _ := wireName(name)
	return keyOf(wire, question)
}

func TestForward(t *testing.T) {
	u, port := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.1"))
	s, _ := forwarding(t, port, "127.0.0.2")
	for _, network := range []string{"udp", "tcp"} {
		reply := query(t, s, network, "Example.com.", dns.TypeA, nil)
		check(t, reply, dns.RcodeSuccess, 1)
		if got, want := reply.Answer[0].String(), "Example.com.\t300\tIN\tA\t192.0.2.1"; got != want {
			t.Errorf("%s: got %q, want %q", network, got, want)
		}
		if reply.Authoritative {
			t.Errorf("%s: AA in a forwarded answer", network)
		}
	}
	asked := u.asked.Load()
	check(t, query(t, s, "udp", "nobody.default.svc.cluster.local.", dns.TypeA, nil), dns.RcodeNameError, 0)
	if u.asked.Load() != asked {
		t.Error("a cluster name was forwarded")
	}
}

func TestForwardExternalName(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.1"))
	s, path := forwarding(t, port, "127.0.0.2")
	reply := query(t, s, "udp", "OUT.default.svc.cluster.local.", dns.TypeA, nil)
	var got []string
	for _, rr := range reply.Answer {
		got = append(got, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	want := []string{"OUT.default.svc.cluster.local. 5 IN CNAME www.example.com.", "www.example.com. 300 IN A 192.0.2.1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("alias and address (-want +got):\n%s", diff)
	}
	if q := reply.Question[0].Name; q != "OUT.default.svc.cluster.local." {
		t.Errorf("the reply's question is %q, not the one asked", q)
	}
	writeResolv(t, path) // The alias itself needs no upstream.
	check(t, query(t, s, "udp", "out.default.svc.cluster.local.", dns.TypeCNAME, nil), dns.RcodeSuccess, 1)
}

func TestForwardTriesTheNext(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		first func(string, *dns.Msg)
	}{{"silent", silent}, {"SERVFAIL", fails}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // A silent upstream costs real time.
			first, port := startUpstream(t, "127.0.0.2", 0, tc.first)
			startUpstream(t, "127.0.0.3", port, answers("192.0.2.3"))
			s, _ := forwarding(t, port, "127.0.0.2", "127.0.0.3")
			check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
			if first.asked.Load() != 1 {
				t.Errorf("the first was asked %d times, want once", first.asked.Load())
			}
		})
	}
}

func TestForwardRestsASilentUpstream(t *testing.T) {
	t.Parallel()
	first, port := startUpstream(t, "127.0.0.2", 0, silent)
	startUpstream(t, "127.0.0.3", port, answers("192.0.2.3"))
	s, _ := forwarding(t, port, "127.0.0.2", "127.0.0.3")
	for i := range 5 {
		check(t, query(t, s, "udp", fmt.Sprintf("%d.example.com.", i), dns.TypeA, nil), dns.RcodeSuccess, 1)
	}
	if n := first.asked.Load(); n != 1 {
		t.Errorf("the silent upstream was asked %d times in 5 questions, want once", n)
	}
}

func TestForwardFails(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, fails)
	edns := func(m *dns.Msg) { m.SetEdns0(1232, false) }
	for _, tc := range []struct {
		name, upstream, reason string
	}{
		{"SERVFAIL", "127.0.0.2", ""},
		{"nobody there", "127.0.0.9", "the host's resolvers do not answer"},
		{"only this server itself", "127.0.0.1", "no nameserver to ask"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, _ := forwarding(t, port, tc.upstream)
			if tc.upstream == "127.0.0.1" {
				s.forward.mu.Lock()
				s.forward.port = s.Addr().Port()
				s.forward.mu.Unlock()
			}
			reply := query(t, s, "udp", "example.com.", dns.TypeA, edns)
			check(t, reply, dns.RcodeServerFailure, 0)
			if !strings.Contains(reply.String(), tc.reason) {
				t.Errorf("the reason %q is not in the reply:\n%v", tc.reason, reply)
			}
		})
	}
}

func TestForwardRefetchesTruncatedOverTCP(t *testing.T) {
	var overTCP atomic.Bool
	_, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		if network == "udp" {
			reply.Truncated = true
			return
		}
		overTCP.Store(true)
		for i := range 100 {
			answers(fmt.Sprintf("192.0.2.%d", i))(network, reply)
			reply.Extra = append(reply.Extra, reply.Answer...)
		}
		reply.Answer, reply.Extra = reply.Extra, nil
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	check(t, query(t, s, "tcp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 100)
	if !overTCP.Load() {
		t.Error("the upstream was not asked over TCP")
	}
	reply := query(t, s, "udp", "example.com.", dns.TypeA, nil)
	if !reply.Truncated || len(reply.Answer) == 0 || len(reply.Answer) == 100 {
		t.Errorf("over UDP: tc %v with %d answers, want TC and what fits", reply.Truncated, len(reply.Answer))
	}
}

func TestForwardDropsAnswerToAnotherQuestion(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		reply.Question[0].Name = "evil.example."
		answers("192.0.2.66")(network, reply)
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeServerFailure, 0)
}

func TestForwardFollowsResolvConf(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.2"))
	startUpstream(t, "127.0.0.3", port, answers("192.0.2.3"))
	path := filepath.Join(t.TempDir(), "resolv.conf")
	f := newTestForwarder(t, path, port)
	asked := 0
	want := func(ip string) {
		t.Helper()
		f.mu.Lock()
		f.resolv.checked = time.Time{} // As if recheckEvery had passed.
		f.mu.Unlock()
		asked++
		name := fmt.Sprintf("%d.example.com.", asked)
		m, _, err := f.resolve(context.Background(), keyFor(name, dns.TypeA))
		if ip == "" {
			if err != errNoUpstream {
				t.Errorf("got %v, %v; want %v", m, err, errNoUpstream)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		reply, err := m.unpack(name, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got := reply.Answer[0].(*dns.A).A.String(); got != ip {
			t.Errorf("got %s, want %s", got, ip)
		}
	}
	want("")
	writeResolv(t, path, "127.0.0.2")
	want("192.0.2.2")
	writeResolv(t, path, "127.0.0.3")
	want("192.0.2.3")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	want("")
}

// systemd-resolved may itself have been told to ask the cluster's DNS. What it would ask otherwise is in a file of its own.
func TestForwardPassesOverTheStubOfSystemdResolved(t *testing.T) {
	dir := t.TempDir()
	r := resolvConf{path: filepath.Join(dir, "resolv.conf"), resolved: filepath.Join(dir, "resolved.conf")}
	want := func(servers ...string) {
		t.Helper()
		r.checked = time.Time{}
		r.read(time.Now())
		var got []string
		for _, server := range r.servers {
			got = append(got, server.String())
		}
		if diff := cmp.Diff(servers, got); diff != "" {
			t.Errorf("servers (-want +got):\n%s", diff)
		}
	}
	writeResolv(t, r.path, "127.0.0.53")
	want("127.0.0.53") // Better than none.
	writeResolv(t, r.resolved, "192.0.2.1", "192.0.2.2")
	want("192.0.2.1", "192.0.2.2")
	writeResolv(t, r.resolved, "192.0.2.3")
	want("192.0.2.3")
	writeResolv(t, r.path, "192.0.2.4")
	want("192.0.2.4")
}

func TestStopDoesNotWaitForUpstreams(t *testing.T) {
	u, port := startUpstream(t, "127.0.0.2", 0, silent)
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeResolv(t, path, "127.0.0.2")
	f := newTestForwarder(t, path, port)
	done := make(chan error, 1)
	go func() {
		_, _, err := f.resolve(context.Background(), keyFor("example.com.", dns.TypeA))
		done <- err
	}()
	waitFor(t, "the upstream to be asked", func() bool { return u.asked.Load() > 0 })
	f.close()
	if err := <-done; err == nil || isDeadline(err) {
		t.Errorf("a question that was given up ends with %v, want another error than that its time was over", err)
	}
}

func TestParseResolv(t *testing.T) {
	text := "; comment\n#nameserver 192.0.2.9\nnameserver 192.0.2.1 \n\tnameserver fe80::1%eth0\nnameserver\nnameserver nonsense\n" +
		"nameservers 192.0.2.8\nnameserver ::ffff:192.0.2.2\nsearch a.example b.example\nnameserver 192.0.2.4"
	var got []string
	servers, search := parseResolv(text)
	for _, server := range servers {
		got = append(got, server.String())
	}
	want := []string{"192.0.2.1", "fe80::1%eth0", "192.0.2.2"} // Three are the most.
	if diff := cmp.Diff([]string{"a.example", "b.example"}, search); diff != "" {
		t.Errorf("search list of %q (-want +got):\n%s", text, diff)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nameservers of %q (-want +got):\n%s", text, diff)
	}
}
