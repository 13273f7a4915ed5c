package apiserver

import (
	"context"
	"fmt"
	"slices"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Bootstrap writes what every cluster begins with: the namespaces, the system's priority classes, the default storage class, the
// range of Services' addresses, and the Services "kubernetes" and "kube-dns" with their endpoints. Run must be running, and looks after all that
// from then on (foundation.go). What is there already stays; the endpoints are brought up to date.
func (s *Server) Bootstrap(ctx context.Context) error {
	if _, err := s.layFoundation(ctx); err != nil {
		return err
	}
	if s.cache.newest == nil {
		s.logRepair(ctx, func() error { _, err := s.repairOnce(ctx, nil); return err }) // Nobody else's write can be under way.
	}
	s.foundation.first.Do(func() { close(s.foundation.laid) })
	return nil
}

// The resources of what is written here.
const (
	serviceCIDRs   = "servicecidrs.networking.k8s.io"
	endpointSlices = "endpointslices.discovery.k8s.io"
)

// bootstrapStorage makes the class local, once: whoever takes it away wants another one. The driver, which is made after it, says
// that it was there.
func (s *Server) bootstrapStorage(ctx context.Context) error {
	const drivers = "csidrivers.storage.k8s.io"
	driver, class := api.LocalStorage()
	if s.shelf(drivers).get(driver.Name) != nil {
		return nil
	}
	if err := s.ensure(ctx, storageClasses, class); err != nil {
		return err
	}
	return s.ensure(ctx, drivers, driver)
}

// bootstrapRange shows the range that Services get their addresses from. One from an earlier start with another range goes.
func (s *Server) bootstrapRange(ctx context.Context) error {
	cidr := &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: api.DefaultServiceCIDR},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{s.config.ServiceCIDR.Masked().String()}},
	}
	sh := s.shelf(serviceCIDRs)
	if it := sh.get(cidr.Name); it != nil && !slices.Equal(it.obj.(*networkingv1.ServiceCIDR).Spec.CIDRs, cidr.Spec.CIDRs) {
		if err := s.cache.remove(ctx, sh, it.key, it.rev); err != nil {
			return fmt.Errorf("delete %s %s: %w", serviceCIDRs, it.key, err)
		}
	}
	if err := s.ensure(ctx, serviceCIDRs, cidr); err != nil {
		return err
	}
	_, err := s.modify(ctx, sh, cidr.Name, "status", false, func(old runtime.Object) (runtime.Object, error) {
		now := old.DeepCopyObject().(*networkingv1.ServiceCIDR)
		meta.SetStatusCondition(&now.Status.Conditions, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready",
			LastTransitionTime: metav1.Now().Rfc3339Copy(),
		})
		return now, nil
	})
	return err
}

// wellKnown is a Service without selector, whose endpoints the server knows.
type wellKnown struct {
	service   *corev1.Service
	addresses []string
	ports     []int32
}

func (s *Server) kubernetesService() wellKnown {
	first := addTo(s.config.ServiceCIDR.Masked().Addr(), 1)
	return wellKnown{
		service: &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
			Spec: corev1.ServiceSpec{
				ClusterIP: first.String(),
				Ports:     []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(s.config.Advertise.Port()))}},
			},
		},
		addresses: []string{s.config.Advertise.Addr().String()},
		ports:     []int32{int32(s.config.Advertise.Port())},
	}
}

func (s *Server) dnsService() wellKnown {
	return wellKnown{
		service: &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Namespace: metav1.NamespaceSystem,
				Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"}},
			Spec: corev1.ServiceSpec{
				ClusterIP: s.config.ClusterDNS.String(),
				Ports: []corev1.ServicePort{
					{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)},
					{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt32(53)},
					{Name: "metrics", Protocol: corev1.ProtocolTCP, Port: 9153, TargetPort: intstr.FromInt32(9153)},
				},
			},
		},
		// Every node answers on the Service's own address itself.
		addresses: []string{s.config.ClusterDNS.String()},
		ports:     []int32{53, 53, 9153},
	}
}

// bootstrapKubernetes makes the Service "kubernetes", whose endpoints are the servers: this one, or all that use the store.
func (s *Server) bootstrapKubernetes(ctx context.Context) error {
	if s.cache.newest == nil {
		return s.bootstrapService(ctx, s.kubernetesService())
	}
	if err := s.ensure(ctx, "services", s.kubernetesService().service); err != nil {
		return err
	}
	select {
	case <-s.foundation.laid:
		return s.publish(ctx)
	default:
		return s.meet(ctx)
	}
}

func (s *Server) bootstrapService(ctx context.Context, k wellKnown) error {
	if err := s.ensure(ctx, "services", k.service); err != nil {
		return err
	}
	return s.setEndpoints(ctx, k)
}

func (s *Server) setEndpoints(ctx context.Context, k wellKnown) error {
	if err := s.set(ctx, "endpoints", k.endpoints()); err != nil {
		return err
	}
	slice := k.slice()
	sh := s.shelf(endpointSlices)
	if it := sh.get(objectKey(slice.Namespace, slice.Name)); it != nil && it.obj.(*discoveryv1.EndpointSlice).AddressType != slice.AddressType {
		if err := s.cache.remove(ctx, sh, it.key, it.rev); err != nil { // A slice keeps its type for life.
			return fmt.Errorf("delete %s %s: %w", endpointSlices, it.key, err)
		}
	}
	return s.set(ctx, endpointSlices, slice)
}

func (k wellKnown) endpoints() *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: k.meta(k.service.Name)}
	e.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	subset := corev1.EndpointSubset{}
	for _, address := range k.addresses {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: address})
	}
	for i, p := range k.service.Spec.Ports {
		subset.Ports = append(subset.Ports, corev1.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: k.ports[i]})
	}
	e.Subsets = []corev1.EndpointSubset{subset}
	return e
}

func (k wellKnown) slice() *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: k.meta(k.service.Name), AddressType: discoveryv1.AddressTypeIPv4}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: k.service.Name}
	for _, address := range k.addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ptr(true)}})
	}
	for i, p := range k.service.Spec.Ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &k.ports[i]})
	}
	return slice
}

func (k wellKnown) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: k.service.Namespace}
}

// ensure creates an object that may be there already.
func (s *Server) ensure(ctx context.Context, resource string, obj runtime.Object) error {
	m := metadata(obj)
	if s.shelf(resource).get(objectKey(m.Namespace, m.Name)) != nil {
		return nil
	}
	_, err := s.create(ctx, s.shelf(resource), m.Namespace, obj, false)
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create %s %s: %w", resource, m.Name, err)
	}
	return nil
}

// set makes an object be as given.
func (s *Server) set(ctx context.Context, resource string, obj runtime.Object) error {
	m := metadata(obj)
	key := objectKey(m.Namespace, m.Name)
	if s.shelf(resource).get(key) == nil {
		return s.ensure(ctx, resource, obj)
	}
	_, err := s.modify(ctx, s.shelf(resource), key, "", false, func(old runtime.Object) (runtime.Object, error) {
		next := obj.DeepCopyObject()
		metaOf(next).SetManagedFields(metaOf(old).GetManagedFields())
		return next, nil
	})
	if err != nil {
		return fmt.Errorf("update %s %s: %w", resource, m.Name, err)
	}
	return nil
}
