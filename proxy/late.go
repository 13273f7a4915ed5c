package proxy

import (
	"encoding/binary"
	"fmt"
	"maps"
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

// The maps from an endpoint, a client and both their ports to the address and to the port that the client asked.
const (
	lateAddresses = "lateaddress4"
	latePorts     = "lateport4"
)

const (
	lateTime  = 2 * time.Second        // How long an answer is waited for.
	lateSlack = 100 * time.Millisecond // The kernel's clock is coarser.
	maxLate   = 20000                  // Connections for which that is done at a time.
)

func lateMaps() []string { return []string{lateAddresses, latePorts} }

// lateSet describes one of these maps. The number is needed within a batch only.
func (t *table) lateSet(name string, number int) *nftables.Set {
	s := &nftables.Set{Table: t.ref(), ID: uint32(number), Name: name, IsMap: true, HasTimeout: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeInetService),
		DataType: nftables.TypeIPAddr}
	if name == latePorts {
		s.DataType = nftables.TypeInetService
	}
	return s
}

func lateMapText(name string) string {
	data := "ipv4_addr"
	if name == latePorts {
		data = "inet_service"
	}
	return fmt.Sprintf("\tmap %s {\n\t\ttype ipv4_addr . ipv4_addr . inet_service . inet_service : %s\n\t\tflags timeout\n\t}\n", name, data)
}

// lateChain comes after the kernel's own translation: what that knows it does not find here. The rule loads the key once, before it
// writes the port that is a part of it; nft's language, in which the key comes twice, has no words for that.
func lateChain() chain {
	const key = "ip saddr . ip daddr . udp sport . udp dport"
	return chain{name: "late", hook: "type filter hook postrouting priority 150;", rules: []rule{{
		fmt.Sprintf("ct state new udp sport set %s map @%s ip saddr set %s map @%s", key, latePorts, key, lateAddresses),
		join(connectionIs(newConnection), isIPv4(), l4proto(reg(0)), equal(reg(0), byte(udp)),
			source(reg(0)), destination(reg(1)), sourcePort(reg(2)), port(reg(3)),
			lookup(latePorts, reg(0), reg(8)),
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg(8), Base: expr.PayloadBaseTransportHeader, Len: 2,
				CsumType: expr.CsumTypeInet, CsumOffset: 6},
			lookup(lateAddresses, reg(0), reg(8)),
			&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg(8), Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4,
				CsumType: expr.CsumTypeInet, CsumOffset: 10, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR}),
	}}}
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
	var addresses, ports []nftables.SetElement
	fresh := map[lateKey]bool{}
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
		addresses = append(addresses, nftables.SetElement{Key: key[:], Val: f.dialed.addr.AsSlice(), Timeout: lateTime})
		ports = append(ports, nftables.SetElement{Key: key[:], Val: binary.BigEndian.AppendUint16(nil, f.dialed.port), Timeout: lateTime})
	}
	for name, elements := range map[string][]nftables.SetElement{lateAddresses: addresses, latePorts: ports} {
		for first := 0; first < len(elements); first += chunk {
			if err := conn.SetAddElements(t.lateSet(name, 0), elements[first:min(first+chunk, len(elements))]); err != nil {
				return fmt.Errorf("add to map %s: %w", name, err)
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

// A lateKey is what the kernel has in the maps, each part padded to four bytes.
type lateKey [16]byte

func (f flow) lateKey() (key lateKey) {
	endpoint, client := f.answer.Addr().As4(), f.client.Addr().As4()
	copy(key[0:], endpoint[:])
	copy(key[4:], client[:])
	binary.BigEndian.PutUint16(key[8:], f.answer.Port())
	binary.BigEndian.PutUint16(key[12:], f.client.Port())
	return key
}
