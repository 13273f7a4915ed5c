package agent_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff/agent"
)

func (n *node) look() (ready bool) {
	n.t.Helper()
	ready, err := n.agent.LookAtNode(n.t.Context())
	if err != nil {
		n.t.Fatal(err)
	}
	return ready
}

func (n *node) node() *v1.Node {
	n.t.Helper()
	node, err := n.client.CoreV1().Nodes().Get(n.t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return node
}

func (n *node) taint(taints ...v1.Taint) {
	n.t.Helper()
	node := n.node()
	node.Spec.Taints = taints
	if _, err := n.client.CoreV1().Nodes().Update(n.t.Context(), node, metav1.UpdateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

func condition(node *v1.Node, kind v1.NodeConditionType) v1.NodeCondition {
	for _, c := range node.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return v1.NodeCondition{Type: kind, Status: "missing"}
}

func handlersOf(node *v1.Node) string {
	var all []string
	for _, h := range node.Status.RuntimeHandlers {
		text := h.Name
		if *h.Features.RecursiveReadOnlyMounts {
			text += " recursive"
		}
		if *h.Features.UserNamespaces {
			text += " users"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func TestNodeIsRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.stop()
		n.config.EvictionHard = []agent.Threshold{{Signal: "memory.available", Amount: 100 << 20}}
		n.start()
		if !n.look() {
			t.Error("not ready")
		}
		node := n.node()
		kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
		if err != nil {
			t.Fatal(err)
		}
		for _, check := range []struct{ what, got, want string }{
			{"hostname label", node.Labels[v1.LabelHostname], nodeName},
			{"kernel", node.Status.NodeInfo.KernelVersion, strings.TrimSpace(string(kernel))},
			{"kubelet version", node.Status.NodeInfo.KubeletVersion, "v1.37.2+skiff"},
			{"runtime", node.Status.NodeInfo.ContainerRuntimeVersion, "containerd://fake"},
			{"address", node.Status.Addresses[0].Address, "192.0.2.1"},
			{"Ready", string(condition(node, v1.NodeReady).Status), "True"},
			{"handlers", handlersOf(node), " recursive users, runc recursive users"},
			{"supplementalGroupsPolicy", fmt.Sprint(node.Status.Features != nil && *node.Status.Features.SupplementalGroupsPolicy), "true"},
			{"users of its own", fmt.Sprint(*node.Status.NodeInfo.RunningInUserNamespace), fmt.Sprint(!hasAllUsers(t))},
			{"pods", node.Status.Capacity.Pods().String(), "110"},
		} {
			if check.got != check.want {
				t.Errorf("%s is %q, want %q", check.what, check.got, check.want)
			}
		}
		if capacity, allocatable := node.Status.Capacity.Memory(), node.Status.Allocatable.Memory(); allocatable.Cmp(*capacity) >= 0 {
			t.Errorf("allocatable memory %v, want less than the capacity %v", allocatable, capacity)
		}
	})
}

func TestNodeIsWrittenOnlyWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.look()
		writes := func() (count int) {
			for _, action := range n.client.Actions() {
				if action.GetVerb() == "patch" && action.GetResource().Resource == "nodes" {
					count++
				}
			}
			return count
		}
		before := writes()
		n.look()
		if got := writes(); got != before {
			t.Errorf("%d writes of a node that has not changed", got-before)
		}
		after(t, 5*60e9)
		n.look()
		if got := writes(); got != before+1 {
			t.Errorf("%d writes after 5 minutes, want 1", got-before)
		}
		n.runtime.Break(errors.New("connection refused"))
		if n.look() {
			t.Error("ready without a runtime")
		}
		if c := condition(n.node(), v1.NodeReady); c.Status != v1.ConditionFalse || !strings.Contains(c.Message, "connection refused") {
			t.Errorf("Ready is %s (%s), want False with the runtime's error", c.Status, c.Message)
		}
		n.runtime.Break(nil)
		n.network.Break(errors.New("no bridge"))
		if n.look() {
			t.Error("ready without a network")
		}
		n.network.Break(nil)
		if !n.look() {
			t.Error("not ready again")
		}
	})
}

func TestNodeKeepsWhatOthersWrote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, &v1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{"disk": "ssd"}},
			Spec:       v1.NodeSpec{PodCIDR: "10.42.7.0/24", Taints: []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}}},
			Status: v1.NodeStatus{
				Capacity:   v1.ResourceList{"example.com/dongle": resource.MustParse("4"), "hugepages-3Mi": resource.MustParse("6Mi")},
				Conditions: []v1.NodeCondition{{Type: "Weather", Status: v1.ConditionTrue}, {Type: v1.NodeReady, Status: v1.ConditionUnknown}},
			},
		})
		n.look()
		node := n.node()
		dongles := node.Status.Capacity["example.com/dongle"]
		if node.Labels["disk"] != "ssd" || node.Spec.PodCIDR != "10.42.7.0/24" || len(node.Spec.Taints) != 1 || dongles.Value() != 4 {
			t.Errorf("the node has lost something: labels %v, spec %v, capacity %v", node.Labels, node.Spec, node.Status.Capacity)
		}
		if pages, has := node.Status.Capacity["hugepages-3Mi"]; has {
			t.Errorf("the node has %s of huge pages that the host does not have", pages.String())
		}
		if weather, ready := condition(node, "Weather"), condition(node, v1.NodeReady); weather.Status != v1.ConditionTrue || ready.Status != v1.ConditionTrue {
			t.Errorf("conditions Weather %s and Ready %s, want both True", weather.Status, ready.Status)
		}
	})
}

// hasAllUsers says whether the users here are all that the machine has, and not those of a namespace.
func hasAllUsers(t *testing.T) bool {
	t.Helper()
	users, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(users)), " ") == "0 0 4294967295"
}
