package controller

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of a Deployment's condition Progressing; `kubectl rollout status` reads them.
const (
	reasonCreated   = "NewReplicaSetCreated"
	reasonFound     = "FoundNewReplicaSet"
	reasonUpdated   = "ReplicaSetUpdated"
	reasonAvailable = "NewReplicaSetAvailable"
	reasonFailed    = "ReplicaSetCreateError"
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
)

// complete says that the rollout is over: all pods are of the new template and available, and no others are there.
func complete(d *appsv1.Deployment, status appsv1.DeploymentStatus) bool {
	size := *d.Spec.Replicas
	return status.UpdatedReplicas == size && status.Replicas == size && status.AvailableReplicas == size &&
		status.ObservedGeneration >= d.Generation
}

// deploymentStatus counts the pods of all ReplicaSets and says, while rolling, whether there is progress.
func deploymentStatus(r *rollout, rolling bool) appsv1.DeploymentStatus {
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  r.d.Generation,
		AvailableReplicas:   availableReplicas(r.all()...),
		CollisionCount:      r.d.Status.CollisionCount,
		Conditions:          slices.Clone(r.d.Status.Conditions),
		TerminatingReplicas: terminatingReplicas(r.all()),
	}
	for _, rs := range r.all() {
		status.Replicas += rs.Status.Replicas
		status.ReadyReplicas += rs.Status.ReadyReplicas
	}
	if r.new != nil {
		status.UpdatedReplicas = r.new.Status.Replicas
	}
	status.UnavailableReplicas = max(0, specReplicas(r.all()...)-status.AvailableReplicas)
	_, missing := bounds(r.d)
	if status.AvailableReplicas >= *r.d.Spec.Replicas-missing {
		setCondition(r, &status, appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		setCondition(r, &status, appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	if rolling {
		noteProgress(r, &status)
		noteFailure(r, &status)
	}
	return status
}

// terminatingReplicas counts the pods that are being deleted. It is nil, for unknown, if a ReplicaSet does not tell although its
// controller has seen it: then that one counts no such pods.
func terminatingReplicas(sets []*appsv1.ReplicaSet) *int32 {
	n := int32(0)
	for _, rs := range sets {
		switch {
		case rs.Status.TerminatingReplicas != nil:
			n += *rs.Status.TerminatingReplicas
		case rs.Status.ObservedGeneration > 0:
			return nil
		}
	}
	return &n
}

// noteProgress sets the condition Progressing from what has changed since the last status.
func noteProgress(r *rollout, status *appsv1.DeploymentStatus) {
	if !hasDeadline(r.d) {
		status.Conditions = without(status.Conditions, appsv1.DeploymentProgressing)
		return
	}
	now := condition(status.Conditions, appsv1.DeploymentProgressing)
	if status.Replicas == status.UpdatedReplicas && now != nil && now.Reason == reasonAvailable {
		return // Over already; a pod that fails later is not a rollout.
	}
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.new != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.new.Name)
	}
	switch {
	case complete(r.d, *status):
		setCondition(r, status, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed.")
	case progressed(r.was, *status):
		// The time of the last update counts, so that the deadline starts again.
		fresh := appsv1.DeploymentCondition{
			Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reasonUpdated, Message: subject + " is progressing.",
			LastUpdateTime: metav1.NewTime(r.time), LastTransitionTime: metav1.NewTime(r.time),
		}
		if now != nil && now.Status == corev1.ConditionTrue {
			fresh.LastTransitionTime = now.LastTransitionTime
		}
		status.Conditions = append(without(status.Conditions, appsv1.DeploymentProgressing), fresh)
	case timedOut(r, *status):
		setCondition(r, status, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.")
	}
}

// noteFailure hands on that a ReplicaSet, the new one before others, cannot create pods.
func noteFailure(r *rollout, status *appsv1.DeploymentStatus) {
	status.Conditions = without(status.Conditions, appsv1.DeploymentReplicaFailure)
	sets := r.old
	if r.new != nil {
		sets = append([]*appsv1.ReplicaSet{r.new}, r.old...)
	}
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				status.Conditions = append(status.Conditions, appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastUpdateTime: c.LastTransitionTime, LastTransitionTime: c.LastTransitionTime,
				})
				return
			}
		}
	}
}

func progressed(before, after appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas
}

// hasDeadline says whether progress is to be watched; the largest number stands for "no deadline".
func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != 1<<31-1
}

func deadline(d *appsv1.Deployment, since metav1.Time) time.Time {
	return since.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second)
}

func timedOut(r *rollout, status appsv1.DeploymentStatus) bool {
	now := condition(status.Conditions, appsv1.DeploymentProgressing)
	switch {
	case now == nil || now.Reason == reasonAvailable || now.Reason == reasonPaused:
		return false
	case now.Reason == reasonTimedOut:
		return true
	}
	return deadline(r.d, now.LastUpdateTime).Before(r.time)
}

// untilDeadline is how long until a rollout that makes no progress has to be called failed; 0 if there is nothing to wait
// for. Times in the API are whole seconds, hence the second more.
func untilDeadline(r *rollout) time.Duration {
	now := condition(r.d.Status.Conditions, appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) || r.d.Spec.Paused || now == nil || complete(r.d, r.d.Status) ||
		now.Reason == reasonAvailable || now.Reason == reasonTimedOut {
		return 0
	}
	return max(0, deadline(r.d, now.LastUpdateTime).Sub(r.time)) + time.Second
}

// notePaused keeps the deadline of a paused Deployment from running out, and starts it again afterwards.
func notePaused(r *rollout) {
	if !hasDeadline(r.d) {
		return
	}
	now := condition(r.d.Status.Conditions, appsv1.DeploymentProgressing)
	if now != nil && now.Reason == reasonTimedOut {
		return
	}
	noted := now != nil && now.Reason == reasonPaused
	if r.d.Spec.Paused && !noted {
		setCondition(r, &r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	} else if !r.d.Spec.Paused && noted {
		setCondition(r, &r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

func noteCreated(r *rollout) {
	if hasDeadline(r.d) {
		setCondition(r, &r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonCreated, fmt.Sprintf("Created new replica set %q", r.new.Name))
	}
}

// noteFound begins the rollout to a ReplicaSet that is there: the first one that is looked at, one that is rolled back to, or
// one that was made by a call whose write of the status failed.
func noteFound(r *rollout) {
	if !hasDeadline(r.d) {
		return
	}
	now, revision := condition(r.d.Status.Conditions, appsv1.DeploymentProgressing), r.d.Annotations[revisionAnnotation]
	if now == nil || now.Reason == reasonAvailable && revision != "" && revision != r.new.Annotations[revisionAnnotation] {
		setCondition(r, &r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", r.new.Name))
	}
}

func noteCreateFailure(r *rollout, name string, err error) {
	if hasDeadline(r.d) {
		setCondition(r, &r.d.Status, appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonFailed, fmt.Sprintf("Failed to create new replica set %q: %v", name, err))
	}
}

func condition(conditions []appsv1.DeploymentCondition, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range conditions {
		if conditions[i].Type == kind {
			return &conditions[i]
		}
	}
	return nil
}

func without(conditions []appsv1.DeploymentCondition, kind appsv1.DeploymentConditionType) []appsv1.DeploymentCondition {
	return slices.DeleteFunc(slices.Clone(conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
}

// setCondition sets a condition, unless it has this status and reason already: then its times and message stay.
func setCondition(r *rollout, status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType, value corev1.ConditionStatus, reason, message string) {
	now := condition(status.Conditions, kind)
	if now != nil && now.Status == value && now.Reason == reason {
		return
	}
	fresh := appsv1.DeploymentCondition{
		Type: kind, Status: value, Reason: reason, Message: message,
		LastUpdateTime: metav1.NewTime(r.time), LastTransitionTime: metav1.NewTime(r.time),
	}
	if now != nil && now.Status == value {
		fresh.LastTransitionTime = now.LastTransitionTime
	}
	status.Conditions = append(without(status.Conditions, kind), fresh)
}
