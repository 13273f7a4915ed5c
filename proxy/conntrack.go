package proxy

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel translates the packets of a connection the way its first one was, whatever the rules say since. For a
// connection to an endpoint that is gone that means: UDP goes on into the void for as long as the client keeps sending, and
// TCP hangs until the client gives up. Forgetting the connection mends both: the next datagram finds a live endpoint, and the
// next segment of a TCP connection is answered with a reset.

// A flow is a connection as conntrack knows it: what the client addressed, and who answers.
type flow struct {
	dialed frontend
	answer netip.AddrPort
}

// stale reports whether f goes where the Ruleset would not send it: for UDP to an endpoint that gets no new connections,
// for TCP and SCTP, which have a state to lose, only to one that no longer exists.
func (r *Ruleset) stale(f flow) bool {
	k := f.dialed.key()
	_, ok := r.elements[k]
	if !ok && f.answer != netip.AddrPortFrom(f.dialed.addr, f.dialed.port) {
		// Not the address of a Service: then a port of the node, if the connection was translated at all.
		k.addr = netip.IPv4Unspecified()
		_, ok = r.elements[k]
	}
	if !ok {
		return false
	}
	if f.dialed.proto != udp {
		return r.alive[f.answer] == 0
	}
	for _, in := range []string{services, outsiders} {
		first, n := r.elements[k.of(in)].value.choice.slots()
		for slot := first; slot < first+n; slot++ {
			if r.elements[k.of(endpoints).withSlot(slot)].value.target == f.answer {
				return false
			}
		}
	}
	return true
}

// forget removes from conntrack the flows that stale reports, and says how many.
func forget(stale func(flow) bool) (uint, error) {
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, flowFilter(stale))
	if err != nil {
		return n, fmt.Errorf("remove stale connections: %w", err)
	}
	return n, nil
}

// flowFilter is a function as the interface that package netlink asks for.
type flowFilter func(flow) bool

// MatchConntrackFlow implements [netlink.CustomConntrackFilter].
func (stale flowFilter) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	dst, ok1 := netip.AddrFromSlice(c.Forward.DstIP)
	src, ok2 := netip.AddrFromSlice(c.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	return stale(flow{
		dialed: frontend{dst.Unmap(), protocol(c.Forward.Protocol), c.Forward.DstPort},
		answer: netip.AddrPortFrom(src.Unmap(), c.Reverse.SrcPort),
	})
}
