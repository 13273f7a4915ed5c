package dns

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long an upstream may take. A resolver library waits 5 seconds for an answer; ours, also that there is none, must be
// there before.
const (
	forwardTimeout = 4 * time.Second
	downTimeout    = time.Second            // Where all servers failed a moment ago.
	staleAfter     = 500 * time.Millisecond // Then a client gets an old answer, while the new one is waited for.
)

// Reasons why a forwarded question has no answer.
var (
	errNoUpstream = errors.New("no nameserver to ask")
	errTooMany    = errors.New("too many questions of this client are being forwarded")
)

// Forward says whom to ask about the names of a zone.
type Forward struct {
	Zone    string
	Servers []address
}

// ParseForward reads "corp.example=10.0.0.1,10.0.0.2:5353" or ".=tls://192.0.2.1#dns.example".
func ParseForward(text string) (Forward, error) {
	name, servers, ok := strings.Cut(text, "=")
	labels, isName := dns.IsDomainName(name)
	if !ok || !isName || labels == 0 && name != "." {
		return Forward{}, fmt.Errorf("%q: want a zone and its servers, like corp.example=10.0.0.1", text)
	}
	addresses, err := parseServers(servers)
	if err != nil {
		return Forward{}, fmt.Errorf("%q: %w", text, err)
	}
	return Forward{Zone: dns.CanonicalName(name), Servers: addresses}, nil
}

// forwarder asks others what the zones do not hold, and remembers what they said.
type forwarder struct {
	self    []netip.AddrPort // Never asked: it would be a loop.
	port    uint16           // Of the servers in resolv.conf: 53.
	cache   *answerCache
	places  *turnstile
	metrics *metrics
	zones   map[string]group // By the zone's name as in a packet, those with servers of their own.
	ctx     context.Context  // Of all that goes on when no client waits for it any more.
	stop    context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	resolv  resolvConf
	host    group // The servers in resolv.conf.
	flights map[string]*flight
	probes  map[string]*upstream // By the name that must not come back to us.
}

// flight is a question that is with the upstreams; all who ask the same wait for the same answer.
type flight struct {
	done    chan struct{}
	message *message
	err     error
}

func newForwarder(resolv string, self []netip.AddrPort, zones []Forward, roots *x509.CertPool, m *metrics) *forwarder {
	f := &forwarder{
		self: self, port: 53, cache: newCache(maxCache), places: newTurnstile(maxForwards), metrics: m,
		resolv: resolvConf{path: resolv, resolved: resolvedConf},
		zones:  map[string]group{}, flights: map[string]*flight{}, probes: map[string]*upstream{},
	}
	f.ctx, f.stop = context.WithCancel(context.Background())
	for _, forward := range zones {
		wire, _ := wireName(forward.Zone)
		for _, server := range forward.Servers {
			f.zones[wire] = append(f.zones[wire], newUpstream(server, roots))
		}
	}
	return f
}

// close gives up all questions under way.
func (f *forwarder) close() {
	f.stop()
	f.running.Wait()
	for _, g := range f.groups() {
		for _, u := range g {
			u.Close()
		}
	}
}

// groups are all servers, by the names of their zones; "." are those of resolv.conf, unless it has servers of its own.
func (f *forwarder) groups() map[string]group {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]group{".": f.host}
	for zone, g := range f.zones {
		all[textName(zone)] = g
	}
	return all
}

// resolve returns the answer to the question that key says: a fresh one from the cache, or what the upstreams say, or, when
// they say nothing, an old one.
func (f *forwarder) resolve(ctx context.Context, key string) (*message, origin, error) {
	now := time.Now()
	kept, s := f.cache.get([]byte(key), now)
	switch {
	case s == fresh:
		return kept, fromCache, nil
	case s == stale && now.UnixNano() < kept.retry.Load():
		return kept, fromStale, nil
	}
	flight := f.join(key)
	var patience <-chan time.Time
	if s == stale {
		timer := time.NewTimer(staleAfter)
		defer timer.Stop()
		patience = timer.C
	}
	select {
	case <-flight.done:
		if s == stale && (flight.err != nil || flight.message.rcode == dns.RcodeServerFailure) {
			return kept, fromStale, nil
		}
		return flight.message, fromUpstream, flight.err
	case <-patience:
		return kept, fromStale, nil
	case <-ctx.Done():
		return nil, fromServer, ctx.Err()
	}
}

// join finds the flight of a question, or begins it.
func (f *forwarder) join(key string) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if under := f.flights[key]; under != nil {
		return under
	}
	fl := &flight{done: make(chan struct{})}
	f.flights[key] = fl
	f.running.Go(func() {
		fl.message, fl.err = f.ask(key)
		f.land(key, fl)
	})
	return fl
}

// land ends a flight: what it brought is kept, and those who wait get it.
func (f *forwarder) land(key string, fl *flight) {
	now := time.Now()
	if kept, s := f.cache.get([]byte(key), now); s == stale && (fl.err != nil || fl.message.rcode == dns.RcodeServerFailure) {
		kept.retry.Store(now.Add(staleRetry).UnixNano())
	}
	if fl.err == nil {
		f.cache.put(fl.message, now)
	}
	f.mu.Lock()
	delete(f.flights, key)
	f.mu.Unlock()
	close(fl.done)
}

// refresh asks for a message again that will expire soon, while it still serves.
func (f *forwarder) refresh(m *message) {
	var nobody netip.Addr
	if !f.places.enter(nobody) {
		return
	}
	if m.refreshing.Swap(true) {
		f.places.leave(nobody)
		return
	}
	fl := f.join(m.key)
	f.running.Go(func() {
		<-fl.done
		f.places.leave(nobody)
	})
}

// ask puts the question to the servers of its zone.
func (f *forwarder) ask(key string) (*message, error) {
	name, _, _ := keyQuestion(key)
	now := time.Now()
	group := f.serversOf(name)
	f.examine(group, now)
	servers, wake := group.order(now)
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	query := forwardable(key)
	if wake != nil {
		f.running.Go(func() { wake.probe(f.ctx, query) })
	}
	timeout := forwardTimeout
	if servers[0].health(now) != healthy {
		timeout = downTimeout
	}
	ctx, cancel := context.WithTimeout(f.ctx, timeout)
	defer cancel()
	reply, err := exchange(ctx, servers, query, f.metrics.asked)
	if err != nil {
		return nil, err
	}
	return newMessage(key, reply, time.Now())
}

// forwardable is the question that a key says, with the flags that are the resolver's business. EDNS options are between
// two neighbours and are not passed on.
func forwardable(key string) *dns.Msg {
	name, rrtype, flags := keyQuestion(key)
	query := &dns.Msg{Question: []dns.Question{{Name: textName(name), Qtype: rrtype, Qclass: dns.ClassINET}}}
	query.RecursionDesired = flags&wantsRecursion != 0
	query.AuthenticatedData = flags&wantsAuthentic != 0
	query.CheckingDisabled = flags&wantsUnchecked != 0
	query.SetEdns0(maxUDPSize, flags&wantsSignatures != 0)
	return query
}

// serversOf are the servers of the longest zone that a name lies in.
func (f *forwarder) serversOf(name string) group {
	for zone := name; ; zone = parent(zone) {
		if g, ok := f.zones[zone]; ok {
			return g
		}
		if len(zone) <= 1 {
			return f.hostServers()
		}
	}
}

// hostServers are the servers that resolv.conf lists now.
func (f *forwarder) hostServers() group {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.resolv.read(time.Now()) {
		return f.host
	}
	var servers group
	for _, addr := range f.resolv.servers {
		at := address{addr: netip.AddrPortFrom(addr, f.port)}
		if slices.Contains(f.self, at.addr) {
			continue
		}
		if i := slices.IndexFunc(f.host, func(u *upstream) bool { return u.address == at }); i >= 0 {
			servers = append(servers, f.host[i])
			continue
		}
		servers = append(servers, newUpstream(at, nil))
	}
	f.host = servers
	return servers
}

// search is the search list of resolv.conf.
func (f *forwarder) search() []string {
	f.hostServers()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.resolv.search
}

// A loop: an upstream that asks us what we ask it (systemd-resolved, told to use the cluster's DNS; a router likewise). So
// an upstream that is used for the first time is asked for a name that nobody else can know, and is not asked any more if
// that name comes back, until another try a while later.
const examineAgain = time.Minute

// examine finds out about the servers of a group, beside what is asked of them.
func (f *forwarder) examine(g group, now time.Time) {
	for _, u := range g {
		if !u.unexamined(now) {
			continue
		}
		var random [12]byte
		rand.Read(random[:])
		name := hex.EncodeToString(random[:]) + ".loop.skiff."
		query := new(dns.Msg)
		query.SetQuestion(name, dns.TypeHINFO)
		f.mu.Lock()
		f.probes[name] = u
		f.mu.Unlock()
		f.running.Go(func() {
			ctx, cancel := context.WithTimeout(f.ctx, forwardTimeout)
			defer cancel()
			_, _ = u.ask(ctx, query) // What matters is whether we are asked.
			f.mu.Lock()
			delete(f.probes, name)
			f.mu.Unlock()
			u.settle()
		})
	}
}

// isProbe tells if a question is one of our own that came back.
func (f *forwarder) isProbe(question dns.Question) bool {
	if question.Qtype != dns.TypeHINFO {
		return false
	}
	f.mu.Lock()
	u := f.probes[strings.ToLower(question.Name)]
	f.mu.Unlock()
	if u == nil {
		return false
	}
	if u.cameBack() {
		slog.Warn("a nameserver asks the cluster's DNS, which asks it: it is left out", "server", u.address)
	}
	return true
}
