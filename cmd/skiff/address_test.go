package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestAddressStays follows one machine from change to change of its network.
func TestAddressStays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: links and addresses are made for real")
	}
	runtime.LockOSThread() // And never unlocked: the thread ends with the test, and its namespace with it.
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	s := settings{options: options{advertise: "auto", clusterCIDR: "10.42.0.0/16,fd42::/56", serviceCIDR: "10.43.0.0/16,fd43::/112"}}
	if err := s.parseRanges(); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ name, do, want, earlier string }{
		{"no default route",
			"link set lo up; link add docker0 type bridge; link set docker0 up; addr add 172.17.0.1/16 dev docker0; " +
				"link add eth0 type veth peer name other; link set eth0 up; link set other up; addr add 10.42.0.1/32 dev other; addr add 198.51.100.7/24 dev eth0",
			"198.51.100.7", ""},
		{"another address without one", "addr del 198.51.100.7/24 dev eth0; addr add 198.51.100.8/24 dev eth0", "198.51.100.8", ""},
		{"a default route",
			"link add eth1 type bridge; link set eth1 up; addr add 192.0.2.5/24 dev eth1; route add default via 192.0.2.1; " +
				"-6 addr add fd99::1/64 dev eth1 nodad; -6 addr add 2001:db8::9/64 dev eth1 nodad; -6 addr add 2001:db8::a/64 dev eth1 nodad; -6 route add default via fe80::1 dev eth1",
			"192.0.2.5 2001:db8::9", "198.51.100.8"},
		{"an address that floats from machine to machine", "-6 addr add 2001:db8::100/64 dev eth1 nodad; addr add 192.0.2.100/32 dev eth1", "192.0.2.5 2001:db8::9", "198.51.100.8"},
		{"a local address", "-6 addr add fd99::2/64 dev eth1 nodad", "192.0.2.5 2001:db8::9", "198.51.100.8"},
		{"a provider that takes an address back", "-6 addr change 2001:db8::9/64 dev eth1 preferred_lft 0", "192.0.2.5 2001:db8::a", "198.51.100.8 2001:db8::9"},
		{"no network for a moment", "addr flush dev eth1", "192.0.2.5 2001:db8::a", "198.51.100.8"},
		{"another network", "addr add 203.0.113.5/24 dev eth1; route add default via 203.0.113.1", "203.0.113.5 2001:db8::a", "198.51.100.8"},
	} {
		for args := range strings.SplitSeq(step.do, ";") {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", args, err, out)
			}
		}
		s = s.located()
		if got := strings.Join(texts(s.addresses), " "); got != step.want || s.address != s.addresses[0] {
			t.Errorf("%s: the machine is known by %s, and its API by %s; want %s", step.name, got, s.address, step.want)
		}
		if got := strings.Join(texts(s.earlier), " "); got != step.earlier {
			t.Errorf("%s: from before there are %q, want %q", step.name, got, step.earlier)
		}
		for _, addr := range append(s.addresses, s.earlier...) {
			if !slices.Contains(s.serverHosts(), fmt.Sprint(addr)) {
				t.Errorf("%s: certificates are not for %s", step.name, addr)
			}
		}
	}
}
