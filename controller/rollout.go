package controller

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// bounds are how many pods a rolling update of d may have above its size, and how many of its size may be missing.
// Percentages of the surge round up, those of what may be missing down; if both come to 0, one pod may be missing, since
// nothing could move otherwise. Any other strategy has no surge and lets nothing be missing.
//
// Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment.
func bounds(d *appsv1.Deployment) (surge, missing int32) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	size := *d.Spec.Replicas
	surge = share(rolling.MaxSurge, size, true)
	missing = share(rolling.MaxUnavailable, size, false)
	if surge == 0 && missing == 0 {
		missing = 1
	}
	return surge, min(missing, size)
}

// share is a number of pods or a percentage of size. What is neither counts as 0; the API server lets no such thing in.
func share(v *intstr.IntOrString, size int32, up bool) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), int(size), up)
	if err != nil {
		return 0
	}
	return int32(n)
}

func specReplicas(sets ...*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

func availableReplicas(sets ...*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += rs.Status.AvailableReplicas
	}
	return n
}

// remainingAvailable counts the available pods as far as they are meant to stay: a set that was just made smaller has pods
// in its status that are about to go, and must not be counted on.
func remainingAvailable(sets ...*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
	}
	return n
}

// firstSize is the size with which the new ReplicaSet is made.
func firstSize(r *rollout) int32 { return grown(r, 0) }

// newSize is the size that the new ReplicaSet should have now.
func newSize(r *rollout) int32 {
	if *r.new.Spec.Replicas > *r.d.Spec.Replicas {
		return *r.d.Spec.Replicas
	}
	return grown(r, *r.new.Spec.Replicas)
}

// grown is the new ReplicaSet's size after as many more pods as the surge has room for.
func grown(r *rollout, size int32) int32 {
	want := *r.d.Spec.Replicas
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return want
	}
	surge, _ := bounds(r.d)
	room := want + surge - specReplicas(r.old...) - size
	return size + max(0, min(room, want-size))
}

// oldSizes are the sizes of the old ReplicaSets that should shrink now, such that enough pods stay available: first those
// pods go that are not available anyway, then available ones as far as new ones have taken their place.
func oldSizes(r *rollout) map[string]int32 {
	sizes := map[string]int32{}
	for _, rs := range r.old {
		if *rs.Spec.Replicas > 0 {
			sizes[rs.Name] = *rs.Spec.Replicas
		}
	}
	_, missing := bounds(r.d)
	needed := *r.d.Spec.Replicas - missing
	newNotAvailable := *r.new.Spec.Replicas - r.new.Status.AvailableReplicas
	budget := specReplicas(r.all()...) - needed - newNotAvailable
	if budget <= 0 || len(sizes) == 0 {
		return nil
	}
	before := maps.Clone(sizes)
	for _, rs := range r.old {
		if n := min(budget, sizes[rs.Name]-rs.Status.AvailableReplicas); n > 0 {
			sizes[rs.Name] -= n
			budget -= n
		}
	}
	spare := remainingAvailable(r.all()...) - needed
	for _, rs := range r.old {
		if n := min(spare, sizes[rs.Name]); n > 0 {
			sizes[rs.Name] -= n
			spare -= n
		}
	}
	maps.DeleteFunc(sizes, func(name string, size int32) bool { return size == before[name] })
	return sizes
}

// resizes says whether the Deployment's ReplicaSets only follow a change of spec.replicas now. With Recreate and several
// active ones there are no shares to keep: the old ones go first, whatever the size is to be.
func resizes(r *rollout) bool {
	recreates := r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType && len(active(r.all())) > 1
	return r.d.Spec.Paused || sizeChanged(r) && !recreates
}

// sizeChanged says whether spec.replicas has changed since the active ReplicaSets were last sized.
func sizeChanged(r *rollout) bool {
	return slices.ContainsFunc(active(r.all()), func(rs *appsv1.ReplicaSet) bool {
		desired, ok := annotatedSize(rs, desiredReplicasAnnotation)
		return ok && desired != *r.d.Spec.Replicas
	})
}

func active(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	return slices.DeleteFunc(slices.Clone(sets), func(rs *appsv1.ReplicaSet) bool { return *rs.Spec.Replicas == 0 })
}

func annotatedSize(rs *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	return int32(n), err == nil
}

// sizeAnnotations returns the annotations with d's size in them.
func sizeAnnotations(annotations map[string]string, d *appsv1.Deployment) map[string]string {
	surge, _ := bounds(d)
	annotations = maps.Clone(annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[desiredReplicasAnnotation] = strconv.Itoa(int(*d.Spec.Replicas))
	annotations[maxReplicasAnnotation] = strconv.Itoa(int(*d.Spec.Replicas + surge))
	return annotations
}

// resized are the sizes after a change of spec.replicas outside a rollout's own steps. With one active ReplicaSet it gets
// all; after a finished rollout the old ones get nothing; in the middle of one each keeps its share.
func resized(r *rollout) map[string]int32 {
	want := *r.d.Spec.Replicas
	live := active(r.all())
	switch {
	case len(live) == 1:
		return map[string]int32{live[0].Name: want}
	case len(live) == 0 && r.new != nil:
		return map[string]int32{r.new.Name: want}
	case len(live) == 0 && len(r.old) > 0:
		return map[string]int32{r.old[len(r.old)-1].Name: want}
	case len(live) == 0: // Paused from the beginning.
		return nil
	case saturated(r):
		sizes := map[string]int32{}
		for _, rs := range active(r.old) {
			sizes[rs.Name] = 0
		}
		return sizes
	case r.d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType:
		return proportional(r.d, live)
	}
	return nil
}

// saturated says that the new ReplicaSet has all pods of the Deployment, available, and was meant to.
func saturated(r *rollout) bool {
	if r.new == nil {
		return false
	}
	desired, ok := annotatedSize(r.new, desiredReplicasAnnotation)
	want := *r.d.Spec.Replicas
	return ok && *r.new.Spec.Replicas == want && desired == want && r.new.Status.AvailableReplicas == want
}

// proportional spreads a change of size over the active ReplicaSets, in proportion to their sizes; what rounding leaves
// over goes to the largest.
//
// Source: https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#proportional-scaling.
func proportional(d *appsv1.Deployment, live []*appsv1.ReplicaSet) map[string]int32 {
	surge, _ := bounds(d)
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + surge
	}
	change := allowed - specReplicas(live...)
	live = slices.Clone(live)
	slices.SortStableFunc(live, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b) // Growing favours the newer of two equal ones, shrinking takes from the older.
		if change > 0 {
			age = -age
		}
		return cmp.Or(-cmp.Compare(*a.Spec.Replicas, *b.Spec.Replicas), age)
	})
	sizes := map[string]int32{}
	spread := int32(0)
	for _, rs := range live {
		n := portion(d, rs, surge, change, spread)
		sizes[rs.Name] = *rs.Spec.Replicas + n
		spread += n
	}
	first := live[0].Name
	sizes[first] = max(0, sizes[first]+change-spread)
	return sizes
}

// portion is rs's part of a change of which spread is given out already.
func portion(d *appsv1.Deployment, rs *appsv1.ReplicaSet, surge, change, spread int32) int32 {
	if change == 0 || change == spread {
		return 0
	}
	n := -*rs.Spec.Replicas
	if *d.Spec.Replicas > 0 {
		before, ok := annotatedSize(rs, maxReplicasAnnotation)
		if !ok || before == 0 {
			before = d.Status.Replicas
		}
		if before == 0 {
			return 0
		}
		size := float64(*rs.Spec.Replicas) * float64(*d.Spec.Replicas+surge) / float64(before)
		n = int32(math.Round(size)) - *rs.Spec.Replicas
	}
	if change > 0 {
		return min(n, change-spread)
	}
	return max(n, change-spread)
}
