package apiserver

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
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

// allocator gives Services their addresses and node ports. It keeps no books: what is taken is what the stored Services
// say, and one Service at a time is written while it holds the lock, so nothing can be given twice or be lost.
// https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/
type allocator struct {
	mu    sync.Mutex
	cidr  netip.Prefix
	ports PortRange
}

// allocate completes a Service that is about to be written. The caller calls unlock once it is.
func (s *Server) allocate(sh *shelf, obj, old runtime.Object) (unlock func(), err error) {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return func() {}, nil
	}
	a := &s.allocator
	a.mu.Lock()
	taken := takenBy(sh, svc)
	errs := a.address(svc, taken)
	errs = append(errs, a.nodePorts(svc, taken)...)
	if len(errs) > 0 {
		a.mu.Unlock()
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
	}
	return a.mu.Unlock, nil
}

// taken is what all other Services hold.
type taken struct {
	addresses map[string]bool
	ports     map[nodePort]bool
}

type nodePort struct {
	protocol corev1.Protocol
	port     int32
}

func takenBy(sh *shelf, but *corev1.Service) taken {
	t := taken{map[string]bool{}, map[nodePort]bool{}}
	key := objectKey(but.Namespace, but.Name)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	sh.tree.Ascend(func(it *item) bool {
		if it.key == key {
			return true
		}
		svc := it.obj.(*corev1.Service)
		for _, ip := range svc.Spec.ClusterIPs {
			t.addresses[ip] = true
		}
		for _, p := range svc.Spec.Ports {
			if p.NodePort != 0 {
				t.ports[nodePort{p.Protocol, p.NodePort}] = true
			}
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
			return field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIPs"), []string{ip}, fmt.Sprintf("failed to allocate IP %s: %v", ip, err))}
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
	if !a.cidr.Contains(addr) {
		return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, a.cidr)
	}
	if t.addresses[ip] {
		return fmt.Errorf("provided IP is already allocated")
	}
	return nil
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
		if !t.addresses[addr.String()] {
			return addr, true
		}
	}
	for i := uint64(1); i < first; i++ {
		if addr := addTo(a.cidr.Masked().Addr(), i); !t.addresses[addr.String()] {
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

func (a *allocator) nodePorts(svc *corev1.Service, t taken) field.ErrorList {
	wants := svc.Spec.Type == corev1.ServiceTypeNodePort ||
		svc.Spec.Type == corev1.ServiceTypeLoadBalancer && ptrOr(svc.Spec.AllocateLoadBalancerNodePorts, true)
	var errs field.ErrorList
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
		switch key := (nodePort{p.Protocol, p.NodePort}); {
		case p.NodePort == 0 && wants:
			port, ok := a.freePort(p.Protocol, t)
			if !ok {
				errs = append(errs, field.InternalError(path, fmt.Errorf("failed to allocate a nodePort: range %s is full", a.ports)))
				continue
			}
			p.NodePort = port
		case p.NodePort == 0:
			continue
		case t.ports[key]:
			errs = append(errs, field.Invalid(path, p.NodePort, "provided port is already allocated"))
		case wants && !a.ports.contains(p.NodePort):
			errs = append(errs, field.Invalid(path, p.NodePort, fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %s", a.ports)))
		}
		t.ports[nodePort{p.Protocol, p.NodePort}] = true
	}
	return errs
}

func (a *allocator) freePort(protocol corev1.Protocol, t taken) (int32, bool) {
	count := int32(a.ports.Last) - int32(a.ports.First) + 1
	start := rand.Int32N(count)
	for i := range count {
		port := int32(a.ports.First) + (start+i)%count
		if !t.ports[nodePort{protocol, port}] {
			return port, true
		}
	}
	return 0, false
}
