package dns

import (
	"fmt"
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
// and "namespace" for a Namespace; the index knows its givers by the same keys.
type source struct {
	domain     string
	namespaces corelisters.NamespaceLister
	services   corelisters.ServiceLister
	slices     cache.Indexer // Of EndpointSlices, with the index byService.
	synced     []cache.DoneChecker
}

// byService finds a Service's EndpointSlices without reading those of all others.
const byService = "dns.service"

// newSource asks factory for its informers and lets them feed loop.
func newSource(domain string, factory informers.SharedInformerFactory, loop *reconcile.Loop) (source, error) {
	namespaces := factory.Core().V1().Namespaces()
	services := factory.Core().V1().Services()
	endpointSlices := factory.Discovery().V1().EndpointSlices().Informer()
	err := endpointSlices.AddIndexers(cache.Indexers{
		byService: func(obj any) ([]string, error) { return serviceKey(obj), nil },
	})
	if err != nil {
		return source{}, fmt.Errorf("index endpoint slices by service: %w", err)
	}
	s := source{domain: domain, namespaces: namespaces.Lister(), services: services.Lister(), slices: endpointSlices.GetIndexer()}
	for _, watch := range []struct {
		informer cache.SharedIndexInformer
		keys     func(obj any) []string
	}{
		{namespaces.Informer(), reconcile.ObjectKey},
		{services.Informer(), reconcile.ObjectKey},
		{endpointSlices, serviceKey},
	} {
		if err := loop.Watch(watch.informer, watch.keys); err != nil {
			return source{}, err
		}
		s.synced = append(s.synced, watch.informer.HasSyncedChecker())
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
	return keys, nil
}

// records are those that key should have now: none if it is gone.
func (s source) records(key string) (recordSet, error) {
	namespace, name, isService := strings.Cut(key, "/")
	if !isService {
		switch _, err := s.namespaces.Get(namespace); {
		case apierrors.IsNotFound(err):
			return nil, nil
		case err != nil:
			return nil, err
		}
		return namespaceRecords(s.domain, namespace), nil
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
