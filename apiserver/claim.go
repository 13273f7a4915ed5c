package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"skiff/api"
	"skiff/store"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Each address and each node port of a Service has a record in the store, which exists once whoever asks: that is what
// keeps two servers from giving away the same. The record of an address is an IPAddress object, that of a port a note.
//
// A write of a Service claims what is new in it first: it makes the records, then looks again whether no other Service has
// any of it, then writes the Service. What the Service no longer has is released afterwards. Whatever ends in between
// leaves a record without a Service, never a Service without a record; the repair (repair.go) removes those later, when no
// write can be under way any more.

const (
	ipAddresses     = "ipaddresses.networking.k8s.io"
	nodePortRecords = records + "nodeports/"

	// claimLife is how long a claim may be used by the write that made it. It must be less than what a repair waits.
	claimLife = 30 * time.Second
)

// holding is an address or a node port that a Service has.
type holding struct {
	address string
	port    int32
}

// storeKey is where its record lies.
func (h holding) storeKey() string {
	if h.address != "" {
		return ipAddresses + "/" + h.address
	}
	return nodePortRecords + strconv.Itoa(int(h.port))
}

// holdingOf is what the record under a key of the store is of.
func holdingOf(storeKey string) (holding, bool) {
	if address, ok := strings.CutPrefix(storeKey, ipAddresses+"/"); ok {
		return holding{address: address}, true
	}
	text, ok := strings.CutPrefix(storeKey, nodePortRecords)
	port, err := strconv.ParseInt(text, 10, 32)
	return holding{port: int32(port)}, ok && err == nil
}

// holdings are all that a Service has, each once.
func holdings(svc *corev1.Service) (all []holding) {
	for _, ip := range svc.Spec.ClusterIPs {
		if ip != corev1.ClusterIPNone && ip != "" {
			all = append(all, holding{address: canonical(ip)})
		}
	}
	ports := []int32{svc.Spec.HealthCheckNodePort}
	for _, p := range svc.Spec.Ports {
		ports = append(ports, p.NodePort)
	}
	slices.Sort(ports)
	for _, port := range slices.Compact(ports) {
		if port != 0 {
			all = append(all, holding{port: port})
		}
	}
	return all
}

// without are the holdings that are not among others.
func without(all, others []holding) []holding {
	return slices.DeleteFunc(slices.Clone(all), func(h holding) bool { return slices.Contains(others, h) })
}

// claim is a record that this write made.
type claim struct {
	holding
	rev uint64
}

// claim makes the records of what is new in the Service. If another server was faster with what was chosen by chance,
// it chooses anew; what the client asked for by number is refused.
func (a *allocation) claim(ctx context.Context) error {
	if a == nil {
		return nil
	}
	for try := 1; ; try++ {
		clash, err := a.tryClaim(ctx)
		if err == nil && clash == (holding{}) {
			return nil
		}
		a.release(ctx)
		if err != nil {
			return err
		}
		if slices.Contains(holdings(&corev1.Service{Spec: a.wish}), clash) || try == maxTries {
			return a.invalid(clash)
		}
		a.taken.add(clash)
		a.svc.Spec = *a.wish.DeepCopy()
		if errs := a.choose(); len(errs) > 0 {
			return a.refuse(errs)
		}
	}
}

// tryClaim makes the records, and returns the first holding that somebody else has.
func (a *allocation) tryClaim(ctx context.Context) (clash holding, err error) {
	a.since = time.Now()
	for _, h := range without(holdings(a.svc), a.before) {
		rev, err := a.server.record(ctx, h, a.svc)
		if errors.Is(err, store.ErrExists) {
			return h, nil
		}
		if err != nil {
			a.server.doubt() // It may have been made all the same.
			return holding{}, err
		}
		a.claims = append(a.claims, claim{h, rev})
	}
	if len(a.claims) == 0 || a.server.cache.newest == nil {
		return holding{}, nil
	}
	// A record that was missing must not hide that a Service has it.
	if err := a.server.cache.freshen(ctx); err != nil {
		return holding{}, err
	}
	now := a.server.takenBy(a.shelf, a.svc)
	for _, c := range a.claims {
		if now.byService(c.holding) {
			return c.holding, nil
		}
	}
	return holding{}, nil
}

// inTime fails if the claims are so old that a repair might take them for forgotten.
func (a *allocation) inTime() error {
	if a != nil && len(a.claims) > 0 && time.Since(a.since) > claimLife {
		return fmt.Errorf("%w: it took more than %v to allocate for the Service", store.ErrUnavailable, claimLife)
	}
	return nil
}

// written ends the allocation once the write was tried: what is no longer needed is released. Where it is open whether the
// write happened, nothing is.
func (a *allocation) written(ctx context.Context, err error) {
	switch {
	case a == nil:
	case errors.Is(err, errOpenOutcome):
		a.server.doubt()
	case err != nil:
		a.release(ctx)
	default:
		a.server.releaseAll(ctx, without(a.before, holdings(a.svc)), a.svc)
	}
}

// release takes back the claims.
func (a *allocation) release(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	for _, c := range a.claims {
		if err := a.server.forgetRecord(ctx, c.storeKey(), c.rev); err != nil {
			slog.Debug("a claim stays until it is repaired", "record", c.storeKey(), "err", err)
			a.server.doubt()
		}
	}
	a.claims = nil
}

func (a *allocation) invalid(clash holding) error {
	if clash.address != "" {
		return a.refuse(field.ErrorList{a.addressRefused(clash.address, errAllocated)})
	}
	path := field.NewPath("spec", "healthCheckNodePort")
	for i, p := range a.svc.Spec.Ports {
		if p.NodePort == clash.port {
			path = field.NewPath("spec", "ports").Index(i).Child("nodePort")
			break
		}
	}
	return a.refuse(portTaken(path, clash.port))
}

// record makes the record of a Service's holding, and returns its revision. ErrExists: somebody else has it.
func (s *Server) record(ctx context.Context, h holding, svc *corev1.Service) (uint64, error) {
	ctx = context.WithoutCancel(ctx)
	if h.address == "" {
		rev, err := s.cache.store.Put(ctx, h.storeKey(), []byte(ownerOf(svc)), 0)
		return rev, openOutcome(err)
	}
	obj, err := s.create(ctx, s.shelf(ipAddresses), "", addressRecord(h.address, svc), false)
	if apierrors.IsAlreadyExists(err) {
		return 0, store.ErrExists
	}
	if err != nil {
		return 0, err
	}
	return parseRevision(metaOf(obj).GetResourceVersion())
}

// ownerOf is what a note says of whom it is for.
func ownerOf(svc *corev1.Service) string { return objectKey(svc.Namespace, svc.Name) }

// addressRecord is the object that says that an address is a Service's.
// https://kubernetes.io/docs/reference/networking/virtual-ips/#ip-address-objects
func addressRecord(address string, svc *corev1.Service) *networkingv1.IPAddress {
	family := string(corev1.IPv4Protocol)
	if addr, err := netip.ParseAddr(address); err == nil && addr.Is6() {
		family = string(corev1.IPv6Protocol)
	}
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: address, Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: family, networkingv1.LabelManagedBy: api.AddressManager,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: "services", Namespace: svc.Namespace, Name: svc.Name,
		}},
	}
}

// recordOwner is the key of the Service that a stored address record is for; "" if it is no record of the server's.
func recordOwner(ip *networkingv1.IPAddress) string {
	p := ip.Spec.ParentRef
	if ip.Labels[networkingv1.LabelManagedBy] != api.AddressManager || p == nil || p.Group != "" || p.Resource != "services" {
		return ""
	}
	return objectKey(p.Namespace, p.Name)
}

// releaseAll removes the records of what a Service had. One that stays behind is found by the repair.
func (s *Server) releaseAll(ctx context.Context, all []holding, svc *corev1.Service) {
	for _, h := range all {
		if err := s.releaseOne(context.WithoutCancel(ctx), h, ownerOf(svc)); err != nil {
			slog.Debug("a record stays until it is repaired", "record", h.storeKey(), "err", err)
			s.doubt()
		}
	}
}

func (s *Server) releaseOne(ctx context.Context, h holding, owner string) error {
	kv, err := s.cache.store.Get(ctx, h.storeKey())
	if err != nil {
		return err
	}
	of := string(kv.Value)
	if h.address != "" {
		it, err := newItem(s.shelf(ipAddresses), h.address, kv)
		if err != nil {
			return err
		}
		of = recordOwner(it.obj.(*networkingv1.IPAddress))
	}
	if of != owner {
		return nil
	}
	return s.forgetRecord(ctx, h.storeKey(), kv.Rev)
}

// forgetRecord removes a record of that revision. When it returns, who asks for the same next gets it.
func (s *Server) forgetRecord(ctx context.Context, storeKey string, rev uint64) error {
	rev, err := s.cache.store.Delete(ctx, storeKey, rev)
	if err != nil {
		return err
	}
	return s.cache.settle(ctx, rev)
}
