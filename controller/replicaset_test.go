package controller

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

func webSet(size int32) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}}
	rs.Spec.Replicas = &size
	rs.Spec.Selector = selecting(map[string]string{"app": "web"})
	rs.Spec.Template = template("nginx:1")
	return rs
}

func (w *world) createSet(rs *appsv1.ReplicaSet) {
	w.Helper()
	_, err := w.client.AppsV1().ReplicaSets("default").Create(w.ctx, rs, metav1.CreateOptions{})
	w.must(err)
	w.settle()
}

func (w *world) set() *appsv1.ReplicaSet {
	w.Helper()
	rs, err := w.client.AppsV1().ReplicaSets("default").Get(w.ctx, "web", metav1.GetOptions{})
	w.must(err)
	return rs
}

func (w *world) resize(size int32) {
	w.Helper()
	rs := w.set()
	*rs.Spec.Replicas = size
	_, err := w.client.AppsV1().ReplicaSets("default").Update(w.ctx, rs, metav1.UpdateOptions{})
	w.must(err)
	w.settle()
}

func replicaSetsAlone(b *base, events record.EventRecorder) error {
	return newReplicaSets(b, events, nil)
}

// TestReplacement promises that a pod that is deleted or that has ended for good is replaced, the latter staying as it is.
func TestReplacement(t *testing.T) {
	inWorld(t, replicaSetsAlone, func(w *world) {
		w.createSet(webSet(2))
		pods := w.pods("")
		w.must(w.client.CoreV1().Pods("default").Delete(w.ctx, pods[0].Name, metav1.DeleteOptions{}))
		w.settle()
		failed := w.pods("")[0]
		failed.Status.Phase = corev1.PodFailed
		_, err := w.client.CoreV1().Pods("default").Update(w.ctx, &failed, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		active := 0
		for _, pod := range w.pods("") {
			if podActive(&pod) {
				active++
			}
		}
		if active != 2 || len(w.pods("")) != 3 || w.set().Status.Replicas != 2 {
			t.Errorf("%d active of %d pods and status.replicas %d, want 2, 3 and 2", active, len(w.pods("")), w.set().Status.Replicas)
		}
	})
}

// TestNeverTooMany promises that no pod too many is made even if the watch shows nothing of what was created.
func TestNeverTooMany(t *testing.T) {
	inWorld(t, replicaSetsAlone, func(w *world) {
		var created atomic.Int32
		w.client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			n := created.Add(1) // And the pod is not stored, so no event ever comes.
			pod := action.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
			pod.Name = fmt.Sprint("invisible-", n)
			return true, pod, nil
		})
		w.createSet(webSet(3))
		for i := range 5 {
			rs := w.set()
			rs.Annotations = map[string]string{"poke": fmt.Sprint(i)}
			_, err := w.client.AppsV1().ReplicaSets("default").Update(w.ctx, rs, metav1.UpdateOptions{})
			w.must(err)
			w.settle()
		}
		if n := created.Load(); n != 3 {
			t.Errorf("created %d pods for 3 replicas while the cache shows none", n)
		}
		time.Sleep(expectationTimeout + time.Minute)
		if n := created.Load(); n != 6 {
			t.Errorf("created %d pods after the expectations ran out, want 3 more", n)
		}
	})
}

// TestSuccessorOfSet promises that a set of the same name as one that is gone does not wait for the other's pods.
func TestSuccessorOfSet(t *testing.T) {
	inWorld(t, replicaSetsAlone, func(w *world) {
		var created atomic.Int32
		w.client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
			pod := action.(clienttesting.CreateAction).GetObject().(*corev1.Pod)
			pod.Name = fmt.Sprint("invisible-", created.Add(1))
			return true, pod, nil
		})
		w.createSet(webSet(3))
		next := w.set()
		next.UID, next.ResourceVersion = "another", "another"
		w.must(w.client.Tracker().Update(appsv1.SchemeGroupVersion.WithResource("replicasets"), next, "default")) // As a watch that begins anew may show it.
		w.settle()
		if n := created.Load(); n != 6 {
			t.Errorf("created %d pods for one set of 3 and then another, want 6", n)
		}
	})
}

// TestCreateFails promises that a failure is tried once, not for each pod, is told in an Event and a condition, and that
// all is well once it is over.
func TestCreateFails(t *testing.T) {
	inWorld(t, replicaSetsAlone, func(w *world) {
		var mended atomic.Bool
		var tries atomic.Int32
		w.client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			tries.Add(1)
			if !mended.Load() {
				return true, nil, errors.New("quota exceeded")
			}
			return false, nil, nil
		})
		_, err := w.client.AppsV1().ReplicaSets("default").Create(w.ctx, webSet(50), metav1.CreateOptions{})
		w.must(err)
		w.settle()
		if n := tries.Load(); n > 12 { // Each call makes one; the rest are retries of the loop within 2 s.
			t.Errorf("%d attempts to create pods within 2 s", n)
		}
		conditions := w.set().Status.Conditions
		if len(conditions) != 1 || conditions[0].Reason != "FailedCreate" || conditions[0].Message != "quota exceeded" {
			t.Errorf("conditions %v, want ReplicaFailure with reason FailedCreate", conditions)
		}
		if events := w.told(); !slices.Contains(events, "Warning FailedCreate Error creating: quota exceeded") {
			t.Errorf("events %q, want FailedCreate", events)
		}
		mended.Store(true)
		time.Sleep(time.Minute)
		w.settle()
		if n := len(w.pods("")); n != 50 || len(w.set().Status.Conditions) != 0 {
			t.Errorf("%d pods and conditions %v after the failure was over, want 50 and none", n, w.set().Status.Conditions)
		}
	})
}

// TestEachFailureIsTold promises an Event for each pod that could not be created.
func TestEachFailureIsTold(t *testing.T) {
	inWorld(t, replicaSetsAlone, func(w *world) {
		var tries atomic.Int32
		w.client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			if n := tries.Add(1); n == 2 || n == 3 { // The second batch.
				return true, nil, errors.New("out of order")
			}
			return false, nil, nil
		})
		w.createSet(webSet(3))
		failures := slices.DeleteFunc(w.told(), func(e string) bool { return e != "Warning FailedCreate Error creating: out of order" })
		if len(failures) != 2 {
			t.Errorf("%d Events for 2 failures", len(failures))
		}
	})
}

// TestAdoptionAndRelease promises that pods belong to the set by ownership and by labels, both.
func TestAdoptionAndRelease(t *testing.T) {
	orphan := aPod("orphan")
	orphan.Labels = map[string]string{"app": "web"}
	inWorld(t, replicaSetsAlone, func(w *world) {
		w.createSet(webSet(2))
		if n := len(w.pods("")); n != 2 {
			t.Fatalf("%d pods, want the orphan and one more", n)
		}
		adopted, err := w.client.CoreV1().Pods("default").Get(w.ctx, "orphan", metav1.GetOptions{})
		w.must(err)
		if !metav1.IsControlledBy(adopted, w.set()) {
			t.Errorf("owners of the orphan: %v, want the replica set", adopted.OwnerReferences)
		}
		adopted.Labels = map[string]string{"app": "debug"}
		_, err = w.client.CoreV1().Pods("default").Update(w.ctx, adopted, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		released, err := w.client.CoreV1().Pods("default").Get(w.ctx, "orphan", metav1.GetOptions{})
		w.must(err)
		if len(released.OwnerReferences) != 0 || len(w.pods("app=web")) != 2 {
			t.Errorf("owners of the released pod: %v, and %d pods of the set; want none and 2", released.OwnerReferences, len(w.pods("app=web")))
		}
	}, orphan)
}

// TestVanishedOrphan promises that a pod that is gone when it is to be adopted is replaced, not counted.
func TestVanishedOrphan(t *testing.T) {
	orphan := aPod("orphan ready=1h")
	orphan.Labels = map[string]string{"app": "web"}
	inWorld(t, replicaSetsAlone, func(w *world) {
		w.client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewNotFound(corev1.Resource("pods"), "orphan")
		})
		w.createSet(webSet(1))
		if n := len(w.pods("")); n != 2 || w.set().Status.Replicas != 1 {
			t.Errorf("%d pods and status.replicas %d, want the cache's memory of the orphan, one pod, and 1", n, w.set().Status.Replicas)
		}
	}, orphan)
}

// TestMinReadySeconds promises that a pod counts as available by the clock alone.
func TestMinReadySeconds(t *testing.T) {
	inWorld(t, replicaSetsAlone, func(w *world) {
		rs := webSet(1)
		rs.Spec.MinReadySeconds = 30
		w.createSet(rs)
		w.runPods()
		if s := w.set().Status; s.ReadyReplicas != 1 || s.AvailableReplicas != 0 {
			t.Errorf("ready %d, available %d right after the pod got ready; want 1, 0", s.ReadyReplicas, s.AvailableReplicas)
		}
		time.Sleep(31 * time.Second)
		w.settle()
		if s := w.set().Status; s.AvailableReplicas != 1 {
			t.Errorf("available %d after 31 s; want 1", s.AvailableReplicas)
		}
	})
}

// TestScaleDown promises that the pods least missed go, told by an Event each.
func TestScaleDown(t *testing.T) {
	inWorld(t, replicaSetsAlone, func(w *world) {
		w.createSet(webSet(2))
		w.runPods()
		ready := w.pods("")
		w.resize(4)
		w.told()
		w.resize(2)
		var names []string
		for _, pod := range w.pods("") {
			names = append(names, pod.Name)
		}
		if diff := cmp.Diff([]string{ready[0].Name, ready[1].Name}, names); diff != "" {
			t.Errorf("pods left (-want the ready ones +got):\n%s", diff)
		}
		if events := w.told(); len(events) != 2 {
			t.Errorf("events %q, want two of SuccessfulDelete", events)
		}
	})
}

// TestDeleteFails promises that a failure is told in an Event and a condition.
func TestDeleteFails(t *testing.T) {
	inWorld(t, replicaSetsAlone, func(w *world) {
		w.createSet(webSet(2))
		w.client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("it is needed")
		})
		w.resize(1)
		conditions := w.set().Status.Conditions
		if len(conditions) != 1 || conditions[0].Reason != "FailedDelete" || conditions[0].Message != "unable to delete pods: it is needed" {
			t.Errorf("conditions %v, want ReplicaFailure with reason FailedDelete", conditions)
		}
		if events := w.told(); !slices.Contains(events, "Warning FailedDelete Error deleting: it is needed") {
			t.Errorf("events %q, want FailedDelete", events)
		}
	})
}

func TestSlowStart(t *testing.T) {
	tests := []struct {
		n, failFrom int // The call of that number, from 1, and all later ones fail; 0: none.
		want, calls int
	}{
		{0, 0, 0, 0}, {1, 0, 1, 1}, {10, 0, 10, 10}, {10, 1, 0, 1}, {10, 2, 1, 3}, {10, 4, 3, 7}, {10, 8, 7, 10},
	}
	for _, tc := range tests {
		t.Run(fmt.Sprintf("%d failing from %d", tc.n, tc.failFrom), func(t *testing.T) {
			calls := make(chan int, tc.n)
			for i := range tc.n {
				calls <- i + 1
			}
			got, err := slowStart(tc.n, func() error {
				if i := <-calls; tc.failFrom > 0 && i >= tc.failFrom {
					return errors.New("no")
				}
				return nil
			})
			if made := tc.n - len(calls); got != tc.want || made != tc.calls || (err != nil) != (tc.failFrom > 0) {
				t.Errorf("%d succeeded in %d calls with error %v; want %d in %d", got, made, err, tc.want, tc.calls)
			}
		})
	}
}
