package agent

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// conditions sets the conditions that are the agent's and leaves the others alone.
func (s seen) conditions(status *v1.PodStatus, at place) {
	set := func(kind v1.PodConditionType, ok bool, reason, message string) {
		s.setCondition(status, kind, ok, reason, message)
	}
	set(v1.PodScheduled, true, "", "")
	set(v1.PodReadyToStartContainers, at.network != nil, "", "")
	switch open := s.initsOpen(status); {
	case status.Phase == v1.PodSucceeded:
		set(v1.PodInitialized, true, "PodCompleted", "")
	case len(open) > 0 && !s.wasInitialized():
		set(v1.PodInitialized, false, "ContainersNotInitialized", "containers with incomplete status: ["+strings.Join(open, " ")+"]")
	default:
		set(v1.PodInitialized, true, "", "")
	}
	reason, message := s.unready(status)
	set(v1.ContainersReady, reason == "", reason, message)
	if reason == "" {
		reason, message = s.gatesClosed(status)
	}
	set(v1.PodReady, reason == "", reason, message)
	switch {
	case !mayRenew(s.pod):
	case status.Phase == v1.PodSucceeded:
		set(v1.AllContainersRestarting, false, "PodCompleted", "")
	case status.Phase == v1.PodFailed:
		set(v1.AllContainersRestarting, false, "PodFailed", "")
	case s.begins:
		set(v1.AllContainersRestarting, true, "RestartAllContainersStarted", "container exited with restart policy rule")
	default:
		set(v1.AllContainersRestarting, false, "", "")
	}
	s.resizeConditions(status)
}

// wasInitialized says that the pod was initialized once. That it stays, also when its init containers run again.
func (s seen) wasInitialized() bool {
	c := conditionOf(s.pod.Status.Conditions, v1.PodInitialized)
	return c != nil && c.Status == v1.ConditionTrue
}

// unready says why the pod's containers are not ready; an empty reason means that they are.
func (s seen) unready(status *v1.PodStatus) (reason, message string) {
	switch status.Phase {
	case v1.PodSucceeded:
		return "PodCompleted", ""
	case v1.PodFailed:
		return "PodFailed", ""
	}
	var unready []string
	for _, cs := range status.InitContainerStatuses {
		if !cs.Ready && s.sidecarIndex(cs.Name) >= 0 {
			unready = append(unready, cs.Name)
		}
	}
	for _, cs := range status.ContainerStatuses {
		if !cs.Ready {
			unready = append(unready, cs.Name)
		}
	}
	if len(unready) > 0 {
		return "ContainersNotReady", "containers with unready status: [" + strings.Join(unready, " ") + "]"
	}
	return "", ""
}

// gatesClosed looks at the conditions that the pod says others must set before it is ready.
func (s seen) gatesClosed(status *v1.PodStatus) (reason, message string) {
	var closed []string
	for _, gate := range s.pod.Spec.ReadinessGates {
		i := slices.IndexFunc(status.Conditions, func(c v1.PodCondition) bool { return c.Type == gate.ConditionType })
		switch {
		case i < 0:
			closed = append(closed, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case status.Conditions[i].Status != v1.ConditionTrue:
			closed = append(closed, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, status.Conditions[i].Status))
		}
	}
	if len(closed) > 0 {
		return "ReadinessGatesNotReady", strings.Join(closed, ", ")
	}
	return "", ""
}

func (s seen) setCondition(status *v1.PodStatus, kind v1.PodConditionType, ok bool, reason, message string) {
	next := v1.PodCondition{Type: kind, Status: v1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: s.pod.Generation, LastTransitionTime: seconds(s.now)}
	if ok {
		next.Status = v1.ConditionTrue
	}
	i := slices.IndexFunc(status.Conditions, func(c v1.PodCondition) bool { return c.Type == kind })
	if i < 0 {
		status.Conditions = append(status.Conditions, next)
		return
	}
	if was := status.Conditions[i]; was.Status == next.Status {
		next.LastTransitionTime, next.LastProbeTime = was.LastTransitionTime, was.LastProbeTime
	}
	status.Conditions[i] = next
}
