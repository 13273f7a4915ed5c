package handover

import (
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/utils/net"
)

// want is the state of an endpoint that is waited for.
type want int

const (
	ready want = iota
	terminating
	wants // How many there are.
)

// shows reports whether an endpoint is as wanted. A terminating one may still be served, where there is no other; and one of a
// Service that publishes addresses which are not ready is called ready to the end.
func (w want) shows(c *discoveryv1.EndpointConditions) bool {
	isTerminating := c.Terminating != nil && *c.Terminating
	if w == terminating {
		return isTerminating
	}
	return isTerminating || c.Ready == nil || *c.Ready
}

// A place is where an EndpointSlice has a pod.
type place struct {
	slice types.NamespacedName
	served
	since [wants]uint64 // The revision from which on the slice has shown it so; 0 while it does not.
}

// served is what a Service, in the pod's namespace, has slices of its own for: each of its address families.
type served struct {
	service string
	family  discoveryv1.AddressType
}

// places know for each pod where the EndpointSlices have it, and from which revision on. The number that matters is not the
// slice's own: that moves on with every other endpoint in it.
type places struct {
	of    map[types.UID][]place
	left  map[types.UID]departure
	swept time.Time // When old departures were last dropped.
}

// A departure is that of a pod which a slice had, not terminating, until a revision: its Service selects others now.
type departure struct {
	revision uint64
	seen     time.Time
}

func newPlaces() places {
	return places{of: map[types.UID][]place{}, left: map[types.UID]departure{}}
}

// change notes what a slice has now, and returns the pods for which that may have changed something. One of the two is nil
// for a slice that is new, or gone.
func (p *places) change(old, now *discoveryv1.EndpointSlice, seen time.Time) (pods []types.UID) {
	last := now
	if now == nil {
		last = old // As it was when it was deleted; its revision is that of the deletion.
	}
	revision, name := Revision(last.ResourceVersion), types.NamespacedName{Namespace: last.Namespace, Name: last.Name}
	has := map[types.UID]bool{}
	for uid, conditions := range endpoints(now) {
		has[uid] = true
		p.note(uid, place{slice: name, served: served{last.Labels[discoveryv1.LabelServiceName], last.AddressType}}, conditions, revision)
		pods = append(pods, uid)
	}
	for uid, conditions := range endpoints(old) {
		if has[uid] {
			continue
		}
		p.drop(uid, name)
		if !terminating.shows(conditions) {
			p.left[uid] = departure{max(revision, p.left[uid].revision), seen}
		}
		pods = append(pods, uid)
	}
	return pods
}

// endpoints yields those of a slice that are pods; the last one of a pod counts.
func endpoints(slice *discoveryv1.EndpointSlice) map[types.UID]*discoveryv1.EndpointConditions {
	if slice == nil || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil
	}
	pods := make(map[types.UID]*discoveryv1.EndpointConditions, len(slice.Endpoints))
	for i := range slice.Endpoints {
		if e := &slice.Endpoints[i]; e.TargetRef != nil && e.TargetRef.UID != "" {
			pods[e.TargetRef.UID] = &e.Conditions
		}
	}
	return pods
}

func (p *places) note(uid types.UID, at place, conditions *discoveryv1.EndpointConditions, revision uint64) {
	all := p.of[uid]
	i := slices.IndexFunc(all, func(known place) bool { return known.slice == at.slice })
	if i < 0 {
		i, all = len(all), append(all, at)
	}
	all[i].served = at.served
	for w := range wants {
		switch shown := w.shows(conditions); {
		case !shown:
			all[i].since[w] = 0
		case all[i].since[w] == 0:
			all[i].since[w] = revision
		}
	}
	p.of[uid] = all
}

func (p *places) drop(uid types.UID, slice types.NamespacedName) {
	rest := slices.DeleteFunc(p.of[uid], func(known place) bool { return known.slice == slice })
	if len(rest) == 0 {
		delete(p.of, uid)
		return
	}
	p.of[uid] = rest
}

// forget drops, now and then, the departures that all proxies have long heard of.
func (p *places) forget(now time.Time) {
	if now.Sub(p.swept) < forgetAfter {
		return
	}
	p.swept = now
	for uid, d := range p.left {
		if now.Sub(d.seen) > forgetAfter {
			delete(p.left, uid)
		}
	}
}

// shown is the revision from which on all slices have a pod as wanted; or the Service whose slices do not. The selecting
// Services, which select the pod now, are to have it; of the others that there are it matters only whether they have it still.
func (p *places) shown(q question, selecting []served, exists func(service string) bool) (revision uint64, missing string) {
	var in []served
	for _, at := range p.of[q.uid] {
		if !slices.Contains(selecting, at.served) && (q.want == ready || !exists(at.service)) {
			continue
		}
		if at.since[q.want] == 0 {
			return 0, at.service
		}
		in = append(in, at.served)
		revision = max(revision, at.since[q.want])
	}
	for _, s := range selecting {
		if !slices.Contains(in, s) {
			return 0, s.service
		}
	}
	if q.want == terminating {
		revision = max(revision, p.left[q.uid].revision)
	}
	return revision, ""
}

// servedBy are the address families in which the Service has the pod, or is about to. One without a selector has endpoints of the
// user's own.
func servedBy(service *corev1.Service, pod *corev1.Pod) (all []served) {
	if service.Spec.Selector == nil || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return nil
	}
	for key, value := range service.Spec.Selector {
		if got, ok := pod.Labels[key]; !ok || got != value {
			return nil
		}
	}
	for _, family := range familiesOf(pod) {
		if len(service.Spec.IPFamilies) == 0 || slices.Contains(service.Spec.IPFamilies, corev1.IPFamily(family)) {
			all = append(all, served{service.Name, family})
		}
	}
	return all
}

// familiesOf are those that the pod has an address of.
func familiesOf(pod *corev1.Pod) (all []discoveryv1.AddressType) {
	ips := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range ips {
		family := discoveryv1.AddressTypeIPv4
		if utilnet.IsIPv6String(ip) {
			family = discoveryv1.AddressTypeIPv6
		}
		if !slices.Contains(all, family) {
			all = append(all, family)
		}
	}
	return all
}

// Revision is the number in a resourceVersion, by which what came later can be told; 0 for one that has none.
func Revision(resourceVersion string) uint64 {
	n, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
