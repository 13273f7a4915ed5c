package apiserver

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// allocator gives Services their addresses and node ports. What is free it sees in this server's memory; that it is free
// for all servers is what the claim (claim.go) makes sure. One Service at a time is written while it holds the lock.
// https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/
type allocator struct {
	mu    sync.Mutex
	cidrs []netip.Prefix // That the server was started with.
	ports PortRange
}

// allocation is what one write of a Service gets. nil is that of all other writes, which need none.
type allocation struct {
	server *Server
	shelf  *shelf
	svc    *corev1.Service
	old    *corev1.Service    // As it is stored; nil for a new one.
	ranges serviceRanges      // Where addresses may be given from.
	wish   corev1.ServiceSpec // As it was before anything was given to it.
	taken  taken
	before []holding // What the stored Service has.
	claims []claim
	since  time.Time // When the claims were begun.
}

// allocate completes a Service that is about to be written, unless only its part sub is. old is the stored one that it is to
// follow, nil for a new one. The caller calls done in the end.
func (s *Server) allocate(sh *shelf, obj, old runtime.Object, sub string) (*allocation, error) {
	svc, ok := obj.(*corev1.Service)
	if !ok || sub != "" {
		return nil, nil
	}
	a := &allocation{server: s, shelf: sh, svc: svc}
	if old != nil {
		a.old = old.(*corev1.Service)
		a.before = holdings(a.old)
	}
	if errs := api.CompleteFamilies(svc, a.old, serviceRanges(s.allocator.cidrs).families()); len(errs) > 0 {
		return nil, a.refuse(errs)
	}
	a.wish = *svc.Spec.DeepCopy()
	s.allocator.mu.Lock()
	a.ranges, a.taken = s.serviceRanges(), s.takenBy(sh, svc)
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
	errs := a.addresses()
	return append(errs, a.server.allocator.nodePorts(a.svc, a.taken)...)
}

func (a *allocation) refuse(errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), a.svc.Name, errs)
}

// taken tells what others hold.
type taken struct {
	services  *shelf
	addresses *shelf
	key       string           // The Service that asks.
	clashes   map[holding]bool // What turned out to be taken.

	// What the Service itself has already stays its own, also where the ranges were others when it was given.
	ownAddresses []string
	ownPorts     []int32
}

func (s *Server) takenBy(sh *shelf, but *corev1.Service) taken {
	t := taken{services: sh, addresses: s.shelf(ipAddresses), key: ownerOf(but), clashes: map[holding]bool{}}
	if it := sh.get(t.key); it != nil {
		for _, h := range holdings(it.obj.(*corev1.Service)) {
			if h.address != "" {
				t.ownAddresses = append(t.ownAddresses, canonical(h.address))
			} else {
				t.ownPorts = append(t.ownPorts, h.port)
			}
		}
	}
	return t
}

// byService reports whether another Service has it.
func (t taken) byService(h holding) bool { return t.services.heldByOther(h, t.key) }

// address reports whether another Service has the address, or somebody a record of it, be it a Service or not.
func (t taken) address(ip string) bool {
	h := holding{address: ip}
	if t.clashes[h] || t.byService(h) {
		return true
	}
	it := t.addresses.get(ip)
	return it != nil && recordOwner(it.obj.(*networkingv1.IPAddress)) != t.key
}

func (t taken) port(port int32) bool {
	h := holding{port: port}
	return t.clashes[h] || t.byService(h)
}

// add notes what turned out to be taken.
func (t taken) add(h holding) { t.clashes[h] = true }

// addresses gives the Service an address of each of its families.
func (a *allocation) addresses() field.ErrorList {
	spec := &a.svc.Spec
	first, ok := a.toGive()
	if !ok {
		return nil
	}
	if missing := len(spec.IPFamilies) - len(spec.ClusterIPs); missing > 0 {
		spec.ClusterIPs = append(slices.Clone(spec.ClusterIPs), make([]string, missing)...)
	}
	for i := first; i < len(spec.IPFamilies); i++ {
		if err := a.giveAddress(i); err != nil {
			return field.ErrorList{err}
		}
	}
	if len(spec.ClusterIPs) > 0 {
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	return nil
}

// toGive is the number of the first address that the Service is to get: all are new to it, or the second alone, or none.
func (a *allocation) toGive() (first int, any bool) {
	spec := &a.svc.Spec
	switch spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
	default:
		return 0, false
	}
	switch {
	case spec.ClusterIP == corev1.ClusterIPNone:
		return 0, false
	case a.old == nil || a.old.Spec.Type == corev1.ServiceTypeExternalName:
		return 0, true
	case a.old.Spec.ClusterIP == corev1.ClusterIPNone:
		return 0, false
	}
	return 1, len(a.old.Spec.IPFamilies) == 1 && len(spec.IPFamilies) == 2
}

// giveAddress chooses the i-th address, of the i-th family, if the client did not.
func (a *allocation) giveAddress(i int) *field.Error {
	ips, ranges := a.svc.Spec.ClusterIPs, a.ranges.of(a.svc.Spec.IPFamilies[i])
	if ips[i] != "" {
		if err := a.mayHave(ips[i], ranges); err != nil {
			return a.addressRefused(ips[i], err)
		}
		return nil
	}
	addr, ok := ranges.free(a.taken.address)
	if !ok {
		return field.InternalError(field.NewPath("spec", "clusterIPs").Index(i), fmt.Errorf("failed to allocate a serviceIP: range %s is full", ranges))
	}
	ips[i] = addr.String()
	return nil
}

func (a *allocation) mayHave(ip string, ranges serviceRanges) error {
	addr, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return err
	case slices.Contains(a.taken.ownAddresses, addr.String()):
		return nil
	case !ranges.contain(addr):
		return fmt.Errorf("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, ranges)
	case a.taken.address(addr.String()):
		return errAllocated
	}
	return nil
}

var errAllocated = errors.New("provided IP is already allocated")

func (a *allocation) addressRefused(ip string, why error) *field.Error {
	return field.Invalid(field.NewPath("spec", "clusterIPs"), a.svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: %v", ip, why))
}
