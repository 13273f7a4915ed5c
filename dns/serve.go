package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// maxUDPSize bounds a UDP answer: what goes through every network in one piece (DNS flag day 2020).
const maxUDPSize = 1232

// serve answers one question.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, question *dns.Msg) {
	size := dns.MaxMsgSize
	if _, ok := w.RemoteAddr().(*net.UDPAddr); ok {
		size = udpSize(question)
	}
	reply := s.reply(ctx, clientOf(w.RemoteAddr()), question)
	fit(reply, size)
	if err := w.WriteMsg(reply); err != nil {
		slog.Debug("write a dns answer", "client", w.RemoteAddr(), "err", err)
	}
}

// reply decides what to say to client. It never returns nil.
func (s *Server) reply(ctx context.Context, client netip.Addr, question *dns.Msg) *dns.Msg {
	if question.Opcode != dns.OpcodeQuery {
		return failure(question, dns.RcodeNotImplemented)
	}
	if len(question.Question) != 1 {
		return failure(question, dns.RcodeFormatError)
	}
	if opt := question.IsEdns0(); opt != nil && opt.Version() != 0 {
		return failure(question, dns.RcodeBadVers)
	}
	q := question.Question[0]
	switch {
	case !s.serves(client):
		return refusal(question, dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "only pods and this node may ask")
	case q.Qclass != dns.ClassINET, q.Qtype == dns.TypeAXFR, q.Qtype == dns.TypeIXFR:
		return refusal(question, dns.RcodeRefused, dns.ExtendedErrorCodeNotSupported, "")
	}
	if _, ours := s.index.zone(strings.ToLower(q.Name)); !ours {
		return s.outside(ctx, question)
	}
	if !s.synced.Load() {
		return refusal(question, dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "the API server has not been read yet")
	}
	a := s.index.answer(q.Name, q.Qtype)
	reply := started(question)
	reply.Authoritative = true
	reply.Rcode = a.rcode
	reply.Answer, reply.Ns = a.records, a.authority
	reply.Extra = append(reply.Extra, a.extra...)
	if a.elsewhere == "" {
		return reply
	}
	return s.chase(ctx, question, reply, a.elsewhere)
}

// serves tells whether client is a pod or this node. The node's own packets to the server carry the server's own address.
func (s *Server) serves(client netip.Addr) bool {
	if client == s.cfg.Address || client.IsLoopback() {
		return true
	}
	for _, prefix := range s.cfg.ClusterCIDR {
		if prefix.Contains(client) {
			return true
		}
	}
	return false
}

// outside has a question answered by the host's resolvers.
func (s *Server) outside(ctx context.Context, question *dns.Msg) *dns.Msg {
	found, err := s.forward.exchange(ctx, question)
	if err != nil {
		return unreachable(question, err)
	}
	reply := started(question)
	reply.Rcode = found.Rcode
	reply.AuthenticatedData, reply.Truncated = found.AuthenticatedData, found.Truncated
	reply.Answer, reply.Ns = found.Answer, found.Ns
	for _, rr := range found.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			reply.Extra = append(reply.Extra, rr)
		}
	}
	return reply
}

// chase completes reply, which ends with an alias to an outside name, with what the host's resolvers say of that name.
func (s *Server) chase(ctx context.Context, question, reply *dns.Msg, name string) *dns.Msg {
	query := question.Copy()
	query.Question[0].Name = name
	found, err := s.forward.exchange(ctx, query)
	if err != nil {
		return unreachable(question, err)
	}
	reply.Rcode = found.Rcode
	reply.Truncated = found.Truncated
	reply.Answer = append(reply.Answer, found.Answer...)
	reply.Ns = found.Ns
	return reply
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
	return min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDPSize)
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
