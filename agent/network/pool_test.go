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

func TestLinkName(t *testing.T) {
	a := netip.MustParseAddr("10.42.0.5")
	if got := linkName(a); got != "veth0a2a0005" {
		t.Errorf("the link of %s is %s", a, got)
	}
	if got, ok := linkAddr("veth0a2a0005"); !ok || got != a {
		t.Errorf("veth0a2a0005 is the link of %s, %v", got, ok)
	}
	for _, name := range []string{"eth0", "veth1", "0a2a0005", "veth0a2a00zz"} {
		if got, ok := linkAddr(name); ok {
			t.Errorf("%s is the link of %s", name, got)
		}
	}
}

func TestConfigCheck(t *testing.T) {
	config := func(dir, pods, cluster, services string) Config {
		parse := func(s string) netip.Prefix { p, _ := netip.ParsePrefix(s); return p }
		return Config{Dir: dir, PodCIDR: parse(pods), ClusterCIDR: parse(cluster), ServiceCIDR: parse(services)}
	}
	if err := config("/ns", "10.42.1.0/24", "10.42.0.0/16", "10.43.0.0/16").check(); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
	for name, bad := range map[string]struct {
		config Config
		want   string
	}{
		"relative folder":     {config("ns", "10.42.1.0/24", "10.42.0.0/16", "10.43.0.0/16"), "not absolute"},
		"no pod range":        {config("/ns", "", "10.42.0.0/16", "10.43.0.0/16"), "pod range"},
		"an address":          {config("/ns", "10.42.1.7/24", "10.42.0.0/16", "10.43.0.0/16"), "pod range"},
		"IPv6":                {config("/ns", "10.42.1.0/24", "10.42.0.0/16", "fd00::/112"), "service range"},
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
