package agent_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"skiff/agent/fake"
)

// addresses are all that a pod's status says of where it is.
func addresses(pod *v1.Pod) string {
	words := []string{pod.Status.HostIP, "/"}
	for _, ip := range pod.Status.HostIPs {
		words = append(words, ip.IP)
	}
	words = append(words, "/", pod.Status.PodIP, "/")
	for _, ip := range pod.Status.PodIPs {
		words = append(words, ip.IP)
	}
	return strings.Join(words, " ")
}

// A pod has an address of each family, knows them by its hosts file, and shows those of its node; one on the host's network has the
// node's. Where the node gets others, both follow.
func TestAddressesOfBothFamilies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.stop()
		n.config.NodeIPs = []string{"192.0.2.1", "2001:db8::1"}
		n.network = fake.NewNetworkFrom(netip.MustParseAddr("10.42.0.2"), netip.MustParseAddr("fd00:42::2"))
		n.start()
		n.create(newPod("web"), newPod("host", func(p *v1.Pod) { p.Spec.HostNetwork = true }))
		for name, want := range map[string]string{
			"web":  "192.0.2.1 / 192.0.2.1 2001:db8::1 / 10.42.0.2 / 10.42.0.2 fd00:42::2",
			"host": "192.0.2.1 / 192.0.2.1 2001:db8::1 / 192.0.2.1 / 192.0.2.1 2001:db8::1",
		} {
			if diff := cmp.Diff(want, addresses(n.get(name))); diff != "" {
				t.Errorf("addresses of pod %s (-want +got):\n%s", name, diff)
			}
		}
		hosts, err := os.ReadFile(filepath.Join(n.config.DataDir, "pods", "uid-web", "hosts"))
		if err != nil || !strings.HasSuffix(string(hosts), "\n10.42.0.2\tweb\nfd00:42::2\tweb\n") {
			t.Errorf("the hosts file is (%v)\n%s", err, hosts)
		}

		n.agent.SetNodeIPs([]string{"192.0.2.7", "2001:db8::7"})
		settle(t)
		for name, want := range map[string]string{
			"web":  "192.0.2.7 / 192.0.2.7 2001:db8::7 / 10.42.0.2 / 10.42.0.2 fd00:42::2",
			"host": "192.0.2.7 / 192.0.2.7 2001:db8::7 / 192.0.2.7 / 192.0.2.7 2001:db8::7",
		} {
			if diff := cmp.Diff(want, addresses(n.get(name))); diff != "" {
				t.Errorf("addresses of pod %s after the node's have changed (-want +got):\n%s", name, diff)
			}
		}
	})
}
