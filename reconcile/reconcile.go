// Package reconcile holds the one control loop of skiff: a queue of keys, a few workers, and a retry with back-off.
//
// Everything in skiff that makes the world look like the API's objects (the controllers, the scheduler, the agent, the
// proxy) is a [Func] and what feeds it. A Func gets a key, never an event: it reads what is wanted and what is there, and
// closes the gap. It may therefore be called too often, late, or after a restart, and still do the right thing.
//
// In Kubernetes: the informer and workqueue pattern of k8s.io/client-go, which every controller writes out by hand
// (k8s.io/sample-controller). Left out: leader election, which is the business of whoever runs the loops (cmd/skiff).
package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// Func brings the object named by key to its wanted state. An error puts the key back with an exponential back-off; a
// positive duration asks to be called again after it, for what becomes due by the clock alone. With both it is what comes first.
type Func func(ctx context.Context, key string) (again time.Duration, err error)

// Loop calls a [Func] for each key added, never twice at once for the same key. Build one with [New].
type Loop struct {
	name  string
	do    Func
	queue workqueue.TypedRateLimitingInterface[string]
	clock quietClock // Of the queue.
}

// Back-off of a key whose Func fails: soon at first, because a conflict is the usual reason, and at most this rare.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 30 * time.Second
)

// New makes a loop; name stands in its log lines and metrics.
func New(name string, do Func) *Loop { return NewOrdered(name, workqueue.DefaultQueue[string](), do) }

// NewOrdered makes a loop that takes the keys in the order that the given queue has them.
func NewOrdered(name string, order workqueue.Queue[string], do Func) *Loop {
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)
	l := &Loop{name: name, do: do, clock: quietClock{stopped: make(chan time.Time)}}
	keys := workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[string]{Name: name, Clock: l.clock, Queue: order})
	later := workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[string]{Name: name, Clock: l.clock, Queue: keys})
	l.queue = workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[string]{DelayingQueue: later})
	return l
}

// Add asks for key to be reconciled soon. It never blocks.
func (l *Loop) Add(key string) { l.queue.Add(key) }

// AddAfter asks for key to be reconciled once d has passed.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// Watch adds, for each object that informer sees come, change or go, the keys that keys returns for it. For a change
// both the old and the new object are asked, so that a key that an object no longer belongs to hears of it too.
// The objects are shared: keys must not change them.
func (l *Loop) Watch(informer cache.SharedIndexInformer, keys func(obj any) []string) error {
	add := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		for _, key := range keys(obj) {
			l.queue.Add(key)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    add,
		UpdateFunc: func(before, after any) { add(before); add(after) },
		DeleteFunc: add,
	})
	if err != nil {
		return fmt.Errorf("watch for the %s loop: %w", l.name, err)
	}
	return nil
}

// ObjectKey is the usual keys function for [Loop.Watch]: the object's own "namespace/name".
func ObjectKey(obj any) []string {
	key, err := cache.MetaNamespaceKeyFunc(obj)
	if err != nil {
		return nil
	}
	return []string{key}
}

// Run works the queue with the given number of workers until ctx ends, and returns when the last call has returned.
func (l *Loop) Run(ctx context.Context, workers int) {
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	close(l.clock.stopped)
	wg.Wait()
}

func (l *Loop) next(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(key)
	again, err := l.call(ctx, key)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		if tries := l.queue.NumRequeues(key); tries > 2 { // The first few are conflicts with another writer.
			slog.Warn("reconcile", "loop", l.name, "key", key, "tries", tries, "err", err)
		}
		l.queue.AddRateLimited(key)
	default:
		l.queue.Forget(key)
	}
	if again > 0 && ctx.Err() == nil {
		l.queue.AddAfter(key, again)
	}
	return true
}

// call turns a panic into an error: one broken object must not stop the others.
func (l *Loop) call(ctx context.Context, key string) (again time.Duration, err error) {
	defer func() {
		if r := recover(); r != nil {
			slog.Error("panic in reconcile", "loop", l.name, "key", key, "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return l.do(ctx, key)
}
