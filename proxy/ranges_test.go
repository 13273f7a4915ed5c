package proxy

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
)

// TestLaterRange: of a range that comes while the proxy runs, what no Service has is refused at once, and the outside reaches nothing.
// When the range goes, its addresses are like any other.
func TestLaterRange(t *testing.T) { inEachWorld(t, testLaterRange) }

func testLaterRange(t *testing.T, w world) {
	node := w.newNode(t)
	pod, client, outsider := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.20"), w.newOutsider(t)
	pod.serve(t, 8080)
	// The node's own packets need a way before they are refused.
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link(t, "skiff0").Attrs().Index, Dst: ipNet(w.family.as("10.60.0.0/24"))}))
	c := w.newCluster(t)
	c.create(w.service("late", "10.60.0.7"), "10.42.0.11")
	c.start(&table{config: w.config()})
	wantSeen(t, client, "tcp", "10.60.0.7:80", pod, "") // An address of no range is served.
	wantSeen(t, outsider, "tcp", "10.60.0.7:80", pod, "")

	ranges := c.client.NetworkingV1().ServiceCIDRs()
	later := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{w.family.as("10.60.0.0/24")}}}
	_, err := ranges.Create(t.Context(), later, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "an unused address of the range is refused", func() bool {
		_, err := client.askFor(t, "tcp", "10.60.0.99:80", inVain)
		return refused(err)
	})
	for _, from := range []*host{client, node} {
		for _, network := range []string{"tcp", "udp"} {
			wantRefused(t, from, network, "10.60.0.99:80")
			wantRefused(t, from, network, "10.60.0.7:81")
			wantSeen(t, from, network, "10.60.0.7:80", pod, "")
		}
	}
	answers := func(address string) bool {
		_, err := outsider.askFor(t, "tcp", address, inVain)
		return err == nil
	}
	for _, address := range []string{"10.60.0.7:80", "10.60.0.99:80"} {
		if answers(address) {
			t.Errorf("%s answers the outside", address)
		}
	}

	must(t, ranges.Delete(t.Context(), "later", metav1.DeleteOptions{}))
	eventually(t, "the addresses of a range that is gone are like any other", func() bool { return answers("10.60.0.7:80") })
}

// TestServerWithoutRanges: the proxy works where the API server does not know ServiceCIDRs, or does not show them.
func TestServerWithoutRanges(t *testing.T) {
	kind := schema.GroupResource{Group: "networking.k8s.io", Resource: "servicecidrs"}
	for name, answer := range map[string]error{
		"unknown": apierrors.NewNotFound(kind, ""), "hidden": apierrors.NewForbidden(kind, "", nil),
	} {
		t.Run(name, func(t *testing.T) {
			c := oneFamily().newCluster(t)
			c.client.PrependReactor("list", kind.Resource, func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, answer })
			c.client.PrependWatchReactor(kind.Resource, func(clienttesting.Action) (bool, watch.Interface, error) { return true, nil, answer })
			c.create(newTestService("web", "10.43.0.80"), "10.42.0.1")
			m := &memory{}
			c.start(m)
			for _, k := range []key{
				{in: services, addr: netip.MustParseAddr("10.43.0.80"), proto: tcp, port: 80},
				{in: serviceRange, addr: netip.MustParseAddr("10.43.0.0"), last: netip.MustParseAddr("10.43.255.255")},
			} {
				if _, there := m.elements[k]; !there {
					t.Errorf("the kernel has no %s: %v", k, m.elements)
				}
			}
		})
	}
}
