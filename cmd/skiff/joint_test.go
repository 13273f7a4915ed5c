package main

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	cachetest "k8s.io/client-go/tools/cache/testing"
)

// All handlers of an informer hear of everything, whether they were there from the beginning or come while it runs.
func TestHandlersOfOneInformerHearTheSame(t *testing.T) {
	source := cachetest.NewFakeControllerSource()
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	}
	source.Add(pod("old"))
	informer := newJoint(cache.NewSharedIndexInformer(source, &corev1.Pod{}, 0, cache.Indexers{}))

	heard := map[string][]string{} // By handler.
	var mu sync.Mutex
	var synced []cache.InformerSynced
	listen := func(handler string) cache.ResourceEventHandlerRegistration {
		t.Helper()
		hear := func(what string, obj any) {
			mu.Lock()
			defer mu.Unlock()
			heard[handler] = append(heard[handler], what+" "+obj.(*corev1.Pod).Name)
		}
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { hear("added", obj) },
			UpdateFunc: func(_, after any) { hear("changed", after) },
			DeleteFunc: func(obj any) { hear("deleted", obj) },
		})
		if err != nil {
			t.Fatal(err)
		}
		synced = append(synced, registration.HasSynced)
		return registration
	}
	first := listen("first")
	listen("second")
	ctx, cancel := context.WithCancel(t.Context())
	var runs sync.WaitGroup
	runs.Go(func() { informer.RunWithContext(ctx) })
	defer runs.Wait()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		t.Fatal("the informer does not run")
	}
	mu.Lock()
	if want := map[string][]string{"first": {"added old"}, "second": {"added old"}}; !cmp.Equal(want, heard) {
		t.Errorf("handlers that were there before are synced, and heard %v, want %v", heard, want)
	}
	mu.Unlock()
	late := listen("late")
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		t.Fatal("the late handler has not synced")
	}
	source.Add(pod("new"))
	source.Modify(pod("new"))
	source.Delete(pod("new"))
	all := []string{"added old", "added new", "changed new", "deleted new"}
	want := map[string][]string{"first": all, "second": all, "late": all}
	told := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return cmp.Equal(want, heard)
	}
	for deadline := time.Now().Add(time.Minute); !told(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the handlers do not hear %v each", all)
		}
	}
	if informer.RemoveEventHandler(late) != nil || informer.RemoveEventHandler(first) == nil {
		t.Error("a handler with a listener of its own can be removed, one of several cannot")
	}
}
