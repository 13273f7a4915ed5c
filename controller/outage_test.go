package controller

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
)

// aNode reads a node from words like "a Unknown zone=east since=5m tainted=10s". By default it has been Ready for an hour at noon, and
// has no taint.
func aNode(words string) *corev1.Node {
	fields := strings.Fields(words)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fields[0], Labels: map[string]string{}}}
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(noon.Add(-time.Hour))}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "True", "False", "Unknown", "unsaid":
			ready.Status = corev1.ConditionStatus(key)
		case "zone":
			node.Labels[corev1.LabelTopologyZone] = value
		case "since":
			ready.LastTransitionTime = metav1.NewTime(noon.Add(-duration(value)))
		case "tainted":
			at := metav1.NewTime(noon.Add(-duration(value)))
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &at})
		case "excluded":
			node.Labels[excludeDisruption] = ""
		default:
			panic(fmt.Sprintf("a node has no %q", key))
		}
	}
	if ready.Status != "unsaid" {
		node.Status.Conditions = []corev1.NodeCondition{ready}
	}
	return node
}

// https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction: 55 % are many, but not of less than three.
func TestHowAZoneIs(t *testing.T) {
	for _, tc := range []struct {
		ready, notReady int
		want            zoneState
		interval        time.Duration // 0: nobody is driven out.
	}{
		{1, 0, zoneNormal, 10 * time.Second},
		{0, 1, zoneFullDisruption, 10 * time.Second},
		{1, 1, zoneNormal, 10 * time.Second},
		{1, 2, zoneNormal, 10 * time.Second},
		{1, 3, zonePartialDisruption, 0},
		{3, 3, zoneNormal, 10 * time.Second},
		{9, 11, zonePartialDisruption, 0},
		{20, 30, zonePartialDisruption, 0},
		{20, 31, zonePartialDisruption, 100 * time.Second},
		{46, 54, zoneNormal, 10 * time.Second},
		{45, 55, zonePartialDisruption, 100 * time.Second},
		{0, 60, zoneFullDisruption, 10 * time.Second},
	} {
		interval, ever := evictionInterval(tc.ready, tc.notReady)
		if !ever {
			interval = 0
		}
		if state := stateOfZone(tc.ready, tc.notReady); state != tc.want || interval != tc.interval {
			t.Errorf("%d ready, %d not: %s, one node in %s; want %s, %s", tc.ready, tc.notReady, state, interval, tc.want, tc.interval)
		}
	}
}

func TestWhichNodesPodsAreDrivenOutOf(t *testing.T) {
	for _, tc := range []struct {
		name  string
		nodes string
		want  string
	}{
		{"nothing is the matter", "a, b", "drive [], spare []"},
		{"the only node", "a Unknown", "drive [], spare []"},
		{"the only node, tainted before", "a Unknown tainted=5s", "drive [], spare [a]"},
		{"one of two is silent", "a, b Unknown", "drive [b], spare []"},
		{"one of two says that it is not ready", "a, b False", "drive [b], spare []"},
		{"one of two has said nothing yet", "a, b unsaid", "drive [], spare []"},
		{"it is tainted already", "a, b Unknown tainted=5s", "drive [], spare []"},
		{"both", "a Unknown tainted=1m, b Unknown", "drive [], spare [a]"},
		{"two of three, the longest first", "a, b Unknown since=1m, c Unknown since=2m", "drive [c], spare [], again in 10s"},
		{"not the second at once", "a, b Unknown since=1m, c Unknown tainted=4s", "drive [], spare [], again in 6s"},
		{"the second", "a, b Unknown since=1m, c Unknown tainted=11s", "drive [b], spare []"},
		{"a clock that went back", "a, b Unknown, c Unknown tainted=-1h", "drive [], spare [], again in 10s"},
		{"most of a small zone", "a, b Unknown, c Unknown, d Unknown", "drive [], spare []"},
		{"each zone by itself", "a zone=x, b Unknown zone=x, c Unknown zone=y, d Unknown zone=y tainted=1s", "drive [b], spare [], again in 9s"},
		{"all zones", "a False zone=x tainted=1m, b Unknown zone=y", "drive [], spare [a]"},
		{"what is excluded makes no outage", "a, b Unknown, c Unknown, d Unknown excluded", "drive [b], spare [], again in 10s"},
		{"what is excluded prevents none", "a excluded, b Unknown", "drive [], spare []"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var nodes []*corev1.Node
			for words := range strings.SplitSeq(tc.nodes, ",") {
				nodes = append(nodes, aNode(words))
			}
			plan := planOutage(nodes, noon)
			got := fmt.Sprintf("drive %s, spare %s", nodeNames(plan.drive), nodeNames(plan.spare))
			if plan.again > 0 {
				got += ", again in " + plan.again.String()
			}
			if got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func nodeNames(nodes []*corev1.Node) []string {
	names := []string{}
	for _, node := range nodes {
		names = append(names, node.Name)
	}
	return names
}

// lifecycle is all that has to do with nodes that fail.
func lifecycle(b *base, events record.EventRecorder) error {
	return errors.Join(newNodes(b, events), newOutages(b), newTaintEvictions(b, events))
}

// beat renews the Leases of nodes, and has those come back that were lost.
func (w *world) beat(nodes ...string) {
	w.Helper()
	now := metav1.NowMicro()
	for _, name := range nodes {
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}}
		lease.Spec.RenewTime = &now
		_, err := w.client.CoordinationV1().Leases(lease.Namespace).Update(w.ctx, lease, metav1.UpdateOptions{})
		w.must(err)
		node, err := w.client.CoreV1().Nodes().Get(w.ctx, name, metav1.GetOptions{})
		w.must(err)
		if ready := nodeCondition(node.Status.Conditions, corev1.NodeReady); ready.Status != corev1.ConditionTrue {
			ready.Status, ready.LastHeartbeatTime = corev1.ConditionTrue, metav1.NewTime(now.Time)
			_, err = w.client.CoreV1().Nodes().UpdateStatus(w.ctx, node, metav1.UpdateOptions{})
			w.must(err)
		}
	}
}

// live has the nodes alive for a while.
func (w *world) live(d time.Duration, nodes ...string) {
	w.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		w.beat(nodes...)
		time.Sleep(min(10*time.Second, time.Until(end)))
	}
	w.settle()
}

// wantTaints looks at the taints of a node in no order, as two writers put them there.
func (w *world) wantTaints(when, node string, want ...string) {
	w.Helper()
	n, err := w.client.CoreV1().Nodes().Get(w.ctx, node, metav1.GetOptions{})
	w.must(err)
	var got []string
	for _, taint := range n.Spec.Taints {
		got = append(got, taint.Key+":"+string(taint.Effect))
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		w.Errorf("taints of node %s %s (-want +got):\n%s", node, when, diff)
	}
}

const (
	keepsOut  = "node.kubernetes.io/unreachable:NoSchedule"
	drivesOut = "node.kubernetes.io/unreachable:NoExecute"
)

// twoNodes are a and b, their Leases, and a pod each; those of b tolerate that it is not well as admission has it, or not at all.
func twoNodes() []runtime.Object {
	usual := tolerating(early("usual node=b"), corev1.TaintNodeNotReady+":300 "+corev1.TaintNodeUnreachable+":300")
	objects := []runtime.Object{aNode("a"), aNode("b"), early("on-a"), usual, early("hasty node=b"), tolerating(early("daemon node=b"), "*")}
	for _, name := range []string{"a", "b"} {
		objects = append(objects, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}})
	}
	return objects
}

// The pods of a node that falls silent go in the time that they tolerate it, and those that are left may stay when it is back.
func TestOneNodeOfTwoIsLost(t *testing.T) {
	inWorld(t, lifecycle, func(w *world) {
		w.live(time.Minute, "a", "b")
		w.live(30*time.Second, "a") // Its last sign was 10 s before.
		w.wantTaints("after 40 s", "b")
		w.live(15*time.Second, "a")
		w.wantTaints("after 55 s", "b", keepsOut, drivesOut)
		w.wantLeft("when the node is lost", "daemon", "on-a", "usual")
		w.live(4*time.Minute, "a")
		w.wantLeft("four minutes later", "daemon", "on-a", "usual")
		w.live(time.Minute, "a")
		w.wantLeft("after five minutes", "daemon", "on-a")
		w.live(time.Minute, "a", "b")
		w.wantTaints("when it is back", "b")
		w.wantTaints("all the time", "a")
	}, twoNodes()...)
}

func TestALostNodeComesBackInTime(t *testing.T) {
	inWorld(t, lifecycle, func(w *world) {
		w.live(3*time.Minute, "a")
		w.wantLeft("when the node is lost", "daemon", "on-a", "usual")
		w.told()
		w.live(10*time.Minute, "a", "b")
		w.wantTold("Normal TaintManagerEviction Cancelling deletion of Pod default/usual")
		w.wantLeft("when it is back", "daemon", "on-a", "usual")
	}, twoNodes()...)
}

// Where no node is ready, nobody is evicted; when one is again, the other's time begins.
func TestAllNodesAreLost(t *testing.T) {
	inWorld(t, lifecycle, func(w *world) {
		w.live(time.Minute, "a", "b")
		w.live(30*time.Second, "a")
		time.Sleep(time.Hour)
		w.wantTaints("when both are lost", "a", keepsOut)
		w.wantTaints("when both are lost", "b", keepsOut)
		w.wantLeft("when both are lost", "daemon", "on-a", "usual") // b was lost 30 s before a, too long for one of its pods.
		w.live(2*time.Minute, "a")
		w.wantTaints("when one is back", "a")
		w.wantTaints("when one is back", "b", keepsOut, drivesOut)
		w.wantLeft("when one is back", "daemon", "on-a", "usual")
		w.live(4*time.Minute, "a")
		w.wantLeft("five minutes later", "daemon", "on-a")
	}, twoNodes()...)
}

// After a start the nodes have their grace, however old their heartbeats are, and nothing at all is written.
func TestStartAfterALongTime(t *testing.T) {
	inWorld(t, lifecycle, func(w *world) {
		time.Sleep(45 * time.Second)
		w.live(10*time.Minute, "a", "b")
		w.wantLeft("after the start", "daemon", "hasty", "on-a", "usual")
		for _, action := range w.client.Actions() {
			if verb := action.GetVerb(); action.GetResource().Resource != "leases" && verb != "list" && verb != "watch" && verb != "get" {
				t.Errorf("%s %s %s", verb, action.GetResource().Resource, action.GetSubresource())
			}
		}
		w.wantTold()
	}, twoNodes()...)
}
