package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routed lists where the routes to skiff0 lead that somebody made, in order.
func routed(t *testing.T) (ranges []string) {
	t.Helper()
	link, err := netlink.LinkByName(nodeDevice)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	routes, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(link, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL {
			ranges = append(ranges, r.Dst.String())
		}
	}
	slices.Sort(ranges)
	return ranges
}

func wantRouted(t *testing.T, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, routed(t)); diff != "" {
		t.Errorf("%s: routes to %s (-want +got):\n%s", when, nodeDevice, diff)
	}
}

// What is for a range that Services got later is refused on the node and does not leave, until the range goes.
func TestLaterServiceRanges(t *testing.T) {
	if !alone(t) {
		return
	}
	world := newWorld(t)
	c := testConfig(t)
	n := newNetwork(t, c)
	a := setup(t, n, "a")
	own := []string{"10.43.0.0/16", "fd00:43::/112"}
	set := func(ranges ...string) {
		t.Helper()
		if err := n.SetServiceRanges(prefixes(append(ranges, own...)...)); err != nil {
			t.Fatal(err)
		}
	}
	wantRouted(t, "at first", own...)
	set("10.60.0.0/24", "fd00:60::/112", "10.42.8.0/24", "fd00::/16", "203.0.113.0/24", "10.60.0.128/25") // Pods' addresses, the uplink's own range, and one in another.
	wantRouted(t, "with later ranges", "10.43.0.0/16", "10.60.0.0/24", "10.60.0.128/25", "203.0.113.0/24", "fd00:43::/112", "fd00:60::/112")
	for _, from := range []string{"", a.NetNS} {
		for _, to := range []string{"10.60.0.99:80", "[fd00:60::99]:80"} {
			if _, err := ask(from, to); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("from %q to %s: %v, want refused", from, to, err)
			}
		}
	}
	if routes, err := netlink.RouteGet(netip.MustParseAddr("203.0.113.2").AsSlice()); err != nil || len(routes) != 1 || routes[0].LinkIndex == linkIndex(t, nodeDevice) {
		t.Errorf("a neighbour is not where it was: %v, %v", routes, err)
	}
	sayAll := func() {
		for _, from := range []string{"", a.NetNS} {
			for _, to := range []string{"10.60.0.99:53", "[fd00:60::99]:53"} {
				_ = at(from, func() error { return say(to) }) // Refused here, dropped there; what counts is what comes out.
			}
		}
	}
	sayAll()
	if err := n.removeRules(); err != nil {
		t.Fatal(err)
	}
	sayAll()
	if got := world.received(t); got != 0 {
		t.Errorf("%d packets left by the default route", got)
	}

	n, err := New(c) // What follows is another process, which does not know yet which ranges there are.
	if err != nil {
		t.Fatal(err)
	}
	wantRouted(t, "after a restart", "10.43.0.0/16", "10.60.0.0/24", "10.60.0.128/25", "203.0.113.0/24", "fd00:43::/112", "fd00:60::/112")
	set("10.60.0.0/24", "10.61.0.0/24")
	wantRouted(t, "with others", "10.43.0.0/16", "10.60.0.0/24", "10.61.0.0/24", "fd00:43::/112")
	set()
	wantRouted(t, "without", own...)
	sayAll()
	for deadline := time.Now().Add(time.Minute); world.received(t) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what is for no range is not heard outside: the test is deaf")
		}
	}
	var many []string
	for i := range 2 * mostFurther {
		many = append(many, fmt.Sprintf("10.61.%d.0/24", i))
	}
	set(many...)
	if got := len(routed(t)); got != len(own)+mostFurther {
		t.Errorf("with %d later ranges there are %d routes to %s, want %d and the node's own %d", len(many), got, nodeDevice, mostFurther, len(own))
	}
	set("10.60.0.0/24", "fd00:60::/112")
	if err := n.Purge(context.Background()); err != nil {
		t.Fatal(err)
	}
	wantRouted(t, "after a purge")
}

func linkIndex(t *testing.T, name string) int {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return link.Attrs().Index
}
