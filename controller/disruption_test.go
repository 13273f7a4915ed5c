package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// guardedPods are ready pods of a ReplicaSet that a Deployment owns, both of which want so many replicas.
func guardedPods(replicas int32, names ...string) []runtime.Object {
	owner := func(kind, name string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(name), Controller: new(true)}}
	}
	objects := []runtime.Object{
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &replicas}},
		&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", UID: "web-1", OwnerReferences: owner("Deployment", "web")},
			Spec: appsv1.ReplicaSetSpec{Replicas: new(int32)}},
	}
	for _, name := range names {
		pod := aPod(name)
		pod.Labels = map[string]string{"app": "web"}
		pod.OwnerReferences = owner("ReplicaSet", "web-1")
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		objects = append(objects, pod)
	}
	return objects
}

func budget(minAvailable, maxUnavailable string) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 1}}
	b.Spec.Selector = selecting(labels.Set{"app": "web"})
	if minAvailable != "" {
		b.Spec.MinAvailable = new(intstr.Parse(minAvailable))
	}
	if maxUnavailable != "" {
		b.Spec.MaxUnavailable = new(intstr.Parse(maxUnavailable))
	}
	return b
}

// books is what a budget's status says, as one line: expected, healthy of desired, allowed, why.
func (w *world) books() string {
	w.Helper()
	b, err := w.client.PolicyV1().PodDisruptionBudgets("default").Get(w.ctx, "web", metav1.GetOptions{})
	w.must(err)
	s := b.Status
	why := ""
	for _, c := range s.Conditions {
		why += " " + strings.TrimSpace(string(c.Status)+" "+c.Reason+" "+c.Message)
	}
	return fmt.Sprintf("expected %d, healthy %d of %d, allowed %d%s", s.ExpectedPods, s.CurrentHealthy, s.DesiredHealthy, s.DisruptionsAllowed, why)
}

// A budget counts its pods against what their owner wants, and rounds in favour of those who stay.
func TestBudgetCounts(t *testing.T) {
	job := aPod("lone")
	job.Labels = map[string]string{"app": "web"}
	job.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "j", UID: "j", Controller: new(true)}}
	lone := job.DeepCopy()
	lone.OwnerReferences = nil
	gone := job.DeepCopy()
	gone.OwnerReferences[0] = metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", UID: "an earlier one", Controller: new(true)}
	for _, tc := range []struct {
		name, minAvailable, maxUnavailable string
		objects                            []runtime.Object
		want                               string
	}{
		{"a number that must stay", "2", "", guardedPods(5, "a", "b", "c"), "expected 3, healthy 3 of 2, allowed 1 True SufficientPods"},
		{"a share that must stay", "50%", "", guardedPods(5, "a", "b", "c"), "expected 5, healthy 3 of 3, allowed 0 False InsufficientPods"},
		{"a number that may go", "", "2", guardedPods(3, "a", "b", "c"), "expected 3, healthy 3 of 1, allowed 2 True SufficientPods"},
		{"a share that may go", "", "34%", guardedPods(4, "a", "b", "c", "d"), "expected 4, healthy 4 of 2, allowed 2 True SufficientPods"},
		{"less than there should be", "", "1", guardedPods(4, "a", "b", "c"), "expected 4, healthy 3 of 3, allowed 0 False InsufficientPods"},
		{"no pods yet", "0", "", nil, "expected 0, healthy 0 of 0, allowed 0 False InsufficientPods"},
		{"a pod of nobody", "", "1", []runtime.Object{lone}, "expected 0, healthy 0 of 0, allowed 0 False InsufficientPods"},
		{"a pod of what has no scale", "", "1", []runtime.Object{job},
			"expected 0, healthy 0 of 0, allowed 0 False SyncFailed jobs.batch does not implement the scale subresource"},
		{"a pod of what is not there", "", "1", append(guardedPods(1), gone), `expected 0, healthy 0 of 0, allowed 0 False SyncFailed found no controllers for pod "lone"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, newDisruptions, func(w *world) {
				w.settle()
				if got := w.books(); got != tc.want {
					t.Errorf("the budget says\n%s, want\n%s", got, tc.want)
				}
			}, append(tc.objects, budget(tc.minAvailable, tc.maxUnavailable))...)
		})
	}
}

// A pod that does not get ready, or goes, is missed at once.
func TestBudgetFollowsPods(t *testing.T) {
	inWorld(t, newDisruptions, func(w *world) {
		pod, err := w.client.CoreV1().Pods("default").Get(w.ctx, "a", metav1.GetOptions{})
		w.must(err)
		pod.Status.Conditions[0].Status = corev1.ConditionFalse
		_, err = w.client.CoreV1().Pods("default").UpdateStatus(w.ctx, pod, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		if got, want := w.books(), "expected 2, healthy 1 of 1, allowed 0 False InsufficientPods"; got != want {
			t.Errorf("with one pod not ready: %s, want %s", got, want)
		}
	}, append(guardedPods(2, "a", "b"), budget("1", ""))...)
}

// A pod whose eviction was granted counts as gone until it is, or until it has had two minutes to go.
func TestGrantedEvictionExpires(t *testing.T) {
	b := budget("1", "")
	b.Status.DisruptedPods = map[string]metav1.Time{"a": metav1.NewTime(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), "other": {}} // When the bubble's time begins.
	inWorld(t, newDisruptions, func(w *world) {
		w.settle()
		if got, want := w.books(), "expected 3, healthy 2 of 1, allowed 1 True SufficientPods"; got != want {
			t.Errorf("after the grant: %s, want %s", got, want)
		}
		time.Sleep(disruptionTimeout + time.Second)
		w.settle()
		if got, want := w.books(), "expected 3, healthy 3 of 1, allowed 2 True SufficientPods"; got != want {
			t.Errorf("two minutes after the grant: %s, want %s", got, want)
		}
		stored, err := w.client.PolicyV1().PodDisruptionBudgets("default").Get(w.ctx, "web", metav1.GetOptions{})
		w.must(err)
		if len(stored.Status.DisruptedPods) != 0 || stored.Status.ObservedGeneration != 1 {
			t.Errorf("status is %+v, want no disrupted pods and generation 1", stored.Status)
		}
	}, append(guardedPods(3, "a", "b", "c"), b)...)
}
