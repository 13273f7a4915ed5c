package controller

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podCondition returns the pod's condition of that type, or nil.
func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// setPodCondition puts a condition in the place of the pod's one of its type, and says whether that changes anything. One that
// holds already keeps the time since when.
func setPodCondition(pod *corev1.Pod, c corev1.PodCondition) bool {
	had := podCondition(pod, c.Type)
	c.LastTransitionTime = metav1.Now()
	if had == nil {
		pod.Status.Conditions = append(pod.Status.Conditions, c)
		return true
	}
	if had.Status == c.Status {
		c.LastTransitionTime = had.LastTransitionTime
	}
	changed := *had != c
	*had = c
	return changed
}

func podReady(pod *corev1.Pod) bool {
	ready := podCondition(pod, corev1.PodReady)
	return ready != nil && ready.Status == corev1.ConditionTrue
}

// podAvailable says whether the pod has been ready for minReady, and if it is ready but has not, how long it still takes.
func podAvailable(pod *corev1.Pod, minReady time.Duration, now time.Time) (available bool, wait time.Duration) {
	if !podReady(pod) {
		return false, 0
	}
	since := podCondition(pod, corev1.PodReady).LastTransitionTime
	if minReady == 0 {
		return true, 0
	}
	if since.IsZero() {
		return false, 0
	}
	wait = since.Add(minReady).Sub(now)
	return wait <= 0, max(wait, 0)
}

// untilReadyFor is how long a ready pod takes until it has been that for d, at most d, whatever the clocks say.
func untilReadyFor(pod *corev1.Pod, d time.Duration, now time.Time) time.Duration {
	since := podCondition(pod, corev1.PodReady).LastTransitionTime
	return min(since.Add(d).Sub(now), d)
}

// podFinished says that all containers have ended for good.
func podFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// podActive says that the pod counts as a replica: neither finished nor being deleted.
func podActive(pod *corev1.Pod) bool { return !podFinished(pod) && pod.DeletionTimestamp == nil }

// podNodeKeys is the byNode index.
func podNodeKeys(obj any) ([]string, error) {
	if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
		return []string{pod.Spec.NodeName}, nil
	}
	return nil, nil
}
