package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// age makes what is kept about a name older, as if time had passed.
func age(s *Server, name string, by time.Duration) {
	c := s.forward.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, m := range c.messages {
		if wire, _, _ := keyQuestion(key); textName(wire) == name {
			older := &message{key: m.key, body: m.body, ttls: m.ttls, counts: m.counts, rcode: m.rcode, authentic: m.authentic,
				addresses: m.addresses, addressSize: m.addressSize, addressCount: m.addressCount, stored: m.stored.Add(-by), ttl: m.ttl}
			older.asked.Store(m.asked.Load())
			c.messages[key] = older // Somebody may still be reading m.
		}
	}
}

// record answers with the records of a zone file, in which @ is the name asked for.
func record(rcode int, answer, authority string) func(string, *dns.Msg) {
	parse := func(text, name string) (rrs []dns.RR) {
		for line := range strings.Lines(strings.ReplaceAll(text, "@", name)) {
			rr, err := dns.NewRR(line)
			if err != nil {
				panic(err) // The test wrote it.
			}
			rrs = append(rrs, rr)
		}
		return rrs
	}
	return func(_ string, reply *dns.Msg) {
		reply.Rcode = rcode
		reply.Answer, reply.Ns = parse(answer, reply.Question[0].Name), parse(authority, reply.Question[0].Name)
	}
}

func TestAnswersAreKept(t *testing.T) {
	u, port := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.1"))
	s, _ := forwarding(t, port, "127.0.0.2")
	for range 3 {
		check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
		check(t, query(t, s, "tcp", "EXAMPLE.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
	}
	age(s, "example.com.", 100*time.Second)
	reply := query(t, s, "udp", "Example.com.", dns.TypeA, nil)
	if ttl := reply.Answer[0].Header().Ttl; ttl > 200 || ttl < 190 {
		t.Errorf("the answer holds for %d s; want about 200 of 300, after 100", ttl)
	}
	if got := reply.Answer[0].Header().Name; got != "Example.com." {
		t.Errorf("the answer is called %q, not as the question", got)
	}
	if n := u.asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times, want once", n)
	}
	query(t, s, "udp", "example.com.", dns.TypeA, withDO) // Those with signatures are other answers.
	if n := u.asked.Load(); n != 2 {
		t.Errorf("the upstream was asked %d times, want twice", n)
	}
}

func TestThatThereIsNoneIsKeptToo(t *testing.T) {
	const soa = "example.com. 300 IN SOA ns.example.com. host.example.com. 1 2 3 4 60"
	for _, tc := range []struct {
		name  string
		rcode int
		soa   string
		kept  bool
	}{
		{"no such name", dns.RcodeNameError, soa, true},
		{"no data", dns.RcodeSuccess, soa, true},
		{"nobody says for how long", dns.RcodeNameError, "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u, port := startUpstream(t, "127.0.0.2", 0, record(tc.rcode, "", tc.soa))
			s, _ := forwarding(t, port, "127.0.0.2")
			for range 3 {
				check(t, query(t, s, "udp", "no.example.com.", dns.TypeA, nil), tc.rcode, 0)
			}
			if n := u.asked.Load(); (n == 1) != tc.kept {
				t.Errorf("the upstream was asked %d times; kept: want %v", n, tc.kept)
			}
			age(s, "no.example.com.", 61*time.Second) // The last number of the SOA record.
			query(t, s, "udp", "no.example.com.", dns.TypeA, nil)
			if n := u.asked.Load(); tc.kept && n != 2 {
				t.Errorf("after a minute the upstream was asked %d times in all, want 2", n)
			}
		})
	}
}

func TestAnswersWithoutTimeAreNotKept(t *testing.T) {
	u, port := startUpstream(t, "127.0.0.2", 0, record(dns.RcodeSuccess, "@ 0 IN A 192.0.2.1", ""))
	s, _ := forwarding(t, port, "127.0.0.2")
	for range 2 {
		reply := query(t, s, "udp", "now.example.com.", dns.TypeA, nil)
		if check(t, reply, dns.RcodeSuccess, 1); reply.Answer[0].Header().Ttl != 0 {
			t.Errorf("a time to live of 0 became %d", reply.Answer[0].Header().Ttl)
		}
	}
	if n := u.asked.Load(); n != 2 {
		t.Errorf("the upstream was asked %d times, want 2", n)
	}
}

// The uplink is away: what was known goes on being answered, marked as old, and at once.
func TestOldAnswersAreBetterThanNone(t *testing.T) {
	var away atomic.Bool
	_, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		answers("192.0.2.1")(network, reply)
		if away.Load() {
			reply.Rcode = -1
		}
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeSuccess, 1)
	away.Store(true)
	age(s, "example.com.", time.Hour)
	for range 3 {
		reply := query(t, s, "udp", "example.com.", dns.TypeA, withEDNS)
		if check(t, reply, dns.RcodeSuccess, 1); reply.Answer[0].Header().Ttl != 30 {
			t.Errorf("an old answer holds for %d s, want 30", reply.Answer[0].Header().Ttl)
		}
		if !strings.Contains(reply.String(), "EDE: 3 (Stale Answer)") {
			t.Errorf("the reply does not say that it is old:\n%v", reply)
		}
	}
	check(t, query(t, s, "udp", "other.example.com.", dns.TypeA, nil), dns.RcodeServerFailure, 0)
	check(t, query(t, s, "udp", "nobody.default.svc.cluster.local.", dns.TypeA, nil), dns.RcodeNameError, 0)
	age(s, "example.com.", staleFor)
	check(t, query(t, s, "udp", "example.com.", dns.TypeA, nil), dns.RcodeServerFailure, 0)

	away.Store(false)
	waitFor(t, "the upstream to be asked again", func() bool {
		reply := query(t, s, "udp", "example.com.", dns.TypeA, nil)
		return len(reply.Answer) == 1 && reply.Answer[0].Header().Ttl > 200
	})
}

// A name that is wanted is asked for again before its answer expires, and nobody waits for that.
func TestWantedAnswersAreRefreshed(t *testing.T) {
	u, port := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.1"))
	s, _ := forwarding(t, port, "127.0.0.2")
	ask := func() *dns.Msg { return query(t, s, "udp", "example.com.", dns.TypeA, nil) }
	ask()
	age(s, "example.com.", 280*time.Second)
	for range 2 {
		ask()
	}
	if n := u.asked.Load(); n != 1 {
		t.Fatalf("a name that was asked for twice is asked for %d times upstream, want once", n)
	}
	for range 3 {
		if reply := ask(); reply.Answer[0].Header().Ttl == 0 {
			t.Errorf("an answer was expired: %v", reply)
		}
	}
	waitFor(t, "the answer to be new", func() bool { return ask().Answer[0].Header().Ttl > 200 })
	if n := u.asked.Load(); n != 2 {
		t.Errorf("the upstream was asked %d times in all, want 2", n)
	}
}

func TestWhoeverAsksTheSameWaitsForTheSame(t *testing.T) {
	release := make(chan struct{})
	u, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		<-release
		answers("192.0.2.1")(network, reply)
	})
	path := t.TempDir() + "/resolv.conf"
	writeResolv(t, path, "127.0.0.2")
	f := newTestForwarder(t, path, port)
	done := make(chan error, 10)
	for range cap(done) {
		go func() {
			_, _, err := f.resolve(t.Context(), keyFor("example.com.", dns.TypeA))
			done <- err
		}()
	}
	waitFor(t, "the upstream to be asked", func() bool { return u.asked.Load() > 0 })
	close(release)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := u.asked.Load(); n > maxAttempts {
		t.Errorf("the upstream was asked %d times for 10 clients", n)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	c := newCache(64 << 10)
	now := time.Now()
	reply := new(dns.Msg)
	for i := range 2000 {
		name := fmt.Sprintf("%d.example.com.", i)
		reply.SetQuestion(name, dns.TypeA)
		answers("192.0.2.1")("udp", reply)
		m, err := newMessage(keyFor(name, dns.TypeA), reply, now)
		if err != nil {
			t.Fatal(err)
		}
		c.put(m, now)
		if c.size > c.limit {
			t.Fatalf("after %d answers the cache has %d bytes, more than %d", i, c.size, c.limit)
		}
		if kept, s := c.get([]byte(m.key), now); kept != m || s != fresh {
			t.Fatalf("answer %d was not kept", i)
		}
	}
	sum := 0
	for _, m := range c.all() {
		sum += m.size()
	}
	if sum != c.size || len(c.all()) < 50 {
		t.Errorf("%d answers have %d bytes, and %d are counted", len(c.all()), sum, c.size)
	}
}

func TestAddressesFromOutsideAreShuffled(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, record(dns.RcodeSuccess,
		"@ 300 IN CNAME a.example.net.\na.example.net. 300 IN A 192.0.2.1\na.example.net. 300 IN A 192.0.2.2\na.example.net. 300 IN A 192.0.2.3", ""))
	s, _ := forwarding(t, port, "127.0.0.2")
	first := map[string]bool{}
	for range 200 { // All the same by chance: once in 3^199 runs.
		reply := query(t, s, "udp", "www.example.com.", dns.TypeA, nil)
		if check(t, reply, dns.RcodeSuccess, 4); reply.Answer[0].Header().Rrtype != dns.TypeCNAME {
			t.Fatalf("the alias does not come first:\n%v", reply)
		}
		first[reply.Answer[1].String()] = true
	}
	if len(first) < 2 {
		t.Errorf("200 answers all begin with %v", first)
	}
}

// However many questions one client has under way, there is a place for another.
func TestNobodyTakesAllPlaces(t *testing.T) {
	places := newTurnstile(64)
	client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 42, 0, byte(i)}) }
	for flooder := range 20 {
		for range 1000 {
			places.enter(client(flooder))
		}
		if !places.enter(client(100)) {
			t.Fatalf("%d clients that ask for all leave no place for another", flooder+1)
		}
		places.leave(client(100))
		if flooder == 4 {
			break // 64 places are halved so often.
		}
	}
	for c, n := range map[netip.Addr]int{client(0): places.by[client(0)], client(1): places.by[client(1)]} {
		for range n {
			places.leave(c)
		}
		if _, ok := places.by[c]; ok {
			t.Errorf("%v is remembered for ever", c)
		}
	}
}

// A resolver that sends half of a record, here a SOA record without data, is not passed on, and not believed.
func TestAnswersWithBrokenRecordsAreNotKept(t *testing.T) {
	upstream, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		answers("192.0.2.1")(network, reply)
		reply.Ns = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "example.com.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 300}}}
	})
	s, _ := forwarding(t, port, "127.0.0.2")
	for range 2 {
		check(t, query(t, s, "udp", "broken.example.com.", dns.TypeA, nil), dns.RcodeServerFailure, 0)
	}
	if n := upstream.asked.Load(); n < 2 {
		t.Errorf("the resolver was asked %d times for what it could not say, want each time", n)
	}
}
