package controller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	"skiff/api"
)

// TestMain has client-go's caches panic when anybody changes what a lister returns.
func TestMain(m *testing.M) {
	os.Setenv("KUBE_CACHE_MUTATION_DETECTOR", "true")
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	os.Exit(m.Run())
}

// world is a cluster without an API server: client-go's fake clientset, taught what the real server does to metadata, and
// the controllers under test. It lives in a synctest bubble, so that time costs nothing.
type world struct {
	*testing.T
	ctx     context.Context
	client  *fake.Clientset
	factory informers.SharedInformerFactory
	events  *record.FakeRecorder
	count   atomic.Int64 // Of UIDs, generated names and versions.
}

// inWorld runs a test with the controllers that build makes.
func inWorld(t *testing.T, build func(b *base, events record.EventRecorder) error, test func(w *world), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w := &world{T: t, ctx: ctx, client: fake.NewClientset(objects...), events: record.NewFakeRecorder(10_000)}
		w.factory = informers.NewSharedInformerFactory(w.client, 0)
		w.client.PrependReactor("create", "*", w.complete)
		w.client.PrependReactor("update", "*", w.renew)
		w.client.PrependReactor("patch", "*", w.patched)
		b := &base{client: w.client, factory: w.factory}
		if err := build(b, w.events); err != nil {
			t.Fatal(err)
		}
		w.factory.Start(ctx.Done())
		w.factory.WaitForCacheSync(ctx.Done())
		synctest.Wait() // For the watches, too: the fake does not tell them of what happened between the list and their beginning.
		var loops sync.WaitGroup
		for _, r := range b.loops {
			loops.Go(func() { r.loop.Run(ctx, r.workers) })
		}
		defer func() { // Also when the test ends itself: a bubble must be empty in the end.
			cancel()
			loops.Wait()
			w.factory.Shutdown()
		}()
		test(w)
	})
}

// complete gives a new object what the API server would.
func (w *world) complete(action clienttesting.Action) (bool, runtime.Object, error) {
	obj, err := meta.Accessor(action.(clienttesting.CreateAction).GetObject())
	if err != nil || action.GetSubresource() != "" {
		return false, nil, nil
	}
	n := w.count.Add(1)
	obj.SetUID(types.UID(fmt.Sprintf("uid-%d", n)))
	obj.SetResourceVersion(fmt.Sprint(n))
	obj.SetGeneration(1)
	obj.SetCreationTimestamp(metav1.Now())
	if obj.GetName() == "" {
		obj.SetName(fmt.Sprintf("%s%05d", obj.GetGenerateName(), n))
	}
	return false, nil, nil
}

// renew gives a changed object what the API server would: what a client may leave out, a new version and, where the spec
// is wanted has changed, a new generation.
func (w *world) renew(action clienttesting.Action) (bool, runtime.Object, error) {
	update := action.(clienttesting.UpdateAction)
	obj, err := meta.Accessor(update.GetObject())
	if err != nil {
		return false, nil, nil
	}
	stored, err := w.client.Tracker().Get(action.GetResource(), action.GetNamespace(), obj.GetName())
	if err != nil {
		return false, nil, nil
	}
	before, err := meta.Accessor(stored)
	if err != nil {
		return false, nil, nil
	}
	if sent := obj.GetResourceVersion(); sent != "" && sent != before.GetResourceVersion() {
		return true, nil, apierrors.NewConflict(action.GetResource().GroupResource(), obj.GetName(), errors.New("stale"))
	}
	obj.SetUID(before.GetUID())
	obj.SetResourceVersion(fmt.Sprint(w.count.Add(1)))
	obj.SetGeneration(before.GetGeneration())
	wanted := wantedOf[action.GetResource().GroupResource()]
	if wanted != nil && update.GetSubresource() == "" && !api.Same(wanted(update.GetObject()), wanted(stored)) {
		obj.SetGeneration(before.GetGeneration() + 1)
	}
	return false, nil, nil
}

// wantedOf is what the API server counts the changes of.
var wantedOf = func() map[schema.GroupResource]func(runtime.Object) any {
	all := map[schema.GroupResource]func(runtime.Object) any{}
	for _, r := range api.Table() {
		all[r.GroupResource()] = r.Wanted
	}
	return all
}()

// patched refuses the patches whose effect on the generation the fake does not know.
func (w *world) patched(action clienttesting.Action) (bool, runtime.Object, error) {
	if action.GetResource().Resource == "deployments" && action.GetSubresource() == "" {
		w.Errorf("deployment %s is patched, which the API server counts as a change of what is wanted", action.(clienttesting.PatchAction).GetName())
	}
	return false, nil, nil
}

// settle waits until nothing moves any more.
func (w *world) settle() {
	w.Helper()
	for range 20 { // Watches, queues and back-off hand on to each other; each needs its turn.
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
	}
}

// must fails the test at the step that went wrong.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) pods(selector string) []corev1.Pod {
	w.Helper()
	list, err := w.client.CoreV1().Pods("default").List(w.ctx, metav1.ListOptions{LabelSelector: selector})
	w.must(err)
	return list.Items
}

func (w *world) sets() []appsv1.ReplicaSet {
	w.Helper()
	list, err := w.client.AppsV1().ReplicaSets("default").List(w.ctx, metav1.ListOptions{})
	w.must(err)
	return list.Items
}

// runPods plays the agent: all pods run and are ready.
func (w *world) runPods() {
	w.Helper()
	for _, pod := range w.pods("") {
		if podReady(&pod) {
			continue
		}
		pod.Spec.NodeName = "a"
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()},
		}}
		_, err := w.client.CoreV1().Pods("default").Update(w.ctx, &pod, metav1.UpdateOptions{})
		if !apierrors.IsNotFound(err) { // A controller may have deleted it meanwhile.
			w.must(err)
		}
	}
	w.settle()
}

// told returns the events since the last call.
func (w *world) told() (events []string) {
	for {
		select {
		case e := <-w.events.Events:
			events = append(events, e)
		default:
			return events
		}
	}
}

func selecting(l labels.Set) *metav1.LabelSelector { return &metav1.LabelSelector{MatchLabels: l} }
