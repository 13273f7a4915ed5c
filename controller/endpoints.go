package controller

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"

	"skiff/reconcile"
)

const (
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager   = "endpoint-controller"
	// An Endpoints object is a single one for all pods, so its size is bounded, and its annotation says when it is cut.
	endpointsLimit    = 1000
	endpointsOverfull = "truncated"
)

// endpoints keeps the Endpoints object of each Service with a selector. EndpointSlices have taken its place for all that
// routes traffic; it is here for the clients that still read it.
type endpoints struct {
	client   kubernetes.Interface
	events   record.EventRecorder
	services corelisters.ServiceLister
	pods     corelisters.PodLister
	lister   corelisters.EndpointsLister
	triggers *endpointsliceutil.TriggerTimeTracker
	gone     sync.Map // Keys of Services that have been deleted and whose Endpoints have not.
}

func newEndpoints(b *base, events record.EventRecorder) error {
	core := b.factory.Core().V1()
	c := &endpoints{
		client:   b.client,
		events:   events,
		services: core.Services().Lister(),
		pods:     core.Pods().Lister(),
		lister:   core.Endpoints().Lister(),
		triggers: endpointsliceutil.NewTriggerTimeTracker(),
	}
	loop := b.loop("endpoints", 2, c.Reconcile)
	if err := b.watch(loop, core.Services().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	if err := b.handle(core.Services().Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		for _, key := range reconcile.ObjectKey(obj) {
			c.gone.Store(key, true)
			loop.Add(key)
		}
	}}); err != nil {
		return err
	}
	if err := b.watch(loop, core.Endpoints().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.watchPodsOfServices(loop, c.services)
}

// Reconcile writes the Endpoints of one Service, and deletes them with it, whoever made them.
func (c *endpoints) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	existing, err := c.lister.Endpoints(namespace).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		return 0, c.remove(ctx, namespace, name, existing)
	}
	if err != nil {
		return 0, err
	}
	c.gone.Delete(key)
	if !selectsPods(service) || service.DeletionTimestamp != nil {
		return 0, nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return 0, fmt.Errorf("list the pods of service %s: %w", key, err)
	}
	want := endpointsOf(service, pods)
	if since := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, service, pods); !since.IsZero() {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, since.UTC().Format(time.RFC3339Nano))
	}
	if err := c.write(ctx, existing, want); err != nil {
		return 0, fmt.Errorf("write endpoints %s: %w", key, err)
	}
	return 0, nil
}

// remove deletes the Endpoints of a Service that is gone. Without its deletion only those are deleted that this controller made:
// others may stand without a Service.
func (c *endpoints) remove(ctx context.Context, namespace, name string, existing *corev1.Endpoints) error {
	key := namespace + "/" + name
	_, deleted := c.gone.LoadAndDelete(key)
	if !deleted && (existing == nil || existing.Labels[endpointsManagedBy] != endpointsManager) {
		return nil
	}
	err := c.client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		if deleted {
			c.gone.Store(key, true)
		}
		return fmt.Errorf("delete endpoints %s: %w", key, err)
	}
	return nil
}

// write creates or changes the Endpoints, unless they differ only in the time of what has changed them last.
func (c *endpoints) write(ctx context.Context, existing, want *corev1.Endpoints) error {
	api := c.client.CoreV1().Endpoints(want.Namespace)
	if existing == nil {
		_, err := api.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if err != nil {
			c.events.Eventf(want, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %v/%v: %v", want.Namespace, want.Name, err)
		}
		return err
	}
	_, cut := existing.Annotations[corev1.EndpointsOverCapacity]
	_, cutNow := want.Annotations[corev1.EndpointsOverCapacity]
	if cut == cutNow && equality.Semantic.DeepEqual(existing.Subsets, want.Subsets) && equality.Semantic.DeepEqual(existing.Labels, want.Labels) {
		return nil
	}
	updated := existing.DeepCopy()
	updated.Subsets, updated.Labels = want.Subsets, want.Labels
	delete(updated.Annotations, corev1.EndpointsOverCapacity)
	delete(updated.Annotations, corev1.EndpointsLastChangeTriggerTime)
	for key, value := range want.Annotations {
		metav1.SetMetaDataAnnotation(&updated.ObjectMeta, key, value)
	}
	_, err := api.Update(ctx, updated, metav1.UpdateOptions{})
	if err != nil {
		c.events.Eventf(updated, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %v/%v: %v", want.Namespace, want.Name, err)
	}
	return err
}

// endpointsOf makes the Endpoints of a Service: the addresses of its pods, together where they have the same ports, those
// that are not ready apart.
func endpointsOf(service *corev1.Service, pods []*corev1.Pod) *corev1.Endpoints {
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
		Name: service.Name, Namespace: service.Namespace, Labels: maps.Clone(service.Labels),
	}}
	metav1.SetMetaDataLabel(&want.ObjectMeta, endpointsManagedBy, endpointsManager)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		metav1.SetMetaDataLabel(&want.ObjectMeta, corev1.IsHeadlessService, "")
	} else {
		delete(want.Labels, corev1.IsHeadlessService)
	}
	byPorts := map[string]corev1.EndpointSubset{}
	publish := service.Spec.PublishNotReadyAddresses
	for _, pod := range pods {
		ip := podIP(service, pod)
		ports := endpointPorts(service, pod)
		if ip == "" || !endpointsliceutil.ShouldPodBeInEndpoints(pod, publish) || (len(ports) == 0 && len(service.Spec.Ports) > 0) {
			continue
		}
		key := fmt.Sprint(ports)
		subset := byPorts[key]
		subset.Ports = ports
		if podReady(pod) || publish {
			subset.Addresses = append(subset.Addresses, endpointAddress(service, pod, ip))
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, endpointAddress(service, pod, ip))
		}
		byPorts[key] = subset
	}
	var cut bool
	if want.Subsets, cut = truncate(repack(slices.Collect(maps.Values(byPorts))), endpointsLimit); cut {
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, corev1.EndpointsOverCapacity, endpointsOverfull)
	}
	return want
}

// podIP is the pod's address of the Service's first family. A Service without families takes what the pod has.
func podIP(service *corev1.Service, pod *corev1.Pod) string {
	if len(service.Spec.IPFamilies) == 0 {
		return pod.Status.PodIP
	}
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err == nil && addr.Is6() == (service.Spec.IPFamilies[0] == corev1.IPv6Protocol) {
			return ip.IP
		}
	}
	return ""
}

// endpointPorts are the Service's ports as the pod has them: a named target port is looked up in its containers, and left
// out where there is none.
func endpointPorts(service *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var ports []corev1.EndpointPort
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, err := endpointslice.FindPort(pod, p)
		if err != nil {
			continue
		}
		ports = append(ports, corev1.EndpointPort{Name: p.Name, Port: int32(number), Protocol: p.Protocol, AppProtocol: p.AppProtocol})
	}
	return ports
}

func endpointAddress(service *corev1.Service, pod *corev1.Pod, ip string) corev1.EndpointAddress {
	address := corev1.EndpointAddress{
		IP:        ip,
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		node := pod.Spec.NodeName
		address.NodeName = &node
	}
	if endpointsliceutil.ShouldSetHostname(pod, service) {
		address.Hostname = pod.Spec.Hostname
	}
	return address
}
