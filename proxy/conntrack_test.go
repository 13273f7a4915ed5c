package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// trackedFlow puts a connection into the kernel's table.
func trackedFlow(t testing.TB, proto protocol, client, dialed, answer netip.AddrPort) {
	t.Helper()
	ip := func(a netip.AddrPort) net.IP { return a.Addr().AsSlice() }
	must(t, netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, &netlink.ConntrackFlow{
		FamilyType: unix.AF_INET, TimeOut: 100,
		Forward: netlink.IPTuple{SrcIP: ip(client), SrcPort: client.Port(), DstIP: ip(dialed), DstPort: dialed.Port(), Protocol: uint8(proto)},
		Reverse: netlink.IPTuple{SrcIP: ip(answer), SrcPort: answer.Port(), DstIP: ip(client), DstPort: client.Port(), Protocol: uint8(proto)},
	}))
}

// TestForget removes some of four connections, each to another address.
func TestForget(t *testing.T) {
	requireRoot(t)
	flows := []string{"10.42.0.1:80", "10.42.0.2:80", "10.42.0.3:80", "10.42.0.4:80"}
	for _, tc := range []struct {
		name     string
		answered []netip.Addr
		stale    []string
		want     []string // Left.
	}{
		{"all are looked at", nil, flows[:2], flows[2:]},
		{"one address is looked at", []netip.Addr{netip.MustParseAddr("10.42.0.2")}, flows[:2], []string{flows[0], flows[2], flows[3]}},
		{"what is not stale stays", []netip.Addr{netip.MustParseAddr("10.42.0.3"), netip.MustParseAddr("10.42.0.1")}, flows[:2], flows[1:]},
		{"an address without connections", []netip.Addr{netip.MustParseAddr("10.42.0.9")}, flows, flows},
	} {
		t.Run(tc.name, func(t *testing.T) {
			must(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
			t.Cleanup(func() { must(t, netlink.ConntrackTableFlush(netlink.ConntrackTable)) })
			for _, f := range flows {
				trackedFlow(t, udp, netip.MustParseAddrPort("10.42.0.20:5000"), netip.MustParseAddrPort("10.43.0.8"+f[8:9]+":53"), netip.MustParseAddrPort(f))
			}
			n, err := forgetFlows(tc.answered, func(f flow) bool {
				if want := (frontend{netip.MustParseAddr("10.43.0.8" + f.answer.String()[8:9]), udp, 53}); f.dialed != want {
					t.Errorf("flow to %s: dialed %+v, want %+v", f.answer, f.dialed, want)
				}
				return slices.Contains(tc.stale, f.answer.String())
			})
			must(t, err)
			var left []string
			_, err = forgetFlows(nil, func(f flow) bool { left = append(left, f.answer.String()); return false })
			must(t, err)
			slices.Sort(left)
			if diff := cmp.Diff(tc.want, left); diff != "" || n != len(flows)-len(tc.want) {
				t.Errorf("forgot %d; left (-want +got):\n%s", n, diff)
			}
		})
	}
}

// BenchmarkForget looks for stale connections among 50,000, of which one endpoint answers one in a hundred.
func BenchmarkForget(b *testing.B) {
	requireRoot(b)
	b.Cleanup(func() { must(b, netlink.ConntrackTableFlush(netlink.ConntrackTable)) })
	for i := range 50000 {
		client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 44, byte(i >> 8), byte(i)}), 5000)
		answer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, 0, byte(i % 100)}), 53)
		trackedFlow(b, udp, client, netip.MustParseAddrPort("10.43.0.80:53"), answer)
	}
	for name, answered := range map[string][]netip.Addr{"one": {netip.MustParseAddr("10.42.0.1")}, "all": nil} {
		b.Run(fmt.Sprint("answered by ", name), func(b *testing.B) {
			for b.Loop() {
				_, err := forgetFlows(answered, func(flow) bool { return false })
				must(b, err)
			}
		})
	}
}
