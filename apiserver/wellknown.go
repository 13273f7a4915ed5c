package apiserver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// wellKnown is a Service without selector, whose endpoints the server knows.
type wellKnown struct {
	service   *corev1.Service
	addresses []string
	ports     []int32
}

func (s *Server) kubernetesService() wellKnown {
	first := addTo(s.config.ServiceCIDRs[0].Masked().Addr(), 1)
	return wellKnown{
		service: &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: metav1.NamespaceDefault,
				Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"}},
			Spec: corev1.ServiceSpec{
				ClusterIP: first.String(), IPFamilyPolicy: ptr(corev1.IPFamilyPolicySingleStack),
				Ports: []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(int32(s.advertised().Port()))}},
			},
		},
		addresses: []string{s.advertised().Addr().String()},
		ports:     []int32{int32(s.advertised().Port())},
	}
}

func (s *Server) dnsService() wellKnown {
	var addresses []string
	for _, addr := range s.config.ClusterDNS {
		addresses = append(addresses, addr.String())
	}
	k := wellKnown{
		service: &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "kube-dns", Namespace: metav1.NamespaceSystem,
				Labels: map[string]string{"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS", "kubernetes.io/cluster-service": "true"}},
			Spec: corev1.ServiceSpec{
				ClusterIPs: addresses, IPFamilyPolicy: ptr(corev1.IPFamilyPolicyPreferDualStack),
				Ports: []corev1.ServicePort{
					{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(53)},
					{Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: 53, TargetPort: intstr.FromInt32(53)},
					{Name: "metrics", Protocol: corev1.ProtocolTCP, Port: 9153, TargetPort: intstr.FromInt32(9153)},
				},
			},
		},
		// Every node answers on the Service's own addresses itself.
		addresses: addresses,
		ports:     []int32{53, 53, 9153},
	}
	if len(addresses) > 0 {
		k.service.Spec.ClusterIP = addresses[0]
	}
	return k
}

// bootstrapKubernetes makes the Service "kubernetes", whose endpoints are the servers: this one, or all that use the store.
func (s *Server) bootstrapKubernetes(ctx context.Context) error {
	if s.cache.newest == nil {
		return s.bootstrapService(ctx, s.kubernetesService())
	}
	if err := s.ensureService(ctx, s.kubernetesService()); err != nil {
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
	if err := s.ensureService(ctx, k); err != nil {
		return err
	}
	if err := s.addAddress(ctx, k); err != nil {
		return err
	}
	return s.setEndpoints(ctx, k)
}

// ensureService makes the Service if it is not there. At a start it is also made anew where it has an address of an earlier one's.
func (s *Server) ensureService(ctx context.Context, k wellKnown) error {
	sh, key := s.shelf("services"), objectKey(k.service.Namespace, k.service.Name)
	select {
	case <-s.foundation.laid:
	default:
		if it := sh.get(key); it != nil && s.outOfDate(it.obj.(*corev1.Service), k) {
			if _, _, err := s.delete(ctx, sh, key, &metav1.DeleteOptions{}); err != nil {
				return fmt.Errorf("delete service %s, whose address is of no range now: %w", key, err)
			}
		}
	}
	return s.ensure(ctx, "services", k.service)
}

// outOfDate tells a Service with an address that is in no range of this start, or not of the family that its endpoints have. Where the
// ranges go, and give no address any more, it stays as it is: nothing could be made in its place.
func (s *Server) outOfDate(svc *corev1.Service, k wellKnown) bool {
	addr, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil || serviceRanges(s.allocator.cidrs).contain(addr) && len(k.addressesOf(familyOf(addr))) > 0 {
		return false
	}
	next, err := netip.ParseAddr(k.service.Spec.ClusterIP)
	return err == nil && s.serviceRanges().contain(next)
}

// addAddress gives a Service its second address where the cluster had one family when it was made.
func (s *Server) addAddress(ctx context.Context, k wellKnown) error {
	wanted, sh, key := k.service.Spec, s.shelf("services"), objectKey(k.service.Namespace, k.service.Name)
	it := sh.get(key)
	if it == nil || len(wanted.ClusterIPs) < 2 || !slices.Equal(it.obj.(*corev1.Service).Spec.ClusterIPs, wanted.ClusterIPs[:1]) {
		return nil
	}
	_, err := s.modify(ctx, sh, key, "", false, func(old runtime.Object) (runtime.Object, error) {
		now := old.DeepCopyObject().(*corev1.Service)
		now.Spec.IPFamilyPolicy, now.Spec.ClusterIPs = wanted.IPFamilyPolicy, wanted.ClusterIPs
		return now, nil
	})
	if err != nil {
		return fmt.Errorf("give service %s the address %s: %w", key, wanted.ClusterIPs[1], err)
	}
	return nil
}

func (s *Server) setEndpoints(ctx context.Context, k wellKnown) error {
	if err := s.set(ctx, "endpoints", k.endpoints()); err != nil {
		return err
	}
	sh := s.shelf(endpointSlices)
	for _, slice := range k.slices() {
		it := sh.get(objectKey(slice.Namespace, slice.Name))
		if it != nil && (len(slice.Endpoints) == 0 || it.obj.(*discoveryv1.EndpointSlice).AddressType != slice.AddressType) {
			if err := s.cache.remove(ctx, sh, it.key, it.rev); err != nil { // A slice keeps its type for life.
				return fmt.Errorf("delete %s %s: %w", endpointSlices, it.key, err)
			}
		}
		if len(slice.Endpoints) == 0 {
			continue
		}
		if err := s.set(ctx, endpointSlices, slice); err != nil {
			return err
		}
	}
	return nil
}

func (k wellKnown) endpoints() *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: k.meta(k.service.Name)}
	e.Labels = map[string]string{discoveryv1.LabelSkipMirror: "true"}
	subset := corev1.EndpointSubset{}
	for _, address := range k.addressesOf(k.family()) {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: address})
	}
	for i, p := range k.service.Spec.Ports {
		subset.Ports = append(subset.Ports, corev1.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: k.ports[i]})
	}
	e.Subsets = []corev1.EndpointSubset{subset}
	return e
}

// family is that of the first address.
func (k wellKnown) family() corev1.IPFamily {
	for _, text := range k.addresses {
		if addr, err := netip.ParseAddr(text); err == nil {
			return familyOf(addr)
		}
	}
	return corev1.IPv4Protocol
}

func (k wellKnown) addressesOf(family corev1.IPFamily) (all []string) {
	for _, text := range k.addresses {
		if addr, err := netip.ParseAddr(text); err == nil && familyOf(addr) == family {
			all = append(all, text)
		}
	}
	return all
}

// slices are one for each family, that of the first address first. One without endpoints is not to be.
func (k wellKnown) slices() []*discoveryv1.EndpointSlice {
	families := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	if k.family() == corev1.IPv6Protocol {
		slices.Reverse(families)
	}
	return []*discoveryv1.EndpointSlice{k.slice(k.service.Name, families[0]), k.slice(k.secondSlice(), families[1])}
}

func (k wellKnown) secondSlice() string { return k.service.Name + "-second" }

func (k wellKnown) slice(name string, family corev1.IPFamily) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: k.meta(name), AddressType: discoveryv1.AddressType(family)}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: k.service.Name}
	for _, address := range k.addressesOf(family) {
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
