package dns

import (
	"context"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// searchPath returns the names that a pod's resolver will try next, if wire is the first one that it tries for a name that
// is not the cluster's: with "search NAMESPACE.svc.cluster.local svc.cluster.local cluster.local" and ndots:5, a pod that
// wants www.example.com asks for www.example.com.NAMESPACE.svc.cluster.local first (and so on, for A and for AAAA: eight
// packets). To answer the first one with an alias to the name meant spares the others; but a name then exists that does
// not, which is why this is done only where it is asked for. CoreDNS has the same as its plugin autopath.
func (s *Server) searchPath(client netip.Addr, q dns.Question, wire string) []string {
	if !s.index.autopath || q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA {
		return nil
	}
	namespace, ok := s.source.namespaceOf(client)
	if !ok {
		return nil
	}
	text := textName(wire)
	prefix, ok := strings.CutSuffix(text, "."+namespace+".svc."+s.domain)
	if !ok {
		return nil
	}
	names := []string{prefix + ".svc." + s.domain, prefix + "." + s.domain}
	for _, domain := range s.forward.search() {
		if domain != "." {
			names = append(names, prefix+"."+dns.Fqdn(domain))
		}
	}
	return append(names, prefix+".")
}

// walk does what the pod's resolver would do: it takes the first of names that has what is asked for, else the first that
// exists. missing is the reply that the name asked for has without that.
func (s *Server) walk(ctx context.Context, question, missing *dns.Msg, names []string) (*dns.Msg, origin) {
	var exists *dns.Msg
	from := fromIndex
	for _, name := range names {
		if _, ok := dns.IsDomainName(name); !ok {
			continue
		}
		asked := question.Copy()
		asked.Question[0].Name = name
		found, where, err := s.lookup(ctx, asked)
		switch {
		case err != nil:
			return unreachable(question, err), fromServer
		case found.Rcode == dns.RcodeNameError:
			continue
		case found.Rcode != dns.RcodeSuccess:
			return failure(question, found.Rcode), where
		}
		alias := &dns.CNAME{Hdr: header(question.Question[0].Name, dns.TypeCNAME), Target: name}
		reply := started(question)
		reply.Answer = append([]dns.RR{alias}, found.Answer...)
		reply.Ns, reply.Truncated = found.Ns, found.Truncated
		if len(found.Answer) > 0 {
			return reply, where
		}
		if exists == nil {
			exists, from = reply, where
		}
	}
	if exists != nil {
		return exists, from
	}
	return missing, fromIndex
}

// lookup answers one step of the search path.
func (s *Server) lookup(ctx context.Context, question *dns.Msg) (*dns.Msg, origin, error) {
	q := question.Question[0]
	a := s.index.answer(q.Name, q.Qtype)
	if a.elsewhere == "" {
		return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: a.rcode}, Answer: a.records, Ns: a.authority}, fromIndex, nil
	}
	found, from, err := s.resolve(ctx, question, a.elsewhere)
	if err != nil {
		return nil, fromServer, err
	}
	found.Answer = append(a.records, found.Answer...)
	return found, from, nil
}
