package controller

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// replicaSetStatus counts the pods, and says when a pod becomes available by time alone (0: none will). A pod that its Services
// do not send requests to yet is not available, however ready: a rollout that takes an old pod away for it would leave fewer.
func replicaSetStatus(rs *appsv1.ReplicaSet, pods []*corev1.Pod, failure error, now time.Time, arrived func(*corev1.Pod) bool) (status appsv1.ReplicaSetStatus, next time.Duration) {
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	minReady := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	terminating := int32(0)
	status = appsv1.ReplicaSetStatus{
		ObservedGeneration:  rs.Generation,
		Conditions:          replicaFailure(rs.Status.Conditions, failure, now),
		TerminatingReplicas: &terminating,
	}
	for _, pod := range pods {
		if podFinished(pod) {
			continue
		}
		if pod.DeletionTimestamp != nil {
			terminating++
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if podReady(pod) {
			status.ReadyReplicas++
		}
		available, wait := podAvailable(pod, minReady, now)
		if available && !arrived(pod) {
			wait = untilReadyFor(pod, arrivalTime, now)
			available = wait <= 0
		}
		if available {
			status.AvailableReplicas++
		} else if wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	return status, next
}

// replicaFailure is the condition ReplicaFailure, which is there only while pods cannot be created or deleted.
func replicaFailure(conditions []appsv1.ReplicaSetCondition, failure error, now time.Time) []appsv1.ReplicaSetCondition {
	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	if failure == nil {
		return slices.DeleteFunc(slices.Clone(conditions), isFailure)
	}
	if slices.ContainsFunc(conditions, isFailure) {
		return conditions
	}
	reason := "FailedCreate"
	if _, deleting := failure.(failedDelete); deleting {
		reason = "FailedDelete"
	}
	return append(slices.Clone(conditions), appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason, Message: failure.Error(),
		LastTransitionTime: metav1.NewTime(now),
	})
}
