package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Limits of forwarding. A resolver library waits 5 seconds for an answer; ours, also that there is none, must be there
// before.
const (
	askTimeout     = 1500 * time.Millisecond // For one answer of one upstream.
	forwardTimeout = 4 * time.Second         // For all of it.
	maxForwards    = 512                     // At the same time; what comes beyond fails at once.
	maxUpstreams   = 3                       // As resolv.conf(5) has it.
	maxResolv      = 64 << 10                // Bytes of resolv.conf.
	recheckEvery   = 2 * time.Second         // How often, when used, resolv.conf is looked at.
	restAfterFail  = 10 * time.Second        // For so long an upstream that did not answer is asked last.
)

// Reasons why a forwarded question has no answer.
var (
	errNoUpstream = errors.New("no nameserver to ask")
	errTooMany    = errors.New("too many questions are being forwarded")
)

// forwarder asks the host's resolvers what the zones do not hold.
type forwarder struct {
	resolv string         // Path of resolv.conf.
	self   netip.AddrPort // Never asked: it would be a loop.
	port   uint16         // Of the upstreams: 53.
	slots  chan struct{}  // One held for each question under way.

	mu        sync.Mutex
	checked   time.Time   // When resolv.conf was last looked at.
	seen      os.FileInfo // The resolv.conf that upstreams are from; nil if there was none.
	upstreams []netip.AddrPort
	failed    map[netip.AddrPort]time.Time
}

func newForwarder(resolv string, self netip.AddrPort) *forwarder {
	return &forwarder{
		resolv: resolv, self: self, port: 53,
		slots:  make(chan struct{}, maxForwards),
		failed: map[netip.AddrPort]time.Time{},
	}
}

// exchange asks the upstreams one after the other until one has an answer: SERVFAIL and REFUSED count only if nobody knows
// better. The answer's question is the one asked; the id is not.
func (f *forwarder) exchange(ctx context.Context, question *dns.Msg) (*dns.Msg, error) {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return nil, errTooMany
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	var refusal *dns.Msg
	err := errNoUpstream
	for _, upstream := range f.order(time.Now()) {
		reply, askErr := ask(ctx, question, upstream)
		switch {
		case askErr != nil:
			err = fmt.Errorf("ask %v: %w", upstream, askErr)
			f.fail(upstream, time.Now())
		case reply.Rcode == dns.RcodeServerFailure || reply.Rcode == dns.RcodeRefused:
			refusal = reply
		default:
			return reply, nil
		}
	}
	if refusal != nil {
		return refusal, nil
	}
	return nil, err
}

// ask puts question to one upstream: over UDP, and again over TCP if the answer did not fit.
func ask(ctx context.Context, question *dns.Msg, upstream netip.AddrPort) (*dns.Msg, error) {
	reply, err := askOver(ctx, "udp", question, upstream)
	if err == nil && reply.Truncated {
		if whole, err := askOver(ctx, "tcp", question, upstream); err == nil {
			return whole, nil
		}
	}
	return reply, err
}

// askOver uses a socket of its own, and so a port of its own that nobody can guess, and an id of its own.
func askOver(ctx context.Context, network string, question *dns.Msg, upstream netip.AddrPort) (*dns.Msg, error) {
	client := &dns.Client{Net: network, Timeout: askTimeout}
	conn, err := client.DialContext(ctx, upstream.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	query := forwardable(question)
	reply, _, err := client.ExchangeWithConnContext(ctx, query, conn)
	if err != nil {
		return nil, err
	}
	if len(reply.Question) != 1 || !sameQuestion(reply.Question[0], query.Question[0]) {
		return nil, errors.New("the answer is to another question")
	}
	return reply, nil
}

// forwardable is the question alone, with the flags that are the resolver's business. EDNS options are between two
// neighbours and are not passed on.
func forwardable(question *dns.Msg) *dns.Msg {
	query := &dns.Msg{Question: question.Question}
	query.Id = dns.Id()
	query.RecursionDesired = question.RecursionDesired
	query.CheckingDisabled = question.CheckingDisabled
	query.AuthenticatedData = question.AuthenticatedData
	if opt := question.IsEdns0(); opt != nil {
		query.SetEdns0(maxUDPSize, opt.Do())
	}
	return query
}

func sameQuestion(a, b dns.Question) bool {
	return strings.EqualFold(a.Name, b.Name) && a.Qtype == b.Qtype && a.Qclass == b.Qclass
}

// order returns the upstreams as resolv.conf now has them, those that failed a moment ago last.
func (f *forwarder) order(now time.Time) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.checked) >= recheckEvery {
		f.checked = now
		f.reread()
	}
	resting := func(upstream netip.AddrPort) int {
		if at, ok := f.failed[upstream]; ok && now.Sub(at) < restAfterFail {
			return 1
		}
		return 0
	}
	upstreams := slices.Clone(f.upstreams)
	slices.SortStableFunc(upstreams, func(a, b netip.AddrPort) int { return resting(a) - resting(b) })
	return upstreams
}

func (f *forwarder) fail(upstream netip.AddrPort, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed[upstream] = now
}

// reread takes the upstreams from resolv.conf if it has changed since. A file that has gone leaves none. The lock is held.
func (f *forwarder) reread() {
	file, err := os.Open(f.resolv)
	if err != nil {
		f.seen, f.upstreams = nil, nil
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || unchanged(f.seen, info) {
		return
	}
	text, err := io.ReadAll(io.LimitReader(file, maxResolv))
	if err != nil {
		return // f.seen is the old one: it is read again next time.
	}
	f.seen = info
	f.upstreams = parseResolv(string(text), f.port)
	f.upstreams = slices.DeleteFunc(f.upstreams, func(a netip.AddrPort) bool { return a == f.self })
	f.failed = map[netip.AddrPort]time.Time{}
}

func unchanged(before, now os.FileInfo) bool {
	return before != nil && os.SameFile(before, now) && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size()
}

// parseResolv returns the nameservers of a resolv.conf, the first of them that are allowed for.
func parseResolv(text string, port uint16) []netip.AddrPort {
	var upstreams []netip.AddrPort
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if ip, err := netip.ParseAddr(fields[1]); err == nil {
			upstreams = append(upstreams, netip.AddrPortFrom(ip.Unmap(), port))
		}
	}
	return upstreams[:min(len(upstreams), maxUpstreams)]
}
