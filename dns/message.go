package dns

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// What answers of others may say about how long they hold. A resolver that is wrong for a day is worse than one that asks again.
const (
	maxTTL         = time.Hour
	maxNegativeTTL = 30 * time.Minute
	failureTTL     = time.Second // RFC 9520 wants failures to be remembered, so that a retry storm ends here.
	staleTTL       = 30 * time.Second
	staleFor       = 24 * time.Hour  // How long an answer may be used after its time when there is no other (RFC 8767).
	staleRetry     = 5 * time.Second // How long it is used without asking again.
)

// message is what an upstream answered to a question: everything behind the question, as it goes into an answer to whoever
// asks the same. Names in it may point to the question's, in whatever case that is written.
type message struct {
	key       string // See question.key.
	body      []byte
	ttls      []uint16 // Where in body a record's time to live stands.
	counts    [3]uint16
	rcode     uint8
	authentic bool
	truncated bool

	// The addresses at the end of the answer: records of one size, which may be put in another order.
	addresses, addressSize, addressCount uint16

	stored time.Time
	ttl    time.Duration // 0 must not be kept.

	asked      atomic.Uint32 // How often since it was stored.
	refreshing atomic.Bool
	retry      atomic.Int64 // When expired: not to be asked for again before (Unix nanoseconds).
}

// question takes a key apart.
func keyQuestion(key string) (name string, rrtype uint16, flags byte) {
	n := len(key) - 3
	return key[:n], binary.BigEndian.Uint16([]byte(key[n:])), key[n+2]
}

// newMessage packs an upstream's reply to the question that key says.
func newMessage(key string, reply *dns.Msg, now time.Time) (*message, error) {
	name, rrtype, flags := keyQuestion(key)
	m := &message{key: key, stored: now, rcode: dns.RcodeServerFailure, truncated: reply.Truncated}
	if reply.Rcode <= 0xf { // The others are between two neighbours.
		m.rcode = uint8(reply.Rcode)
	}
	m.authentic = reply.AuthenticatedData && flags&(wantsAuthentic|wantsSignatures) != 0
	whole := &dns.Msg{Compress: true, Question: []dns.Question{{Name: textName(name), Qtype: rrtype, Qclass: dns.ClassINET}}}
	whole.Answer, whole.Ns = reply.Answer, reply.Ns
	for _, rr := range reply.Extra {
		if rr.Header().Rrtype != dns.TypeOPT && rr.Header().Rrtype != dns.TypeTSIG {
			whole.Extra = append(whole.Extra, rr)
		}
	}
	m.ttl = lifetime(reply)
	for _, rr := range slices.Concat(whole.Answer, whole.Ns, whole.Extra) {
		rr.Header().Ttl = min(rr.Header().Ttl, uint32(maxTTL/time.Second))
	}
	packet, err := whole.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack the answer: %w", err)
	}
	if err := new(dns.Msg).Unpack(packet); err != nil { // A record without data is read as one whose fields are empty, and is none.
		return nil, fmt.Errorf("the answer has a record that is none: %w", err)
	}
	start := headerLen + len(name) + 4
	m.body = slices.Clip(slices.Clone(packet[start:]))
	for i := range m.counts {
		m.counts[i] = binary.BigEndian.Uint16(packet[6+2*i:])
	}
	return m, m.scan()
}

// lifetime is how long a reply may be kept; 0 is not at all.
func lifetime(reply *dns.Msg) time.Duration {
	seconds := func(ttl uint32) time.Duration { return time.Duration(ttl) * time.Second }
	switch {
	case reply.Truncated:
		return 0
	case reply.Rcode == dns.RcodeServerFailure:
		return failureTTL
	case reply.Rcode == dns.RcodeNameError, reply.Rcode == dns.RcodeSuccess && !answersQuestion(reply):
		for _, rr := range reply.Ns {
			if soa, ok := rr.(*dns.SOA); ok { // RFC 2308, section 5.
				ttl := min(seconds(soa.Hdr.Ttl), seconds(soa.Minttl), maxNegativeTTL)
				for _, rr := range reply.Answer {
					ttl = min(ttl, seconds(rr.Header().Ttl))
				}
				return ttl
			}
		}
		return 0
	case reply.Rcode != dns.RcodeSuccess:
		return 0
	}
	ttl := maxTTL
	for _, rr := range slices.Concat(reply.Answer, reply.Ns) {
		ttl = min(ttl, seconds(rr.Header().Ttl))
	}
	return ttl
}

// answersQuestion tells if a reply has a record that was asked for, and not only aliases that lead to nothing.
func answersQuestion(reply *dns.Msg) bool {
	if len(reply.Question) != 1 {
		return len(reply.Answer) > 0
	}
	rrtype := reply.Question[0].Qtype
	return slices.ContainsFunc(reply.Answer, func(rr dns.RR) bool {
		return rr.Header().Rrtype == rrtype || rrtype == dns.TypeANY
	})
}

// scan notes where the times stand, and which records are addresses that can change places.
func (m *message) scan() error {
	offset := 0
	for i := range int(m.counts[0]) + int(m.counts[1]) + int(m.counts[2]) {
		start := offset
		for offset < len(m.body) && m.body[offset] != 0 && m.body[offset]&0xc0 == 0 {
			offset += 1 + int(m.body[offset])
		}
		pointer := offset < len(m.body) && m.body[offset]&0xc0 == 0xc0
		if offset++; pointer {
			offset++
		}
		if offset+10 > len(m.body) {
			return fmt.Errorf("record %d of the answer is cut off", i)
		}
		rrtype := binary.BigEndian.Uint16(m.body[offset:])
		m.ttls = append(m.ttls, uint16(offset+4))
		offset += 10 + int(binary.BigEndian.Uint16(m.body[offset+8:]))
		if i < int(m.counts[0]) {
			m.noteAddress(start, offset-start, rrtype)
		}
	}
	m.ttls = slices.Clip(m.ttls)
	return nil
}

// noteAddress takes the next record of the answer into the run of addresses, or ends it. Their names are pointers, or
// their size would tell.
func (m *message) noteAddress(start, size int, rrtype uint16) {
	if want := packedSize(rrtype); want == 0 || size != want {
		m.addressCount = 0
		return
	}
	if m.addressCount == 0 || int(m.addressSize) != size {
		m.addresses, m.addressSize, m.addressCount = uint16(start), uint16(size), 0
	}
	m.addressCount++
}

// state is how an answer that was kept may be used.
type state int

const (
	gone  state = iota
	stale       // Only when no other is to be had.
	fresh
)

func (m *message) state(now time.Time) state {
	switch age := now.Sub(m.stored); {
	case age < m.ttl:
		return fresh
	case age < m.ttl+staleFor && m.rcode != dns.RcodeServerFailure:
		return stale
	}
	return gone
}

// due tells if it is time to ask again, so that nobody waits when the answer expires: it is wanted, and in the last tenth
// of its time.
func (m *message) due(now time.Time) bool {
	return m.asked.Load() > 2 && now.Sub(m.stored) > m.ttl-m.ttl/10 && !m.refreshing.Load()
}

// size is about how much memory a message takes.
func (m *message) size() int { return len(m.body) + 2*len(m.ttls) + len(m.key) + 256 }

// append appends the answer to its question. Of one that is stale it is not known how long it holds.
func (m *message) append(packet []byte, now time.Time) []byte {
	start := len(packet)
	packet = append(packet, m.body...)
	body := packet[start:]
	age := uint32(now.Sub(m.stored) / time.Second)
	isStale := now.Sub(m.stored) >= m.ttl && m.ttl > 0
	for _, at := range m.ttls {
		ttl := binary.BigEndian.Uint32(body[at:])
		switch {
		case isStale:
			ttl = uint32(staleTTL / time.Second)
		case m.ttl > 0:
			ttl -= min(ttl, age)
		}
		binary.BigEndian.PutUint32(body[at:], ttl)
	}
	if m.addressCount > 1 {
		from, size := int(m.addresses), int(m.addressSize)
		shuffleRecords(body[from:from+size*int(m.addressCount)], size)
	}
	return packet
}

// reply answers a question that came in packet.
func (m *message) reply(q *question, packet []byte, now time.Time) []byte {
	var flags byte
	if m.authentic {
		flags |= flagAuthentic
	}
	if m.truncated {
		flags |= flagTruncated
	}
	return q.finish(m.append(packet[:q.end()], now), flags, int(m.rcode), int(m.counts[0]), int(m.counts[1]), int(m.counts[2]))
}

// unpack is the answer for who asks with this name.
func (m *message) unpack(name string, now time.Time) (*dns.Msg, error) {
	_, rrtype, _ := keyQuestion(m.key)
	question := &dns.Msg{Question: []dns.Question{{Name: name, Qtype: rrtype, Qclass: dns.ClassINET}}}
	packet, err := question.Pack()
	if err != nil {
		return nil, err
	}
	packet = m.append(packet, now)
	for i, count := range m.counts {
		binary.BigEndian.PutUint16(packet[6+2*i:], count)
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(packet); err != nil {
		return nil, fmt.Errorf("unpack the answer to %s: %w", strings.ToLower(name), err)
	}
	reply.Rcode, reply.AuthenticatedData, reply.Truncated = int(m.rcode), m.authentic, m.truncated
	return reply, nil
}
