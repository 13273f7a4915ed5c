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
	slice   types.NamespacedName
	service string        // In the slice's namespace.
	since   [wants]uint64 // The revision from which on the slice has shown it so; 0 while it does not.
}

// places know for each pod where the EndpointSlices have it, and from which revision on. The number that matters is not the
// slice's own: that moves on with every other endpoint in it.
type places struct {
	of   map[types.UID][]place
	left map[types.UID]departure
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
		p.note(uid, place{slice: name, service: last.Labels[discoveryv1.LabelServiceName]}, conditions, revision)
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
	all[i].service = at.service
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

// forget drops the departures that all proxies have long heard of.
func (p *places) forget(before time.Time) {
	for uid, d := range p.left {
		if d.seen.Before(before) {
			delete(p.left, uid)
		}
	}
}

// shown is the revision from which on all slices have a pod as wanted; or the Service whose slices do not. The selecting
// Services, which select the pod now, are to have it; of the others that there are it matters only whether they have it still.
func (p *places) shown(q question, selecting []string, exists func(service string) bool) (revision uint64, missing string) {
	var in []string
	for _, at := range p.of[q.uid] {
		if !slices.Contains(selecting, at.service) && (q.want == ready || !exists(at.service)) {
			continue
		}
		if at.since[q.want] == 0 {
			return 0, at.service
		}
		in = append(in, at.service)
		revision = max(revision, at.since[q.want])
	}
	for _, service := range selecting {
		if !slices.Contains(in, service) {
			return 0, service
		}
	}
	if q.want == terminating {
		revision = max(revision, p.left[q.uid].revision)
	}
	return revision, ""
}

// selects reports whether the Service has the pod's address, or is about to. One without a selector has endpoints of the user's
// own; one of another address family than the pod's gets none of it.
func selects(service *corev1.Service, pod *corev1.Pod) bool {
	if service.Spec.Selector == nil || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return false
	}
	for key, value := range service.Spec.Selector {
		if got, ok := pod.Labels[key]; !ok || got != value {
			return false
		}
	}
	return len(service.Spec.IPFamilies) == 0 || slices.ContainsFunc(service.Spec.IPFamilies, func(family corev1.IPFamily) bool {
		return hasFamily(pod, family)
	})
}

func hasFamily(pod *corev1.Pod, family corev1.IPFamily) bool {
	is := func(ip string) bool { return utilnet.IsIPv6String(ip) == (family == corev1.IPv6Protocol) }
	return is(pod.Status.PodIP) || slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return is(ip.IP) })
}

// Revision is the number in a resourceVersion, by which what came later can be told; 0 for one that has none.
func Revision(resourceVersion string) uint64 {
	n, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
