package controller

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
)

// TestReplicationController promises what ReplicaSets do: pods made, adopted and deleted, their number told; and a ReplicaSet
// with the same labels beside it, which is not mixed up with it.
func TestReplicationController(t *testing.T) {
	build := func(b *base, events record.EventRecorder) error {
		if err := newReplicaSets(b, record.NewFakeRecorder(1000), nil); err != nil {
			return err
		}
		return newReplicationControllers(b, events, nil)
	}
	inWorld(t, build, func(w *world) {
		controllers := w.client.CoreV1().ReplicationControllers("default")
		orphan := aPod("orphan ready=1h")
		orphan.Labels, orphan.UID, orphan.OwnerReferences = map[string]string{"app": "web"}, "", nil
		_, err := w.client.CoreV1().Pods("default").Create(w.ctx, orphan, metav1.CreateOptions{})
		w.must(err)
		w.settle() // It is known before it is counted.
		size, pods := int32(3), template("nginx:1")
		_, err = controllers.Create(w.ctx, &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
			Spec:       corev1.ReplicationControllerSpec{Replicas: &size, Selector: map[string]string{"app": "web"}, Template: &pods},
		}, metav1.CreateOptions{})
		w.must(err)
		w.settle()
		w.runPods()
		rc := func() *corev1.ReplicationController {
			t.Helper()
			rc, err := controllers.Get(w.ctx, "web", metav1.GetOptions{})
			w.must(err)
			return rc
		}
		want := corev1.ReplicationControllerStatus{Replicas: 3, FullyLabeledReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 3, ObservedGeneration: 1}
		if diff := cmp.Diff(want, rc().Status); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
		for _, pod := range w.pods("") {
			ref := metav1.GetControllerOf(&pod)
			if ref == nil || ref.APIVersion != "v1" || ref.Kind != "ReplicationController" || ref.Name != "web" {
				t.Errorf("pod %s is controlled by %v", pod.Name, ref)
			}
		}
		if told := w.told(); len(told) != 2 || !strings.HasPrefix(told[0], "Normal SuccessfulCreate Created pod: web-") {
			t.Errorf("events %q, want two of created pods: one was adopted", told)
		}

		w.createSet(webSet(1))
		if n := len(w.pods("")); n != 4 {
			t.Errorf("%d pods, want 3 and the ReplicaSet's one", n)
		}
		smaller := rc()
		*smaller.Spec.Replicas = 1
		_, err = controllers.Update(w.ctx, smaller, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		if n := rc().Status.Replicas; n != 1 {
			t.Errorf("scaled to 1 it has %d replicas", n)
		}
		if n := len(w.pods("")); n != 2 {
			t.Errorf("%d pods, want one and the ReplicaSet's one", n)
		}
		before := len(w.client.Actions())
		w.settle()
		if quiet := w.client.Actions()[before:]; len(quiet) != 0 {
			t.Errorf("requests while nothing changed: %v", quiet)
		}
	})
}
