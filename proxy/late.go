package proxy

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A connection by UDP that is forgotten may have an answer on its way, which the kernel would no longer translate back: the client
// would get it from an address that it never asked, and drop it. So the address that it asked is noted for a while, and a rule
// of its own writes it into answers that nobody has translated. The next datagram of the client opens a new connection. To the kernel
// a late answer is the first packet of a connection that the endpoint opens: what answers another packet of the client, which may
// talk to the endpoint's own address from the same port, is none.

// A lateMap leads from an endpoint, a client and both their ports to the address, or to the port, that the client asked.
type lateMap struct {
	family family
	ports  bool
}

func lateMaps(f family) []lateMap { return []lateMap{{f, false}, {f, true}} }

func (m lateMap) name() string {
	if m.ports {
		return m.family.named("lateport")
	}
	return m.family.named("lateaddress")
}

const (
	lateTime  = 2 * time.Second        // How long an answer is waited for.
	lateSlack = 100 * time.Millisecond // The kernel's clock is coarser.
	maxLate   = 20000                  // Connections for which that is done at a time.
)

// set describes the map to the kernel. The number is needed within a batch only.
func (m lateMap) set(t *nftables.Table, number int) *nftables.Set {
	addr, port := m.family.datatype(), nftables.TypeInetService
	s := &nftables.Set{Table: t, ID: uint32(number), Name: m.name(), IsMap: true, HasTimeout: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(addr, addr, port, port), DataType: addr}
	if m.ports {
		s.DataType = port
	}
	return s
}

func (m lateMap) text() string {
	addr := m.family.addressType()
	data := addr
	if m.ports {
		data = "inet_service"
	}
	return fmt.Sprintf("\tmap %s {\n\t\ttype %[2]s . %[2]s . inet_service . inet_service : %[3]s\n\t\tflags timeout\n\t}\n", m.name(), addr, data)
}

// translateLate comes after the kernel's own translation: what that knows it does not find here. The rule loads the key once, before it
// writes the port that is a part of it; nft's language, in which the key comes twice, has no words for that.
func translateLate(f family) rule {
	addresses, ports, words := lateMap{f, false}.name(), lateMap{f, true}.name(), f.words()
	key := fmt.Sprintf("%[1]s saddr . %[1]s daddr . udp sport . udp dport", f.header())
	return rule{
		fmt.Sprintf("ct state new udp sport set %s map @%s %s saddr set %s map @%s", key, ports, f.header(), key, addresses),
		join(connectionIs(newConnection), f.is(), l4proto(reg(0)), equal(reg(0), byte(udp)),
			f.source(reg(0)), f.destination(reg(words)), sourcePort(reg(2*words)), port(reg(2*words+1)),
			lookup(ports),
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: result(), Base: expr.PayloadBaseTransportHeader, Len: 2,
				CsumType: expr.CsumTypeInet, CsumOffset: 6},
			lookup(addresses),
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: result(), Base: expr.PayloadBaseNetworkHeader,
				Offset: f.sourceOffset(), Len: uint32(f.width()),
				CsumType: expr.CsumTypeInet, CsumOffset: f.headerSum(), CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR}),
	}
}

// headerSum is where the header has its checksum. That of IPv6 has none, but package expr corrects UDP's sum, in which the address is,
// only together with one of the header: it is let loose on the flow label, which means nothing in an answer by UDP.
func (f family) headerSum() uint32 {
	if f == ipv6 {
		return 2
	}
	return 10
}

// expect has late answers of these connections translated.
func (t *table) expect(late []flow) (err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.closeOnError(&err)
	conn, err := t.dial()
	if err != nil {
		return err
	}
	now := time.Now()
	maps.DeleteFunc(t.late, func(_ lateKey, until time.Time) bool { return until.Before(now) })
	fresh := map[lateKey]bool{}
	elements := map[lateMap][]nftables.SetElement{}
	for _, f := range late {
		key := f.lateKey()
		// The client may ask two addresses of one endpoint from one port. The kernel refuses a batch with another value for a key.
		if _, there := t.late[key]; there || fresh[key] {
			continue
		}
		if len(t.late)+len(fresh) == maxLate {
			break
		}
		fresh[key] = true
		for _, m := range lateMaps(familyOf(f.dialed.addr)) {
			elements[m] = append(elements[m], nftables.SetElement{Key: key.bytes(), Val: m.value(f.dialed), Timeout: lateTime})
		}
	}
	for m, all := range elements {
		for part := range slices.Chunk(all, chunk) {
			if err := conn.SetAddElements(m.set(t.ref(), 0), part); err != nil {
				return fmt.Errorf("add to map %s: %w", m.name(), err)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("expect answers of %d connections: %w", len(fresh), err)
	}
	if t.late == nil {
		t.late = map[lateKey]time.Time{}
	}
	until := time.Now().Add(lateTime + lateSlack)
	for key := range fresh {
		t.late[key] = until
	}
	return nil
}

func (m lateMap) value(dialed frontend) []byte {
	if m.ports {
		return binary.BigEndian.AppendUint16(nil, dialed.port)
	}
	return dialed.addr.AsSlice()
}

// A lateKey is the key of an element of these maps.
type lateKey struct{ endpoint, client netip.AddrPort }

func (f flow) lateKey() lateKey { return lateKey{f.answer, f.client} }

// bytes encodes the key for the kernel, each part padded to four bytes.
func (k lateKey) bytes() []byte {
	b := appendAddress(appendAddress(nil, k.endpoint.Addr()), k.client.Addr())
	for _, port := range []uint16{k.endpoint.Port(), k.client.Port()} {
		b = append(binary.BigEndian.AppendUint16(b, port), 0, 0)
	}
	return b
}
