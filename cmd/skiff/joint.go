package main

import (
	"context"
	"errors"
	"sync"

	"k8s.io/client-go/tools/cache"
)

// joint is an informer whose handlers have one listener together, if they were there before it ran. client-go gives one to each,
// with two goroutines and room for a thousand events: there were 113 of them in a control plane, and each event of a pod went
// through a dozen. All handlers of the components only note what there is to do, so none has to wait for another for long.
type joint struct {
	cache.SharedIndexInformer

	mu       sync.Mutex
	running  bool
	handlers *handlers
	together cache.ResourceEventHandlerRegistration // Of handlers; nil if there are none.
}

func newJoint(informer cache.SharedIndexInformer) *joint {
	return &joint{SharedIndexInformer: informer, handlers: &handlers{}}
}

// AddEventHandler implements cache.SharedInformer. A handler that comes later has a listener of its own, since it is told of what
// the others know already.
func (j *joint) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.running {
		return j.SharedIndexInformer.AddEventHandler(h)
	}
	if j.together == nil {
		var err error
		if j.together, err = j.SharedIndexInformer.AddEventHandler(j.handlers); err != nil {
			return nil, err
		}
	}
	*j.handlers = append(*j.handlers, h)
	return j.together, nil
}

// RemoveEventHandler implements cache.SharedInformer, for handlers that came later.
func (j *joint) RemoveEventHandler(r cache.ResourceEventHandlerRegistration) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if r == j.together {
		return errors.New("a handler that has its listener together with others cannot be removed")
	}
	return j.SharedIndexInformer.RemoveEventHandler(r)
}

// RunWithContext implements cache.SharedInformer.
func (j *joint) RunWithContext(ctx context.Context) {
	j.mu.Lock()
	j.running = true
	j.mu.Unlock()
	j.SharedIndexInformer.RunWithContext(ctx)
}

// handlers are called one after the other. There are no more of them once the informer runs.
type handlers []cache.ResourceEventHandler

func (all *handlers) OnAdd(obj any, initial bool) {
	for _, h := range *all {
		h.OnAdd(obj, initial)
	}
}

func (all *handlers) OnUpdate(before, after any) {
	for _, h := range *all {
		h.OnUpdate(before, after)
	}
}

func (all *handlers) OnDelete(obj any) {
	for _, h := range *all {
		h.OnDelete(obj)
	}
}
