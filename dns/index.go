package dns

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/miekg/dns"
)

// index knows all names of the zones, and what is at each, as the bytes of answers. It is made of what givers (a Service,
// a Namespace) put into it; a change costs what that giver has, not what the index holds. Names are as in a packet, in
// lower case.
//
// An entry is never changed once it is in the map, only replaced: who found one may keep and read it without the lock.
type index struct {
	mu    sync.RWMutex
	names map[string]*entry
	given map[string]gift
	gifts uint32 // How many there have been.

	// What follows does not change.
	zones    map[string]*zone
	insecure bool // Every address has a pod name, whether or not there is such a pod.
	autopath bool // A name that does not exist may be the first try of a search path.
}

// gift is what a giver put last.
type gift struct {
	number uint32 // By which sets know it.
	names  []string
}

// entry is a name that exists: somebody gave it, or there are names below it.
type entry struct {
	zone  *zone
	sets  []rrset // Of all givers; nearly always one.
	below int     // How many names exist one label below.
}

func (e *entry) empty() bool { return len(e.sets) == 0 && e.below == 0 }

// of returns the records of one type, or all for the type ANY, as those of name.
func (e *entry) of(name string, rrtype uint16) []dns.RR {
	var found []dns.RR
	for i := range e.sets {
		if set := &e.sets[i]; set.rrtype == rrtype || rrtype == dns.TypeANY {
			found = append(found, set.unpack(name)...)
		}
	}
	return found
}

// newIndex makes an index of the zones whose SOA records are among apex.
func newIndex(apex recordSet) (*index, error) {
	x := &index{names: map[string]*entry{}, given: map[string]gift{}, zones: map[string]*zone{}}
	for name, rrs := range apex {
		for _, rr := range rrs {
			if rr.Header().Rrtype != dns.TypeSOA {
				continue
			}
			wire, ok := wireName(name)
			if !ok {
				return nil, fmt.Errorf("zone %q: not a name", name)
			}
			class := classService
			if isReverse(name) {
				class = classReverse
			}
			z, err := packZone(wire, class, rr)
			if err != nil {
				return nil, err
			}
			x.zones[wire] = z
		}
	}
	x.put(".", apex)
	return x, nil
}

// put replaces what giver has said so far. Nil takes all of it back. Names outside of the zones are left out: a Service
// may have an endpoint whose address is not the cluster's. So are those that are too long to be asked for.
func (x *index) put(giver string, records recordSet) {
	packed := x.pack(records)
	x.mu.Lock()
	defer x.mu.Unlock()
	before, known := x.given[giver]
	if !known {
		x.gifts++
		before.number = x.gifts
	}
	for name, sets := range packed {
		for i := range sets {
			sets[i].giver = before.number
		}
		x.set(name, before.number, sets)
	}
	for _, name := range before.names {
		if _, ok := packed[name]; !ok {
			x.set(name, before.number, nil)
		}
	}
	if len(packed) == 0 {
		delete(x.given, giver)
		return
	}
	x.given[giver] = gift{before.number, slices.AppendSeq(make([]string, 0, len(packed)), maps.Keys(packed))}
}

// pack makes records those of an index. It needs no lock: most of the work of a change is done while questions are answered.
func (x *index) pack(records recordSet) map[string][]rrset {
	packed := make(map[string][]rrset, len(records))
	for name, rrs := range records {
		wire, ok := wireName(name)
		if !ok {
			continue
		}
		if x.zone([]byte(wire)) == nil {
			continue
		}
		sets, err := rrsets(name, rrs, records)
		if err != nil {
			slog.Warn("leave a name out of dns", "name", name, "err", err)
			continue
		}
		packed[wire] = sets
	}
	return packed
}

// set replaces giver's sets at one name, unless they are what is there already. The lock is held.
func (x *index) set(name string, giver uint32, sets []rrset) {
	before := x.names[name]
	if before != nil && slices.Equal(before.sets, sets) {
		return
	}
	x.change(name, func(e *entry) {
		others := make([]rrset, 0, len(e.sets)+len(sets))
		for _, set := range e.sets {
			if set.giver != giver {
				others = append(others, set)
			}
		}
		e.sets = slices.Clip(append(others, sets...))
	})
}

// change replaces the entry at name by a copy that edit has changed. When the name begins or ceases to exist by it, the
// name above gains or loses one below, up to the top of the zone.
func (x *index) change(name string, edit func(*entry)) {
	before, existed := x.names[name]
	after := &entry{}
	if existed {
		*after = *before
	} else {
		after.zone = x.zone([]byte(name))
	}
	edit(after)
	delta := 0
	switch {
	case !after.empty():
		x.names[name] = after
		if !existed {
			delta = 1
		}
	case existed:
		delete(x.names, name)
		delta = -1
	}
	if _, top := x.zones[name]; delta != 0 && !top {
		x.change(parent(name), func(e *entry) { e.below += delta })
	}
}

// find returns what is at a name, nil if it does not exist.
func (x *index) find(name []byte) *entry {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.names[string(name)]
}

// zone returns the zone that a name lies in, nil if it is none of ours.
func (x *index) zone(name []byte) *zone {
	for ; len(name) > 1; name = parent(name) {
		if z, ok := x.zones[string(name)]; ok {
			return z
		}
	}
	return x.zones["\x00"]
}

// size is how many names there are.
func (x *index) size() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.names)
}
