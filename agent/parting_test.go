package agent_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
)

// traffic is an [agent.Traffic]: requests come to a pod until the test says that they have left.
type traffic struct {
	mu   sync.Mutex
	left bool
	wake []func()
}

func (f *traffic) Leaving(_ *v1.Pod, again func()) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left {
		return ""
	}
	f.wake = append(f.wake, again)
	return "the proxy of node node-2"
}

func (f *traffic) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = true
	for _, again := range f.wake {
		again()
	}
}

// TestParting promises that nothing is done to the containers of a deleted pod, not even by its preStop hook, before requests
// have left it, and when that takes too long, that it happens nevertheless and is told.
func TestParting(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hook  bool
		grace int64
		wait  time.Duration // At most.
	}{
		{name: "signal", grace: 30, wait: 2 * time.Second},
		{name: "hook", hook: true, grace: 30, wait: 2 * time.Second},
		{name: "a second is all there is", grace: 1, wait: time.Second},
		{name: "no time at all", grace: 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				n.stop()
				requests := &traffic{}
				n.config.Traffic = requests
				n.start()
				var pods []*v1.Pod
				for _, name := range []string{"left", "served"} {
					pods = append(pods, newPod(name, func(p *v1.Pod) {
						if tc.hook {
							p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 1}}}
						}
					}))
				}
				n.create(pods...)
				told := func() bool {
					n.mu.Lock()
					defer n.mu.Unlock()
					return slices.ContainsFunc(n.told, func(e *v1.Event) bool {
						return e.Reason == "StillServed" && strings.Contains(e.Message, "the proxy of node node-2 still has the pod")
					})
				}

				n.markDeleted("served", tc.grace)
				if tc.wait > 0 {
					after(t, tc.wait-300*time.Millisecond) // Of which 200 have passed.
					n.want("served", "Running app=running/0")
					after(t, 300*time.Millisecond)
				}
				if tc.hook {
					after(t, time.Second)
				}
				if !n.gone("served") {
					t.Errorf("after %v the pod is not gone: %s", tc.wait, n.containers())
				}
				if want := tc.wait > 0; told() != want {
					t.Errorf("an Event tells that the pod was still served: %v, want %v", told(), want)
				}

				n.markDeleted("left", tc.grace)
				requests.leave()
				settle(t)
				if tc.hook {
					after(t, time.Second)
				}
				if !n.gone("left") {
					t.Errorf("requests have left the pod, and it is not gone: %s", n.containers())
				}
			})
		})
	}
}
