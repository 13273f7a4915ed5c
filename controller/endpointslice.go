package controller

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"skiff/reconcile"
)

// The name under which the slices are managed is Kubernetes' own, as clients and tests select by it.
const (
	sliceManager = "endpointslice-controller.k8s.io"
	perSlice     = 100 // Endpoints in a slice at most, Kubernetes' default.
)

// endpointSlices keeps the EndpointSlices of each Service with a selector: the addresses of the pods that it selects, and
// whether each is ready, serving or terminating. How endpoints are spread over slices with few writes is the work of
// k8s.io/endpointslice, Kubernetes' own library; this controller tells it when and with what.
type endpointSlices struct {
	loop       *reconcile.Loop
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     cache.Indexer
	tracker    *endpointsliceutil.EndpointSliceTracker
	triggers   *endpointsliceutil.TriggerTimeTracker
	reconciler *endpointslice.Reconciler
}

func newEndpointSlices(b *base, events record.EventRecorder) error {
	core, slices := b.factory.Core().V1(), b.factory.Discovery().V1().EndpointSlices()
	tracker := endpointsliceutil.NewEndpointSliceTracker()
	c := &endpointSlices{
		services: core.Services().Lister(),
		pods:     core.Pods().Lister(),
		slices:   slices.Informer().GetIndexer(),
		tracker:  tracker,
		triggers: endpointsliceutil.NewTriggerTimeTracker(),
		reconciler: endpointslice.NewReconciler(b.client, core.Nodes().Lister(), perSlice, tracker, nil, events, sliceManager,
			endpointslice.WithPreferSameTrafficDistributionEnabled(true)),
	}
	c.loop = b.loop("endpointslice", 5, c.Reconcile)
	b.needs(core.Nodes().Informer())
	if err := indexByService(slices.Informer()); err != nil {
		return err
	}
	if err := b.watch(c.loop, core.Services().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	if err := b.watchPodsOfServices(c.loop, c.services); err != nil {
		return err
	}
	return b.handle(slices.Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.sliceChanged(obj.(*discoveryv1.EndpointSlice)) },
		UpdateFunc: func(_, obj any) { c.sliceChanged(obj.(*discoveryv1.EndpointSlice)) },
		DeleteFunc: func(obj any) { c.sliceGone(obj.(*discoveryv1.EndpointSlice)) },
	})
}

// watchPodsOfServices lets a loop hear of each Service that gains, loses or keeps a pod whose endpoint has changed.
func (b *base) watchPodsOfServices(loop *reconcile.Loop, services corelisters.ServiceLister) error {
	changed := func(before, after any) {
		keys, err := endpointsliceutil.GetServicesToUpdate(services, endpointsliceutil.GetPodUpdateProjectionKey(before, after))
		if err != nil {
			return // A selector that the API server would not have let in.
		}
		for key := range keys {
			loop.Add(key)
		}
	}
	return b.handle(b.factory.Core().V1().Pods().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { changed(nil, obj) },
		UpdateFunc: changed,
		DeleteFunc: func(obj any) { changed(nil, obj) },
	})
}

// sliceChanged asks for the Service of a slice that somebody else has changed; the controller's own writes are tracked.
func (c *endpointSlices) sliceChanged(slice *discoveryv1.EndpointSlice) {
	if c.reconciler.ManagedByController(slice) && c.tracker.ShouldSync(slice) {
		c.addServiceOf(slice)
	}
}

func (c *endpointSlices) sliceGone(slice *discoveryv1.EndpointSlice) {
	if c.reconciler.ManagedByController(slice) && c.tracker.Has(slice) && !c.tracker.HandleDeletion(slice) {
		c.addServiceOf(slice)
	}
}

func (c *endpointSlices) addServiceOf(slice *discoveryv1.EndpointSlice) {
	if key, err := endpointslice.ServiceControllerKey(slice); err == nil {
		c.loop.Add(key)
	}
}

// Reconcile brings the slices of one Service up to date. Those of a Service that is gone go by their owner reference.
func (c *endpointSlices) Reconcile(_ context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		c.reconciler.DeleteService(namespace, name)
		c.tracker.DeleteService(namespace, name)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !selectsPods(service) {
		return 0, nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return 0, fmt.Errorf("list the pods of service %s: %w", key, err)
	}
	slices, err := c.ownSlices(service)
	if err != nil {
		return 0, fmt.Errorf("list the slices of service %s: %w", key, err)
	}
	if c.tracker.StaleSlices(service, slices) {
		return 0, fmt.Errorf("slices of service %s: the cache does not show the last write yet", key)
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, service, pods)
	if err := c.reconciler.Reconcile(klog.Background(), service, pods, slices, trigger); err != nil {
		return 0, fmt.Errorf("write the slices of service %s: %w", key, err)
	}
	return 0, nil
}

func (c *endpointSlices) ownSlices(service *corev1.Service) ([]*discoveryv1.EndpointSlice, error) {
	all, err := slicesOf(c.slices, service.Namespace, service.Name)
	if err != nil {
		return nil, err
	}
	var live []*discoveryv1.EndpointSlice
	for _, slice := range all {
		if slice.Labels[discoveryv1.LabelManagedBy] == sliceManager && slice.DeletionTimestamp == nil {
			live = append(live, slice)
		}
	}
	return live, nil
}

// byService is the index of EndpointSlices by the Service that they belong to.
const byService = "controller/service"

func indexByService(informer cache.SharedIndexInformer) error {
	return addIndex(informer, byService, func(obj any) ([]string, error) {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			return nil, fmt.Errorf("index %T by Service: not an EndpointSlice", obj)
		}
		return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
	})
}

// slicesOf returns the EndpointSlices of a Service, whoever wrote them.
func slicesOf(indexer cache.Indexer, namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	return indexed[*discoveryv1.EndpointSlice](indexer, byService, namespace+"/"+service)
}

// selectsPods says whether the Service's endpoints are made here. Without a selector they are the user's own affair, and
// a Service of type ExternalName is a name only.
func selectsPods(service *corev1.Service) bool {
	return service.Spec.Selector != nil && service.Spec.Type != corev1.ServiceTypeExternalName
}
