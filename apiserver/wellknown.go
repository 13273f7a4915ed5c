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
	if err := s.setEndpoints(ctx, k); err != nil {
		return err
	}
	return s.addAddress(ctx, k)
}

// ensureService makes the Service if it is not there. At a start it first takes away what is of an earlier one's ranges: not later, where
// several servers use the store and one of them may have been started with others.
func (s *Server) ensureService(ctx context.Context, k wellKnown) error {
	select {
	case <-s.foundation.laid:
	default:
		if err := s.removeOutOfDate(ctx, k); err != nil {
			return err
		}
	}
	return s.ensure(ctx, "services", k.service)
}

// removeOutOfDate deletes the Service for its first address, which it has for life, or releases its second.
func (s *Server) removeOutOfDate(ctx context.Context, k wellKnown) error {
	sh, key := s.shelf("services"), k.key()
	it := sh.get(key)
	if it == nil {
		return nil
	}
	switch svc := it.obj.(*corev1.Service); {
	case s.outOfDate(svc, k):
		if _, _, err := s.delete(ctx, sh, key, &metav1.DeleteOptions{}); err != nil {
			return fmt.Errorf("delete service %s, whose address is of no range now: %w", key, err)
		}
	case k.secondOutOfDate(svc):
		if err := s.setFamilies(ctx, key, corev1.IPFamilyPolicySingleStack, svc.Spec.ClusterIPs[:1]); err != nil {
			return fmt.Errorf("release the address %s of service %s: %w", svc.Spec.ClusterIPs[1], key, err)
		}
	}
	return nil
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

// secondOutOfDate tells a Service with a second address that is none of those that it is to have: one of a range, or of a family, that
// the cluster had once.
func (k wellKnown) secondOutOfDate(svc *corev1.Service) bool {
	have := svc.Spec.ClusterIPs
	return k.prefersBoth() && len(have) == 2 && !slices.Contains(k.service.Spec.ClusterIPs, canonical(have[1]))
}

func (k wellKnown) prefersBoth() bool {
	return ptrOr(k.service.Spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicyPreferDualStack
}

// addressesBeside are the address that a Service has and the one that it is to have of the other family, if the cluster has both.
func (k wellKnown) addressesBeside(first netip.Addr) []string {
	all := []string{first.String()}
	for _, text := range k.service.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(text); err == nil && familyOf(addr) != familyOf(first) {
			all = append(all, text)
		}
	}
	return all
}

// addAddress gives a Service with one address the second one, where the cluster had one family, or another range of the second, when
// the Service was made.
func (s *Server) addAddress(ctx context.Context, k wellKnown) error {
	it := s.shelf("services").get(k.key())
	if it == nil || !k.prefersBoth() {
		return nil
	}
	have := it.obj.(*corev1.Service).Spec
	first, err := netip.ParseAddr(have.ClusterIP)
	if err != nil || len(have.ClusterIPs) != 1 {
		return nil
	}
	wanted := k.addressesBeside(first)
	if len(wanted) == 1 && ptrOr(have.IPFamilyPolicy, "") == corev1.IPFamilyPolicyPreferDualStack {
		return nil
	}
	if err := s.setFamilies(ctx, k.key(), corev1.IPFamilyPolicyPreferDualStack, wanted); err != nil {
		return fmt.Errorf("give service %s the addresses %v: %w", k.key(), wanted, err)
	}
	return nil
}

// setFamilies sets the policy and the addresses of a Service. As in Kubernetes, only SingleStack lets go of a second one, so that
// another takes two writes.
func (s *Server) setFamilies(ctx context.Context, key string, policy corev1.IPFamilyPolicy, addresses []string) error {
	_, err := s.modify(ctx, s.shelf("services"), key, "", false, func(old runtime.Object) (runtime.Object, error) {
		now := old.DeepCopyObject().(*corev1.Service)
		now.Spec.IPFamilyPolicy, now.Spec.ClusterIPs = ptr(policy), slices.Clone(addresses)
		now.Spec.IPFamilies = now.Spec.IPFamilies[:min(1, len(now.Spec.IPFamilies))] // The address tells the second.
		return now, nil
	})
	return err
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

func (k wellKnown) key() string { return objectKey(k.service.Namespace, k.service.Name) }

func (k wellKnown) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: k.service.Namespace}
}
