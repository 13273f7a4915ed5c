package controller

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clienttesting "k8s.io/client-go/testing"
)

// These tests follow the page https://kubernetes.io/docs/concepts/workloads/controllers/deployment/ where it gives figures.

// setSizes are the sizes of the ReplicaSets by image.
func (w *world) setSizes() map[string]int32 {
	w.Helper()
	sizes := map[string]int32{}
	for _, rs := range w.sets() {
		sizes[rs.Spec.Template.Spec.Containers[0].Image] = *rs.Spec.Replicas
	}
	return sizes
}

// TestProportionalScaling is the section of that name: 10 replicas, maxSurge 3, maxUnavailable 2. An image that never gets ready leaves
// 8 old and 5 new ones; scaled to 15, the 5 more are spread as 3 and 2.
func TestProportionalScaling(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		d := web(10)
		surge, missing := intstr.FromInt32(3), intstr.FromInt32(2)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &missing}
		w.create(d)
		w.runPods()
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:sometag" })
		if diff := cmp.Diff(map[string]int32{"nginx:1": 8, "nginx:sometag": 5}, w.setSizes()); diff != "" {
			t.Fatalf("before scaling (-want +got):\n%s", diff)
		}
		w.change(func(d *appsv1.Deployment) { *d.Spec.Replicas = 15 })
		if diff := cmp.Diff(map[string]int32{"nginx:1": 11, "nginx:sometag": 7}, w.setSizes()); diff != "" {
			t.Errorf("scaled to 15 (-want +got):\n%s", diff)
		}
	})
}

// TestRollover is the section "Rollover (aka multiple updates in-flight)": 5 replicas, of which 3 run, and another image: the 3 begin
// to go at once, and nobody waits for the other 2.
func TestRollover(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		w.create(web(3))
		w.runPods()
		w.change(func(d *appsv1.Deployment) {
			*d.Spec.Replicas = 5
			d.Spec.Template.Spec.Containers[0].Image = "nginx:2"
		})
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:3" })
		if sizes := w.setSizes(); sizes["nginx:3"] == 0 || sizes["nginx:2"]+sizes["nginx:1"] >= 7 {
			t.Errorf("in mid-air: sizes %v, want some of nginx:3 and fewer of the others", sizes)
		}
		for range 10 {
			w.runPods()
		}
		if diff := cmp.Diff(map[string]int32{"nginx:1": 0, "nginx:2": 0, "nginx:3": 5}, w.setSizes()); diff != "" {
			t.Errorf("in the end (-want +got):\n%s", diff)
		}
	})
}

// TestPausedFromTheBeginning promises that such a Deployment has no ReplicaSet until it is resumed.
func TestPausedFromTheBeginning(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		d := web(2)
		d.Spec.Paused = true
		w.create(d)
		if sets := w.sets(); len(sets) != 0 {
			t.Errorf("replica sets %v, want none", sets)
		}
		if now := condition(w.deployment().Status.Conditions, appsv1.DeploymentProgressing); now == nil || now.Reason != "DeploymentPaused" {
			t.Errorf("condition %v, want DeploymentPaused", now)
		}
		w.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
		w.runPods()
		w.expect("resumed", "2/2 updated 2 available 2 Available=True(MinimumReplicasAvailable) Progressing=True(NewReplicaSetAvailable)")
	})
}

// TestDeploymentAdopts promises that a ReplicaSet of nobody with fitting labels and template is taken as the current one, and that one
// whose labels fit no longer is let go.
func TestDeploymentAdopts(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		rs := webSet(1)
		rs.Labels = map[string]string{"app": "web"}
		w.createSet(rs)
		w.create(web(1))
		sets := w.sets()
		if len(sets) != 1 || metav1.GetControllerOf(&sets[0]) == nil {
			t.Fatalf("replica sets %v, want the one of nobody adopted", sets)
		}
		sets[0].Labels = map[string]string{"app": "other"}
		_, err := w.client.AppsV1().ReplicaSets("default").Update(w.ctx, &sets[0], metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		sets = w.sets()
		free := slices.IndexFunc(sets, func(rs appsv1.ReplicaSet) bool { return rs.Name == "web" })
		if len(sets) != 2 || free < 0 || metav1.GetControllerOf(&sets[free]) != nil {
			t.Errorf("replica sets %v, want the first let go and another made", sets)
		}
	})
}

// TestSetCannotBeMade promises that the reason is told as a condition and as an Event.
func TestSetCannotBeMade(t *testing.T) {
	inWorld(t, workloads, func(w *world) {
		w.client.PrependReactor("create", "replicasets", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("no room")
		})
		w.create(web(1))
		name := "web-" + templateHash(&w.deployment().Spec.Template, nil)
		message := `Failed to create new replica set "` + name + `": no room`
		now := condition(w.deployment().Status.Conditions, appsv1.DeploymentProgressing)
		if now == nil || now.Status != "False" || now.Reason != "ReplicaSetCreateError" || now.Message != message {
			t.Errorf("condition %v, want ReplicaSetCreateError: %s", now, message)
		}
		if events := w.told(); len(events) == 0 || events[0] != "Warning ReplicaSetCreateError "+message {
			t.Errorf("events %q, want first the same", events)
		}
		time.Sleep(15 * time.Minute) // The deadline is 10.
		if later := condition(w.deployment().Status.Conditions, appsv1.DeploymentProgressing); !equality.Semantic.DeepEqual(later, now) {
			t.Errorf("condition after the deadline %v, want it to stay", later)
		}
	})
}

// TestRolloutBegins promises that a rollout's beginning is written down, and with it the revision, without the deployment itself being
// changed: also when the first write fails, and when there is a ReplicaSet already.
func TestRolloutBegins(t *testing.T) {
	inWorld(t, deploymentsAlone, func(w *world) {
		w.create(web(1))
		begun := func(what, reason, revision string) {
			w.Helper()
			d := w.deployment()
			now := condition(d.Status.Conditions, appsv1.DeploymentProgressing)
			if now == nil || now.Reason != reason || d.Annotations[revisionAnnotation] != revision {
				w.Errorf("%s: condition %v and revision %q, want %s and %s", what, now, d.Annotations[revisionAnnotation], reason, revision)
			}
		}
		begun("created", "NewReplicaSetCreated", "1")
		if d := w.deployment(); d.Generation != 1 || d.Status.ObservedGeneration != 1 {
			t.Errorf("created: generation %d, observed %d; want 1 and 1", d.Generation, d.Status.ObservedGeneration)
		}
		finished := func() {
			d := w.deployment()
			now := condition(d.Status.Conditions, appsv1.DeploymentProgressing)
			now.Reason = reasonAvailable
			_, err := w.client.AppsV1().Deployments("default").UpdateStatus(w.ctx, d, metav1.UpdateOptions{})
			w.must(err)
			w.settle()
		}
		finished()
		fails := true
		w.client.PrependReactor("update", "deployments", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if action.GetSubresource() == "status" && fails {
				fails = false
				return true, nil, errors.New("out of order")
			}
			return false, nil, nil
		})
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:2" })
		begun("after a write that failed", "FoundNewReplicaSet", "2")
		finished()
		w.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "nginx:1" })
		begun("rolled back", "FoundNewReplicaSet", "3")
	})
}
