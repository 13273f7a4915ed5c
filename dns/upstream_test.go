package dns

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func forwardTo(t testing.TB, texts ...string) (forwards []Forward) {
	t.Helper()
	for _, text := range texts {
		forward, err := ParseForward(text)
		if err != nil {
			t.Fatal(err)
		}
		forwards = append(forwards, forward)
	}
	return forwards
}

func TestZonesHaveServersOfTheirOwn(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.2"))
	startUpstream(t, "127.0.0.3", port, answers("192.0.2.3"))
	startUpstream(t, "127.0.0.4", port, answers("192.0.2.4"))
	zone := func(name, server string) string { return fmt.Sprintf("%s=127.0.0.%s:%d", name, server, port) }
	s, _ := forwardingWith(t, Config{Forwards: forwardTo(t, zone("corp.example", "3"), zone("Deep.Corp.example.", "4"))}, port, "127.0.0.2")
	for name, want := range map[string]string{
		"example.": "192.0.2.2", "xcorp.example.": "192.0.2.2", "corp.example.": "192.0.2.3", "A.CORP.example.": "192.0.2.3",
		"deep.corp.example.": "192.0.2.4", "a.deep.corp.example.": "192.0.2.4",
	} {
		reply := query(t, s, "udp", name, dns.TypeA, nil)
		if check(t, reply, dns.RcodeSuccess, 1); len(reply.Answer) == 1 && reply.Answer[0].(*dns.A).A.String() != want {
			t.Errorf("%s was answered by the server of %v, want %s", name, reply.Answer[0], want)
		}
	}
	s, _ = forwardingWith(t, Config{Forwards: forwardTo(t, zone(".", "4"))}, port, "127.0.0.2")
	if reply := query(t, s, "udp", "example.com.", dns.TypeA, nil); !strings.HasSuffix(reply.Answer[0].String(), "192.0.2.4") {
		t.Errorf("the root's server did not answer: %v", reply)
	}
}

func TestParseForward(t *testing.T) {
	for text, want := range map[string]string{
		"corp.example=10.0.0.1":                              "corp.example. 10.0.0.1:53",
		"Corp.Example.=10.0.0.1:5353,fd00::1":                "corp.example. 10.0.0.1:5353 [fd00::1]:53",
		".=tls://192.0.2.1#dns.example,tls://[fd00::1]:8853": ". tls://192.0.2.1:853#dns.example tls://[fd00::1]:8853",
		"10.in-addr.arpa=::ffff:10.0.0.1":                    "10.in-addr.arpa. 10.0.0.1:53",
		"corp.example":                                       `"corp.example": want a zone and its servers, like corp.example=10.0.0.1`,
		"=10.0.0.1":                                          `"=10.0.0.1": want a zone and its servers, like corp.example=10.0.0.1`,
		"a..b=10.0.0.1":                                      `"a..b=10.0.0.1": want a zone and its servers, like corp.example=10.0.0.1`,
		"a=dns.example":                                      `"a=dns.example": dns server "dns.example": want an address like 10.0.0.1, 10.0.0.1:53 or tls://192.0.2.1#dns.example`,
		"a=10.0.0.1#x":                                       `"a=10.0.0.1#x": dns server "10.0.0.1#x": only a server with tls:// has a name`,
		"a=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4":              `"a=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4": at most 3 servers a zone`,
		"a=":                                                 `"a=": dns server "": want an address like 10.0.0.1, 10.0.0.1:53 or tls://192.0.2.1#dns.example`,
	} {
		forward, err := ParseForward(text)
		got := forward.Zone
		for _, server := range forward.Servers {
			got += " " + server.String()
		}
		if err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestTheClustersNamesAreNotForwarded(t *testing.T) {
	for _, zone := range []string{"cluster.local", "svc.cluster.local", "0.43.10.in-addr.arpa"} {
		cfg := Config{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
			Forwards: forwardTo(t, zone+"=10.0.0.1")}
		_, err := New(cfg, noObjects())
		if want := "dns zone " + zone + ".: the cluster's own names are not forwarded"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// An upstream over TLS is asked over one connection for several questions, and must show its own certificate.
func TestForwardOverTLS(t *testing.T) {
	certificate, roots := selfSigned(t, "dns.example")
	listener, err := tls.Listen("tcp", "127.0.0.2:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	counted := &countingListener{Listener: listener}
	server := &dns.Server{Listener: counted, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		reply := new(dns.Msg)
		reply.SetReply(question)
		answers("192.0.2.53")("tcp", reply)
		_ = w.WriteMsg(reply)
	})}
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown(); <-done })

	s, _ := forwardingWith(t, Config{Roots: roots, Forwards: forwardTo(t, fmt.Sprintf(".=tls://%v#dns.example", listener.Addr()))}, 53)
	waitFor(t, "the search for loops to end", func() bool { // It uses a connection too.
		check(t, query(t, s, "udp", "a.example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
		s.forward.mu.Lock()
		defer s.forward.mu.Unlock()
		return len(s.forward.probes) == 0
	})
	before := counted.accepted.Load()
	for i := range 5 {
		check(t, query(t, s, "udp", fmt.Sprintf("%d.example.com.", i), dns.TypeA, nil), dns.RcodeSuccess, 1)
	}
	if n := counted.accepted.Load() - before; n != 0 {
		t.Errorf("5 more questions took %d more connections, want none", n)
	}
	s, _ = forwardingWith(t, Config{Roots: roots, Forwards: forwardTo(t, fmt.Sprintf(".=tls://%v#other.example", listener.Addr()))}, 53)
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeServerFailure, 0)
}

type countingListener struct {
	net.Listener
	accepted atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.accepted.Add(1)
	}
	return conn, err
}

func selfSigned(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// A server with cookies answers only who shows the one that it gave; we do, from the second question on.
func TestCookies(t *testing.T) {
	var good, without atomic.Int32
	_, port := startServerOf(t, "127.0.0.2", 0, func(network string, question *dns.Msg) *dns.Msg {
		reply := new(dns.Msg)
		reply.SetReply(question)
		reply.SetEdns0(1232, false)
		sent := cookieOf(question)
		cookie := &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: sent[:16] + "00112233445566ff"}
		reply.IsEdns0().Option = append(reply.IsEdns0().Option, cookie, cookie) // The second one does not count.
		if network == "udp" && len(sent) == 16 {
			without.Add(1)
			reply.Rcode = dns.RcodeBadCookie
			return reply
		}
		good.Add(1)
		answers("192.0.2.1")(network, reply)
		return reply
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	for i := range 5 {
		check(t, query(t, s, "udp", fmt.Sprintf("%d.example.com.", i), dns.TypeA, nil), dns.RcodeSuccess, 1)
	}
	if without.Load() > 2 || good.Load() < 5 { // The first question, and the one that looks for loops.
		t.Errorf("%d questions came without the server's cookie, %d with it", without.Load(), good.Load())
	}
}

func TestAnswersWithAnothersCookieAreNotTaken(t *testing.T) {
	_, port := startServerOf(t, "127.0.0.2", 0, func(network string, question *dns.Msg) *dns.Msg {
		reply := new(dns.Msg)
		reply.SetReply(question)
		reply.SetEdns0(1232, false)
		reply.IsEdns0().Option = append(reply.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "00000000000000000011223344556677"})
		answers("192.0.2.66")(network, reply)
		return reply
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeServerFailure, 0)
}

// An answer without the cookie that a server is known to give is perhaps another's: it is asked again in a way that nobody can
// forge.
func TestAnswersWithoutAKnownCookieAreNotTaken(t *testing.T) {
	_, port := startServerOf(t, "127.0.0.2", 0, func(network string, question *dns.Msg) *dns.Msg {
		reply := new(dns.Msg)
		reply.SetReply(question)
		sent := cookieOf(question)
		if network == "udp" && len(sent) > 16 {
			answers("192.0.2.66")(network, reply)
			return reply
		}
		if network == "udp" {
			reply.SetEdns0(1232, false)
			reply.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: sent[:16] + "00112233445566ff"}}
		}
		answers("192.0.2.1")(network, reply)
		return reply
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	for i := range 3 {
		reply := query(t, s, "udp", fmt.Sprintf("%d.example.com.", i), dns.TypeA, nil)
		check(t, reply, dns.RcodeSuccess, 1)
		if got := reply.Answer[0].(*dns.A).A.String(); got != "192.0.2.1" {
			t.Errorf("answer %d is %s, a forged one", i, got)
		}
	}
}

func cookieOf(m *dns.Msg) string {
	if opt := m.IsEdns0(); opt != nil {
		for _, option := range opt.Option {
			if cookie, ok := option.(*dns.EDNS0_COOKIE); ok {
				return cookie.Cookie
			}
		}
	}
	return strings.Repeat("0", 16)
}

func TestServersWithoutEDNS(t *testing.T) {
	_, port := startServerOf(t, "127.0.0.2", 0, func(network string, question *dns.Msg) *dns.Msg {
		reply := new(dns.Msg)
		reply.SetReply(question)
		if question.IsEdns0() != nil {
			reply.Rcode = dns.RcodeFormatError
			return reply
		}
		answers("192.0.2.1")(network, reply)
		return reply
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, withEDNS), dns.RcodeSuccess, 1)
}

// The upstream asks us what we ask it. It is found out, and the question ends at the other upstream.
func TestLoopsAreFound(t *testing.T) {
	var back atomic.Pointer[netip.AddrPort]
	_, port := startServerOf(t, "127.0.0.2", 0, func(_ string, question *dns.Msg) *dns.Msg {
		to := back.Load()
		for to == nil {
			time.Sleep(time.Millisecond)
			to = back.Load()
		}
		reply, _, err := new(dns.Client).Exchange(question, to.String())
		if err != nil {
			reply = new(dns.Msg)
			reply.SetRcode(question, dns.RcodeServerFailure)
		}
		return reply
	})
	startUpstream(t, "127.0.0.3", port, answers("192.0.2.3"))
	s, _ := forwarding(t, port, "127.0.0.2", "127.0.0.3")
	addr := s.Addr()
	back.Store(&addr)
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
	waitFor(t, "the loop to be found", func() bool { return s.forward.groups()["."][0].health(time.Now()) == looping })
	check(t, query(t, s, "udp", "other.example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
	if got := s.forward.groups()["."][1].health(time.Now()); got != healthy {
		t.Errorf("the other upstream is %v", got)
	}
}

// An upstream that was away is used again, and nobody had to wait to find out.
func TestUpstreamsComeBack(t *testing.T) {
	var away atomic.Bool
	away.Store(true)
	first, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		answers("192.0.2.2")(network, reply)
		if away.Load() {
			reply.Rcode = -1
		}
	})
	startUpstream(t, "127.0.0.3", port, answers("192.0.2.3"))
	s, _ := forwarding(t, port, "127.0.0.2", "127.0.0.3")
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
	u := s.forward.groups()["."][0]
	if got := u.health(time.Now()); got == healthy {
		t.Fatal("an upstream that says nothing is taken to be healthy")
	}
	away.Store(false)
	asked := first.asked.Load()
	check(t, query(t, s, "udp", "1.example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
	if got := first.asked.Load(); got != asked {
		t.Errorf("an upstream that rests was asked %d times", got-asked)
	}
	u.mu.Lock()
	u.restTo = time.Now() // As if it had rested.
	u.mu.Unlock()
	i := 1
	waitFor(t, "the upstream to be healthy", func() bool {
		i++
		check(t, query(t, s, "udp", fmt.Sprintf("%d.example.com.", i), dns.TypeA, nil), dns.RcodeSuccess, 1)
		return u.health(time.Now()) == healthy
	})
}

// One pod asks for more than all that can be under way, of a server that says nothing. Another pod's question is answered.
func TestAFloodDoesNotStarveOthers(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.2"))
	startUpstream(t, "127.0.0.3", port, silent)
	s, _ := forwardingWith(t, Config{Forwards: forwardTo(t, fmt.Sprintf("dead.example=127.0.0.3:%d", port))}, port, "127.0.0.2")
	flood := dialFrom(t, "127.0.0.77", s.Addr())
	for i := range 2 * maxForwards {
		question := new(dns.Msg)
		question.SetQuestion(fmt.Sprintf("%d.dead.example.", i), dns.TypeA)
		packet, err := question.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := flood.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	if err := flood.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 512)
	if n, err := flood.Read(buf); err != nil || buf[3]&0xf != dns.RcodeServerFailure { // The first that was too many.
		t.Fatalf("the flood was answered %x, %v", buf[:n], err)
	}
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
	check(t, query(t, s, "udp", "nobody.default.svc.cluster.local.", dns.TypeA, nil), dns.RcodeNameError, 0)
}

func dialFrom(t *testing.T, from string, to netip.AddrPort) net.Conn {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	conn, err := dialer.DialContext(context.Background(), "udp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A and AAAA are asked at the same time from one socket, as glibc and musl do; there is no AAAA, and both are answered.
func TestAddressesOfBothKindsAtTheSameTime(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		if reply.Question[0].Qtype == dns.TypeA {
			answers("192.0.2.2")(network, reply)
		}
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	conn := dialFrom(t, "127.0.0.78", s.Addr())
	for round, name := range []string{"ns.dns.cluster.local.", "nobody.default.svc.cluster.local.", "example.com."} {
		for i, rrtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			question := new(dns.Msg)
			question.SetQuestion(name, rrtype)
			question.Id = uint16(10*round + i)
			packet, err := question.Pack()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(packet); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[uint16]bool{}
		buf := make([]byte, 512)
		for range 2 {
			if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(buf); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			seen[binary.BigEndian.Uint16(buf)] = true
		}
		if !seen[uint16(10*round)] || !seen[uint16(10*round+1)] {
			t.Errorf("%s: answers to %v", name, seen)
		}
	}
}

// A question whose answer takes its time does not hold up the next one of the same connection.
func TestAnswersComeAsTheyAreReady(t *testing.T) {
	release := make(chan struct{})
	_, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		<-release
		answers("192.0.2.2")(network, reply)
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	co := &dns.Conn{Conn: conn}
	for id, name := range []string{"example.com.", "ns.dns.cluster.local."} {
		question := new(dns.Msg)
		question.SetQuestion(name, dns.TypeA)
		question.Id = uint16(id)
		if err := co.WriteMsg(question); err != nil {
			t.Fatal(err)
		}
	}
	var once sync.Once
	for _, want := range []uint16{1, 0} {
		reply, err := co.ReadMsg()
		once.Do(func() { close(release) })
		if err != nil || reply.Id != want {
			t.Fatalf("got %v, %v; want the answer to question %d", reply, err, want)
		}
	}
}
