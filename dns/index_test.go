package dns

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// However an index came to what its givers say now, it is the same as one that was told only that. So no change can leave
// a name behind or take one away too early.
func TestIndexDoesNotDependOnItsHistory(t *testing.T) {
	apex := apexRecords("cluster.local.", []string{"43.10.in-addr.arpa."}, []netip.Addr{netip.MustParseAddr("10.43.0.10")}, 1, PodsInsecure)
	seed := rand.Uint64()
	chance := rand.New(rand.NewPCG(seed, 0))
	walked, now := newTestIndex(t, apex), map[string]recordSet{}
	for step := range 2000 {
		giver := fmt.Sprint("giver", chance.IntN(5))
		now[giver] = randomRecords(chance)
		if chance.IntN(4) == 0 {
			now[giver] = nil
		}
		walked.put(giver, now[giver])
		if step%50 != 0 {
			continue
		}
		fresh := newTestIndex(t, apex)
		for giver, records := range now {
			fresh.put(giver, records)
		}
		if diff := cmp.Diff(indexText(fresh), indexText(walked)); diff != "" {
			t.Fatalf("seed %d, step %d (-told at once +changed bit by bit):\n%s", seed, step, diff)
		}
	}
	for giver := range now {
		walked.put(giver, nil)
	}
	if diff := cmp.Diff(indexText(newTestIndex(t, apex)), indexText(walked)); diff != "" {
		t.Errorf("seed %d: what is left when all is taken back (-want +got):\n%s", seed, diff)
	}
	if len(walked.given) != 1 {
		t.Errorf("seed %d: %d givers are remembered, want the apex alone", seed, len(walked.given))
	}
}

// randomRecords are of few names, so that givers meet at them, some deep below others, some outside.
func randomRecords(chance *rand.Rand) recordSet {
	names := []string{"a.svc.cluster.local.", "b.a.svc.cluster.local.", "_x._tcp.b.a.svc.cluster.local.", "deep.c.d.svc.cluster.local.",
		"c.d.svc.cluster.local.", "1.0.43.10.in-addr.arpa.", "1.0.44.10.in-addr.arpa.", "cluster.local."}
	records := recordSet{}
	for range chance.IntN(4) {
		name := names[chance.IntN(len(names))]
		if chance.IntN(3) == 0 {
			records[name] = nil
			continue
		}
		records.add(addressRecord(name, netip.AddrFrom4([4]byte{10, 43, 0, byte(chance.IntN(9))})))
	}
	return records
}

// indexText is every name with what is at it, one a line.
func indexText(x *index) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(x.names)) {
		e := x.names[name]
		var rrs []string
		for _, rr := range e.of(name, dns.TypeANY) {
			rrs = append(rrs, rr.String())
		}
		slices.Sort(rrs)
		var givers []uint32
		for _, set := range e.sets {
			givers = append(givers, set.giver)
		}
		slices.Sort(givers)
		givers = slices.Compact(givers)
		lines = append(lines, fmt.Sprintf("%s givers=%d below=%d %s", textName(name), len(givers), e.below, strings.Join(rrs, " | ")))
	}
	return lines
}

func newTestIndex(t testing.TB, apex recordSet) *index {
	t.Helper()
	x, err := newIndex(apex)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestReverseZones(t *testing.T) {
	for _, tc := range []struct {
		prefixes string
		want     string
	}{
		{"10.42.0.0/16", "42.10.in-addr.arpa."},
		{"10.42.7.9/16", "42.10.in-addr.arpa."},
		{"10.43.0.0/24 10.43.0.0/24", "0.43.10.in-addr.arpa."},
		{"10.96.0.0/14", "96.10.in-addr.arpa. 97.10.in-addr.arpa. 98.10.in-addr.arpa. 99.10.in-addr.arpa."},
		{"192.168.1.254/31", "254.1.168.192.in-addr.arpa. 255.1.168.192.in-addr.arpa."},
		{"192.168.1.1/32", "1.1.168.192.in-addr.arpa."},
		{"0.0.0.0/0", "in-addr.arpa."},
		{"fd00:42::/32", "2.4.0.0.0.0.d.f.ip6.arpa."},
		{"fd00:42::/30", "0.4.0.0.0.0.d.f.ip6.arpa. 1.4.0.0.0.0.d.f.ip6.arpa. 2.4.0.0.0.0.d.f.ip6.arpa. 3.4.0.0.0.0.d.f.ip6.arpa."},
		{"", ""},
	} {
		var prefixes []netip.Prefix
		for _, text := range strings.Fields(tc.prefixes) {
			prefixes = append(prefixes, netip.MustParsePrefix(text))
		}
		if got := strings.Join(reverseZones(prefixes), " "); got != tc.want {
			t.Errorf("%q:\n got %s\nwant %s", tc.prefixes, got, tc.want)
		}
	}
}

// Ten thousand Services make an index quickly, and one change does not cost what ten thousand do.
func BenchmarkIndexChange(b *testing.B) {
	apex := apexRecords("cluster.local.", []string{"43.10.in-addr.arpa."}, []netip.Addr{netip.MustParseAddr("10.43.0.10")}, 1, PodsInsecure)
	for _, n := range []int{10, 10_000} {
		x := newTestIndex(b, apex)
		sets := make([]recordSet, n)
		for i := range n {
			name := fmt.Sprintf("svc-%d.default.svc.cluster.local.", i)
			ip := netip.AddrFrom4([4]byte{10, 43, byte(i >> 8), byte(i)})
			sets[i] = recordSet{name: {addressRecord(name, ip)}, reverseName(ip): {pointerRecord(ip, name)}}
			x.put(name, sets[i])
		}
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x.put(fmt.Sprintf("svc-%d.default.svc.cluster.local.", i%n), sets[i%n])
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	x := newTestIndex(b, apexRecords("cluster.local.", nil, []netip.Addr{netip.MustParseAddr("10.43.0.10")}, 1, PodsInsecure))
	name := "web.default.svc.cluster.local."
	x.put("default/web", recordSet{name: {addressRecord(name, netip.MustParseAddr("10.43.0.80"))}})
	b.ReportAllocs()
	for b.Loop() {
		if a := x.answer(name, dns.TypeA); len(a.records) != 1 {
			b.Fatalf("answer %v", a)
		}
	}
}
