package dns

import (
	"slices"
	"sync"

	"github.com/miekg/dns"
)

// index knows all names of the zones, and what is at each. It is made of what givers (a Service, a Namespace) put into
// it; a change costs what that giver has, not what the index holds.
//
// An entry is never changed once it is in the map, only replaced: who found one may keep and read it without the lock.
type index struct {
	mu    sync.RWMutex
	names map[string]*entry    // By lower-case name with its dot.
	given map[string]recordSet // By giver: what it put last.
	zones map[string]dns.RR    // The SOA record of each zone, by its name. Does not change.
}

// entry is a name that exists: somebody gave it, or there are names below it.
type entry struct {
	parts []part   // By giver; nearly always one.
	rrs   []dns.RR // Those of all parts.
	below int      // How many names exist one label below.
}

type part struct {
	giver string
	rrs   []dns.RR
}

func (e *entry) empty() bool { return len(e.parts) == 0 && e.below == 0 }

// of returns the records of one type, or all for the type ANY.
func (e *entry) of(rrtype uint16) []dns.RR {
	if rrtype == dns.TypeANY {
		return slices.Clone(e.rrs)
	}
	var found []dns.RR
	for _, rr := range e.rrs {
		if rr.Header().Rrtype == rrtype {
			found = append(found, rr)
		}
	}
	return found
}

// newIndex makes an index of the zones whose SOA records are among apex.
func newIndex(apex recordSet) *index {
	x := &index{names: map[string]*entry{}, given: map[string]recordSet{}, zones: map[string]dns.RR{}}
	for name, rrs := range apex {
		for _, rr := range rrs {
			if rr.Header().Rrtype == dns.TypeSOA {
				x.zones[name] = rr
			}
		}
	}
	x.put(".", apex)
	return x
}

// put replaces what giver has said so far. Nil takes all of it back. Names outside of the zones are left out: a Service
// may have an endpoint whose address is not the cluster's. The records belong to the index from now on.
func (x *index) put(giver string, records recordSet) {
	x.mu.Lock()
	defer x.mu.Unlock()
	kept := recordSet{}
	for name, rrs := range records {
		if _, ok := x.zone(name); ok {
			kept[name] = rrs
			x.set(name, giver, &part{giver, rrs})
		}
	}
	for name := range x.given[giver] {
		if _, ok := kept[name]; !ok {
			x.set(name, giver, nil)
		}
	}
	if len(kept) == 0 {
		delete(x.given, giver)
		return
	}
	x.given[giver] = kept
}

// set replaces giver's part of one name. The lock is held.
func (x *index) set(name, giver string, new *part) {
	x.change(name, func(e *entry) {
		e.parts = slices.DeleteFunc(slices.Clone(e.parts), func(p part) bool { return p.giver == giver })
		if new != nil {
			e.parts = append(e.parts, *new)
		}
		e.rrs = nil
		for _, p := range e.parts {
			e.rrs = append(e.rrs, p.rrs...)
		}
	})
}

// change replaces the entry at name by a copy that edit has changed. When the name begins or ceases to exist by it, the
// name above gains or loses one below, up to the top of the zone.
func (x *index) change(name string, edit func(*entry)) {
	before, existed := x.names[name]
	after := &entry{}
	if existed {
		*after = *before
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

// find returns what is at a lower-case name, nil if it does not exist.
func (x *index) find(name string) *entry {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.names[name]
}

// zone returns the SOA record of the zone that a lower-case name lies in; false if it is none of ours.
func (x *index) zone(name string) (soa dns.RR, ok bool) {
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if soa, ok = x.zones[name[off:]]; ok {
			return soa, true
		}
	}
	return nil, false
}

// parent is name without its first label.
func parent(name string) string {
	off, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[off:]
}
