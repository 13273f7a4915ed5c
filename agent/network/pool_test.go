package network

import (
	"net/netip"
	"strings"
	"testing"
)

func TestPool(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.42.7.0/29"))
	next := func(want string) netip.Addr {
		t.Helper()
		got, err := p.next()
		if err != nil || got.String() != want {
			t.Fatalf("next is %s, %v; want %s", got, err, want)
		}
		return got
	}
	first := next("10.42.7.2") // .0 is the network, .1 the gateway.
	next("10.42.7.3")
	p.free(first)
	next("10.42.7.4") // The one just freed is the last to come again.
	next("10.42.7.5")
	next("10.42.7.6") // .7 is the broadcast address.
	next("10.42.7.2")
	if a, err := p.next(); err == nil {
		t.Errorf("a full range gave %s", a)
	}
	p.free(netip.MustParseAddr("10.42.7.4"))
	p.free(netip.Addr{})
	p.free(netip.MustParseAddr("192.0.2.1"))
	next("10.42.7.4")
}

func TestPoolTake(t *testing.T) {
	p := newPool(netip.MustParsePrefix("10.42.0.0/24"))
	taken := netip.MustParseAddr("10.42.0.9")
	if err := p.take(taken); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"10.42.0.9", "10.42.0.0", "10.42.0.1", "10.42.0.255", "10.42.1.9"} {
		if err := p.take(netip.MustParseAddr(a)); err == nil {
			t.Errorf("%s could be taken", a)
		}
	}
	if a, err := p.next(); err != nil || a.String() != "10.42.0.10" {
		t.Errorf("after 10.42.0.9 was taken, next is %s, %v; want 10.42.0.10", a, err)
	}
}

// A range of IPv6 is larger than what is remembered of it, and a pod has an address of each family or none.
func TestPoolsOfBothFamilies(t *testing.T) {
	all := newPools(prefixes("10.42.7.0/29", "fd00:42:0:7::/64"))
	next := func(want string) {
		t.Helper()
		got, err := all.next()
		if err != nil || joined(got) != want {
			t.Fatalf("next are %s, %v; want %s", got, err, want)
		}
	}
	next("10.42.7.2,fd00:42:0:7::2")
	if _, err := all.take([]netip.Addr{netip.MustParseAddr("10.42.7.3"), netip.MustParseAddr("fd00:42:0:7::1:0")}); err == nil {
		t.Error("an address that is not remembered could be taken")
	}
	if _, err := all.take([]netip.Addr{netip.MustParseAddr("10.42.7.3"), netip.MustParseAddr("fd00:42:0:7::3")}); err != nil {
		t.Error(err)
	}
	if _, err := all.take([]netip.Addr{netip.MustParseAddr("10.42.7.4")}); err != nil { // From before the cluster had a second family.
		t.Error(err)
	}
	next("10.42.7.5,fd00:42:0:7::4")
	next("10.42.7.6,fd00:42:0:7::5")
	if got, err := all.next(); err == nil {
		t.Errorf("there was no IPv4 address, and the next were %s", got)
	}
	all.free([]netip.Addr{netip.MustParseAddr("10.42.7.2"), netip.MustParseAddr("fd00:42:0:7::2")})
	next("10.42.7.2,fd00:42:0:7::6") // The one just freed is the last to come again.
}

func TestLinkName(t *testing.T) {
	for _, tc := range []struct{ addr, pods, name string }{
		{"10.42.0.5", "10.42.0.0/24", "veth0a2a0005"},
		{"fd00:42:0:7::5", "fd00:42:0:7::/64", "veth00000005"},
	} {
		a, pods := netip.MustParseAddr(tc.addr), netip.MustParsePrefix(tc.pods)
		if got := linkName(a); got != tc.name {
			t.Errorf("the link of %s is %s", a, got)
		}
		if got, ok := linkAddr(tc.name, pods); !ok || got != a {
			t.Errorf("%s is the link of %s, %v", tc.name, got, ok)
		}
		for _, name := range []string{"eth0", "veth1", "0a2a0005", "veth0a2a00zz", "veth0a2a0105"} {
			if got, ok := linkAddr(name, pods); ok {
				t.Errorf("%s is the link of %s", name, got)
			}
		}
	}
}

func TestConfigCheck(t *testing.T) {
	config := func(dir, pods, cluster, services string) Config {
		parse := func(s string) (all []netip.Prefix) {
			for _, part := range strings.Fields(s) {
				p, _ := netip.ParsePrefix(part)
				all = append(all, p)
			}
			return all
		}
		return Config{Dir: dir, PodCIDR: parse(pods), ClusterCIDR: parse(cluster), ServiceCIDR: parse(services)}
	}
	for _, good := range []Config{
		config("/ns", "10.42.1.0/24", "10.42.0.0/16", "10.43.0.0/16"),
		config("/ns", "fd42::/64", "fd42::/56", "fd43::/112"),
		config("/ns", "fd42::/64 10.42.1.0/24", "10.42.0.0/16 fd42::/56", "10.43.0.0/16 fd43::/112"),
		config("/ns", "10.42.1.0/24", "10.42.0.0/16 fd42::/56", "10.43.0.0/16"), // A node from before there were two families.
	} {
		if err := good.check(); err != nil {
			t.Errorf("a good configuration: %v", err)
		}
	}
	for name, bad := range map[string]struct {
		config Config
		want   string
	}{
		"relative folder":     {config("ns", "10.42.1.0/24", "10.42.0.0/16", "10.43.0.0/16"), "not absolute"},
		"no pod range":        {config("/ns", "", "10.42.0.0/16", "10.43.0.0/16"), "pod range"},
		"an address":          {config("/ns", "10.42.1.7/24", "10.42.0.0/16", "10.43.0.0/16"), "pod range"},
		"no range":            {config("/ns", "10.42", "10.42.0.0/16", "10.43.0.0/16"), "not a network"},
		"IPv4 in IPv6":        {config("/ns", "10.42.1.0/24", "10.42.0.0/16", "::ffff:10.43.0.0/112"), "service range"},
		"twice IPv4":          {config("/ns", "10.42.1.0/24", "10.42.0.0/16 10.44.0.0/16", "10.43.0.0/16"), "one family"},
		"pods of IPv6 alone":  {config("/ns", "fd42::/64", "10.42.0.0/16", "10.43.0.0/16"), "outside"},
		"too small":           {config("/ns", "10.42.1.0/30", "10.42.0.0/16", "10.43.0.0/16"), "too small"},
		"outside of cluster":  {config("/ns", "10.44.1.0/24", "10.42.0.0/16", "10.43.0.0/16"), "outside"},
		"wider than cluster":  {config("/ns", "10.42.0.0/15", "10.42.0.0/16", "10.45.0.0/16"), "outside"},
		"services among pods": {config("/ns", "10.42.1.0/24", "10.42.0.0/16", "10.42.9.0/24"), "overlap"},
	} {
		if err := bad.config.check(); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, bad.want)
		}
	}
}

func TestCheckUID(t *testing.T) {
	for uid, ok := range map[string]bool{
		"2b0a1c34-5d6e-7f80-9102-a3b4c5d6e7f8": true, "": false, "..": false, "a/b": false, ".hidden": false, "a\x00": false,
		strings.Repeat("x", 129): false,
	} {
		if err := checkUID(uid); (err == nil) != ok {
			t.Errorf("checkUID(%q) = %v; want accepted: %v", uid, err, ok)
		}
	}
}
