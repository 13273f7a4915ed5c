// Package handover tells when requests have come to a pod, and when they have left it: whether every proxy of the cluster
// holds, in its kernel, the EndpointSlices in which the pod is ready, or those in which it terminates. With it the agent stops
// a pod's containers only when no new connection is sent to them any more, and a rollout counts a pod as available only when it
// gets some.
//
// The store has one revision for all that is written, so a proxy need tell no more than one number: up to which revision
// its kernel has the EndpointSlices (see [Progress]). The pod's endpoint is in a slice of each Service that selects it; the
// revision from which on they all have it so is the number to wait for. Within one process both numbers are compared in memory, and no
// request is made. Where there are other nodes, each proxy's number stands in an annotation of its node's Lease (see
// [Publish]).
//
// Nothing here waits: who asks and gets an answer that may change names a function to be called then. How long it makes
// sense to wait is the caller's affair, and so is what it does afterwards.
//
// In Kubernetes: nothing. The kubelet sends the stop signal while the removal of the endpoint is still on its way to the
// proxies, and each manifest has a preStop hook that sleeps (kubernetes/kubernetes#43576). Left out: what routes requests but
// is no proxy of a node, such as an ingress controller, and DNS.
package handover

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// forgetAfter is when a question that nobody was called back for is dropped: whoever asked has long gone on.
const forgetAfter = time.Minute

// Handover answers for the pods that its informers know. Build it with [New].
type Handover struct {
	services corelisters.ServiceLister
	leases   coordinationlisters.LeaseLister
	own      *Progress

	mu      sync.Mutex
	places  places
	waiting map[question]*wait
}

// A question is about one pod, and whether requests come to it or leave it.
type question struct {
	uid  types.UID
	want want
}

// wait is a question that was answered with "not yet".
type wait struct {
	pod   *corev1.Pod
	needs uint64 // The revision that all proxies must have; 0 while a slice does not show it.
	again func()
	asked time.Time
}

// New prepares for questions. It asks factory for the informers of Services, EndpointSlices and Leases; the caller starts the
// factory afterwards. The Leases may be limited to those of the nodes. own is the progress of the proxy in this process, which is
// followed until ctx ends; nil, if there is none.
func New(ctx context.Context, factory informers.SharedInformerFactory, own *Progress) (*Handover, error) {
	services, slices := factory.Core().V1().Services(), factory.Discovery().V1().EndpointSlices()
	leases := factory.Coordination().V1().Leases()
	h := &Handover{services: services.Lister(), leases: leases.Lister(), own: own, places: newPlaces(), waiting: map[question]*wait{}}
	changed := func(f func(obj any)) cache.ResourceEventHandler {
		return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, obj any) { f(obj) }, DeleteFunc: f}
	}
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		services.Informer(): changed(h.serviceChanged),
		leases.Informer():   changed(h.leaseChanged),
		slices.Informer(): cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { h.sliceChanged(nil, obj) },
			UpdateFunc: h.sliceChanged,
			DeleteFunc: func(obj any) { h.sliceChanged(obj, nil) },
		},
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return nil, fmt.Errorf("watch for handovers: %w", err)
		}
	}
	own.subscribe(ctx, h.proxiesMoved)
	return h, nil
}

// Leaving says what still sends requests to a pod that is being deleted, "" for nothing. Unless it is nothing, again is called
// when it has become that.
func (h *Handover) Leaving(pod *corev1.Pod, again func()) (why string) {
	return h.ask(question{pod.UID, terminating}, pod, again)
}

// Arriving says what does not send requests yet to a pod that is ready, "" for nothing: either all Services that select it
// have it, or none selects it. Unless it is nothing, again is called when it has become that.
func (h *Handover) Arriving(pod *corev1.Pod, again func()) (why string) {
	return h.ask(question{pod.UID, ready}, pod, again)
}

func (h *Handover) ask(q question, pod *corev1.Pod, again func()) string {
	if pod.Status.PodIP == "" {
		return "" // Nobody can send anything there.
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &wait{pod: pod, again: again, asked: time.Now()}
	why := h.look(q, w)
	if why == "" {
		delete(h.waiting, q)
		return ""
	}
	maps.DeleteFunc(h.waiting, func(_ question, old *wait) bool { return w.asked.Sub(old.asked) > forgetAfter })
	h.waiting[q] = w
	return why
}

// look answers a question from what is known.
func (h *Handover) look(q question, w *wait) (why string) {
	services := h.services.Services(w.pod.Namespace)
	all, err := services.List(labels.Everything())
	if err != nil {
		return err.Error()
	}
	var selecting []served
	for _, service := range all {
		selecting = append(selecting, servedBy(service, w.pod)...)
	}
	needs, missing := h.places.shown(q, selecting, func(service string) bool {
		_, err := services.Get(service)
		return err == nil
	})
	w.needs = needs
	if missing != "" {
		return fmt.Sprintf("an EndpointSlice of Service %s/%s", w.pod.Namespace, missing)
	}
	if needs == 0 {
		return ""
	}
	return h.behind(needs)
}

// behind names a proxy whose kernel does not have the EndpointSlices of a revision yet.
func (h *Handover) behind(revision uint64) string {
	node, at, here := h.own.at()
	if here && at < revision {
		return "the proxy of this node"
	}
	return behindByLease(h.leases, node, revision, time.Now())
}

// sliceChanged notes what has changed in a slice, and looks again at the questions about its pods.
func (h *Handover) sliceChanged(old, current any) {
	before, after := sliceOf(old), sliceOf(current)
	if before == nil && after == nil {
		return
	}
	h.mu.Lock()
	now := time.Now()
	pods := h.places.change(before, after, now)
	h.places.forget(now)
	h.mu.Unlock()
	h.lookAgain(func(waiting map[question]*wait, yield func(question, *wait)) {
		for _, uid := range pods {
			for want := range wants {
				q := question{uid, want}
				if w := waiting[q]; w != nil {
					yield(q, w)
				}
			}
		}
	})
}

func sliceOf(obj any) *discoveryv1.EndpointSlice {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	slice, _ := obj.(*discoveryv1.EndpointSlice)
	return slice
}

// serviceChanged looks again at the questions about pods that the Service might have selected.
func (h *Handover) serviceChanged(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	service, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	h.lookAgain(func(waiting map[question]*wait, yield func(question, *wait)) {
		for q, w := range waiting {
			if w.pod.Namespace == service.Namespace {
				yield(q, w)
			}
		}
	})
}

// proxiesMoved looks again at the questions whose answer hangs on the proxies alone.
func (h *Handover) proxiesMoved() {
	h.lookAgain(func(waiting map[question]*wait, yield func(question, *wait)) {
		for q, w := range waiting {
			if w.needs > 0 && h.behind(w.needs) == "" {
				yield(q, w)
			}
		}
	})
}

func (h *Handover) leaseChanged(obj any) {
	if concernsProxies(obj) {
		h.proxiesMoved()
	}
}

// lookAgain answers the questions that choose yields once more, and calls back who waits for those that have come true.
func (h *Handover) lookAgain(choose func(waiting map[question]*wait, yield func(question, *wait))) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) == 0 {
		return
	}
	choose(h.waiting, func(q question, w *wait) {
		if h.look(q, w) == "" {
			delete(h.waiting, q)
			w.again()
		}
	})
}
