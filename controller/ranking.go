package controller

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podsToDelete chooses the n pods that are missed least. Related are all active pods that share the pods' owner's owner.
func podsToDelete(active, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	onNode := map[string]int{}
	for _, pod := range related {
		if pod.Spec.NodeName != "" {
			onNode[pod.Spec.NodeName]++
		}
	}
	ranked := slices.Clone(active)
	slices.SortStableFunc(ranked, func(a, b *corev1.Pod) int { return compareForDeletion(a, b, onNode, now) })
	return ranked[:min(n, len(ranked))]
}

// compareForDeletion is negative if a should be deleted before b: the first of these that differs decides. Not on a node
// yet; pending; not ready; the cheaper by annotation; more neighbours of its kind on its node; ready for a shorter time;
// more restarts, of containers and then of sidecars; younger. Times are compared by their order of magnitude, so that among
// pods of about the same age it is the UID, that is chance, which decides.
//
// Source: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset.
func compareForDeletion(a, b *corev1.Pod, onNode map[string]int, now time.Time) int {
	if c := cmp.Or(
		falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phaseRank(a), phaseRank(b)),
		falseFirst(podReady(a), podReady(b)),
		cmp.Compare(deletionCost(a), deletionCost(b)),
		-cmp.Compare(onNode[a.Spec.NodeName], onNode[b.Spec.NodeName]),
	); c != 0 {
		return c
	}
	if podReady(a) && podReady(b) {
		ra, rb := podCondition(a, corev1.PodReady).LastTransitionTime, podCondition(b, corev1.PodReady).LastTransitionTime
		if !ra.Equal(&rb) {
			return youngerFirst(a, b, ra, rb, now)
		}
	}
	if c := moreRestartsFirst(a, b); c != 0 {
		return c
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return youngerFirst(a, b, a.CreationTimestamp, b.CreationTimestamp, now)
	}
	return cmp.Compare(a.UID, b.UID)
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseRank(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	}
	return 0
}

// deletionCost is the pod's own word on how much it would be missed; what is not a number counts as none.
func deletionCost(pod *corev1.Pod) int64 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return cost
}

// youngerFirst compares two different times; one that is not known counts as youngest.
func youngerFirst(a, b *corev1.Pod, ta, tb metav1.Time, now time.Time) int {
	if ta.IsZero() || tb.IsZero() {
		return falseFirst(!ta.IsZero(), !tb.IsZero())
	}
	return cmp.Or(cmp.Compare(magnitude(ta, now), magnitude(tb, now)), cmp.Compare(a.UID, b.UID))
}

func magnitude(t metav1.Time, now time.Time) int64 {
	if age := now.Sub(t.Time); age > 0 {
		return int64(math.Log2(float64(age)))
	}
	return -1
}

// moreRestartsFirst compares the container of each pod that has restarted most, and among equals the sidecar.
func moreRestartsFirst(a, b *corev1.Pod) int {
	ca, sa := restarts(a)
	cb, sb := restarts(b)
	return -cmp.Or(cmp.Compare(ca, cb), cmp.Compare(sa, sb))
}

func restarts(pod *corev1.Pod) (container, sidecar int32) {
	for _, status := range pod.Status.ContainerStatuses {
		container = max(container, status.RestartCount)
	}
	for _, status := range pod.Status.InitContainerStatuses {
		if slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == status.Name && isSidecar(&c) }) {
			sidecar = max(sidecar, status.RestartCount)
		}
	}
	return container, sidecar
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
