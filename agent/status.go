package agent

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of containers' states, as the kubelet spells them.
const (
	reasonCreating      = "ContainerCreating"
	reasonInitializing  = "PodInitializing"
	reasonCrashLoop     = "CrashLoopBackOff"
	reasonConfigError   = "CreateContainerConfigError"
	reasonCreateError   = "CreateContainerError"
	reasonRunError      = "RunContainerError"
	reasonStartError    = "StartError"
	reasonPostStart     = "PostStartHookError"
	reasonPull          = "ErrImagePull"
	reasonPullBackoff   = "ImagePullBackOff"
	reasonNeverPull     = "ErrImageNeverPull"
	reasonInspect       = "ImageInspectError"
	reasonInvalidImage  = "InvalidImageName"
	reasonUnknown       = "ContainerStatusUnknown"
	reasonRestartingAll = "RestartingAllContainers"
	reasonEvicted       = "Evicted" // Of a pod.
)

// exitUnknown is the exit code where nobody saw how a container ended.
const exitUnknown = 137

// pullBackoffShownFor is how long ErrImagePull is shown before it becomes ImagePullBackOff.
const pullBackoffShownFor = 2 * time.Second

func unservedMessage(fields []string) string {
	return "skiff cannot run this yet: " + strings.Join(fields, ", ")
}

// podStatus is the status of a pod as seen, with d decided about it. It starts from the status that the pod has and keeps
// what others have written there.
func podStatus(s seen, d decision, at place) v1.PodStatus {
	s.round, s.begins = s.rounds()
	status := *s.pod.Status.DeepCopy()
	status.ObservedGeneration = s.pod.Generation
	if status.StartTime == nil {
		status.StartTime = &metav1.Time{Time: s.now.Truncate(time.Second)}
	}
	at.address(s.pod, &status)
	status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses = nil, nil, nil
	for i := range s.pod.Spec.InitContainers {
		status.InitContainerStatuses = append(status.InitContainerStatuses, s.containerStatus(&s.pod.Spec.InitContainers[i], d, at, true))
	}
	for i := range s.pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, s.containerStatus(&s.pod.Spec.Containers[i], d, at, false))
	}
	for i := range s.pod.Spec.EphemeralContainers {
		status.EphemeralContainerStatuses = append(status.EphemeralContainerStatuses, s.ephemeralStatus(&s.pod.Spec.EphemeralContainers[i], d, at))
	}
	if status.Phase != v1.PodSucceeded && status.Phase != v1.PodFailed {
		status.Phase = s.phase(&status, d)
		if d.fail != nil {
			status.Reason, status.Message = d.fail.reason, d.fail.message
			if d.fail.rejected {
				status.Message = "Pod was rejected: " + d.fail.message
			}
			if d.fail.reason == reasonEvicted && !d.fail.rejected {
				s.setCondition(&status, v1.DisruptionTarget, true, v1.PodReasonTerminationByKubelet, d.fail.message)
			}
		}
	}
	if s.neverBegan(d) {
		status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses = nil, nil, nil
	}
	s.wholeStatus(&status)
	s.conditions(&status, at)
	return status
}

// neverBegan says that the node would not have the pod: of its containers there is nothing to tell, or clients would show what they wait
// for, and not why the pod failed.
func (s seen) neverBegan(d decision) bool {
	if d.fail != nil {
		return d.fail.rejected
	}
	was := &s.pod.Status
	return was.Phase == v1.PodFailed && len(was.ContainerStatuses) == 0 && len(s.containers) == 0
}

// containerStatus tells one container's state.
func (s seen) containerStatus(c *v1.Container, d decision, at place, init bool) v1.ContainerStatus {
	cs := v1.ContainerStatus{Name: c.Name, Image: c.Image, Started: new(bool)}
	past, latest, end := s.past(c.Name), s.latest(c.Name), s.ending(c.Name, at.scheme)
	if latest != nil && latest.State == Silent && past != nil && past.ContainerID == containerID(latest, at.scheme) {
		return *past.DeepCopy() // What was last known of it.
	}
	if past != nil {
		cs.RestartCount, cs.LastTerminationState = past.RestartCount, past.LastTerminationState
		cs.ContainerID, cs.ImageID, cs.Image = past.ContainerID, past.ImageID, past.Image
	}
	if latest != nil {
		cs.RestartCount = int32(latest.Attempt)
		cs.ContainerID = containerID(latest, at.scheme)
		cs.Image, cs.ImageID = imageNames(latest.Image, latest.ImageID)
		cs.LastTerminationState.Terminated = s.endBefore(latest, past, at.scheme)
	}
	if latest != nil && latest.User != nil {
		u := latest.User
		cs.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: u.UID, GID: u.GID, SupplementalGroups: u.Groups}}
	}
	cs.VolumeMounts = mountStatuses(c, s.recursive)
	if ephemeral(s.pod, c.Name) == nil {
		s.sizeStatus(c, latest, &cs)
	}
	waiting := s.waiting(c, d)
	switch {
	case latest != nil && latest.State == Running && !s.postStartDone(latest.ID):
		cs.State.Waiting = s.hooked(latest.ID)
	case latest != nil && latest.State == Running:
		cs.State.Running = &v1.ContainerStateRunning{StartedAt: seconds(latest.Started)}
		*cs.Started = s.started(c) && (!init || isSidecar(c))
		cs.Ready = *cs.Started && s.healthOf(c, latest).ready
	case waiting != nil:
		cs.State.Waiting = waiting
		if end != nil {
			cs.LastTerminationState.Terminated = end
		}
	case end != nil:
		cs.State.Terminated = end
		cs.Ready = init && end.ExitCode == 0
	case len(s.unserved) > 0:
		cs.State.Waiting = &v1.ContainerStateWaiting{Reason: reasonConfigError, Message: unservedMessage(s.unserved)}
	case len(s.pod.Spec.InitContainers) > 0 && !s.initialized():
		cs.State.Waiting = &v1.ContainerStateWaiting{Reason: reasonInitializing}
	default:
		cs.State.Waiting = &v1.ContainerStateWaiting{Reason: reasonCreating}
	}
	return cs
}

// mountStatuses tell how a container's volumes are mounted: those that are read-only also whether what is mounted below them is.
func mountStatuses(c *v1.Container, recursive bool) (list []v1.VolumeMountStatus) {
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		status := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if is, err := recursiveReadOnly(m, recursive); err == nil && is {
				mode = v1.RecursiveReadOnlyEnabled
			}
			status.RecursiveReadOnly = &mode
		}
		list = append(list, status)
	}
	return list
}

// waiting is why a container that is to run does not, nil if nothing special holds it up.
func (s seen) waiting(c *v1.Container, d decision) *v1.ContainerStateWaiting {
	if delay, ok := d.waiting[c.Name]; ok {
		return &v1.ContainerStateWaiting{Reason: reasonCrashLoop, Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
			delay, c.Name, s.pod.Name, s.pod.Namespace, s.pod.UID)}
	}
	latest := s.latest(c.Name)
	if s.outdated(latest) && latest.State == Exited {
		return &v1.ContainerStateWaiting{Reason: reasonRestartingAll, Message: "The container is to start again because RestartAllContainers in place"}
	}
	t, image, ok := s.hindrance(c)
	switch {
	case !ok && latest != nil && latest.StartError != "" && d.starts(c):
		return &v1.ContainerStateWaiting{Reason: reasonRunError, Message: latest.StartError}
	case !ok:
		return nil
	case t.reason == reasonPull && s.now.Sub(t.at) >= pullBackoffShownFor:
		return &v1.ContainerStateWaiting{Reason: reasonPullBackoff, Message: fmt.Sprintf("Back-off pulling image %q: %s: %s", image, t.reason, t.message)}
	}
	return &v1.ContainerStateWaiting{Reason: t.reason, Message: t.message}
}

// hooked is what a container waits for whose postStart hook is not done.
func (s seen) hooked(id string) *v1.ContainerStateWaiting {
	if hook := s.hooks[hookOf{postStart, id}]; hook.failed {
		return &v1.ContainerStateWaiting{Reason: reasonPostStart, Message: hook.why}
	}
	return &v1.ContainerStateWaiting{Reason: reasonCreating}
}

// ending is how the latest container of a name ended; nil if it lives or was never there. If the runtime has none left,
// after a reboot for example, the pod's status is the only witness.
func (s seen) ending(name, scheme string) *v1.ContainerStateTerminated {
	if latest := s.latest(name); latest != nil {
		if latest.State != Exited {
			return nil
		}
		return s.terminated(latest, scheme)
	}
	return lastEnd(s.past(name))
}

// endBefore is how the container before latest ended.
func (s seen) endBefore(latest *Container, past *v1.ContainerStatus, scheme string) *v1.ContainerStateTerminated {
	for _, c := range s.attempts(latest.Name) {
		if c.Attempt < latest.Attempt && c.State == Exited {
			return s.terminated(c, scheme)
		}
	}
	if past != nil && past.ContainerID == containerID(latest, scheme) {
		return past.LastTerminationState.Terminated
	}
	return lastEnd(past)
}

// lastEnd is how the container that a status tells of ended, given that it is not there any more.
func lastEnd(past *v1.ContainerStatus) *v1.ContainerStateTerminated {
	switch {
	case past == nil:
		return nil
	case past.State.Terminated != nil:
		return past.State.Terminated.DeepCopy()
	case past.State.Running != nil:
		return &v1.ContainerStateTerminated{
			ExitCode: exitUnknown, Reason: reasonUnknown, Message: "The container could not be located when the pod was terminated",
			StartedAt: past.State.Running.StartedAt, ContainerID: past.ContainerID,
		}
	}
	return past.LastTerminationState.Terminated.DeepCopy()
}

// terminated tells how an ended container ended. What the runtime has lost, with its tasks at a reboot for example, the pod's status may
// have kept.
func (s seen) terminated(c *Container, scheme string) *v1.ContainerStateTerminated {
	if told := s.toldEnd(c); c.Unknown && told != nil {
		return told
	}
	t := &v1.ContainerStateTerminated{
		ExitCode: int32(c.ExitCode), Signal: int32(c.Signal), Message: s.messages[c.ID],
		StartedAt: seconds(c.Started), FinishedAt: seconds(c.Finished), ContainerID: containerID(c, scheme),
	}
	switch {
	case c.StartError != "":
		t.Reason, t.Message, t.StartedAt = reasonStartError, c.StartError, metav1.Unix(0, 0) // As CRI says that it never was.
	case c.Unknown:
		t.ExitCode, t.Reason, t.Message = exitUnknown, reasonUnknown, "The container could not be located when the pod was terminated"
	case c.OOM:
		t.Reason = "OOMKilled"
	case c.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	return t
}

// toldEnd is what the pod's status tells of the end of this very container.
func (s seen) toldEnd(c *Container) *v1.ContainerStateTerminated {
	past := s.past(c.Name)
	if past == nil {
		return nil
	}
	for _, state := range []v1.ContainerState{past.State, past.LastTerminationState} {
		if t := state.Terminated; t != nil && strings.HasSuffix(t.ContainerID, "://"+c.ID) {
			return t.DeepCopy()
		}
	}
	return nil
}

func containerID(c *Container, scheme string) string { return scheme + "://" + c.ID }

// seconds is what the API keeps of a time.
func seconds(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}

// imageNames makes of a pod's image name and a digest what a status says: the full name, and the name with the digest.
func imageNames(image, digest string) (name, id string) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image, digest
	}
	return reference.TagNameOnly(named).String(), named.Name() + "@" + digest
}

// phase sums the containers' states up. A pod is Succeeded or Failed only once nothing of it is alive.
func (s seen) phase(status *v1.PodStatus, d decision) v1.PodPhase {
	var waiting, running, stopped, failed int
	for _, cs := range status.ContainerStatuses {
		switch {
		case cs.State.Running != nil:
			running++
		case cs.State.Terminated != nil && cs.State.Terminated.ExitCode != 0:
			stopped++
			failed++
		case cs.State.Terminated != nil:
			stopped++
		case cs.LastTerminationState.Terminated != nil:
			stopped++
			failed++
		default:
			waiting++
		}
	}
	switch {
	case d.ended && (d.fail != nil || failed+waiting > 0 && s.pod.DeletionTimestamp != nil):
		return v1.PodFailed
	case d.ended && s.pod.DeletionTimestamp != nil:
		return v1.PodSucceeded
	case d.ended && s.initFailed(status):
		return v1.PodFailed
	case s.begins:
		return v1.PodRunning
	case waiting > 0 || len(s.initsOpen(status)) > 0:
		return v1.PodPending
	case running > 0 || !d.ended:
		return v1.PodRunning
	case failed == 0:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}

// initFailed says that an init container has failed and may not be tried again.
func (s seen) initFailed(status *v1.PodStatus) bool {
	return slices.ContainsFunc(status.InitContainerStatuses, func(cs v1.ContainerStatus) bool {
		end := cs.State.Terminated
		return end != nil && end.ExitCode != 0 && s.sidecarIndex(cs.Name) < 0 &&
			!policyOf(&s.pod.Spec, containerOf(s.pod, cs.Name)).restarts(end.ExitCode)
	})
}

// initsOpen names the init containers that the others still wait for.
func (s seen) initsOpen(status *v1.PodStatus) []string {
	if s.initialized() {
		return nil
	}
	var open []string
	for _, cs := range status.InitContainerStatuses {
		sidecar := s.sidecarIndex(cs.Name) >= 0
		if sidecar && !*cs.Started || !sidecar && !cs.Ready {
			open = append(open, cs.Name)
		}
	}
	return open
}
