package proxy

import (
	"net/netip"
	"slices"
)

// lastOf returns the last address of a range.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}

// rangeText writes a range of addresses as nft does. One of a single address may have no last.
func rangeText(first, last netip.Addr) string {
	if !last.IsValid() || first == last {
		return first.String()
	}
	for bits := range first.BitLen() {
		if p := netip.PrefixFrom(first, bits); p.Masked() == p && lastOf(p) == last {
			return p.String()
		}
	}
	return first.String() + "-" + last.String()
}

func prefixText(p netip.Prefix) string { return rangeText(p.Masked().Addr(), lastOf(p)) }

// A span is a range of addresses that need not be a prefix.
type span struct{ first, last netip.Addr }

// cut returns what is left of a range without others.
func cut(whole netip.Prefix, without []netip.Prefix) []span {
	var left []span
	holes := widest(without)
	slices.SortFunc(holes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	next, last := whole.Masked().Addr(), lastOf(whole)
	for _, hole := range holes {
		if !whole.Overlaps(hole) {
			continue
		}
		if hole.Addr().Compare(next) > 0 {
			left = append(left, span{next, hole.Addr().Prev()})
		}
		if next = lastOf(hole).Next(); !next.IsValid() || next.Compare(last) > 0 {
			return left
		}
	}
	return append(left, span{next, last})
}

// A mixture is a range of addresses, all of which are in the same of several lists of spans.
type mixture struct {
	span
	in []int // Numbers of the lists, ascending.
}

// mix cuts overlapping spans into ranges that do not overlap. What is in no list is in no range.
func mix(lists [][]span) []mixture {
	type edge struct {
		at   netip.Addr // Invalid: behind the last address.
		list int
		step int
	}
	var edges []edge
	for i, spans := range lists {
		for _, s := range spans {
			edges = append(edges, edge{s.first, i, 1}, edge{s.last.Next(), i, -1})
		}
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at.IsValid() != b.at.IsValid() {
			return compareBool(b.at.IsValid(), a.at.IsValid())
		}
		return a.at.Compare(b.at)
	})
	var all []mixture
	depth, open := make([]int, len(lists)), []int{}
	for i, e := range edges {
		if i > 0 && edges[i-1].at != e.at && len(open) > 0 {
			from, last := edges[i-1].at, e.at.Prev()
			if !e.at.IsValid() {
				last = lastOf(netip.PrefixFrom(from, 0))
			}
			all = appendMixture(all, mixture{span{from, last}, slices.Clone(open)})
		}
		depth[e.list] += e.step
		at, there := slices.BinarySearch(open, e.list)
		switch {
		case depth[e.list] > 0 && !there:
			open = slices.Insert(open, at, e.list)
		case depth[e.list] == 0 && there:
			open = slices.Delete(open, at, at+1)
		}
	}
	return all
}

// appendMixture makes one of two that follow each other and are the same.
func appendMixture(all []mixture, m mixture) []mixture {
	if n := len(all) - 1; n >= 0 && slices.Equal(all[n].in, m.in) && all[n].last.Next() == m.first {
		all[n].last = m.last
		return all
	}
	return append(all, m)
}
