package controller

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestLostNode promises that a node that falls silent is marked and tainted after its grace, not before, that its pods
// stop being ready, and that the taints go when it is ready again.
func TestLostNode(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	node.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: corev1.NamespaceNodeLease}}
	inWorld(t, lifecycle, func(w *world) {
		state := func() (got []string) {
			node, err := w.client.CoreV1().Nodes().Get(w.ctx, "a", metav1.GetOptions{})
			w.must(err)
			got = append(got, string(nodeCondition(node.Status.Conditions, corev1.NodeReady).Status))
			for _, taint := range node.Spec.Taints {
				got = append(got, taint.Key+":"+string(taint.Effect))
			}
			return got
		}
		check := func(when string, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, state()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		beat := func() {
			t.Helper()
			now := metav1.NowMicro()
			lease.Spec.RenewTime = &now
			_, err := w.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(w.ctx, lease.DeepCopy(), metav1.UpdateOptions{})
			w.must(err)
		}
		for range 6 { // A minute of heartbeats.
			beat()
			time.Sleep(10 * time.Second)
		}
		time.Sleep(35 * time.Second)
		check("after 45 s of silence", "True", "mine:NoSchedule")
		time.Sleep(10 * time.Second)
		w.settle()
		check("after 55 s of silence", "Unknown", "mine:NoSchedule", keepsOut)
		if pod := w.pods("")[0]; podReady(&pod) {
			t.Error("the pod of a lost node is still ready")
		}
		beat()
		back, err := w.client.CoreV1().Nodes().Get(w.ctx, "a", metav1.GetOptions{})
		w.must(err)
		ready := nodeCondition(back.Status.Conditions, corev1.NodeReady)
		ready.Status, ready.LastHeartbeatTime = corev1.ConditionTrue, metav1.Now()
		_, err = w.client.CoreV1().Nodes().UpdateStatus(w.ctx, back, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		check("when it is back", "True", "mine:NoSchedule")
	}, node, lease, aPod("p node=a ready=1h"))
}

// A cluster's range has as many ranges for nodes as fit in it.
func TestRangesOfACluster(t *testing.T) {
	for _, tc := range []struct {
		cluster string
		i       int
		want    string // "" for none.
	}{
		{"10.42.0.0/16", 0, "10.42.0.0/24"}, {"10.42.0.0/16", 255, "10.42.255.0/24"}, {"10.42.0.0/16", 256, ""},
		{"10.0.0.0/8", 65535, "10.255.255.0/24"}, {"10.0.0.0/8", 65536, ""}, {"10.42.7.0/24", 0, "10.42.7.0/24"}, {"10.42.7.0/24", 1, ""}, {"10.42.7.0/25", 0, ""},
		{"fd00:42::/56", 0, "fd00:42::/64"}, {"fd00:42::/56", 255, "fd00:42:0:ff::/64"}, {"fd00:42::/56", 256, ""},
		{"fd00:42::/48", 0x1234, "fd00:42:0:1234::/64"}, {"fd00:42::/64", 1, ""}, {"fd00:42::/80", 0, ""},
	} {
		got, err := nodeRange(netip.MustParsePrefix(tc.cluster), tc.i)
		if (err == nil) != (tc.want != "") || err == nil && got.String() != tc.want {
			t.Errorf("range %d of %s is %s (%v), want %q", tc.i, tc.cluster, got, err, tc.want)
		}
	}
}

// A node keeps the taint that it was created with until it says how it is; then its taints say what its conditions say.
func TestTaintsFollowConditions(t *testing.T) {
	const created = corev1.TaintNodeNotReady
	for _, tc := range []struct{ name, node, taints, want string }{
		{"created", "a unsaid", created + ":NoSchedule", created + ":NoSchedule"},
		{"created without", "a unsaid", "", ""},
		{"ready", "a", created + ":NoSchedule " + created + ":NoExecute mine:NoExecute", "mine:NoExecute"},
		{"not ready", "a False", "", created + ":NoSchedule"},
		{"not ready, and driven", "a False", created + ":NoExecute", created + ":NoExecute " + created + ":NoSchedule"},
		{"silent after not ready", "a Unknown", created + ":NoSchedule " + created + ":NoExecute", keepsOut + " " + drivesOut},
	} {
		node := aNode(tc.node)
		for word := range strings.FieldsSeq(tc.taints) {
			key, effect, _ := strings.Cut(word, ":")
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
		}
		var got []string
		for _, taint := range nodeTaints(node, noon) {
			got = append(got, taint.Key+":"+string(taint.Effect))
		}
		if diff := cmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}
