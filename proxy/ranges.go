package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/tools/cache"
)

// Besides the ranges of the configuration, Services have addresses of ranges that ServiceCIDRs add while the cluster runs. An address
// of one that no Service has is refused like any other, so that no packet for it leaves by the default route.
// https://kubernetes.io/docs/tasks/network/extend-service-ip-ranges/

// SetRanges makes the Ruleset hold those of the configuration and further ones. One that overlaps the pods' range adds nothing: pods are
// not to be refused.
func (r *Ruleset) SetRanges(further []netip.Prefix) {
	have := r.ranges
	r.ranges = slices.Clone(r.config.ServiceCIDR)
	for _, p := range further {
		if pods := familyOf(p.Addr()).rangeOf(r.config.ClusterCIDR); pods.IsValid() && !pods.Overlaps(p) {
			r.ranges = append(r.ranges, p)
		}
	}
	r.replace(rangesOwner, rangeElements(have), rangeElements(r.ranges))
}

// rangeElements yields the ranges but for those that lie in another: the kernel refuses what overlaps.
func rangeElements(ranges []netip.Prefix) func(yield func(key, value)) {
	return func(yield func(key, value)) {
		for _, p := range widest(slices.Clone(ranges)) {
			yield(key{in: serviceRange, addr: p.Masked().Addr(), last: lastOf(p)}, value{})
		}
	}
}

// within says whether an address is of one of the ranges.
func within(ranges []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// watchRanges follows ServiceCIDRs. An API server may not have that kind (Kubernetes has it since 1.33), or not let the proxy see it:
// then the ranges of the configuration are all there are.
func (p *Proxy) watchRanges(cidrs networkinginformers.ServiceCIDRInformer) error {
	informer := cidrs.Informer()
	p.noRanges = make(chan struct{})
	var once sync.Once
	none := func(why error) {
		once.Do(func() {
			slog.Info("no ServiceCIDRs: Services have addresses of the configured ranges alone", "why", why)
			close(p.noRanges)
		})
	}
	// An informer that runs already takes no handler, and needs none: others rely on the kind.
	_ = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
			cache.DefaultWatchErrorHandler(ctx, r, err)
			return
		}
		none(err)
	})
	p.serviceCIDRs = cidrs.Lister()
	p.rangesReady = informer.HasSyncedChecker()
	if err := p.rulesLoop.Watch(informer, p.touched(func(any) []string { return []string{rangesOwner} })); err != nil {
		return fmt.Errorf("follow ServiceCIDRs: %w", err)
	}
	return nil
}

// rangesKnown waits for the ServiceCIDRs, or until it is clear that there are none. It is false if ctx ends before.
func (p *Proxy) rangesKnown(ctx context.Context) bool {
	select {
	case <-p.rangesReady.Done():
	case <-p.noRanges:
	case <-ctx.Done():
		return false
	}
	return true
}
