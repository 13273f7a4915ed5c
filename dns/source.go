package dns

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/reconcile"
)

// source is what the API server says, as records. Its keys are "namespace/service" for a Service with its EndpointSlices,
// "namespace" for a Namespace, and "pod:namespace/address" for the pods that have an address; the index knows its givers by
// the same keys.
type source struct {
	domain     string
	podNames   PodNames
	namespaces corelisters.NamespaceLister
	services   corelisters.ServiceLister
	slices     cache.Indexer // Of EndpointSlices, with the index byService.
	pods       cache.Indexer // With the index byAddress; nil where pods do not matter.
	synced     []cache.DoneChecker
}

const (
	byService = "dns.service" // Finds a Service's EndpointSlices without reading those of all others,
	byAddress = "dns.address" // and the pods that have an address.
)

// newSource asks factory for its informers and lets them feed loop. Pods are watched only where it is asked for what needs it.
func newSource(domain string, cfg Config, factory informers.SharedInformerFactory, loop *reconcile.Loop) (source, error) {
	namespaces := factory.Core().V1().Namespaces()
	services := factory.Core().V1().Services()
	endpointSlices := factory.Discovery().V1().EndpointSlices().Informer()
	err := endpointSlices.AddIndexers(cache.Indexers{
		byService: func(obj any) ([]string, error) { return serviceKey(obj), nil },
	})
	if err != nil {
		return source{}, fmt.Errorf("index endpoint slices by service: %w", err)
	}
	s := source{
		domain: domain, podNames: cfg.Pods,
		namespaces: namespaces.Lister(), services: services.Lister(), slices: endpointSlices.GetIndexer(),
	}
	watches := map[cache.SharedIndexInformer]func(obj any) []string{
		namespaces.Informer(): reconcile.ObjectKey,
		services.Informer():   reconcile.ObjectKey,
		endpointSlices:        serviceKey,
	}
	if cfg.Pods == PodsVerified || cfg.Autopath {
		pods := factory.Core().V1().Pods().Informer()
		if err := pods.AddIndexers(cache.Indexers{byAddress: podAddresses}); err != nil {
			return source{}, fmt.Errorf("index pods by address: %w", err)
		}
		s.pods = pods.GetIndexer()
		watches[pods] = s.podKeys
	}
	for informer, keys := range watches {
		if err := loop.Watch(informer, keys); err != nil {
			return source{}, err
		}
		s.synced = append(s.synced, informer.HasSyncedChecker())
	}
	return s, nil
}

// serviceKey is the key of the Service that an EndpointSlice says it belongs to, if it does.
func serviceKey(obj any) []string {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}
}

// podAddresses are the addresses that a pod has. Those of a pod that has ended may be another's by now.
func podAddresses(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil, nil
	}
	var addresses []string
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			addresses = append(addresses, addr.String())
		}
	}
	return addresses, nil
}

const podPrefix = "pod:"

// podKeys are the keys of a pod's addresses, where their names are those of pods.
func (s source) podKeys(obj any) []string {
	if s.podNames != PodsVerified {
		return nil
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	var keys []string
	for _, ip := range pod.Status.PodIPs { // Whatever its phase: when the pod ends, its names must go.
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			keys = append(keys, podPrefix+pod.Namespace+"/"+addr.String())
		}
	}
	return keys
}

// namespaceOf is the Namespace of the pod that has an address of its own.
func (s source) namespaceOf(client netip.Addr) (string, bool) {
	if s.pods == nil {
		return "", false
	}
	objs, err := s.pods.ByIndex(byAddress, client.String())
	if err != nil {
		return "", false
	}
	for _, obj := range objs {
		if pod := obj.(*corev1.Pod); !pod.Spec.HostNetwork {
			return pod.Namespace, true
		}
	}
	return "", false
}

// keys are those of everything there is.
func (s source) keys() ([]string, error) {
	namespaces, err := s.namespaces.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	services, err := s.services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(namespaces)+len(services))
	for _, namespace := range namespaces {
		keys = append(keys, namespace.Name)
	}
	for _, service := range services {
		keys = append(keys, service.Namespace+"/"+service.Name)
	}
	if s.pods != nil {
		for _, pod := range s.pods.List() {
			keys = append(keys, s.podKeys(pod)...)
		}
	}
	return keys, nil
}

// records are those that key should have now: none if it is gone.
func (s source) records(key string) (recordSet, error) {
	if pod, ok := strings.CutPrefix(key, podPrefix); ok {
		return s.podRecords(pod)
	}
	namespace, name, isService := strings.Cut(key, "/")
	if !isService {
		switch _, err := s.namespaces.Get(namespace); {
		case apierrors.IsNotFound(err):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return namespaceRecords(s.domain, namespace, s.podNames), nil
	}
	service, err := s.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	endpointSlices, err := s.endpointSlices(service)
	if err != nil {
		return nil, err
	}
	return serviceRecords(s.domain, service, endpointSlices), nil
}

func (s source) podRecords(key string) (recordSet, error) {
	namespace, address, _ := strings.Cut(key, "/")
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return nil, fmt.Errorf("address of a pod %q: %w", address, err)
	}
	objs, err := s.pods.ByIndex(byAddress, address)
	if err != nil {
		return nil, fmt.Errorf("find the pods at %s: %w", address, err)
	}
	for _, obj := range objs {
		if obj.(*corev1.Pod).Namespace == namespace {
			return podRecords(s.domain, namespace, ip), nil
		}
	}
	return nil, nil
}

func (s source) endpointSlices(service *corev1.Service) ([]*discoveryv1.EndpointSlice, error) {
	if service.Spec.ClusterIP != corev1.ClusterIPNone {
		return nil, nil // Its records do not depend on them.
	}
	objs, err := s.slices.ByIndex(byService, service.Namespace+"/"+service.Name)
	if err != nil {
		return nil, fmt.Errorf("find the endpoint slices of %s/%s: %w", service.Namespace, service.Name, err)
	}
	found := make([]*discoveryv1.EndpointSlice, len(objs))
	for i, obj := range objs {
		found[i] = obj.(*discoveryv1.EndpointSlice)
	}
	return found, nil
}
