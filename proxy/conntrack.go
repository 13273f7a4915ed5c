package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
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

// forget removes the connections that lead nowhere. It has a loop of its own: reading a long list must not delay the rules.
func (p *Proxy) forget(context.Context, string) (time.Duration, error) {
	p.mu.Lock()
	left, all := slices.Collect(maps.Keys(p.left)), p.leftUnseen || len(p.left) > manyLeft
	clear(p.left)
	p.leftUnseen = false
	p.mu.Unlock()
	if all {
		left = nil
	} else if len(left) == 0 {
		return 0, nil
	}
	n, err := forgetFlows(left, func(f flow) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.rules.stale(f)
	})
	if n > 0 {
		slog.Info("forgot connections to endpoints that are gone", "count", n)
	}
	if err != nil { // Next time look at all of them.
		p.mu.Lock()
		p.leftUnseen = true
		p.mu.Unlock()
	}
	return 0, err
}

// manyLeft is the number of addresses from which on it is quicker to read all connections once.
const manyLeft = 16

// forgetFlows removes from conntrack the flows that stale reports, and says how many. It looks at those that an endpoint with one of
// the addresses answers; nil means all, which takes many times as long.
func forgetFlows(answered []netip.Addr, stale func(flow) bool) (n int, err error) {
	if answered == nil {
		return forgetMatching(nil, stale)
	}
	for _, addr := range answered {
		some, err := forgetMatching(answeredBy(addr), stale)
		n += some
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func forgetMatching(filter []*nl.RtAttr, stale func(flow) bool) (n int, err error) {
	list := conntrackRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	for _, attr := range filter {
		list.AddData(attr)
	}
	entries, err := list.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // What came and went meanwhile was decided by the rules of now.
		return 0, fmt.Errorf("list connections: %w", err)
	}
	for _, entry := range entries {
		f, ok := parseFlow(entry)
		if !ok || !stale(f) {
			continue
		}
		remove := conntrackRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		remove.AddRawData(entry[nl.SizeofNfgenmsg:])
		switch _, err := remove.Execute(unix.NETLINK_NETFILTER, 0); {
		case err == nil:
			n++
		case !errors.Is(err, unix.ENOENT): // Ended by itself.
			return n, fmt.Errorf("remove a stale connection: %w", err)
		}
	}
	return n, nil
}

func conntrackRequest(operation, flags int) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(netlink.ConntrackTable<<8|operation, flags)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
	return request
}

// answeredBy has the kernel list only the connections that addr answers. Kernels before 5.8 do not know this and list all,
// which is right, too.
func answeredBy(addr netip.Addr) []*nl.RtAttr {
	const (
		filterAttribute = 25 // CTA_FILTER,
		replyFlags      = 2  // CTA_FILTER_REPLY_FLAGS, which is a mask of
		sourceAddress   = 1  // CTA_FILTER_FLAG(CTA_IP_SRC): package nl has none of them.
	)
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_REPLY, nil)
	tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(nl.CTA_IP_V4_SRC, addr.AsSlice())
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|filterAttribute, nil)
	filter.AddRtAttr(replyFlags, native(sourceAddress))
	return []*nl.RtAttr{tuple, filter}
}

// parseFlow reads what matters of an entry of conntrack; false if it is not about ports.
func parseFlow(entry []byte) (f flow, ok bool) {
	if len(entry) < nl.SizeofNfgenmsg {
		return flow{}, false
	}
	all := attributes(entry[nl.SizeofNfgenmsg:])
	asked, answered := attributes(all[nl.CTA_TUPLE_ORIG]), attributes(all[nl.CTA_TUPLE_REPLY])
	askedAddr, answeredAddr := attributes(asked[nl.CTA_TUPLE_IP]), attributes(answered[nl.CTA_TUPLE_IP])
	askedPort, answeredPort := attributes(asked[nl.CTA_TUPLE_PROTO]), attributes(answered[nl.CTA_TUPLE_PROTO])
	dst, ok1 := netip.AddrFromSlice(askedAddr[nl.CTA_IP_V4_DST])
	src, ok2 := netip.AddrFromSlice(answeredAddr[nl.CTA_IP_V4_SRC])
	proto, dstPort, srcPort := askedPort[nl.CTA_PROTO_NUM], askedPort[nl.CTA_PROTO_DST_PORT], answeredPort[nl.CTA_PROTO_SRC_PORT]
	if !ok1 || !ok2 || len(proto) != 1 || len(dstPort) != 2 || len(srcPort) != 2 {
		return flow{}, false
	}
	return flow{
		dialed: frontend{dst, protocol(proto[0]), binary.BigEndian.Uint16(dstPort)},
		answer: netip.AddrPortFrom(src, binary.BigEndian.Uint16(srcPort)),
	}, true
}

// attributes returns the netlink attributes in b by type; none if it is broken.
func attributes(b []byte) map[uint16][]byte {
	list, err := nl.ParseRouteAttr(b)
	if err != nil {
		return nil
	}
	byType := make(map[uint16][]byte, len(list))
	for _, a := range list {
		byType[a.Attr.Type&nl.NLA_TYPE_MASK] = a.Value
	}
	return byType
}
