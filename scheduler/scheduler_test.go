package scheduler

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestMain has client-go's caches panic when anybody changes what a lister returns.
func TestMain(m *testing.M) {
	os.Setenv("KUBE_CACHE_MUTATION_DETECTOR", "true")
	os.Exit(m.Run())
}

// world is a fake clientset that binds pods as the API server does, and a running scheduler, in a bubble of time.
type world struct {
	*testing.T
	ctx    context.Context
	client *fake.Clientset
	bind   atomic.Pointer[error] // What the next bindings answer.
}

func inWorld(t *testing.T, test func(w *world), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w := &world{T: t, ctx: ctx, client: fake.NewClientset(objects...)}
		w.client.PrependReactor("create", "pods", w.binding)
		factory := informers.NewSharedInformerFactory(w.client, 0)
		s, err := New(w.client, factory, Config{})
		if err != nil {
			t.Fatal(err)
		}
		factory.Start(ctx.Done())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
			factory.Shutdown()
		}()
		w.settle()
		test(w)
	})
}

func (w *world) binding(action clienttesting.Action) (bool, runtime.Object, error) {
	if action.GetSubresource() != "binding" {
		return false, nil, nil
	}
	if err := w.bind.Load(); err != nil {
		return true, nil, *err
	}
	binding := action.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
	obj, err := w.client.Tracker().Get(action.GetResource(), action.GetNamespace(), binding.Name)
	if err != nil {
		return true, nil, err
	}
	pod := obj.(*corev1.Pod).DeepCopy()
	pod.Spec.NodeName = binding.Target.Name
	return true, binding, w.client.Tracker().Update(action.GetResource(), pod, action.GetNamespace())
}

func (w *world) settle() {
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
}

func (w *world) create(words ...string) {
	w.Helper()
	for _, each := range words {
		if _, err := w.client.CoreV1().Pods("default").Create(w.ctx, aPod(each), metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
	}
	w.settle()
}

func (w *world) pod(name string) *corev1.Pod {
	w.Helper()
	pod, err := w.client.CoreV1().Pods("default").Get(w.ctx, name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return pod
}

func (w *world) expectNode(name, node string) {
	w.Helper()
	if got := w.pod(name).Spec.NodeName; got != node {
		w.Errorf("pod %s is on node %q, want %q", name, got, node)
	}
}

func (w *world) events() (out []string) {
	w.Helper()
	list, err := w.client.CoreV1().Events("default").List(w.ctx, metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range list.Items {
		out = append(out, e.Type+" "+e.Reason+" "+e.InvolvedObject.Name+" "+e.Source.Component+": "+e.Message)
	}
	return out
}

// TestBind promises a binding and its Event.
func TestBind(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("p")
		w.expectNode("p", "a")
		want := "Normal Scheduled p default-scheduler: Successfully assigned default/p to a"
		if events := w.events(); !slices.Contains(events, want) {
			t.Errorf("events %q, want %q", events, want)
		}
	}, aNode("a"))
}

// TestLeavesOthers promises to leave alone pods of another scheduler, gated ones, and those being deleted.
func TestLeavesOthers(t *testing.T) {
	other, gated, leaving := aPod("other"), aPod("gated"), aPod("leaving")
	other.Spec.SchedulerName = "mine"
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
	now := metav1.Now()
	leaving.DeletionTimestamp, leaving.Finalizers = &now, []string{"keep/it"}
	inWorld(t, func(w *world) {
		for _, name := range []string{"other", "gated", "leaving"} {
			w.expectNode(name, "")
		}
		open := w.pod("gated")
		open.Spec.SchedulingGates = nil
		if _, err := w.client.CoreV1().Pods("default").Update(w.ctx, open, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.expectNode("gated", "a")
	}, aNode("a"), other, gated, leaving)
}

// TestFailedScheduling promises that a pod that fits nowhere says so once, and goes as soon as there is room.
func TestFailedScheduling(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("big on=a cpu=900m", "p cpu=500m")
		const why = "0/1 nodes are available: 1 Insufficient cpu."
		conditions := w.pod("p").Status.Conditions
		if len(conditions) != 1 || conditions[0].Type != corev1.PodScheduled || conditions[0].Status != corev1.ConditionFalse ||
			conditions[0].Reason != "Unschedulable" || conditions[0].Message != why {
			t.Errorf("conditions %v, want PodScheduled False Unschedulable %q", conditions, why)
		}
		if events, want := w.events(), "Warning FailedScheduling p default-scheduler: "+why; !slices.Contains(events, want) {
			t.Errorf("events %q, want %q", events, want)
		}
		before := len(w.client.Actions())
		time.Sleep(time.Hour)
		if after := len(w.client.Actions()); after != before {
			t.Errorf("%d requests in an hour in which nothing happened: %v", after-before, w.client.Actions()[before:])
		}
		if err := w.client.CoreV1().Pods("default").Delete(w.ctx, "big", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.expectNode("p", "a")
	}, aNode("a cpu=1"))
}

// TestNodeComes promises that waiting pods go to a node as soon as there is one.
func TestNodeComes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.create("p")
		if message := w.pod("p").Status.Conditions[0].Message; message != "no nodes available to schedule pods" {
			t.Errorf("message %q without nodes", message)
		}
		if _, err := w.client.CoreV1().Nodes().Create(w.ctx, aNode("a"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.expectNode("p", "a")
	})
}

// TestNoOverbooking promises that pods that come at once are counted before their bindings show.
func TestNoOverbooking(t *testing.T) {
	inWorld(t, func(w *world) {
		names := strings.Fields("p1 p2 p3 p4 p5 p6 p7 p8")
		for _, name := range names {
			if _, err := w.client.CoreV1().Pods("default").Create(w.ctx, aPod(name+" cpu=500m"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		w.settle()
		on := map[string]int{}
		for _, name := range names {
			on[w.pod(name).Spec.NodeName]++
		}
		if on["a"] != 2 || on["b"] != 2 || on[""] != 4 {
			t.Errorf("pods by node %v, want 2 on each of two nodes with one CPU, and 4 waiting", on)
		}
	}, aNode("a cpu=1"), aNode("b cpu=1"))
}

// TestBindFails promises that a failed binding takes no room and is tried again.
func TestBindFails(t *testing.T) {
	inWorld(t, func(w *world) {
		refused := errors.New("connection refused")
		w.bind.Store(&refused)
		w.create("p cpu=800m")
		w.expectNode("p", "")
		w.bind.Store(nil)
		time.Sleep(time.Minute)
		w.settle()
		w.expectNode("p", "a")
	}, aNode("a cpu=1"))
}

// TestDeletedWhileBinding promises that a pod that goes before its binding gives back the room that others were refused for.
func TestDeletedWhileBinding(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewNotFound(corev1.Resource("pods"), "big")
	})
	s, err := New(client, informers.NewSharedInformerFactory(client, 0), Config{})
	if err != nil {
		t.Fatal(err)
	}
	s.nodeChanged(nil, aNode("a cpu=1"))
	big, small := aPod("big cpu=800m"), aPod("small cpu=500m")
	if made := s.choose(big); made.node == nil {
		t.Fatalf("the first pod: no node, %s (%v)", made.failure, made.err)
	}
	if made := s.choose(small); made.node != nil || len(s.misfit) != 1 {
		t.Fatalf("the second pod: node %v, misfits %v; want it to wait for room", made.node, s.misfit)
	}
	if err := s.bind(t.Context(), big, "a"); err != nil {
		t.Errorf("bind a pod that is gone: %v", err)
	}
	if len(s.misfit) != 0 {
		t.Errorf("%v still wait, want them to be tried again", s.misfit)
	}
	if made := s.choose(small); made.node == nil {
		t.Errorf("the second pod, again: no node, %s (%v)", made.failure, made.err)
	}
}
