package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	endpointsliceutil "k8s.io/endpointslice/util"

	"skiff/reconcile"
)

const (
	mirrorManager = "endpointslicemirroring-controller.k8s.io"
	perSubset     = 1000 // Addresses of a subset of Endpoints that are mirrored at most.
)

// mirrors keeps, for each Endpoints object that somebody wrote for a Service without selector, EndpointSlices that say the same:
// those are what proxies and DNS read.
//
// Source: https://kubernetes.io/docs/concepts/services-networking/service/#endpointslice-mirroring.
type mirrors struct {
	client    kubernetes.Interface
	events    record.EventRecorder
	loop      *reconcile.Loop
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    cache.Indexer
	tracker   *endpointsliceutil.EndpointSliceTracker
}

func newMirrors(b *base, events record.EventRecorder) error {
	core, endpointSlices := b.factory.Core().V1(), b.factory.Discovery().V1().EndpointSlices()
	c := &mirrors{
		client: b.client, events: events,
		services: core.Services().Lister(), endpoints: core.Endpoints().Lister(), slices: endpointSlices.Informer().GetIndexer(),
		tracker: endpointsliceutil.NewEndpointSliceTracker(),
	}
	if err := indexByService(endpointSlices.Informer()); err != nil {
		return err
	}
	c.loop = b.loop("endpointslicemirroring", 2, c.Reconcile)
	if err := b.watch(c.loop, core.Services().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	if err := b.watch(c.loop, core.Endpoints().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.handle(endpointSlices.Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.sliceChanged(obj.(*discoveryv1.EndpointSlice)) },
		UpdateFunc: func(_, obj any) { c.sliceChanged(obj.(*discoveryv1.EndpointSlice)) },
		DeleteFunc: func(obj any) { c.sliceGone(obj.(*discoveryv1.EndpointSlice)) },
	})
}

// sliceChanged asks for the Endpoints of a slice that somebody else has changed; the controller's own writes are tracked.
func (c *mirrors) sliceChanged(slice *discoveryv1.EndpointSlice) {
	if slice.Labels[discoveryv1.LabelManagedBy] == mirrorManager && c.tracker.ShouldSync(slice) {
		c.loop.Add(slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName])
	}
}

func (c *mirrors) sliceGone(slice *discoveryv1.EndpointSlice) {
	if slice.Labels[discoveryv1.LabelManagedBy] == mirrorManager && c.tracker.Has(slice) && !c.tracker.HandleDeletion(slice) {
		c.loop.Add(slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName])
	}
}

// Reconcile makes, changes and deletes the slices that mirror one Endpoints object.
func (c *mirrors) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	have, err := slicesOf(c.slices, namespace, name)
	if err != nil {
		return 0, fmt.Errorf("list the slices that mirror endpoints %s: %w", key, err)
	}
	have = slices.DeleteFunc(have, func(slice *discoveryv1.EndpointSlice) bool {
		return slice.Labels[discoveryv1.LabelManagedBy] != mirrorManager
	})
	service, err := c.services.Services(namespace).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	endpoints, err := c.endpoints.Endpoints(namespace).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	if !mirrored(service, endpoints) {
		c.tracker.DeleteService(namespace, name)
		return 0, c.remove(ctx, have)
	}
	if c.tracker.StaleSlices(service, have) {
		return 0, fmt.Errorf("mirror endpoints %s: the cache does not show the last write yet", key)
	}
	want, invalid, over := mirrorOf(endpoints)
	if invalid > 0 {
		c.events.Eventf(endpoints, corev1.EventTypeWarning, "InvalidIPAddress", "Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)
	}
	if over > 0 {
		c.events.Eventf(endpoints, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", perSubset, over)
	}
	return 0, c.write(ctx, key, have, want)
}

// write gives each wanted slice the place of one with the same ports, which is then only changed, or makes it.
func (c *mirrors) write(ctx context.Context, key string, have, want []*discoveryv1.EndpointSlice) error {
	have = slices.Clone(have)
	slices.SortFunc(have, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	for _, w := range want {
		api := c.client.DiscoveryV1().EndpointSlices(w.Namespace)
		i := slices.IndexFunc(have, func(h *discoveryv1.EndpointSlice) bool {
			return h.AddressType == w.AddressType && equality.Semantic.DeepEqual(h.Ports, w.Ports)
		})
		if i < 0 {
			made, err := api.Create(ctx, w, metav1.CreateOptions{})
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("create a slice that mirrors endpoints %s: %w", key, err)
			}
			c.tracker.Update(made)
			continue
		}
		h := have[i]
		have = slices.Delete(have, i, i+1)
		if sameMirror(h, w) {
			continue
		}
		changed := h.DeepCopy()
		changed.Labels, changed.Annotations, changed.OwnerReferences, changed.Endpoints = w.Labels, w.Annotations, w.OwnerReferences, w.Endpoints
		changed, err := api.Update(ctx, changed, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update the slice %s that mirrors endpoints %s: %w", h.Name, key, err)
		}
		c.tracker.Update(changed)
	}
	return c.remove(ctx, have)
}

func (c *mirrors) remove(ctx context.Context, gone []*discoveryv1.EndpointSlice) error {
	for _, slice := range gone {
		options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(slice.UID))}
		err := c.client.DiscoveryV1().EndpointSlices(slice.Namespace).Delete(ctx, slice.Name, options)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete the mirroring slice %s/%s: %w", slice.Namespace, slice.Name, err)
		}
		if c.tracker.Has(slice) {
			c.tracker.ExpectDeletion(slice)
		}
	}
	return nil
}

// mirrored says whether the Endpoints are a user's own and mean a Service: the lock of an old leader election does not.
func mirrored(service *corev1.Service, endpoints *corev1.Endpoints) bool {
	if service == nil || service.Spec.Selector != nil || endpoints == nil || endpoints.DeletionTimestamp != nil {
		return false
	}
	_, lock := endpoints.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return !lock && endpoints.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// mirrorOf makes the slices that say what the Endpoints say: one for each set of ports and kind of address. It tells how many
// addresses are none, and how many there is no room for: no slice may have more than [perSubset].
func mirrorOf(endpoints *corev1.Endpoints) (all []*discoveryv1.EndpointSlice, invalid, over int) {
	bySet := map[string]*discoveryv1.EndpointSlice{}
	for _, subset := range repack(endpoints.Subsets) {
		room := perSubset
		add := func(addresses []corev1.EndpointAddress, ready bool) {
			for i := range addresses {
				addr, err := netip.ParseAddr(addresses[i].IP)
				switch {
				case room == 0:
					over++
				case err != nil:
					invalid++
				default:
					room--
					kind := addressType(addr)
					key := string(kind) + string(mustJSON(subset.Ports))
					if bySet[key] == nil {
						bySet[key] = newMirror(endpoints, kind, subset.Ports)
					}
					bySet[key].Endpoints = append(bySet[key].Endpoints, mirrorEndpoint(&addresses[i], addr, ready))
				}
			}
		}
		add(subset.Addresses, true)
		add(subset.NotReadyAddresses, false)
	}
	for _, key := range slices.Sorted(maps.Keys(bySet)) {
		slice := bySet[key]
		slices.SortStableFunc(slice.Endpoints, func(a, b discoveryv1.Endpoint) int { return strings.Compare(a.Addresses[0], b.Addresses[0]) })
		all = append(all, slice)
	}
	return all, invalid, over
}

func addressType(addr netip.Addr) discoveryv1.AddressType {
	if addr.Is4() || addr.Is4In6() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

// newMirror makes a slice without endpoints that belongs to the Endpoints object and has its labels and annotations.
func newMirror(endpoints *corev1.Endpoints, kind discoveryv1.AddressType, ports []corev1.EndpointPort) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: endpoints.Name + "-", Namespace: endpoints.Namespace,
			Labels: maps.Clone(endpoints.Labels), Annotations: maps.Clone(endpoints.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(endpoints, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: kind,
	}
	metav1.SetMetaDataLabel(&slice.ObjectMeta, discoveryv1.LabelServiceName, endpoints.Name)
	metav1.SetMetaDataLabel(&slice.ObjectMeta, discoveryv1.LabelManagedBy, mirrorManager)
	delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(slice.Annotations, corev1.LastAppliedConfigAnnotation)
	for i := range ports {
		p := ports[i].DeepCopy()
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return slice
}

func mirrorEndpoint(address *corev1.EndpointAddress, addr netip.Addr, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses:  []string{addr.Unmap().String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		NodeName:   address.NodeName, TargetRef: address.TargetRef,
	}
	if address.Hostname != "" {
		e.Hostname = &address.Hostname
	}
	return e
}

func sameMirror(have, want *discoveryv1.EndpointSlice) bool {
	return equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Labels, want.Labels) &&
		equality.Semantic.DeepEqual(have.Annotations, want.Annotations) && metav1.IsControlledBy(have, &metav1.ObjectMeta{UID: want.OwnerReferences[0].UID})
}
