package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// workloads are the two controllers that together keep a Deployment's pods.
func workloads(b *base, events record.EventRecorder) error {
	if err := newDeployments(b, events); err != nil {
		return err
	}
	return newReplicaSets(b, events, nil)
}

func deploymentsAlone(b *base, events record.EventRecorder) error { return newDeployments(b, events) }

// web is a Deployment as the API server would have completed it.
func web(size int32) *appsv1.Deployment {
	d := sized(size, "25%", "25%")
	d.UID = ""
	limit, deadline := int32(10), int32(600)
	d.Spec.RevisionHistoryLimit, d.Spec.ProgressDeadlineSeconds = &limit, &deadline
	d.Spec.Selector = selecting(map[string]string{"app": "web"})
	d.Spec.Template = template("nginx:1")
	return d
}

func (w *world) create(d *appsv1.Deployment) {
	w.Helper()
	_, err := w.client.AppsV1().Deployments("default").Create(w.ctx, d, metav1.CreateOptions{})
	w.must(err)
	w.settle()
}

func (w *world) deployment() *appsv1.Deployment {
	w.Helper()
	d, err := w.client.AppsV1().Deployments("default").Get(w.ctx, "web", metav1.GetOptions{})
	w.must(err)
	return d
}

func (w *world) change(how func(d *appsv1.Deployment)) {
	w.Helper()
	d := w.deployment()
	how(d)
	_, err := w.client.AppsV1().Deployments("default").Update(w.ctx, d, metav1.UpdateOptions{})
	w.must(err)
	w.settle()
}

// summary is a status in one line.
func summary(d *appsv1.Deployment) string {
	s := fmt.Sprintf("%d/%d updated %d available %d", d.Status.ReadyReplicas, d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.AvailableReplicas)
	if d.Status.ObservedGeneration != d.Generation {
		s += " stale"
	}
	for _, kind := range []appsv1.DeploymentConditionType{appsv1.DeploymentAvailable, appsv1.DeploymentProgressing, appsv1.DeploymentReplicaFailure} {
		if c := condition(d.Status.Conditions, kind); c != nil {
			s += fmt.Sprintf(" %s=%s(%s)", c.Type, c.Status, c.Reason)
		}
	}
	return s
}

func (w *world) expect(what, want string) {
	w.Helper()
	if got := summary(w.deployment()); got != want {
		w.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

// TestDeploymentLife plays a Deployment from its creation over scaling, a new template and the way back.
func TestDeploymentLife(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		w.create(web(2))
		w.expect("created", "0/2 updated 2 available 0 Available=False(MinimumReplicasUnavailable) Progressing=True(ReplicaSetUpdated)")
		first := w.sets()[0]
		if owner := metav1.GetControllerOf(&first); owner == nil || owner.Kind != "Deployment" || owner.UID != w.deployment().UID {
			t.Errorf("the replica set's owner is %v, want the deployment", owner)
		}
		if hash := first.Labels["pod-template-hash"]; first.Name != "web-"+hash || first.Spec.Selector.MatchLabels["pod-template-hash"] != hash {
			t.Errorf("replica set %s has labels %v and selector %v, want one hash in all", first.Name, first.Labels, first.Spec.Selector.MatchLabels)
		}
		for _, pod := range w.pods("") {
			if !strings.HasPrefix(pod.Name, first.Name+"-") || !metav1.IsControlledBy(&pod, &first) {
				t.Errorf("pod %s with owners %v, want a pod of %s", pod.Name, pod.OwnerReferences, first.Name)
			}
		}
		wantEvent := "Normal ScalingReplicaSet Scaled up replica set " + first.Name + " from 0 to 2"
		if events := w.told(); len(events) != 3 || !slices.Contains(events, wantEvent) { // In any order: two controllers tell.
			t.Errorf("events %q, want %q and two created pods", events, wantEvent)
		}

		w.runPods()
		w.expect("running", "2/2 updated 2 available 2 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
		if got := w.deployment().Annotations[revisionAnnotation]; got != "1" {
			t.Errorf("revision %q, want 1", got)
		}

		w.change(func(d *appsv1.Deployment) { *d.Spec.Replicas = 4 })
		w.runPods()
		w.expect("scaled up", "4/4 updated 4 available 4 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
		w.change(func(d *appsv1.Deployment) { *d.Spec.Replicas = 1 })
		w.expect("scaled down", "1/1 updated 1 available 1 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
		if n := len(w.pods("")); n != 1 {
			t.Errorf("%d pods after scaling to 1", n)
		}

		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" })
		if n := len(w.pods("")); n != 2 {
			t.Errorf("%d pods in the middle of an update of one pod with a surge of one, want 2", n)
		}
		for range 5 {
			w.runPods()
		}
		w.expect("updated", "1/1 updated 1 available 1 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
		if pods := w.pods(""); len(pods) != 1 || pods[0].Spec.Containers[0].Image != "nginx:2" {
			t.Errorf("pods after the update: %v", pods)
		}

		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:1" })
		for range 5 {
			w.runPods()
		}
		if sets := w.sets(); len(sets) != 2 {
			t.Errorf("%d replica sets after going back, want 2", len(sets))
		}
		back, err := w.client.AppsV1().ReplicaSets("default").Get(w.ctx, first.Name, metav1.GetOptions{})
		w.must(err)
		want := map[string]string{revisionAnnotation: "3", revisionHistoryAnnotation: "1", desiredReplicasAnnotation: "1", maxReplicasAnnotation: "2"}
		if diff := cmp.Diff(want, back.Annotations); diff != "" {
			t.Errorf("annotations of the set gone back to (-want +got):\n%s", diff)
		}
		if got := w.deployment().Annotations[revisionAnnotation]; got != "3" {
			t.Errorf("revision %q after going back, want 3", got)
		}
	})
}

// TestRollingUpdateBounds promises that at no time of an update fewer pods are available or more are there than allowed.
func TestRollingUpdateBounds(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		w.create(web(10))
		w.runPods()
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" })
		for step := 0; ; step++ {
			if step > 50 {
				t.Fatalf("the update does not come to an end: %s", summary(w.deployment()))
			}
			pods, ready := w.pods(""), 0
			for _, pod := range pods {
				if podReady(&pod) {
					ready++
				}
			}
			if len(pods) > 13 || ready < 8 {
				t.Fatalf("step %d: %d pods of which %d ready, want at most 13 and at least 8", step, len(pods), ready)
			}
			if complete(w.deployment(), w.deployment().Status) {
				break
			}
			w.runPods()
		}
	})
}

// TestRecreate promises that no new pod is there before the last old one is gone.
func TestRecreate(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		d := web(2)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		w.create(d)
		w.runPods()
		hold := true // As a pod that takes its time to end.
		w.client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return hold, nil, nil })
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" })
		for _, pod := range w.pods("") {
			if pod.Spec.Containers[0].Image == "nginx:2" {
				t.Errorf("new pod %s is there while the old ones are", pod.Name)
			}
		}
		hold = false
		for _, pod := range w.pods("") {
			w.must(w.client.CoreV1().Pods("default").Delete(w.ctx, pod.Name, metav1.DeleteOptions{}))
		}
		w.settle()
		w.runPods()
		for _, pod := range w.pods("") {
			if pod.Spec.Containers[0].Image != "nginx:2" {
				t.Errorf("old pod %s is still there", pod.Name)
			}
		}
		w.expect("recreated", "2/2 updated 2 available 2 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
	})
}

// TestOldPodsLeft promises that a pod counts as left as soon as anybody knows of it, unless it has ended for good.
func TestOldPodsLeft(t *testing.T) {
	for _, tc := range []struct {
		status int32
		pod    string
		want   bool
	}{
		{0, "", false}, {1, "", true}, {0, "old", true}, {0, "old phase=Failed", false}, {0, "old deleted", true},
	} {
		c := &deployments{pods: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byController: controllerKeys})}
		rs := set(1, 0, 0)
		rs.UID, rs.Status.Replicas = "old-set", tc.status
		if tc.pod != "" {
			pod := aPod(tc.pod)
			pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(rs, replicaSetKind)}
			if err := c.pods.Add(pod); err != nil {
				t.Fatal(err)
			}
		}
		left, err := c.oldPodsLeft(&rollout{old: []*appsv1.ReplicaSet{rs}})
		if err != nil || left != tc.want {
			t.Errorf("with %d in the status and pod %q: left %v, error %v; want %v", tc.status, tc.pod, left, err, tc.want)
		}
	}
}

// TestRecreateInMidRollout promises that a rollout goes on if on its way the strategy becomes Recreate and the size another.
func TestRecreateInMidRollout(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		w.create(web(4))
		w.runPods()
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" })
		w.change(func(d *appsv1.Deployment) {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
			*d.Spec.Replicas = 2
		})
		for range 4 {
			w.runPods()
		}
		w.expect("recreated", "2/2 updated 2 available 2 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
	})
}

// TestPaused promises that a paused Deployment is scaled but not updated, and goes on when resumed.
func TestPaused(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		w.create(web(1))
		w.runPods()
		w.change(func(d *appsv1.Deployment) {
			d.Spec.Paused = true
			d.Spec.Template.Spec.Containers[0].Image = "nginx:2"
		})
		w.expect("paused", "1/1 updated 0 available 1 Available=True(MinimumReplicasAvailable) Progressing=Unknown(DeploymentPaused)")
		w.change(func(d *appsv1.Deployment) { *d.Spec.Replicas = 3 })
		w.runPods()
		for _, pod := range w.pods("") {
			if image := pod.Spec.Containers[0].Image; image != "nginx:1" {
				t.Errorf("pod %s has image %s while paused", pod.Name, image)
			}
		}
		if n := len(w.pods("")); n != 3 {
			t.Errorf("%d pods after scaling to 3 while paused", n)
		}
		w.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
		for range 8 {
			w.runPods()
		}
		w.expect("resumed", "3/3 updated 3 available 3 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
	})
}

// TestProgressDeadline promises that an update whose pods do not become ready is called failed when its time is over, with
// nothing happening that would call the controller.
func TestProgressDeadline(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		d := web(1)
		*d.Spec.ProgressDeadlineSeconds = 60
		w.create(d)
		time.Sleep(50 * time.Second)
		w.expect("after 50 s", "0/1 updated 1 available 0 Available=False(MinimumReplicasUnavailable) Progressing=True(ReplicaSetUpdated)")
		time.Sleep(20 * time.Second)
		w.expect("after 70 s", "0/1 updated 1 available 0 Available=False(MinimumReplicasUnavailable) Progressing=False(ProgressDeadlineExceeded)")
		w.runPods()
		w.expect("late", "1/1 updated 1 available 1 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
	})
}

// TestTerminatingReplicas promises a sum only where every ReplicaSet that is looked after has a part in it.
func TestTerminatingReplicas(t *testing.T) {
	two, three, five, none := int32(2), int32(3), int32(5), int32(0)
	tells := func(seen int64, n *int32) *appsv1.ReplicaSet {
		rs := set(1, 1, 1)
		rs.Status.ObservedGeneration, rs.Status.TerminatingReplicas = seen, n
		return rs
	}
	for _, tc := range []struct {
		name string
		sets []*appsv1.ReplicaSet
		want *int32
	}{
		{"none", nil, &none},
		{"all tell", []*appsv1.ReplicaSet{tells(1, &two), tells(4, &three)}, &five},
		{"one is new", []*appsv1.ReplicaSet{tells(1, &two), tells(0, nil)}, &two},
		{"one does not tell", []*appsv1.ReplicaSet{tells(1, &two), tells(1, nil)}, nil},
	} {
		if diff := cmp.Diff(tc.want, terminatingReplicas(tc.sets)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

// TestHistoryLimit promises that no more old ReplicaSets are kept than asked for.
func TestHistoryLimit(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		d := web(1)
		*d.Spec.RevisionHistoryLimit = 2
		w.create(d)
		w.runPods()
		for i := range 5 {
			w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = fmt.Sprintf("nginx:%d", i+2) })
			for range 4 {
				w.runPods()
			}
		}
		var revisions []string
		for _, rs := range w.sets() {
			revisions = append(revisions, rs.Annotations[revisionAnnotation])
		}
		slices.Sort(revisions)
		if diff := cmp.Diff([]string{"4", "5", "6"}, revisions); diff != "" {
			t.Errorf("revisions kept (-want +got):\n%s", diff)
		}
	})
}

// TestHistoryDuringRollout promises that a change of size in mid-rollout takes nothing from the history, and the rollout's end does.
func TestHistoryDuringRollout(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		w.create(web(1))
		w.runPods()
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" })
		for range 4 {
			w.runPods()
		}
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:3" })
		w.change(func(d *appsv1.Deployment) {
			*d.Spec.RevisionHistoryLimit = 0
			*d.Spec.Replicas = 2
		})
		if n := len(w.sets()); n != 3 {
			t.Errorf("%d replica sets in mid-rollout, want all 3", n)
		}
		for range 8 {
			w.runPods()
		}
		if n := len(w.sets()); n != 1 {
			t.Errorf("%d replica sets after the rollout, want 1", n)
		}
	})
}

// TestHashCollision promises that a ReplicaSet of another's that has the name is left alone and another name is taken.
func TestHashCollision(t *testing.T) {
	d := web(1)
	foreign := newReplicaSet(d, 1)
	foreign.OwnerReferences = nil
	foreign.UID = "foreign"
	foreign.Labels, foreign.Spec.Selector = map[string]string{"app": "other"}, selecting(map[string]string{"app": "other"})
	foreign.Spec.Template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "other"}}}
	inWorld(t, workloads, func(w *world) {
		w.create(web(1))
		got := w.deployment()
		if got.Status.CollisionCount == nil || *got.Status.CollisionCount != 1 {
			t.Errorf("collisions counted: %v, want 1", got.Status.CollisionCount)
		}
		if sets := w.sets(); len(sets) != 2 || got.Status.UpdatedReplicas != 1 {
			t.Errorf("%d replica sets and status %s, want the foreign one and one more", len(sets), summary(got))
		}
	}, foreign)
}
