package apiserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// PortRange is a range of ports, both ends included.
type PortRange struct{ First, Last uint16 }

func (r PortRange) contains(port int32) bool {
	return port >= int32(r.First) && port <= int32(r.Last)
}

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// allocator gives Services their addresses and node ports. What is free it sees in this server's memory; that it is free
// for all servers is what the claim (claim.go) makes sure. One Service at a time is written while it holds the lock.
// https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/
type allocator struct {
	mu    sync.Mutex
	cidr  netip.Prefix
	ports PortRange
}

// allocation is what one write of a Service gets. nil is that of all other writes, which need none.
type allocation struct {
	server *Server
	shelf  *shelf
	svc    *corev1.Service
	wish   corev1.ServiceSpec // As it was before anything was given to it.
	taken  taken
	before []holding // What the stored Service has.
	claims []claim
	since  time.Time // When the claims were begun.
}

// allocate completes a Service that is about to be written, unless only its part sub is. The caller calls done in the end.
func (s *Server) allocate(sh *shelf, obj runtime.Object, sub string) (*allocation, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok || sub != "" {
		return nil, nil
	}
	s.allocator.mu.Lock()
	a := &allocation{server: s, shelf: sh, svc: svc, wish: *svc.Spec.DeepCopy(), taken: s.takenBy(sh, svc)}
	if it := sh.get(ownerOf(svc)); it != nil {
		a.before = holdings(it.obj.(*corev1.Service))
	}
	if errs := a.choose(); len(errs) > 0 {
		a.done()
		return nil, a.refuse(errs)
	}
	return a, nil
}

func (a *allocation) done() {
	if a != nil {
		a.server.allocator.mu.Unlock()
	}
}

// choose gives the Service what it lacks.
func (a *allocation) choose() field.ErrorList {
	errs := a.server.allocator.address(a.svc, a.taken)
	return append(errs, a.server.allocator.nodePorts(a.svc, a.taken)...)
}

func (a *allocation) refuse(errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), a.svc.Name, errs)
}

// taken is what others hold.
type taken struct {
	services used            // What all other Services have.
	records  map[string]bool // Addresses that somebody else has a record of, be it a Service or not.

	// What the Service itself has already stays its own, also where the ranges were others when it was given.
	ownAddresses []string
	ownPorts     []int32
}

func (t taken) address(ip string) bool { return t.services.addresses[ip] || t.records[ip] }
func (t taken) port(port int32) bool   { return t.services.ports[port] }

// add notes what turned out to be taken.
func (t taken) add(h holding) {
	t.services.addresses[h.address] = true
	t.services.ports[h.port] = true
}

// used are addresses and node ports that are in use.
type used struct {
	addresses map[string]bool
	ports     map[int32]bool
}

func (u used) has(h holding) bool {
	return h.address != "" && u.addresses[h.address] || h.port != 0 && u.ports[h.port]
}

func (s *Server) takenBy(sh *shelf, but *corev1.Service) taken {
	t := taken{services: used{map[string]bool{}, map[int32]bool{}}, records: map[string]bool{}}
	key := ownerOf(but)
	sh.mu.RLock()
	sh.tree.Ascend(func(it *item) bool {
		svc := it.obj.(*corev1.Service)
		if it.key == key {
			t.ownAddresses = svc.Spec.ClusterIPs
			t.ownPorts = append(t.ownPorts, svc.Spec.HealthCheckNodePort)
			for _, p := range svc.Spec.Ports {
				t.ownPorts = append(t.ownPorts, p.NodePort)
			}
			return true
		}
		for _, ip := range svc.Spec.ClusterIPs {
			t.services.addresses[ip] = true
		}
		for _, p := range svc.Spec.Ports {
			t.services.ports[p.NodePort] = true // 0, for none, is never asked for.
		}
		t.services.ports[svc.Spec.HealthCheckNodePort] = true
		return true
	})
	sh.mu.RUnlock()
	addresses := s.shelf(ipAddresses)
	addresses.mu.RLock()
	defer addresses.mu.RUnlock()
	addresses.tree.Ascend(func(it *item) bool {
		if recordOwner(it.obj.(*networkingv1.IPAddress)) != key {
			t.records[it.key] = true
		}
		return true
	})
	return t
}

func (a *allocator) address(svc *corev1.Service, t taken) field.ErrorList {
	switch svc.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	default:
		return nil
	}
	if svc.Spec.ClusterIP == "" && len(svc.Spec.ClusterIPs) > 0 {
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	}
	switch ip := svc.Spec.ClusterIP; ip {
	case corev1.ClusterIPNone:
	case "":
		addr, ok := a.free(t)
		if !ok {
			return field.ErrorList{field.InternalError(field.NewPath("spec", "clusterIP"), fmt.Errorf("failed to allocate a serviceIP: range %s is full", a.cidr))}
		}
		svc.Spec.ClusterIP = addr.String()
	default:
		if err := a.mayHave(ip, t); err != nil {
			return addressRefused(ip, err)
		}
	}
	if len(svc.Spec.ClusterIPs) == 0 {
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
	return nil
}

func (a *allocator) mayHave(ip string, t taken) error {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil // Validation finds the words for it.
	}
	if slices.Contains(t.ownAddresses, ip) {
		return nil
	}
	if !a.cidr.Contains(addr) {
		return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, a.cidr)
	}
	if t.address(ip) {
		return errAllocated
	}
	return nil
}

var errAllocated = errors.New("provided IP is already allocated")

func addressRefused(ip string, why error) field.ErrorList {
	return field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), []string{ip}, fmt.Sprintf("failed to allocate IP %s: %v", ip, why))}
}

// free picks an address by chance. The lowest ones of the range are left to those who ask for one by number.
func (a *allocator) free(t taken) (netip.Addr, bool) {
	size := uint64(1) << min(a.cidr.Addr().BitLen()-a.cidr.Bits(), 20)
	first := min(max(16, size/16), 256)
	if first >= size-1 {
		first = 1
	}
	count := size - 1 - first // The last is the broadcast address of the range.
	start := rand.Uint64N(count)
	for i := range count {
		addr := addTo(a.cidr.Masked().Addr(), first+(start+i)%count)
		if !t.address(addr.String()) {
			return addr, true
		}
	}
	for i := uint64(1); i < first; i++ {
		if addr := addTo(a.cidr.Masked().Addr(), i); !t.address(addr.String()) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// addTo is the address n after addr. n is less than 2^20.
func addTo(addr netip.Addr, n uint64) netip.Addr {
	b := addr.AsSlice()
	for i := len(b) - 1; i >= 0 && n > 0; i-- {
		n += uint64(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

// nodePorts gives the ports of a Service node ports where they are wanted, and one for the load balancer's health check.
// A node port belongs to one Service, which may use it once for each protocol.
func (a *allocator) nodePorts(svc *corev1.Service, t taken) field.ErrorList {
	wants := svc.Spec.Type == corev1.ServiceTypeNodePort ||
		svc.Spec.Type == corev1.ServiceTypeLoadBalancer && ptrOr(svc.Spec.AllocateLoadBalancerNodePorts, true)
	own := ownPorts{}
	for _, p := range svc.Spec.Ports {
		own.add(p.NodePort, p.Protocol)
	}
	var errs field.ErrorList
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
		switch {
		case p.NodePort != 0:
			errs = append(errs, a.mayHavePort(path, p.NodePort, t)...)
		case wants:
			port, err := a.freePort(path, svc, p, own, t)
			errs = append(errs, err...)
			p.NodePort = port
			own.add(port, p.Protocol)
		}
	}
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || svc.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return errs
	}
	path := field.NewPath("spec", "healthCheckNodePort")
	if svc.Spec.HealthCheckNodePort != 0 {
		return append(errs, a.mayHavePort(path, svc.Spec.HealthCheckNodePort, t)...)
	}
	port, err := a.freePort(path, svc, nil, own, t)
	svc.Spec.HealthCheckNodePort = port
	return append(errs, err...)
}

// ownPorts are the node ports of the Service that is written, with the protocols that use them.
type ownPorts map[int32][]corev1.Protocol

func (o ownPorts) add(port int32, protocol corev1.Protocol) {
	if port != 0 {
		o[port] = append(o[port], protocol)
	}
}

func (a *allocator) mayHavePort(path *field.Path, port int32, t taken) field.ErrorList {
	switch {
	case t.port(port):
		return portTaken(path, port)
	case !a.ports.contains(port) && !slices.Contains(t.ownPorts, port):
		return field.ErrorList{field.Invalid(path, port, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %s", a.ports))}
	}
	return nil
}

func portTaken(path *field.Path, port int32) field.ErrorList {
	return field.ErrorList{field.Invalid(path, port, "provided port is already allocated")}
}

// freePort picks a node port by chance; for a port that the Service has in another protocol too (DNS), the same.
func (a *allocator) freePort(path *field.Path, svc *corev1.Service, p *corev1.ServicePort, own ownPorts, t taken) (int32, field.ErrorList) {
	for _, twin := range svc.Spec.Ports {
		if p != nil && twin.Port == p.Port && twin.NodePort != 0 && !slices.Contains(own[twin.NodePort], p.Protocol) {
			return twin.NodePort, nil
		}
	}
	count := int32(a.ports.Last) - int32(a.ports.First) + 1
	start := rand.Int32N(count)
	for i := range count {
		port := int32(a.ports.First) + (start+i)%count
		if !t.port(port) && own[port] == nil {
			return port, nil
		}
	}
	return 0, field.ErrorList{field.InternalError(path, fmt.Errorf("failed to allocate a nodePort: range %s is full", a.ports))}
}
