package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"

	"skiff/api"
	"skiff/reconcile"
)

// serviceOf returns the "namespace/name" of the Service that an EndpointSlice says it belongs to.
func serviceOf(obj any) []string {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}
}

// touched notes the Services of an object and has the one key of the loop queued: many events become one batch.
func (p *Proxy) touched(names func(obj any) []string) func(obj any) []string {
	return func(obj any) []string {
		touched := names(obj)
		if len(touched) == 0 {
			return nil
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.touchedAt.IsZero() {
			p.touchedAt = time.Now()
		}
		for _, name := range touched {
			p.dirty[name] = true
		}
		return []string{onlyKey}
	}
}

// owned returns what a Ruleset calls an object of another kind than Services.
func owned(by string) func(obj any) []string {
	return func(obj any) []string {
		var names []string
		for _, name := range reconcile.ObjectKey(obj) {
			names = append(names, by+name)
		}
		return names
	}
}

// nodeChanged looks at the zone and the addresses of this node. It returns all Services if the zone is another one than it was:
// hints may mean other endpoints now.
func (p *Proxy) nodeChanged(obj any) []string {
	node, ok := obj.(*corev1.Node)
	if !ok || node.Name != p.rules.config.NodeName {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if own := podRanges(node); !slices.Equal(own, p.rules.policies.ownRanges) {
		p.rules.setOwnRanges(own)
		p.rulesLoop.Add(onlyKey)
	}
	zone := node.Labels[corev1.LabelTopologyZone]
	if zone == p.rules.zone {
		return nil
	}
	p.rules.zone = zone
	return slices.Collect(maps.Keys(p.rules.services))
}

// podRanges returns the ranges of which the node gives addresses to its pods.
func podRanges(node *corev1.Node) []netip.Prefix {
	var ranges []netip.Prefix
	for _, text := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(text); err == nil && !slices.Contains(ranges, p.Masked()) {
			ranges = append(ranges, p.Masked())
		}
	}
	return ranges
}

// touchAll notes everything: the informers may know them before they have told.
func (p *Proxy) touchAll() error {
	if err := eachOf(p.nodes.List, func(n *corev1.Node) { p.nodeChanged(n) }); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	note := func(obj any, names func(any) []string) {
		for _, name := range names(obj) {
			p.dirty[name] = true
		}
	}
	p.dirty[rangesOwner] = true
	err := eachOf(p.services.List, func(s *corev1.Service) { note(s, reconcile.ObjectKey) })
	if p.pods != nil {
		err = errors.Join(err, eachOf(p.pods.List, func(pod *corev1.Pod) { note(pod, p.rules.config.podOfInterest) }))
	}
	if p.policies != nil {
		err = errors.Join(err,
			eachOf(p.policies.List, func(np *networkingv1.NetworkPolicy) { note(np, owned(policyOwner)) }),
			eachOf(p.namespaces.List, func(ns *corev1.Namespace) { note(ns, owned(namespaceOwner)) }))
	}
	return err
}

func eachOf[T any](list func(labels.Selector) ([]T, error), do func(T)) error {
	all, err := list(labels.Everything())
	if err != nil {
		return fmt.Errorf("list from the cache: %w", err)
	}
	for _, one := range all {
		do(one)
	}
	return nil
}

// update looks at what was touched anew. What cannot be asked about its health, for which deaf gives the reasons, stays
// touched; all else goes on. since is when the first of it was touched.
func (p *Proxy) update() (deaf error, since time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	heard := p.heard
	since, p.touchedAt = p.touchedAt, time.Time{}
	for name := range p.dirty {
		unheard, err := p.look(name)
		if err != nil {
			return nil, since, err
		}
		if unheard != nil {
			deaf = errors.Join(deaf, unheard)
			continue
		}
		delete(p.dirty, name)
	}
	p.rules.enforce()
	p.taken = heard
	return deaf, since, nil
}

// look sets what is called name in the Ruleset as the caches have it.
func (p *Proxy) look(name string) (deaf, err error) {
	kind, full, other := strings.Cut(name, ":")
	if !other {
		return p.lookAtService(name)
	}
	namespace, short, err := cache.SplitMetaNamespaceKey(full)
	if err != nil {
		return nil, err
	}
	switch kind + ":" {
	case podOwner:
		pod, err := found(p.pods.Pods(namespace).Get(short))
		if err == nil {
			p.rules.SetPod(full, pod)
		}
		return nil, err
	case policyOwner:
		policy, err := found(p.policies.NetworkPolicies(namespace).Get(short))
		if err == nil {
			p.rules.SetPolicy(full, policy)
		}
		return nil, err
	case rangesOwner:
		all, err := p.serviceCIDRs.List(labels.Everything())
		if err == nil {
			p.rules.SetRanges(api.ServiceRanges(all))
		}
		return nil, err
	case namespaceOwner:
		ns, err := found(p.namespaces.Get(short))
		if err == nil {
			p.rules.SetNamespace(short, ns)
		}
		return nil, err
	}
	return nil, nil
}

func (p *Proxy) lookAtService(name string) (deaf, err error) {
	svc, endpointSlices, err := p.read(name)
	if err != nil {
		return nil, err
	}
	p.rules.Set(name, svc, endpointSlices)
	return p.health.set(name, p.rules.health(name)), nil
}

// found turns the error that there is no such object into nil, which is what a Ruleset is told then.
func found[T any](obj *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return obj, err
}

func (p *Proxy) read(name string) (*corev1.Service, []*discoveryv1.EndpointSlice, error) {
	namespace, short, err := cache.SplitMetaNamespaceKey(name)
	if err != nil {
		return nil, nil, err
	}
	svc, err := found(p.services.Services(namespace).Get(short))
	if svc == nil || err != nil {
		return nil, nil, err
	}
	objs, err := p.slices.ByIndex(byService, name)
	if err != nil {
		return nil, nil, fmt.Errorf("get EndpointSlices of %s: %w", name, err)
	}
	found := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, obj := range objs {
		found = append(found, obj.(*discoveryv1.EndpointSlice))
	}
	return svc, found, nil
}
