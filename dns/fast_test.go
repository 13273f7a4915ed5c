package dns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// bareServer is a server over a zone of the specification's tests, without sockets and without servers to ask. It knows
// two outside names, from a resolver that was there before.
func bareServer(t testing.TB) *Server {
	t.Helper()
	external := "kind: Service\nmetadata: {name: out, namespace: default}\nspec: {type: ExternalName, externalName: www.example.com}\n---\n" +
		"kind: Service\nmetadata: {name: in, namespace: default}\nspec: {type: ExternalName, externalName: web.default.svc.cluster.local}\n---\n"
	s := &Server{
		cfg:     Config{Addresses: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}},
		domain:  "cluster.local.",
		index:   newZone(t, clusterIPService+"---\n"+headlessService+"---\n"+external).index,
		forward: newTestForwarder(t, "none", 53),
	}
	s.metrics = s.forward.metrics
	s.synced.Store(true)
	for _, known := range []struct {
		name   string
		rrtype uint16
		rcode  int
		text   string
	}{
		{"www.example.com.", dns.TypeA, dns.RcodeSuccess, "www.example.com. 300 IN CNAME a.example.net.\na.example.net. 60 IN A 192.0.2.1\na.example.net. 60 IN A 192.0.2.2"},
		{"none.example.com.", dns.TypeAAAA, dns.RcodeNameError, "example.com. 300 IN SOA ns.example.com. host.example.com. 1 2 3 4 300"},
	} {
		reply := new(dns.Msg)
		reply.SetQuestion(known.name, known.rrtype)
		reply.Rcode = known.rcode
		for line := range strings.Lines(known.text) {
			rr, err := dns.NewRR(line)
			if err != nil {
				t.Fatal(err)
			}
			if rr.Header().Rrtype == dns.TypeSOA {
				reply.Ns = append(reply.Ns, rr)
			} else {
				reply.Answer = append(reply.Answer, rr)
			}
		}
		for _, edit := range []func(*dns.Msg){func(*dns.Msg) {}, withEDNS, withDO} {
			question := new(dns.Msg)
			question.SetQuestion(known.name, known.rrtype)
			edit(question)
			wire, _ := wireName(known.name)
			m, err := newMessage(keyOf(wire, question), reply.Copy(), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			s.forward.cache.put(m, time.Now())
		}
	}
	return s
}

func withEDNS(m *dns.Msg) { m.SetEdns0(4096, false) }
func withDO(m *dns.Msg)   { m.SetEdns0(1232, true) }

func withCookie(m *dns.Msg) {
	m.SetEdns0(1232, false)
	m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
}

var pod = netip.MustParseAddr("10.42.0.7")

// withCare answers a packet on the long way.
func (s *Server) withCare(packet []byte) []byte {
	reply := make(chan []byte, 1)
	s.answer(context.Background(), packet, pod, 0, func(b []byte) { reply <- slices.Clone(b) })
	return <-reply
}

// agree answers packet on both ways and compares, if there are two answers. It tells if there are.
func agree(t *testing.T, s *Server, packet []byte) bool {
	t.Helper()
	if !isQuestion(packet) {
		return false
	}
	var q question
	quick, ok := s.fast(&q, slices.Clone(packet), pod, 0)
	careful := s.withCare(slices.Clone(packet))
	if len(careful) > maxUDPSize {
		t.Errorf("the careful answer has %d bytes", len(careful))
	}
	if !ok {
		return false
	}
	if diff := cmp.Diff(meaning(t, careful), meaning(t, quick)); diff != "" {
		t.Errorf("to %x (-with care +fast):\n%s", packet, diff)
	}
	return true
}

// meaning is all that an answer says, one thing a line. In what order the records of a section come means nothing.
func meaning(t *testing.T, packet []byte) []string {
	t.Helper()
	reply := new(dns.Msg)
	if err := reply.Unpack(packet); err != nil {
		t.Fatalf("unpack the answer %x: %v", packet, err)
	}
	lines := []string{fmt.Sprintf("%+v", reply.MsgHdr), fmt.Sprint(reply.Question)}
	for i, section := range [][]dns.RR{reply.Answer, reply.Ns, reply.Extra} {
		var records []string
		for _, rr := range section {
			if i > 0 { // The answer itself must be called as the question is, letter by letter.
				rr.Header().Name = strings.ToLower(rr.Header().Name)
			}
			records = append(records, fmt.Sprint(i, " ", rr))
		}
		slices.Sort(records)
		lines = append(lines, records...)
	}
	return lines
}

// questions are about every kind of name there is, in every way to ask.
func questions(t testing.TB) [][]byte {
	t.Helper()
	names := []string{
		"web.default.svc.cluster.local.", "WeB.default.SVC.cluster.local.", "plain.default.svc.cluster.local.", "_http._tcp.web.default.svc.cluster.local.",
		"_tcp.web.default.svc.cluster.local.", "pets.default.svc.cluster.local.", "pet-0.pets.default.svc.cluster.local.", "_http._tcp.pets.default.svc.cluster.local.",
		"10-42-0-8.pets.default.svc.cluster.local.", "nobody.default.svc.cluster.local.", "web.nowhere.svc.cluster.local.", "default.svc.cluster.local.",
		"svc.cluster.local.", "cluster.local.", "CLUSTER.local.", "ns.dns.cluster.local.", "dns-version.cluster.local.", "10-42-0-3.default.pod.cluster.local.",
		"x.default.pod.cluster.local.", "x.nowhere.pod.cluster.local.", "out.default.svc.cluster.local.", "in.default.svc.cluster.local.", "below.out.default.svc.cluster.local.",
		`web\.default.svc.cluster.local.`, "*.default.svc.cluster.local.", "80.0.43.10.in-addr.arpa.", "0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.0.0.0.0.d.f.ip6.arpa.", "99.0.43.10.in-addr.arpa.", "43.10.in-addr.arpa.", "7.0.42.10.in-addr.arpa.",
		"1.1.168.192.in-addr.arpa.", "www.example.com.", "WWW.example.COM.", "none.example.com.", "unknown.example.com.", "local.", ".",
		strings.Repeat("a.", 118) + "cluster.local.",
	}
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeTXT, dns.TypeNS, dns.TypeSOA, dns.TypeCNAME, dns.TypeMX,
		dns.TypeANY, dns.TypeAXFR, dns.TypeOPT, dns.TypeHTTPS, dns.TypeNone, 65280}
	edits := []func(*dns.Msg){func(*dns.Msg) {}, withEDNS, withDO, withCookie,
		func(m *dns.Msg) { m.RecursionDesired = false }, func(m *dns.Msg) { m.CheckingDisabled, m.AuthenticatedData, m.Zero = true, true, true },
		func(m *dns.Msg) { m.SetEdns0(100, false) }, func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) },
		func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_NSID{Code: dns.EDNS0NSID})
		},
		func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
	}
	var packets [][]byte
	for _, name := range names {
		for _, rrtype := range types {
			for _, edit := range edits {
				m := new(dns.Msg)
				m.SetQuestion(name, rrtype)
				m.Id = 0x1234
				edit(m)
				packet, err := m.Pack()
				if err != nil {
					t.Fatalf("pack %s: %v", name, err)
				}
				packets = append(packets, packet)
			}
		}
	}
	return packets
}

func TestBothWaysAgree(t *testing.T) {
	s := bareServer(t)
	fast, packets := 0, questions(t)
	for _, packet := range packets {
		if agree(t, s, packet) {
			fast++
		}
	}
	if fast < len(packets)/3 {
		t.Errorf("%d of %d questions went the fast way: is it still used?", fast, len(packets))
	}
}

// Packets that are nearly questions: a few bytes differ, or are missing.
func TestBothWaysAgreeOnWhatIsNearlyAQuestion(t *testing.T) {
	s := bareServer(t)
	packets := questions(t)
	seed := rand.Uint64()
	chance := rand.New(rand.NewPCG(seed, 0))
	for range 20_000 {
		packet := slices.Clone(packets[chance.IntN(len(packets))])
		for range 1 + chance.IntN(3) {
			packet[chance.IntN(len(packet))] ^= 1 << chance.IntN(8)
		}
		packet = packet[:len(packet)-chance.IntN(2)*chance.IntN(len(packet))]
		agree(t, s, packet)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzBothWaysAgree(f *testing.F) {
	for i, packet := range questions(f) {
		if i%17 == 0 {
			f.Add(packet)
		}
	}
	s := bareServer(f)
	f.Fuzz(func(t *testing.T, packet []byte) { agree(t, s, packet[:min(len(packet), maxRequest)]) })
}

// Whatever an upstream answers, what is kept of it is a message, and says the same.
func FuzzAnswersOfOthers(f *testing.F) {
	s := bareServer(f)
	for i, packet := range questions(f) {
		if i%50 == 0 {
			f.Add(s.withCare(packet))
		}
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, packet []byte) {
		reply := new(dns.Msg)
		if reply.Unpack(packet) != nil || len(reply.Question) != 1 {
			return
		}
		name := reply.Question[0].Name
		wire, ok := wireName(name)
		if !ok {
			return
		}
		m, err := newMessage(keyOf(wire, reply), reply, now)
		if err != nil {
			return
		}
		kept, err := m.unpack(name, now)
		if err != nil {
			t.Fatalf("unpack what is kept of %x: %v", packet, err)
		}
		if len(kept.Answer) != len(reply.Answer) || len(kept.Ns) != len(reply.Ns) {
			t.Errorf("of %d answers and %d authorities, %d and %d are kept", len(reply.Answer), len(reply.Ns), len(kept.Answer), len(kept.Ns))
		}
	})
}

func TestTheFastPathDoesNotAllocate(t *testing.T) {
	s := bareServer(t)
	for _, tc := range []struct {
		name   string
		rrtype uint16
	}{
		{"web.default.svc.cluster.local.", dns.TypeA}, {"plain.default.svc.cluster.local.", dns.TypeAAAA}, {"nobody.default.svc.cluster.local.", dns.TypeA},
		{"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV}, {"pets.default.svc.cluster.local.", dns.TypeA},
		{"_http._tcp.pets.default.svc.cluster.local.", dns.TypeSRV}, {"80.0.43.10.in-addr.arpa.", dns.TypePTR},
		{"web.default.svc.cluster.local.", dns.TypeAAAA}, {"0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR},
		{"www.example.com.", dns.TypeA}, {"none.example.com.", dns.TypeAAAA},
	} {
		m := new(dns.Msg)
		m.SetQuestion(tc.name, tc.rrtype)
		m.SetEdns0(1232, false)
		packet, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q question
		buf := make([]byte, maxRequest)
		allocations := testing.AllocsPerRun(1000, func() {
			if _, ok := s.fast(&q, buf[:copy(buf, packet)], pod, 0); !ok {
				t.Fatalf("%s did not go the fast way", tc.name)
			}
		})
		if allocations != 0 {
			t.Errorf("%s: %v allocations", tc.name, allocations)
		}
	}
}

func BenchmarkFast(b *testing.B) {
	s := bareServer(b)
	for _, tc := range []struct {
		name   string
		rrtype uint16
	}{
		{"web.default.svc.cluster.local.", dns.TypeA}, {"nobody.default.svc.cluster.local.", dns.TypeA},
		{"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV}, {"www.example.com.", dns.TypeA},
	} {
		b.Run(tc.name+dns.TypeToString[tc.rrtype], func(b *testing.B) {
			m := new(dns.Msg)
			m.SetQuestion(tc.name, tc.rrtype)
			packet, err := m.Pack()
			if err != nil {
				b.Fatal(err)
			}
			var q question
			buf := make([]byte, maxRequest)
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := s.fast(&q, buf[:copy(buf, packet)], pod, 0); !ok {
					b.Fatal("not the fast way")
				}
			}
		})
	}
}
