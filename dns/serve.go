package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// maxUDPSize bounds a UDP answer: what goes through every network in one piece (DNS flag day 2020).
const maxUDPSize = 1232

// later is the rest of a reply that others must be asked for. It may take its time.
type later func(context.Context) (*dns.Msg, origin)

// isQuestion tells if a packet wants an answer. To answer an answer could go on for ever between two servers.
func isQuestion(packet []byte) bool {
	return len(packet) >= headerLen && packet[2]&flagResponse == 0
}

// answer answers a packet that fast could not: at once if it can, else from a goroutine of its own. write is called once.
// limit is as in fast. It does not keep packet.
func (s *Server) answer(ctx context.Context, packet []byte, client netip.Addr, limit int, write func([]byte)) {
	question := new(dns.Msg)
	if err := question.Unpack(packet); err != nil {
		question = unreadable(packet)
		s.send(question, failure(question, question.Rcode), fromServer, client, limit, 0, write)
		return
	}
	reply, from, rest := s.begin(client, question)
	if rest == nil {
		s.send(question, reply, from, client, limit, 0, write)
		return
	}
	if !s.forward.places.enter(client) {
		s.metrics.rejected.Inc()
		s.send(question, unreachable(question, errTooMany), fromServer, client, limit, 0, write)
		return
	}
	start := time.Now()
	s.handlers.Go(func() {
		defer s.forward.places.leave(client)
		reply, from := rest(ctx)
		s.send(question, reply, from, client, limit, time.Since(start), write)
	})
}

// unreadable is what can be answered of a packet that is no message.
func unreadable(packet []byte) *dns.Msg {
	question := new(dns.Msg)
	question.Id = binary.BigEndian.Uint16(packet)
	question.Opcode = int(packet[2] & flagOpcode >> 3)
	question.RecursionDesired = packet[2]&flagRecursion != 0
	question.Rcode = dns.RcodeFormatError
	if question.Opcode != dns.OpcodeQuery {
		question.Rcode = dns.RcodeNotImplemented
	}
	return question
}

// send packs reply, makes it fit, counts it and writes it.
func (s *Server) send(question, reply *dns.Msg, from origin, client netip.Addr, limit int, took time.Duration, write func([]byte)) {
	if limit == 0 {
		limit = udpSize(question)
	}
	fit(reply, limit)
	packet, err := reply.Pack()
	if err != nil {
		slog.Debug("pack a dns answer", "client", client, "err", err)
		packet = []byte{byte(question.Id >> 8), byte(question.Id), flagResponse, dns.RcodeServerFailure, 0, 0, 0, 0, 0, 0, 0, 0}
	}
	class := classOutside
	if len(question.Question) == 1 {
		if wire, ok := wireName(question.Question[0].Name); ok {
			class = s.index.class([]byte(wire), s.index.zone([]byte(wire)))
		}
	}
	s.note(class, from, packet, client, took)
	write(packet)
}

// note counts an answer, and shows it to who reads the log.
func (s *Server) note(class nameClass, from origin, reply []byte, client netip.Addr, took time.Duration) {
	s.metrics.answered(class, from, int(reply[3]&0xf))
	if dropped := s.log.show(client, reply, from, took); dropped > 0 {
		s.metrics.unlogged.Add(float64(dropped))
	}
}

// begin decides what to say to client: a reply, or what is to be done for one.
func (s *Server) begin(client netip.Addr, question *dns.Msg) (*dns.Msg, origin, later) {
	now := func(reply *dns.Msg) (*dns.Msg, origin, later) { return reply, fromServer, nil }
	if question.Opcode != dns.OpcodeQuery {
		return now(failure(question, dns.RcodeNotImplemented))
	}
	if len(question.Question) != 1 {
		return now(failure(question, dns.RcodeFormatError))
	}
	if opt := question.IsEdns0(); opt != nil && opt.Version() != 0 {
		return now(failure(question, dns.RcodeBadVers))
	}
	q := question.Question[0]
	switch {
	case !s.serves(client):
		return now(refusal(question, dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "only pods and this node may ask"))
	case q.Qclass != dns.ClassINET, q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		return now(refusal(question, dns.RcodeRefused, dns.ExtendedErrorCodeNotSupported, ""))
	case s.forward.isProbe(q):
		return now(failure(question, dns.RcodeNameError))
	}
	wire, ok := wireName(q.Name)
	if !ok {
		return now(failure(question, dns.RcodeFormatError))
	}
	if s.index.zone([]byte(wire)) == nil {
		return nil, fromUpstream, func(ctx context.Context) (*dns.Msg, origin) { return s.outside(ctx, question) }
	}
	if !s.synced.Load() {
		return nil, fromServer, func(ctx context.Context) (*dns.Msg, origin) { return s.hold(ctx, client, question) }
	}
	return s.inside(client, question, wire)
}

// How a question is treated that comes before the first sync. A resolver library asks again after a while: musl after 2.5
// seconds, glibc after 5. Until then it bears with silence better than with a failure: at SERVFAIL, glibc asks once more, at
// once, and gives up; musl asks twice more at once, and then waits for its time all the same.
const (
	holdTime  = 2 * time.Second  // How long a question is held.
	startTime = 10 * time.Second // How long after the start: without an API server, nobody is to wait at each question.
)

// hold answers a question when the first sync is done, which is a matter of moments; else it says that the server cannot.
func (s *Server) hold(ctx context.Context, client netip.Addr, question *dns.Msg) (*dns.Msg, origin) {
	timer := time.NewTimer(min(holdTime, time.Until(s.holdUntil)))
	defer timer.Stop()
	select {
	case <-s.opened:
		reply, from, rest := s.begin(client, question)
		if rest != nil {
			return rest(ctx)
		}
		return reply, from
	case <-timer.C:
	case <-ctx.Done():
	}
	return refusal(question, dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "the API server has not been read yet"), fromServer
}

// inside answers a question about a name in one of the zones.
func (s *Server) inside(client netip.Addr, question *dns.Msg, wire string) (*dns.Msg, origin, later) {
	q := question.Question[0]
	a := s.index.answer(q.Name, q.Qtype)
	reply := started(question)
	reply.Authoritative = true
	reply.Rcode = a.rcode
	reply.Answer, reply.Ns = a.records, a.authority
	reply.Extra = append(reply.Extra, a.extra...)
	if a.elsewhere != "" {
		return nil, fromUpstream, func(ctx context.Context) (*dns.Msg, origin) { return s.chase(ctx, question, reply, a.elsewhere) }
	}
	if a.rcode == dns.RcodeNameError && len(a.records) == 0 {
		if names := s.searchPath(client, q, wire); len(names) > 0 {
			return nil, fromIndex, func(ctx context.Context) (*dns.Msg, origin) { return s.walk(ctx, question, reply, names) }
		}
	}
	return reply, fromIndex, nil
}

// serves tells whether client is a pod or this node. The node's own packets to the server carry the server's own
// address.
func (s *Server) serves(client netip.Addr) bool {
	if client.IsLoopback() || slices.Contains(s.cfg.Addresses, client) {
		return true
	}
	for _, prefix := range s.cfg.ClusterCIDR {
		if prefix.Contains(client) {
			return true
		}
	}
	return false
}

// outside has a question answered by others.
func (s *Server) outside(ctx context.Context, question *dns.Msg) (*dns.Msg, origin) {
	found, from, err := s.resolve(ctx, question, question.Question[0].Name)
	if err != nil {
		return unreachable(question, err), from
	}
	reply := started(question)
	reply.Rcode = found.Rcode
	reply.AuthenticatedData, reply.Truncated = found.AuthenticatedData, found.Truncated
	reply.Answer, reply.Ns = found.Answer, found.Ns
	reply.Extra = append(reply.Extra, found.Extra...)
	if opt := reply.IsEdns0(); opt != nil && from == fromStale {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer})
	}
	return reply, from
}

// chase completes reply, which ends with an alias to an outside name, with what others say of that name.
func (s *Server) chase(ctx context.Context, question, reply *dns.Msg, name string) (*dns.Msg, origin) {
	found, from, err := s.resolve(ctx, question, name)
	if err != nil {
		return unreachable(question, err), from
	}
	reply.Rcode = found.Rcode
	reply.Truncated = found.Truncated
	reply.Answer = append(reply.Answer, found.Answer...)
	reply.Ns = found.Ns
	return reply, from
}

// resolve finds out about an outside name, for who asked question.
func (s *Server) resolve(ctx context.Context, question *dns.Msg, name string) (*dns.Msg, origin, error) {
	wire, ok := wireName(name)
	if !ok {
		return nil, fromServer, errors.New("the name is too long")
	}
	m, from, err := s.forward.resolve(ctx, keyOf(wire, question))
	if err != nil {
		return nil, fromServer, err
	}
	found, err := m.unpack(name, time.Now())
	return found, from, err
}

// keyOf is the key in the cache of what question asks of a name; see question.key.
func keyOf(wire string, question *dns.Msg) string {
	var flags byte
	if question.RecursionDesired {
		flags |= wantsRecursion
	}
	if question.AuthenticatedData {
		flags |= wantsAuthentic
	}
	if question.CheckingDisabled {
		flags |= wantsUnchecked
	}
	if opt := question.IsEdns0(); opt != nil && opt.Do() {
		flags |= wantsSignatures
	}
	rrtype := question.Question[0].Qtype
	return wire + string([]byte{byte(rrtype >> 8), byte(rrtype), flags})
}

// started is the beginning of every reply: the question as it came, and EDNS if the client speaks it.
func started(question *dns.Msg) *dns.Msg {
	reply := new(dns.Msg)
	reply.SetReply(question)
	reply.RecursionAvailable = true
	if opt := question.IsEdns0(); opt != nil {
		reply.SetEdns0(maxUDPSize, opt.Do())
	}
	return reply
}

func failure(question *dns.Msg, rcode int) *dns.Msg {
	reply := started(question)
	reply.Rcode = rcode
	return reply
}

// refusal is a failure with its reason (RFC 8914), which dig prints.
func refusal(question *dns.Msg, rcode int, code uint16, reason string) *dns.Msg {
	reply := failure(question, rcode)
	if opt := reply.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: reason})
	}
	return reply
}

func unreachable(question *dns.Msg, err error) *dns.Msg {
	reason := "the host's resolvers do not answer"
	if errors.Is(err, errNoUpstream) || errors.Is(err, errTooMany) {
		reason = err.Error()
	}
	slog.Debug("forward a dns question", "question", question.Question[0].Name, "err", err)
	return refusal(question, dns.RcodeServerFailure, dns.ExtendedErrorCodeNetworkError, reason)
}

// udpSize is how large an answer the client can take: 512 bytes, or what it says by EDNS, within our own bound.
func udpSize(question *dns.Msg) int {
	opt := question.IsEdns0()
	if opt == nil {
		return dns.MinMsgSize
	}
	return clampSize(opt.UDPSize())
}

// fit makes reply no larger than size. The additional records go first, for they are a courtesy; if records of the answer
// itself must go, TC tells the client to ask again over TCP.
func fit(reply *dns.Msg, size int) {
	if reply.Len() > size {
		reply.Compress = true
		if reply.Len() > size {
			reply.Extra = slices.DeleteFunc(reply.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeOPT })
		}
		reply.Truncate(size)
	}
	reply.Compress = true
}
