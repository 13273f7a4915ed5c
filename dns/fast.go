package dns

import (
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// The fast path: an ordinary question about what is in the index or in the cache is answered in the packet that it came in,
// from bytes that were made when the records came, without allocating. It is no more than a shortcut: all else goes through
// [Server.begin], which could answer these too, and a fuzz test holds that both say the same.

// fast answers packet, if it can, and returns the answer, which is in packet's memory. limit is how long the answer may be;
// 0 is over UDP, where the question says it.
func (s *Server) fast(q *question, packet []byte, client netip.Addr, limit int) (reply []byte, ok bool) {
	if !s.serves(client) || !q.parse(packet) || isMeta(q.rrtype) {
		return nil, false
	}
	if limit == 0 {
		limit = q.size
	}
	how := fromIndex
	e := s.index.find(q.name())
	z := zoneOf(s.index, e, q)
	switch {
	case z == nil:
		how = fromCache
		reply, ok = s.forward.cached(q, packet, limit)
	case !s.synced.Load():
		return nil, false
	default:
		reply, ok = s.index.reply(q, packet, e, z, limit)
	}
	if ok {
		s.note(s.index.class(q.name(), z), how, reply, client, 0)
	}
	return reply, ok
}

func zoneOf(x *index, e *entry, q *question) *zone {
	if e != nil {
		return e.zone
	}
	return x.zone(q.name())
}

// isMeta tells if a type is no type of records, but asks for something else (RFC 6895, section 3.1), or is EDNS itself.
func isMeta(rrtype uint16) bool {
	return rrtype == dns.TypeNone || rrtype == dns.TypeOPT || rrtype >= 128 && rrtype <= 255
}

// reply answers out of the index; false if the answer must be put together, or is too long.
func (x *index) reply(q *question, packet []byte, e *entry, z *zone, limit int) ([]byte, bool) {
	size := q.end()
	if q.edns {
		size += optLen
	}
	if e == nil {
		if size+z.soaLen() > limit || x.incomplete(q, z) {
			return nil, false
		}
		return q.finish(z.appendSOA(packet[:q.end()], q.length), flagAuthority, dns.RcodeNameError, 0, 1, 0), true
	}
	answers, extras := 0, 0
	for i := range e.sets {
		set := &e.sets[i]
		if set.rrtype == q.rrtype {
			size += len(set.data)
			answers += int(set.count)
			extras += int(set.extras)
		} else if set.rrtype == dns.TypeCNAME {
			return nil, false // What it leads to belongs to the answer.
		}
	}
	if answers == 0 {
		if size+z.soaLen() > limit {
			return nil, false
		}
		return q.finish(z.appendSOA(packet[:q.end()], q.length), flagAuthority, dns.RcodeSuccess, 0, 1, 0), true
	}
	if size > limit {
		return nil, false
	}
	return q.finish(e.append(packet[:q.end()], q.rrtype), flagAuthority, dns.RcodeSuccess, answers, 0, extras), true
}

// incomplete tells if a name that is not in the index may have an answer all the same.
func (x *index) incomplete(q *question, z *zone) bool {
	return x.autopath && z.class == classService || x.insecure && x.belowPods(q.name())
}

// append appends the records of one type, addresses in a random order, and the additional ones.
func (e *entry) append(b []byte, rrtype uint16) []byte {
	start := len(b)
	for i := range e.sets {
		if e.sets[i].rrtype == rrtype {
			b = append(b, e.sets[i].records()...)
		}
	}
	if size := packedSize(rrtype); size > 0 && len(b)-start > size {
		shuffleRecords(b[start:], size)
	}
	for i := range e.sets {
		if e.sets[i].rrtype == rrtype {
			b = append(b, e.sets[i].extra()...)
		}
	}
	return b
}

// cached answers out of what is kept of others' answers.
func (f *forwarder) cached(q *question, packet []byte, limit int) ([]byte, bool) {
	now := time.Now()
	m, state := f.cache.get(q.key(), now)
	if state != fresh || q.end()+len(m.body)+optLen > limit {
		return nil, false
	}
	if m.due(now) {
		f.refresh(m)
	}
	return m.reply(q, packet, now), true
}

// class tells what kind of name it is; z is the zone that it lies in, if it does.
func (x *index) class(name []byte, z *zone) nameClass {
	switch {
	case z == nil:
		return classOutside
	case x.belowPods(name):
		return classPod
	}
	return z.class
}
