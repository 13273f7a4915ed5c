package agent

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
)

// Several pods may wait for room to grow, and what one gets another cannot have. Who comes first is decided by all that the API shows of
// them, so that each of them comes to the same answer.

// fits says why the node cannot give a pod what it wants: not ever, or not now. The words are the kubelet's.
func (a *Agent) fits(pod *v1.Pod) *failure {
	others := slices.DeleteFunc(a.ownPods(), func(other *v1.Pod) bool { return other.UID == pod.UID || ended(other) })
	return fitsBeside(pod, others, a.allocatable())
}

// fitsBeside leaves room for the pods that wait, too, and come before this one.
func fitsBeside(pod *v1.Pod, others []*v1.Pod, most v1.ResourceList) *failure {
	used := requestsOf(others)
	before := slices.DeleteFunc(slices.Clone(others), func(other *v1.Pod) bool { return !awaitsSize(other) || byTurn(other, pod) > 0 })
	slices.SortFunc(before, byTurn)
	for _, other := range before {
		want, rest := podresource.PodRequests(other, podresource.PodResourcesOptions{}), used.DeepCopy()
		adjust(rest, (*resource.Quantity).Sub, other.Status.AllocatedResources)
		if refusal(want, rest, most) == nil {
			adjust(rest, (*resource.Quantity).Add, want)
			used = rest
		}
	}
	return refusal(podresource.PodRequests(pod, podresource.PodResourcesOptions{}), used, most)
}

func refusal(want, used, most v1.ResourceList) *failure {
	for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceCPU} {
		if w, m := amountOf(want, name), amountOf(most, name); w > m {
			return &failure{reason: v1.PodReasonInfeasible, message: fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d", name, w, m)}
		}
	}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if w, u, m := amountOf(want, name), amountOf(used, name), amountOf(most, name); w+u > m {
			return &failure{reason: v1.PodReasonDeferred, message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, w, u, m)}
		}
	}
	return nil
}

// requestsOf sums up what pods ask for, or still have of what they asked for before. What one asks for and was not given is not in it.
func requestsOf(pods []*v1.Pod) v1.ResourceList {
	all := v1.ResourceList{}
	for _, pod := range pods {
		has := pod.Status.AllocatedResources
		if !awaitsSize(pod) {
			has = podresource.PodRequests(pod, podresource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true})
		}
		adjust(all, (*resource.Quantity).Add, has)
	}
	return all
}

// awaitsSize says that a pod asks for more or less than its status says that it was given.
func awaitsSize(pod *v1.Pod) bool {
	return !asksLike(pod, func(want, given int64) bool { return want == given })
}

// grows says that it asks for more.
func grows(pod *v1.Pod) bool {
	return !asksLike(pod, func(want, given int64) bool { return want <= given })
}

func asksLike(pod *v1.Pod, like func(want, given int64) bool) bool {
	if len(pod.Status.AllocatedResources) == 0 {
		return true // It was not given anything yet, or nothing is known of it.
	}
	want := podresource.PodRequests(pod, podresource.PodResourcesOptions{})
	return like(amountOf(want, v1.ResourceCPU), amountOf(pod.Status.AllocatedResources, v1.ResourceCPU)) &&
		like(amountOf(want, v1.ResourceMemory), amountOf(pod.Status.AllocatedResources, v1.ResourceMemory))
}

// byTurn orders pods that wait for another size: first those that need no room for it, then by priority, by QoS class, and by how long
// they wait. https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/#retry-of-deferred-resizes
func byTurn(a, b *v1.Pod) int {
	first := func(a, b bool) int { // Which one it is true of.
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	return cmp.Or(
		first(!grows(a), !grows(b)),
		cmp.Compare(schedulinghelpers.PodPriority(b), schedulinghelpers.PodPriority(a)),
		first(qosClass(a) == v1.PodQOSGuaranteed, qosClass(b) == v1.PodQOSGuaranteed),
		waitsSince(a, b),
		cmp.Compare(a.UID, b.UID),
	)
}

// waitsSince compares since when pods are known to wait; those of which it is not known yet come last.
func waitsSince(a, b *v1.Pod) int {
	since, other := conditionOf(a.Status.Conditions, v1.PodResizePending), conditionOf(b.Status.Conditions, v1.PodResizePending)
	switch {
	case since == nil && other == nil:
		return 0
	case since == nil:
		return 1
	case other == nil:
		return -1
	}
	return since.LastTransitionTime.Compare(other.LastTransitionTime.Time)
}

// adjust adds amounts to a list, or takes them from it.
func adjust(list v1.ResourceList, by func(q *resource.Quantity, amount resource.Quantity), amounts v1.ResourceList) {
	for name, amount := range amounts {
		q := list[name]
		by(&q, amount)
		list[name] = q
	}
}
