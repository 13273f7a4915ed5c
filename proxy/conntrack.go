package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
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
	client netip.AddrPort // As the endpoint sees it. Invalid if that is not the client itself, but a node in its place.
}

// stale reports whether f goes where the Ruleset would not send it: for UDP to whatever gets no new connections,
// for TCP and SCTP, which have a state to lose, only to an endpoint that no longer exists. local are the node's own addresses.
func (r *Ruleset) stale(f flow, local map[netip.Addr]bool) bool {
	translated := f.answer != netip.AddrPortFrom(f.dialed.addr, f.dialed.port)
	k := f.dialed.key()
	_, ok := r.elements[k]
	if !ok && (translated || local[f.dialed.addr]) { // Not the address of a Service: then a port of the node.
		k.addr = familyOf(k.addr).anywhere()
		_, ok = r.elements[k]
	}
	switch {
	case !ok: // Nobody's: what was translated to a pod, or from an address of the range, was a Service's or a pod's that is gone.
		pods := familyOf(k.addr).rangeOf(r.config.ClusterCIDR)
		return translated && (pods.Contains(f.answer.Addr()) || within(r.ranges, f.dialed.addr)) &&
			(f.dialed.proto == udp || r.gone(f.answer))
	case f.dialed.proto != udp:
		return translated && r.gone(f.answer)
	}
	for _, in := range []mapKind{services, outsiders} {
		first, n := r.elements[k.of(in)].value.choice.slots()
		for slot := first; slot < first+n; slot++ {
			if r.elements[k.of(endpoints).withSlot(slot)].value.target == f.answer {
				return false
			}
		}
	}
	return true
}

// gone reports whether nothing says any more that there is such an endpoint: neither a Service nor, where pods are known, a pod.
func (r *Ruleset) gone(endpoint netip.AddrPort) bool {
	return r.alive[endpoint] == 0 && r.policies.addresses[endpoint.Addr()] == 0
}

// suspects is what forget has to look at.
type suspects struct {
	left   map[netip.Addr]bool // Connections that these addresses answer: they are no endpoints of something any more.
	opened map[frontend]bool   // Connections to these, which may have gone to the node itself before.
	all    bool                // Something changed while nobody looked.
}

func (s *suspects) any() bool { return s.all || len(s.left)+len(s.opened) > 0 }

// has tells whether a connection is one of them.
func (s *suspects) has(f flow) bool {
	port := f.dialed
	port.addr = familyOf(port.addr).anywhere()
	return s.all || s.left[f.answer.Addr()] || s.opened[f.dialed] || s.opened[port]
}

// add notes what the change of elements has made suspect.
func (s *suspects) add(d diff, died []netip.Addr) {
	if s.left == nil {
		s.left, s.opened = map[netip.Addr]bool{}, map[frontend]bool{}
	}
	for _, addr := range died {
		s.left[addr] = true
	}
	removed := map[key]bool{}
	for _, e := range d.remove {
		removed[e.key] = e.in == services
		if e.target.IsValid() { // A frontend has it no longer, or in another slot.
			s.left[e.target.Addr()] = true
		}
	}
	for _, e := range d.add {
		if e.in == services && e.proto == udp && !removed[e.key] {
			s.opened[frontend{e.addr, e.proto, e.port}] = true
		}
	}
}

// forget removes the connections that lead nowhere, and tells up to which revision none leads to an endpoint that is gone. It has
// a loop of its own: reading a long list must not delay the rules.
func (p *Proxy) forget(ctx context.Context, _ string) (time.Duration, error) {
	p.mu.Lock()
	s, told := p.suspects, p.told
	p.suspects = suspects{}
	p.mu.Unlock()
	if s.any() {
		n, err := p.forgetSuspects(ctx, s)
		p.metrics.forgotten.Add(float64(n))
		if n > 0 {
			slog.Info("forgot connections to endpoints that are gone", "count", n)
		}
		if err != nil { // Next time look at all of them.
			p.mu.Lock()
			p.suspects.all = true
			p.mu.Unlock()
			return 0, err
		}
	}
	if p.took != nil && told > 0 {
		p.took(told)
	}
	return 0, nil
}

// lastAnswers is how long an endpoint has for the datagrams that came just before it left.
const lastAnswers = 50 * time.Millisecond

// forgetSuspects forgets the stale ones. Of UDP the answers that are on their way come through.
func (p *Proxy) forgetSuspects(ctx context.Context, s suspects) (n int, err error) {
	local, err := localAddresses()
	if err != nil {
		return 0, err
	}
	stale := func(f flow) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.rules.stale(f, local)
	}
	expected, found := map[flow]bool{}, false
	answered := func(f flow) bool { return f.dialed.proto == udp && f.client.IsValid() && stale(f) }
	_, err = forgetFlows(s, func(f flow) bool {
		if answered(f) {
			expected[f] = true
		}
		found = found || stale(f)
		return false
	})
	if err != nil || !found {
		return 0, err
	}
	p.expect(slices.Collect(maps.Keys(expected)))
	n, err = forgetAll(func() (int, error) {
		return forgetFlows(s, func(f flow) bool {
			if answered(f) && !expected[f] { // It has come since, or the kernel's list had a hole.
				expected[f] = true
				p.expect([]flow{f})
			}
			return stale(f)
		})
	})
	if err == nil && len(expected) > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(lastAnswers):
		}
	}
	return n, err
}

func (p *Proxy) expect(late []flow) {
	if len(late) == 0 {
		return
	}
	if err := p.kernel.expect(late); err != nil {
		slog.Warn("some answers by UDP may not find their way", "err", err)
	}
}

// mostPasses bounds how often the connections are looked through for stale ones.
const mostPasses = 5

// forgetAll repeats a pass until it finds nothing more: a packet that was under way by the old rules becomes a connection after
// the list was read, and nothing would make it suspect again.
func forgetAll(pass func() (int, error)) (n int, err error) {
	for range mostPasses {
		some, err := pass()
		n += some
		if err != nil || some == 0 {
			return n, err
		}
	}
	return n, nil
}

// localAddresses returns the node's own, but for loopback.
func localAddresses() (map[netip.Addr]bool, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	local := map[netip.Addr]bool{}
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && !addr.IsLoopback() {
			local[addr.Unmap()] = true
		}
	}
	return local, nil
}

// manySuspects is the number from which on it is quicker to read all connections once; a list of so many connections takes as long to
// read as the kernel takes to look for those of one suspect, for which it goes through the whole of its table, however empty.
const (
	manySuspects = 16
	cheapList    = 1000
)

// forgetFlows removes from conntrack the suspects that are stale, and says how many. Where there are many connections, to look at all takes
// many times as long as to look at some.
func forgetFlows(s suspects, stale func(flow) bool) (n int, err error) {
	for _, which := range s.filters() {
		some, err := forgetMatching(which, func(f flow) bool { return s.has(f) && stale(f) })
		n += some
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// filters returns what the kernel has to be asked for.
func (s *suspects) filters() []filter {
	count := len(s.left) + len(s.opened)
	there, known := connections()
	switch {
	case known && there == 0:
		return nil
	case s.all || count > manySuspects || known && there < cheapList*(count-1):
		return []filter{{family: unix.AF_UNSPEC}}
	}
	var filters []filter
	six := false
	for addr := range s.left {
		if six = six || addr.Is6(); addr.Is4() {
			filters = append(filters, answeredBy(addr))
		}
	}
	for f := range s.opened {
		if six = six || f.addr.Is6(); f.addr.Is4() {
			filters = append(filters, dialed(f))
		}
	}
	if six { // The kernel (6.18) lists what a filter with an address of IPv6 does not mean, and leaves out what it does.
		filters = append(filters, filter{family: unix.AF_INET6})
	}
	return filters
}

// connections is how many conntrack has of this network namespace.
func connections() (n int, known bool) {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
	if err != nil {
		return 0, false
	}
	n, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return n, err == nil
}

// A filter says which connections the kernel is asked for.
type filter struct {
	family     uint8 // As sockets number it; AF_UNSPEC is both.
	attributes []*nl.RtAttr
}

func forgetMatching(which filter, stale func(flow) bool) (n int, err error) {
	list := conntrackRequest(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, which.family)
	for _, attr := range which.attributes {
		list.AddData(attr)
	}
	entries, err := list.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) { // What came and went meanwhile was decided by the rules of now.
		return 0, fmt.Errorf("list connections: %w", err)
	}
	socket := &nl.SocketHandle{} // One for all: to close one takes the kernel longer than everything else.
	defer socket.Close()
	for _, entry := range entries {
		f, ok := parseFlow(entry)
		if !ok || !stale(f) {
			continue
		}
		if socket.Socket == nil {
			if socket.Socket, err = nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER); err != nil {
				return n, fmt.Errorf("dial conntrack: %w", err)
			}
		}
		remove := conntrackRequest(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, entry[0])
		remove.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: socket}
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

func conntrackRequest(operation, flags int, family uint8) *nl.NetlinkRequest {
	request := nl.NewNetlinkRequest(netlink.ConntrackTable<<8|operation, flags)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return request
}

// Parts of the filter with which the kernel is asked for some connections only: package nl has none of them. Kernels before 5.8 do
// not know it and list all, which is right, too.
const (
	filterAttribute = 25 // CTA_FILTER,
	originalFlags   = 1  // CTA_FILTER_ORIG_FLAGS and
	replyFlags      = 2  // CTA_FILTER_REPLY_FLAGS, which are masks of
	bySource        = 1 << 0
	byDestination   = 1 << 1
	byProtocol      = 1 << 3
	byPort          = 1 << 5 // Of the destination.
)

// answeredBy filters the connections that addr, of IPv4, answers.
func answeredBy(addr netip.Addr) filter {
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_REPLY, nil)
	tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(nl.CTA_IP_V4_SRC, addr.AsSlice())
	return filter{unix.AF_INET, []*nl.RtAttr{tuple, filterOf(replyFlags, bySource)}}
}

// dialed filters the connections to f, of IPv4.
func dialed(f frontend) filter {
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	flags := uint32(byProtocol | byPort)
	if !f.addr.IsUnspecified() {
		tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(nl.CTA_IP_V4_DST, f.addr.AsSlice())
		flags |= byDestination
	}
	proto := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{byte(f.proto)})
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, f.port))
	return filter{unix.AF_INET, []*nl.RtAttr{tuple, filterOf(originalFlags, flags)}}
}

func filterOf(side int, flags uint32) *nl.RtAttr {
	filter := nl.NewRtAttr(unix.NLA_F_NESTED|filterAttribute, nil)
	filter.AddRtAttr(side, native(flags))
	return filter
}

// parseFlow reads what matters of an entry of conntrack; false if it is not about ports.
func parseFlow(entry []byte) (f flow, ok bool) {
	if len(entry) < nl.SizeofNfgenmsg {
		return flow{}, false
	}
	source, destination := uint16(nl.CTA_IP_V4_SRC), uint16(nl.CTA_IP_V4_DST)
	if entry[0] == unix.AF_INET6 {
		source, destination = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	all := attributes(entry[nl.SizeofNfgenmsg:])
	asked, answered := attributes(all[nl.CTA_TUPLE_ORIG]), attributes(all[nl.CTA_TUPLE_REPLY])
	askedAddr, answeredAddr := attributes(asked[nl.CTA_TUPLE_IP]), attributes(answered[nl.CTA_TUPLE_IP])
	askedPort, answeredPort := attributes(asked[nl.CTA_TUPLE_PROTO]), attributes(answered[nl.CTA_TUPLE_PROTO])
	dst, ok1 := netip.AddrFromSlice(askedAddr[destination])
	src, ok2 := netip.AddrFromSlice(answeredAddr[source])
	askedSrc, _ := netip.AddrFromSlice(askedAddr[source])
	proto, dstPort, srcPort := askedPort[nl.CTA_PROTO_NUM], askedPort[nl.CTA_PROTO_DST_PORT], answeredPort[nl.CTA_PROTO_SRC_PORT]
	if !ok1 || !ok2 || len(proto) != 1 || len(dstPort) != 2 || len(srcPort) != 2 {
		return flow{}, false
	}
	f = flow{
		dialed: frontend{dst, protocol(proto[0]), binary.BigEndian.Uint16(dstPort)},
		answer: netip.AddrPortFrom(src, binary.BigEndian.Uint16(srcPort)),
	}
	client, _ := netip.AddrFromSlice(answeredAddr[destination])
	if port := answeredPort[nl.CTA_PROTO_DST_PORT]; client.IsValid() && client == askedSrc && len(port) == 2 {
		f.client = netip.AddrPortFrom(client, binary.BigEndian.Uint16(port))
	}
	return f, true
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
