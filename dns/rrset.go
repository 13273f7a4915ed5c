package dns

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// rrset is all records of one type that one giver has at a name, as they stand in the answer to a question about that
// name: their names are a pointer to the question's. A name that exists without records has one of type 0.
type rrset struct {
	giver  uint32 // See gift.
	split  uint32 // Where in data the records end,
	data   string // and what follows: addresses of the hosts that they name, for the additional section.
	rrtype uint16
	count  uint16
	extras uint16
}

func (s *rrset) records() string { return s.data[:s.split] }
func (s *rrset) extra() string   { return s.data[s.split:] }

// pointerToQuestion is the name of a record that is called like the question: where that begins in a packet.
const pointerToQuestion = "\xc0\x0c"

// rrsets packs what a giver says of one name, whose records rrs are. The addresses of hosts that they name are taken from
// the giver's other records: it is the one who has them.
func rrsets(name string, rrs []dns.RR, all recordSet) ([]rrset, error) {
	if len(rrs) == 0 {
		return []rrset{{}}, nil
	}
	var sets []rrset
	for _, rr := range rrs {
		rrtype := rr.Header().Rrtype
		if slices.ContainsFunc(sets, func(s rrset) bool { return s.rrtype == rrtype }) {
			continue
		}
		set := rrset{rrtype: rrtype}
		var records, extra []byte
		var hosts []string
		for _, other := range rrs {
			if other.Header().Rrtype != rrtype {
				continue
			}
			packed, err := packRecord(pointerToQuestion, other)
			if err != nil {
				return nil, err
			}
			records = append(records, packed...)
			set.count++
			if host := hostOf(other); host != "" && !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
		for _, host := range hosts {
			short := relativeName(host, name)
			for _, address := range addressesOf(all[host]) {
				packed, err := packRecord(short, address)
				if err != nil {
					return nil, err
				}
				extra = append(extra, packed...)
				set.extras++
			}
		}
		set.split, set.data = uint32(len(records)), string(append(records, extra...))
		sets = append(sets, set)
	}
	return sets, nil
}

// hostOf is the host that a record names, if clients will want to know its address next.
func hostOf(rr dns.RR) string {
	switch rr := rr.(type) {
	case *dns.SRV:
		return rr.Target
	case *dns.NS:
		return rr.Ns
	}
	return ""
}

func addressesOf(rrs []dns.RR) []dns.RR {
	var found []dns.RR
	for _, want := range []uint16{dns.TypeA, dns.TypeAAAA} {
		for _, rr := range rrs {
			if rr.Header().Rrtype == want {
				found = append(found, rr)
			}
		}
	}
	return found
}

// packRecord is a record as bytes, with another way to write its name.
func packRecord(name string, rr dns.RR) ([]byte, error) {
	buf := make([]byte, dns.Len(rr)+1)
	end, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		return nil, fmt.Errorf("pack %v: %w", rr, err)
	}
	own := 0
	for buf[own] != 0 {
		own += 1 + int(buf[own])
	}
	return append([]byte(name), buf[own+1:end]...), nil
}

// relativeName writes host short in an answer to a question about name: what they have in common is there already.
// Both are text; host is known to be a name.
func relativeName(host, name string) string {
	long, _ := wireName(host)
	question, _ := wireName(name)
	for rest := long; len(rest) > 1; rest = parent(rest) {
		for at := question; len(at) > 1; at = parent(at) {
			if at == rest {
				offset := headerLen + len(question) - len(at)
				return long[:len(long)-len(rest)] + string([]byte{0xc0 | byte(offset>>8), byte(offset)})
			}
		}
	}
	return long
}

// unpack returns the records as those of name, which is as in a packet.
func (s *rrset) unpack(name string) []dns.RR {
	packet := append(make([]byte, headerLen), name...)
	offset := len(packet)
	packet = append(packet, s.records()...)
	rrs := make([]dns.RR, 0, s.count)
	for range s.count {
		rr, next, err := dns.UnpackRR(packet, offset)
		if err != nil {
			panic(fmt.Sprintf("records of %q: %v", name, err)) // rrsets packed them.
		}
		rrs, offset = append(rrs, rr), next
	}
	return rrs
}

// packedSize is the length of every record of a type that is shuffled: that of addresses is always the same.
func packedSize(rrtype uint16) int {
	const fixed = len(pointerToQuestion) + 10
	switch rrtype {
	case dns.TypeA:
		return fixed + 4
	case dns.TypeAAAA:
		return fixed + 16
	}
	return 0
}

// shuffleRecords puts records of the same size, one after another, in a random order: clients take the first address.
func shuffleRecords(records []byte, size int) {
	var kept [64]byte
	for i := len(records)/size - 1; i > 0; i-- {
		if j := rand.IntN(i + 1); j != i {
			a, b := records[i*size:(i+1)*size], records[j*size:(j+1)*size]
			copy(kept[:], a)
			copy(a, b)
			copy(b, kept[:size])
		}
	}
}

// zone is a part of the tree of names that this server alone answers for.
type zone struct {
	name  string // As in a packet.
	class nameClass
	soa   dns.RR
	tail  string // The SOA record behind its name.
}

func packZone(name string, class nameClass, soa dns.RR) (*zone, error) {
	packed, err := packRecord("", soa)
	if err != nil {
		return nil, err
	}
	return &zone{name: name, class: class, soa: soa, tail: string(packed)}, nil
}

// appendSOA appends the zone's SOA record to an answer about a name of the given length in the zone.
func (z *zone) appendSOA(b []byte, nameLength int) []byte {
	b = binary.BigEndian.AppendUint16(b, 0xc000|uint16(headerLen+nameLength-len(z.name)))
	return append(b, z.tail...)
}

// soaLen is how much appendSOA appends.
func (z *zone) soaLen() int { return 2 + len(z.tail) }

// isReverse tells if a name, as text, is for addresses.
func isReverse(name string) bool {
	return strings.HasSuffix(name, ".in-addr.arpa.") || strings.HasSuffix(name, ".ip6.arpa.") || name == "in-addr.arpa." || name == "ip6.arpa."
}
