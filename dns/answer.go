package dns

import (
	"math/rand/v2"

	"github.com/miekg/dns"
)

// maxChase bounds a chain of ExternalName Services that point at one another.
const maxChase = 8

// answer is what the zones say to a question.
type answer struct {
	rcode                     int
	records, authority, extra []dns.RR
	// elsewhere is set where a CNAME leaves the zones: records end with it, and the rest is this name's.
	elsewhere string
}

// answer answers a question about a name in one of the zones; any case will do. The answer's records carry the name as
// it was asked, its case included, because resolvers check that.
func (x *index) answer(name string, rrtype uint16) answer {
	var a answer
	for range maxChase {
		wire, ok := wireName(name)
		if !ok {
			return answer{rcode: dns.RcodeFormatError}
		}
		z := x.zone([]byte(wire))
		if z == nil {
			a.elsewhere = name
			return a
		}
		e := x.find([]byte(wire))
		if e == nil {
			e = x.pod(wire)
		}
		if e == nil {
			return a.negative(dns.RcodeNameError, z)
		}
		if rrs := e.of(wire, rrtype); len(rrs) > 0 {
			a.records = append(a.records, named(name, shuffled(rrs))...)
			a.extra = x.additional(rrs)
			return a
		}
		aliases := e.of(wire, dns.TypeCNAME)
		if len(aliases) == 0 {
			return a.negative(dns.RcodeSuccess, z)
		}
		a.records = append(a.records, named(name, aliases)...)
		name = aliases[0].(*dns.CNAME).Target
	}
	return answer{rcode: dns.RcodeServerFailure}
}

// negative says that there is nothing (no such name, or no such records at it), and, by the zone's SOA record, how long
// this may be believed.
func (a answer) negative(rcode int, z *zone) answer {
	a.rcode, a.authority = rcode, []dns.RR{z.soa}
	return a
}

// pod makes the entry of <address with dashes>.<namespace>.pod.<domain>, which every address has in every Namespace that
// exists (section 2.6; CoreDNS calls it "insecure", for whether there is such a pod is not looked at).
func (x *index) pod(name string) *entry {
	if !x.insecure || !x.belowPods([]byte(name)) || x.find([]byte(parent(name))) == nil {
		return nil
	}
	ip, ok := undashed(name[1 : 1+name[0]])
	if !ok {
		return nil
	}
	sets, err := rrsets(textName(name), []dns.RR{addressRecord(textName(name), ip)}, nil)
	if err != nil {
		return nil
	}
	return &entry{sets: sets}
}

// belowPods tells if a name is <anything>.<namespace>.pod.<domain>.
func (x *index) belowPods(name []byte) bool {
	pods := parent(parent(name))
	if len(pods) < 4 || string(pods[:4]) != "\x03pod" {
		return false
	}
	z, ok := x.zones[string(parent(pods))]
	return ok && z.class == classService
}

// additional are the addresses of the hosts that SRV and NS records name, so that a client need not ask again.
func (x *index) additional(rrs []dns.RR) []dns.RR {
	var extra []dns.RR
	seen := map[string]bool{}
	for _, rr := range rrs {
		host := hostOf(rr)
		wire, ok := wireName(host)
		if host == "" || !ok || seen[host] {
			continue
		}
		seen[host] = true
		if e := x.find([]byte(wire)); e != nil {
			extra = append(append(extra, e.of(wire, dns.TypeA)...), e.of(wire, dns.TypeAAAA)...)
		}
	}
	return extra
}

// named returns rrs, which are the caller's, as the records of name.
func named(name string, rrs []dns.RR) []dns.RR {
	for _, rr := range rrs {
		rr.Header().Name = name
	}
	return rrs
}

// shuffled puts the addresses among rrs, which are the caller's, in a random order: clients take the first one. (The order
// of SRV records is by their weights, and chosen by the client.)
func shuffled(rrs []dns.RR) []dns.RR {
	if packedSize(rrs[0].Header().Rrtype) > 0 {
		rand.Shuffle(len(rrs), func(i, j int) { rrs[i], rrs[j] = rrs[j], rrs[i] })
	}
	return rrs
}
