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

// upstream is a resolver of the test's own. All upstreams of a test share a port, for resolv.conf has no place for one,
// and differ by address.
type upstream struct {
	asked atomic.Int32
}

// startUpstream answers on address with what handle makes of a question; port 0 means any.
func startUpstream(t *testing.T, address string, port uint16, handle func(network string, reply *dns.Msg)) (*upstream, uint16) {
	t.Helper()
	udp, tcp, err := listen(netip.AddrPortFrom(netip.MustParseAddr(address), port))
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{}
	for _, server := range []*dns.Server{{PacketConn: udp}, {Listener: tcp}} {
		server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
			u.asked.Add(1)
			reply := new(dns.Msg)
			reply.SetReply(question)
			if handle(w.LocalAddr().Network(), reply); reply.Rcode >= 0 {
				if err := w.WriteMsg(reply); err != nil {
					t.Errorf("upstream: %v", err)
				}
			}
		})
		started, done := make(chan struct{}), make(chan error, 1)
		server.NotifyStartedFunc = func() { close(started) }
		go func() { done <- server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			server.Shutdown()
			if err := <-done; err != nil {
				t.Errorf("upstream: %v", err)
			}
		})
	}
	return u, udp.LocalAddr().(*net.UDPAddr).AddrPort().Port()
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
func writeResolv(t *testing.T, path string, addresses ...string) {
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
func forwarding(t *testing.T, port uint16, addresses ...string) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	writeResolv(t, path, addresses...)
	external := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "out"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.com"},
	}
	s, _ := startServer(t, Config{Resolv: path}, namespace("default"), external)
	s.forward.mu.Lock()
	s.forward.port = port
	s.forward.mu.Unlock()
	return s, path
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
	for range 5 {
		check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
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
	f := newForwarder(path, netip.MustParseAddrPort("127.0.0.1:53"))
	f.port = port
	question := new(dns.Msg)
	question.SetQuestion("example.com.", dns.TypeA)
	want := func(ip string) {
		t.Helper()
		f.checked = time.Time{} // As if recheckEvery had passed.
		reply, err := f.exchange(context.Background(), question)
		if ip == "" {
			if err != errNoUpstream {
				t.Errorf("got %v, %v; want %v", reply, err, errNoUpstream)
			}
			return
		}
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

func TestForwardIsBounded(t *testing.T) {
	f := newForwarder("none", netip.AddrPort{})
	for range maxForwards {
		f.slots <- struct{}{}
	}
	question := new(dns.Msg)
	question.SetQuestion("example.com.", dns.TypeA)
	if _, err := f.exchange(context.Background(), question); err != errTooMany {
		t.Errorf("got %v with all slots taken, want %v", err, errTooMany)
	}
}

func TestStopDoesNotWaitForUpstreams(t *testing.T) {
	u, port := startUpstream(t, "127.0.0.2", 0, silent)
	f := newForwarder(filepath.Join(t.TempDir(), "resolv.conf"), netip.AddrPort{})
	writeResolv(t, f.resolv, "127.0.0.2")
	f.port = port
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		question := new(dns.Msg)
		question.SetQuestion("example.com.", dns.TypeA)
		_, err := f.exchange(ctx, question)
		done <- err
	}()
	waitFor(t, "the upstream to be asked", func() bool { return u.asked.Load() > 0 })
	start := time.Now()
	cancel()
	if err := <-done; err == nil {
		t.Error("no error from a question that was given up")
	}
	if took := time.Since(start); took >= askTimeout {
		t.Errorf("it took %v to give up, want at once", took)
	}
}

func TestParseResolv(t *testing.T) {
	text := "; comment\n#nameserver 192.0.2.9\nnameserver 192.0.2.1 \n\tnameserver fe80::1%eth0\nnameserver\nnameserver nonsense\n" +
		"nameservers 192.0.2.8\nnameserver ::ffff:192.0.2.2\nnameserver 192.0.2.4"
	var got []string
	for _, upstream := range parseResolv(text, 53) {
		got = append(got, upstream.String())
	}
	want := []string{"192.0.2.1:53", "[fe80::1%eth0]:53", "192.0.2.2:53"} // Three are the most.
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nameservers of %q (-want +got):\n%s", text, diff)
	}
}
