package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"

	"skiff/api"
	"skiff/reconcile"
)

// serviceCIDRs says of each range of Services that it is ready, and keeps one that is deleted for as long as a Service has an
// address that no other range holds.
//
// Source: https://kubernetes.io/docs/tasks/network/extend-service-ip-ranges/
type serviceCIDRs struct {
	client    kubernetes.Interface
	ranges    networkinglisters.ServiceCIDRLister
	addresses networkinglisters.IPAddressLister
	grace     time.Duration
}

// rangeGrace is how long a deleted range stays at least, so that every API server knows of it and gives no more addresses.
const rangeGrace = 10 * time.Second

func newServiceCIDRs(b *base, grace time.Duration) error {
	networking := b.factory.Networking().V1()
	c := &serviceCIDRs{client: b.client, ranges: networking.ServiceCIDRs().Lister(), addresses: networking.IPAddresses().Lister(), grace: grace}
	loop := b.loop("servicecidr", 1, c.Reconcile)
	return errors.Join(
		b.watch(loop, networking.ServiceCIDRs().Informer(), func(obj any) []string { return append(reconcile.ObjectKey(obj), c.deleted()...) }),
		b.watch(loop, networking.IPAddresses().Informer(), func(any) []string { return c.deleted() }),
	)
}

// deleted are the ranges that may have been waiting for what just happened.
func (c *serviceCIDRs) deleted() (names []string) {
	all, err := c.ranges.List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, r := range all {
		if r.DeletionTimestamp != nil {
			names = append(names, r.Name)
		}
	}
	return names
}

// Reconcile looks at one range.
func (c *serviceCIDRs) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	r, err := c.ranges.Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if r.DeletionTimestamp == nil {
		return 0, c.hold(ctx, r)
	}
	if !slices.Contains(r.Finalizers, api.ServiceCIDRProtection) {
		return 0, nil
	}
	all, err1 := c.ranges.List(labels.Everything())
	addresses, err2 := c.addresses.List(labels.Everything())
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	if holdsAddresses(r, all, addresses) {
		return 0, c.say(ctx, r, metav1.Condition{
			Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
		})
	}
	if wait := c.grace - time.Since(r.DeletionTimestamp.Time); wait > 0 {
		return wait, nil
	}
	return 0, dropFinalizer(ctx, r, api.ServiceCIDRProtection, func(next *networkingv1.ServiceCIDR) error {
		_, err := c.client.NetworkingV1().ServiceCIDRs().Update(ctx, next, metav1.UpdateOptions{})
		return err
	})
}

// hold puts the finalizer on a range and says that it is ready.
func (c *serviceCIDRs) hold(ctx context.Context, r *networkingv1.ServiceCIDR) error {
	if !slices.Contains(r.Finalizers, api.ServiceCIDRProtection) {
		next := r.DeepCopy()
		next.Finalizers = append(next.Finalizers, api.ServiceCIDRProtection)
		held, err := c.client.NetworkingV1().ServiceCIDRs().Update(ctx, next, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("put finalizer %s on %s: %w", api.ServiceCIDRProtection, r.Name, err)
		}
		r = held
	}
	return c.say(ctx, r, metav1.Condition{Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready"})
}

// say sets the condition Ready, if it says something new.
func (c *serviceCIDRs) say(ctx context.Context, r *networkingv1.ServiceCIDR, ready metav1.Condition) error {
	ready.Type = networkingv1.ServiceCIDRConditionReady
	next := r.DeepCopy()
	if !meta.SetStatusCondition(&next.Status.Conditions, ready) {
		return nil
	}
	_, err := c.client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write whether %s is ready: %w", r.Name, err)
	}
	return nil
}

// holdsAddresses says whether a Service has an address of a range that goes, and of none that stays.
func holdsAddresses(r *networkingv1.ServiceCIDR, all []*networkingv1.ServiceCIDR, addresses []*networkingv1.IPAddress) bool {
	stay := slices.DeleteFunc(slices.Clone(all), func(o *networkingv1.ServiceCIDR) bool {
		return o.Name == r.Name || o.DeletionTimestamp != nil
	})
	return slices.ContainsFunc(addresses, func(a *networkingv1.IPAddress) bool {
		addr, err := netip.ParseAddr(a.Name)
		if err != nil || a.Labels[networkingv1.LabelManagedBy] != api.AddressManager || !api.ServiceCIDRHolds(r, addr) {
			return false
		}
		return !slices.ContainsFunc(stay, func(o *networkingv1.ServiceCIDR) bool { return api.ServiceCIDRHolds(o, addr) })
	})
}
