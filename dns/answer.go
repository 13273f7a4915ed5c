package dns

import (
	"math/rand/v2"
	"strings"

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
		lower := strings.ToLower(name)
		soa, ok := x.zone(lower)
		if !ok {
			a.elsewhere = name
			return a
		}
		e := x.find(lower)
		if e == nil {
			e = x.pod(lower)
		}
		if e == nil {
			return a.negative(dns.RcodeNameError, soa)
		}
		if rrs := e.of(rrtype); len(rrs) > 0 {
			a.records = append(a.records, named(name, shuffled(rrs))...)
			a.extra = x.additional(rrs)
			return a
		}
		aliases := e.of(dns.TypeCNAME)
		if len(aliases) == 0 {
			return a.negative(dns.RcodeSuccess, soa)
		}
		a.records = append(a.records, named(name, aliases)...)
		name = aliases[0].(*dns.CNAME).Target
	}
	return answer{rcode: dns.RcodeServerFailure}
}

// negative says that there is nothing (no such name, or no such records at it), and, by the zone's SOA record, how long
// this may be believed.
func (a answer) negative(rcode int, soa dns.RR) answer {
	a.rcode, a.authority = rcode, []dns.RR{soa}
	return a
}

// pod makes the entry of <address with dashes>.<namespace>.pod.<domain>, which every address has in every Namespace that
// exists (section 2.6; CoreDNS calls it "insecure", for whether there is such a pod is not looked at).
func (x *index) pod(name string) *entry {
	above := parent(name)
	pods := parent(above)
	if _, ok := x.zones[parent(pods)]; !ok || !strings.HasPrefix(pods, "pod.") || x.find(above) == nil {
		return nil
	}
	ip, ok := undashed(strings.TrimSuffix(name, "."+above))
	if !ok {
		return nil
	}
	return &entry{rrs: []dns.RR{addressRecord(name, ip)}}
}

// additional are the addresses of the hosts that SRV and NS records name, so that a client need not ask again.
func (x *index) additional(rrs []dns.RR) []dns.RR {
	var extra []dns.RR
	seen := map[string]bool{}
	for _, rr := range rrs {
		var host string
		switch rr := rr.(type) {
		case *dns.SRV:
			host = rr.Target
		case *dns.NS:
			host = rr.Ns
		default:
			continue
		}
		if e := x.find(host); e != nil && !seen[host] {
			seen[host] = true
			extra = append(append(extra, e.of(dns.TypeA)...), e.of(dns.TypeAAAA)...)
		}
	}
	return extra
}

// named returns rrs as the records of name. The index's own records are shared by all answers and must not be changed,
// so those that are called otherwise are copied.
func named(name string, rrs []dns.RR) []dns.RR {
	for i, rr := range rrs {
		if rr.Header().Name != name {
			rrs[i] = dns.Copy(rr)
			rrs[i].Header().Name = name
		}
	}
	return rrs
}

// shuffled puts rrs, which are the caller's, in a random order: clients take the first address.
func shuffled(rrs []dns.RR) []dns.RR {
	rand.Shuffle(len(rrs), func(i, j int) { rrs[i], rrs[j] = rrs[j], rrs[i] })
	return rrs
}
