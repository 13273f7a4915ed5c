package agent

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/reference"
)

// podEvent is an Event about one container of a pod.
type podEvent struct{ container, kind, reason, message string }

// tell records an Event about a container, or about the pod.
func (a *Agent) tell(pod *v1.Pod, container, kind, reason, message string) {
	ref, err := reference.GetReference(scheme.Scheme, pod)
	if err != nil {
		return // A pod is always in the scheme.
	}
	if container != "" {
		ref.FieldPath = fieldPath(pod, container)
	}
	a.events.Event(ref, kind, reason, message)
}

// fieldPath is where in the pod a container stands.
func fieldPath(pod *v1.Pod, container string) string {
	list := "containers"
	switch {
	case initContainer(pod, container):
		list = "initContainers"
	case ephemeral(pod, container) != nil:
		list = "ephemeralContainers"
	}
	return fmt.Sprintf("spec.%s{%s}", list, container)
}

// statusEvents lists the Events that a change of status is worth: a container has come to wait for a new reason.
func statusEvents(pod *v1.Pod, status *v1.PodStatus) []podEvent {
	var events []podEvent
	all := slices.Concat(status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses)
	for i := range all {
		cs := &all[i]
		now, before := cs.State.Waiting, seen{pod: pod}.past(cs.Name)
		if now == nil || before != nil && before.State.Waiting != nil && before.RestartCount == cs.RestartCount &&
			before.State.Waiting.Reason == now.Reason && (before.State.Waiting.Message == now.Message || now.Reason == reasonCrashLoop) {
			continue
		}
		add := func(kind, reason, message string) { events = append(events, podEvent{cs.Name, kind, reason, message}) }
		switch now.Reason {
		case reasonCrashLoop:
			add(v1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", cs.Name, pod.Name, pod.Namespace, pod.UID))
		case reasonPull:
			add(v1.EventTypeWarning, "Failed", now.Message)
			add(v1.EventTypeWarning, "Failed", "Error: "+reasonPull)
		case reasonPullBackoff:
			pulling, _, _ := strings.Cut(now.Message, ": "+reasonPull+": ")
			add(v1.EventTypeNormal, "BackOff", pulling)
			add(v1.EventTypeWarning, "Failed", "Error: "+reasonPullBackoff)
		case reasonNeverPull:
			add(v1.EventTypeWarning, now.Reason, now.Message)
			add(v1.EventTypeWarning, "Failed", "Error: "+now.Reason)
		case reasonInvalidImage, reasonInspect:
			add(v1.EventTypeWarning, "InspectFailed", now.Message)
			add(v1.EventTypeWarning, "Failed", "Error: "+now.Reason)
		case reasonConfigError, reasonCreateError:
			add(v1.EventTypeWarning, "Failed", "Error: "+now.Message)
		}
	}
	return events
}
