package dns

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How an upstream that does not answer is treated: it is asked last, for longer and longer, and then tried beside one that
// does answer, so that nobody waits to find out that it still does not.
const (
	askTimeout = 1500 * time.Millisecond // For one answer.
	firstRest  = 2 * time.Second
	lastRest   = time.Minute

	idleStreams     = 4               // Connections to an upstream over TLS that are kept for the next question,
	idleStreamsTime = 8 * time.Second // and for how long.
)

// address says how to reach an upstream.
type address struct {
	addr netip.AddrPort
	tls  bool
	name string // Whose certificate it must show; "" is that of its address.
}

func (a address) String() string {
	text := a.addr.String()
	if a.tls {
		text = "tls://" + text
	}
	if a.name != "" {
		text += "#" + a.name
	}
	return text
}

// parseAddress reads "10.0.0.1", "10.0.0.1:5353", "tls://192.0.2.1" or "tls://192.0.2.1:853#dns.example".
func parseAddress(text string) (address, error) {
	rest, secure := strings.CutPrefix(text, "tls://")
	a := address{tls: secure}
	rest, a.name, _ = strings.Cut(rest, "#")
	port := uint16(53)
	if secure {
		port = 853
	}
	if ip, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
		a.addr = netip.AddrPortFrom(ip.Unmap(), port)
	} else if a.addr, err = netip.ParseAddrPort(rest); err != nil {
		return a, fmt.Errorf("dns server %q: want an address like 10.0.0.1, 10.0.0.1:53 or tls://192.0.2.1#dns.example", text)
	}
	if a.name != "" && !secure {
		return a, fmt.Errorf("dns server %q: only a server with tls:// has a name", text)
	}
	return a, nil
}

// upstream is one server to ask, and what is known of it.
type upstream struct {
	address
	tlsConfig *tls.Config // Nil without TLS.

	mu      sync.Mutex
	restTo  time.Time // Until then it is asked last.
	rest    time.Duration
	probing bool
	plain   bool // It does not speak EDNS.

	// Whether what it is asked comes back to us.
	examined        time.Time
	looped, touched bool

	cookie  []byte // The client's part, and the server's behind it once that is known (RFC 7873).
	streams []*stream
}

type stream struct {
	*dns.Conn
	close *time.Timer
}

func newUpstream(a address, roots *x509.CertPool) *upstream {
	u := &upstream{address: a, cookie: make([]byte, 8)}
	rand.Read(u.cookie)
	if a.tls {
		u.tlsConfig = &tls.Config{RootCAs: roots, ServerName: a.name, MinVersion: tls.VersionTLS12}
		if a.name == "" {
			u.tlsConfig.ServerName = a.addr.Addr().WithZone("").String()
		}
	}
	return u
}

// answered and failed are told how asking went.
func (u *upstream) answered() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.rest, u.restTo = 0, time.Time{}
}

func (u *upstream) failed(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now.Before(u.restTo) {
		return // Several questions were under way.
	}
	u.rest = min(max(2*u.rest, firstRest), lastRest)
	u.restTo = now.Add(u.rest)
}

// health is how to treat an upstream now.
type health int

const (
	healthy health = iota
	resting        // It failed: to be asked when no other answers.
	waking         // It failed, and should be tried again.
	looping        // Not to be asked.
)

func (h health) String() string { return [...]string{"healthy", "resting", "waking", "looping"}[h] }

func (u *upstream) health(now time.Time) health {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.looped:
		return looping
	case u.rest == 0:
		return healthy
	case now.Before(u.restTo) || u.probing:
		return resting
	}
	return waking
}

// unexamined tells if the server is to be examined for a loop now, and that this is being done.
func (u *upstream) unexamined(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.examined.IsZero() && (!u.looped || now.Sub(u.examined) < examineAgain) {
		return false
	}
	u.examined, u.touched = now, false
	return true
}

// cameBack notes that there is a loop, and tells if that is news. settle is called at the end of an examination.
func (u *upstream) cameBack() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	news := !u.looped
	u.looped, u.touched = true, true
	return news
}

func (u *upstream) settle() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.looped = u.touched
}

// ask puts a question: over UDP, and again over TCP if the answer did not fit; or over TLS.
func (u *upstream) ask(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	if u.tlsConfig != nil {
		return u.askStream(ctx, query)
	}
	reply, err := u.askWithCookie(ctx, "udp", query)
	if err == nil && reply.Truncated {
		if whole, err := u.askWithCookie(ctx, "tcp", query); err == nil {
			return whole, nil
		}
	}
	return reply, err
}

var errOtherAnswer = errors.New("the answer is to another question")

// askWithCookie shows the server the cookie that it gave, and takes no answer with a wrong one: who can only guess what was
// asked can't forge that. A server that does not speak EDNS at all is asked without.
func (u *upstream) askWithCookie(ctx context.Context, network string, query *dns.Msg) (*dns.Msg, error) {
	for range 2 {
		sent := u.withCookie(query)
		reply, err := u.askOver(ctx, network, sent)
		if err != nil {
			return nil, err
		}
		switch opt := reply.IsEdns0(); {
		case opt == nil && sent.IsEdns0() != nil && (reply.Rcode == dns.RcodeFormatError || reply.Rcode == dns.RcodeNotImplemented):
			u.mu.Lock()
			u.plain = true
			u.mu.Unlock()
			continue
		case network == "udp" && u.expectsCookie() && cookieIn(opt) == nil:
			network = "tcp" // Not its answer, perhaps, but nobody can forge that one.
			continue
		case opt == nil:
			return reply, nil
		default:
			if err := u.takeCookie(cookieIn(opt)); err != nil {
				return nil, err
			}
			if reply.Rcode == dns.RcodeBadCookie {
				network = "tcp" // The second time, there is no doubt who asks.
				continue
			}
			return reply, nil
		}
	}
	return nil, errors.New("the server wants another cookie each time")
}

func (u *upstream) withCookie(query *dns.Msg) *dns.Msg {
	sent := query.Copy()
	sent.Id = dns.Id()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.plain {
		sent.Extra = nil
		return sent
	}
	if opt := sent.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: hex.EncodeToString(u.cookie)})
	}
	return sent
}

// expectsCookie tells whether the server has given a cookie: then all its answers have one (RFC 7873, section 5.3).
func (u *upstream) expectsCookie() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.cookie) > clientCookie && !u.plain
}

// clientCookie is the length of our own part of a cookie, which comes first.
const clientCookie = 8

// cookieIn is the first cookie of an answer; nil if it has none.
func cookieIn(opt *dns.OPT) *dns.EDNS0_COOKIE {
	if opt == nil {
		return nil
	}
	for _, option := range opt.Option {
		if cookie, ok := option.(*dns.EDNS0_COOKIE); ok {
			return cookie
		}
	}
	return nil
}

func (u *upstream) takeCookie(cookie *dns.EDNS0_COOKIE) error {
	if cookie == nil {
		return nil
	}
	got, err := hex.DecodeString(cookie.Cookie)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil || len(got) < clientCookie || len(got) > 40 || !bytes.Equal(got[:clientCookie], u.cookie[:clientCookie]) {
		return errors.New("the answer has another's cookie")
	}
	u.cookie = got
	return nil
}

// askOver uses a socket of its own, and so a port of its own that nobody can guess.
func (u *upstream) askOver(ctx context.Context, network string, query *dns.Msg) (*dns.Msg, error) {
	client := &dns.Client{Net: network, Timeout: askTimeout}
	conn, err := client.DialContext(ctx, u.addr.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	reply, _, err := client.ExchangeWithConnContext(ctx, query, conn)
	if err != nil {
		return nil, err
	}
	return reply, checkReply(query, reply)
}

func checkReply(query, reply *dns.Msg) error {
	if len(reply.Question) != 1 {
		return errOtherAnswer
	}
	a, b := reply.Question[0], query.Question[0]
	if !strings.EqualFold(a.Name, b.Name) || a.Qtype != b.Qtype || a.Qclass != b.Qclass {
		return errOtherAnswer
	}
	return nil
}

// askStream asks over TLS. The connection is kept for a moment, because setting it up takes three times as long as asking.
// One that was kept may have been closed at the other end, which shows only now: then a new one is tried.
func (u *upstream) askStream(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	if kept := u.keptStream(); kept != nil {
		if reply, err := u.useStream(ctx, kept, query); err == nil || ctx.Err() != nil {
			return reply, err
		}
	}
	client := &dns.Client{Net: "tcp-tls", Timeout: askTimeout, TLSConfig: u.tlsConfig}
	conn, err := client.DialContext(ctx, u.addr.String())
	if err != nil {
		return nil, err
	}
	return u.useStream(ctx, &stream{Conn: conn}, query)
}

func (u *upstream) useStream(ctx context.Context, s *stream, query *dns.Msg) (*dns.Msg, error) {
	sent := query.Copy()
	sent.Id = dns.Id()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	client := &dns.Client{Net: "tcp-tls", Timeout: askTimeout}
	reply, _, err := client.ExchangeWithConnContext(ctx, sent, s.Conn)
	if err == nil {
		err = checkReply(sent, reply)
	}
	if !stop() || err != nil {
		s.Close()
		return reply, err
	}
	u.keepStream(s)
	return reply, nil
}

func (u *upstream) keptStream() *stream {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.streams) > 0 {
		last := u.streams[len(u.streams)-1]
		u.streams = u.streams[:len(u.streams)-1]
		if last.close.Stop() {
			return last
		}
	}
	return nil
}

func (u *upstream) keepStream(s *stream) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.streams) >= idleStreams {
		s.Close()
		return
	}
	s.close = time.AfterFunc(idleStreamsTime, func() { s.Close() })
	u.streams = append(u.streams, s)
}

// Close closes the connections that are kept.
func (u *upstream) Close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, s := range u.streams {
		if s.close.Stop() {
			s.Close()
		}
	}
	u.streams = nil
}

// parseServers reads the servers of a zone: "10.0.0.1,tls://192.0.2.1#dns.example".
func parseServers(text string) ([]address, error) {
	var servers []address
	for server := range strings.SplitSeq(text, ",") {
		a, err := parseAddress(server)
		if err != nil {
			return nil, err
		}
		servers = append(servers, a)
	}
	if len(servers) > maxUpstreams {
		return nil, errors.New("at most " + strconv.Itoa(maxUpstreams) + " servers a zone")
	}
	return servers, nil
}
