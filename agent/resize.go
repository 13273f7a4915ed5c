package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	podresource "k8s.io/component-helpers/resource"

	"skiff/agent/cgroup"
)

// A pod and its containers may be given more or less CPU and memory while they run. Three sizes are told apart: what the pod wants
// (its spec), what the node has given (kept here), and what a container has (kept with the container, as a label). The node
// gives what fits beside its other pods; what it has given it brings to the containers, by their cgroups or, where the
// container's resizePolicy says so, by a restart. The pod as a whole has its limits as its cgroup's, and a container without a limit
// has the pod's: so each container keeps the pod's size too, the one that it was last brought to.
// https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
// https://kubernetes.io/docs/tasks/configure-pod-container/resize-pod-resources/

// labelSize is the size that a container has, labelPodSize the one that its pod has, as JSON of [v1.ResourceRequirements].
const (
	labelSize    = "skiff.dev/size"
	labelPodSize = "skiff.dev/pod-size"
)

// resizeRepeat is after how long a resize is tried again that waits for room, or that the kernel refused.
const resizeRepeat = 10 * time.Second

// allotment is what the agent remembers of what a pod may use.
type allotment struct {
	given  map[string]size // By container name; nil: not known.
	whole  size            // What the pod was given as a whole, if given is known.
	limits *cgroup.Limits  // Of the pod as a whole; nil: not known.
	resizing
}

// resizing is how far a resize is.
type resizing struct {
	pending     *failure  // Why the pod is not given what it wants.
	resizeErr   string    // Why what it was given does not reach its containers.
	resizeTried time.Time // When that was tried.

	tooSmall map[string]tooSmall // By container name, "" for the pod: the limits that were refused last.
}

// tooSmall is the refusal of a limit below what a container holds, or the pod as a whole.
type tooSmall struct {
	container string // "": the pod.
	limit     int64
	holds     uint64 // When it was refused first.
}

func (e tooSmall) Error() string {
	if e.container == "" {
		return fmt.Sprintf("cannot decrease memory limits: attempting to set pod memory limit (%d) below current usage (%d)", e.limit, e.holds)
	}
	return fmt.Sprintf("cannot decrease memory limits: attempting to set container %q memory limit (%d) below current usage (%d)", e.container, e.limit, e.holds)
}

// size is the CPU and memory of a container, or of a pod.
type size v1.ResourceRequirements

// sizeOf is what is asked for; nothing, by nil.
func sizeOf(r *v1.ResourceRequirements) size {
	if r == nil {
		return size{}
	}
	only := func(list v1.ResourceList) v1.ResourceList {
		var some v1.ResourceList
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			if amount, ok := list[name]; ok {
				if some == nil {
					some = v1.ResourceList{}
				}
				some[name] = amount
			}
		}
		return some
	}
	return size{Requests: only(r.Requests), Limits: only(r.Limits)}
}

// String is how the size is kept.
func (s size) String() string {
	text, err := json.Marshal(v1.ResourceRequirements(s))
	if err != nil {
		return "" // Two short lists of numbers can be written.
	}
	return string(text)
}

// keptSize is the size that a container's label tells of; unknown, if it was started by who kept none.
func keptSize(c *Container, label string) (s size, known bool) {
	var kept v1.ResourceRequirements
	if json.Unmarshal([]byte(c.Labels[label]), &kept) != nil {
		return size{}, false
	}
	return size(kept), true
}

// sizeLabels keep a container's size, and its pod's.
func sizeLabels(pod *v1.Pod, c *v1.Container) map[string]string {
	return map[string]string{labelSize: sizeOf(&c.Resources).String(), labelPodSize: sizeOf(pod.Spec.Resources).String()}
}

// resizeLabels keep the size that a running container comes to. With one of its own it has no back-off any more: see changed.
func resizeLabels(s seen, r resize) map[string]string {
	labels := sizeLabels(s.pod, r.container)
	if latest := s.latest(r.container.Name); latest != nil && latest.ID == r.id && changed(r.container, latest) {
		labels[labelBackoff] = time.Duration(0).String()
	}
	return labels
}

// within is the size of a container in a pod of a size: where it has no limit, the pod's is its own.
func (s size) within(pod size) size {
	effective := size{Requests: s.Requests, Limits: maps.Clone(s.Limits)}
	for name, limit := range pod.Limits {
		if own := s.Limits[name]; own.IsZero() {
			if effective.Limits == nil {
				effective.Limits = v1.ResourceList{}
			}
			effective.Limits[name] = limit
		}
	}
	return effective
}

func sameSize(a, b size) bool { return apiequality.Semantic.DeepEqual(a, b) }

// give sets resources to a size.
func (s size) give(r *v1.ResourceRequirements) {
	set := func(list *v1.ResourceList, amounts v1.ResourceList) {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			delete(*list, name)
			if amount, ok := amounts[name]; ok {
				if *list == nil {
					*list = v1.ResourceList{}
				}
				(*list)[name] = amount
			}
		}
	}
	set(&r.Requests, s.Requests)
	set(&r.Limits, s.Limits)
}

// given is the pod with the sizes that the node has given it. It gives more or less where the pod wants it and it fits.
func (a *Agent) given(pod *v1.Pod, containers []Container, m *memory) *v1.Pod {
	if m.given == nil {
		m.recall(seen{pod: pod, containers: containers})
	}
	wants := m.wants(pod)
	if m.pending = nil; wants {
		m.pending = a.fits(pod)
	}
	a.memories.setDeferred(string(pod.UID), m.pending != nil && m.pending.reason == v1.PodReasonDeferred)
	if !wants {
		return pod
	}
	if m.pending == nil {
		m.give(pod)
		m.resizeErr = ""
		return pod
	}
	smaller := pod.DeepCopy()
	for _, c := range sizedContainers(smaller) {
		m.given[c.Name].give(&c.Resources)
	}
	if smaller.Spec.Resources != nil {
		m.whole.give(smaller.Spec.Resources)
	}
	return smaller
}

// give remembers that a pod was given what it wants.
func (m *allotment) give(pod *v1.Pod) {
	m.given, m.whole = map[string]size{}, sizeOf(pod.Spec.Resources)
	for _, c := range sizedContainers(pod) {
		m.given[c.Name] = sizeOf(&c.Resources)
	}
}

// wants tells whether a pod wants another size than it was given.
func (m *allotment) wants(pod *v1.Pod) bool {
	return !sameSize(sizeOf(pod.Spec.Resources), m.whole) ||
		slices.ContainsFunc(sizedContainers(pod), func(c *v1.Container) bool { return !sameSize(sizeOf(&c.Resources), m.given[c.Name]) })
}

// recall finds out what a pod was given, by what its containers have; what none tells of, the pod was given as it wants it.
func (m *allotment) recall(s seen) {
	m.give(s.pod)
	for _, c := range sizedContainers(s.pod) {
		latest := s.latest(c.Name)
		if latest == nil {
			continue
		}
		if had, known := keptSize(latest, labelSize); known {
			m.given[c.Name] = had
		}
		if had, known := keptSize(latest, labelPodSize); known {
			m.whole = had
		}
	}
}

// sizedContainers are those that may have resources: all but the ephemeral ones.
func sizedContainers(pod *v1.Pod) []*v1.Container {
	all := allContainers(&pod.Spec)
	return all[:len(all)-len(pod.Spec.EphemeralContainers)]
}

// change is what must happen to a running container for it to have the size that the pod was given.
type change int

const (
	unchanged change = iota
	inPlace
	byRestart
)

func (s seen) change(c *v1.Container, latest *Container) change {
	had, known := keptSize(latest, labelSize)
	if !known {
		return unchanged
	}
	want, whole := sizeOf(&c.Resources), sizeOf(s.pod.Spec.Resources)
	hadWhole, known := keptSize(latest, labelPodSize)
	if !known {
		hadWhole = whole
	}
	if sameSize(had, want) && sameSize(hadWhole, whole) {
		return unchanged
	}
	had, want = had.within(hadWhole), want.within(whole)
	for _, p := range c.ResizePolicy {
		differs := !had.amount(p.ResourceName).equal(want.amount(p.ResourceName))
		if differs && p.RestartPolicy == v1.RestartContainer {
			return byRestart
		}
	}
	return inPlace
}

// amounts are what a container asks for of one resource, and how much it may have.
type amounts struct{ request, limit string }

func (a amounts) equal(b amounts) bool { return a == b }

func (s size) amount(name v1.ResourceName) amounts {
	request, limit := s.Requests[name], s.Limits[name]
	return amounts{request.AsDec().String(), limit.AsDec().String()}
}

// resize brings running containers to their sizes: the pod's group grows first and shrinks last.
func (a *Agent) resize(ctx context.Context, s seen, d decision, m *memory) error {
	if len(d.resize) == 0 {
		known := m.limits != nil || s.runs() // The agent before this one may not have come to it.
		if known && !s.oversized() {
			return a.limitPod(ctx, s.pod, m, false)
		}
		return nil
	}
	m.resizeErr = ""
	if err := a.mayShrink("", a.podCgroup(s.pod), podLimits(s.pod).Memory, m); err != nil {
		return m.failResize(err)
	}
	if err := a.limitPod(ctx, s.pod, m, true); err != nil && m.limits != nil {
		return m.failResize(err)
	}
	memory := a.allocatable()[v1.ResourceMemory]
	var errs []error
	for _, r := range d.resize {
		want := resourcesOf(s.pod, r.container, memory.Value())
		err := a.mayShrink(r.container.Name, r.cgroup, want.MemoryLimit, m)
		if err == nil {
			err = a.runtime.Resize(ctx, r.id, want, resizeLabels(s, r))
		}
		if err != nil && !errors.Is(err, ErrNotRunning) && !errors.Is(err, ErrNoContainer) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return m.failResize(err)
	}
	if d.sizesLeft {
		return nil
	}
	if err := a.limitPod(ctx, s.pod, m, false); err != nil {
		return m.failResize(err)
	}
	return nil
}

// failResize remembers why a resize failed, to tell and to try again; it is no failure of the pod.
func (m *memory) failResize(err error) error {
	m.resizeErr, m.resizeTried = err.Error(), time.Now()
	return nil
}

// mayShrink refuses a limit below what a container holds, or the pod: the kernel would kill it.
func (a *Agent) mayShrink(container, cgroup string, limit int64, m *memory) error {
	if limit <= 0 || cgroup == "" {
		return nil
	}
	u, err := a.usages.fs.Usage(cgroup)
	if err != nil || u.WorkingSet <= uint64(limit) {
		delete(m.tooSmall, container)
		return nil // What is cache only gives way.
	}
	return m.refuse(tooSmall{container, limit, u.WorkingSet})
}

// refuse says the same as long as the limit is: what a container holds always changes, and each new text would be written to the
// status, and told in an Event.
func (r *resizing) refuse(e tooSmall) error {
	if before, ok := r.tooSmall[e.container]; ok && before.limit == e.limit {
		return before
	}
	if r.tooSmall == nil {
		r.tooSmall = map[string]tooSmall{}
	}
	r.tooSmall[e.container] = e
	return e
}

// runs says that a container of the pod runs.
func (s seen) runs() bool {
	return slices.ContainsFunc(s.containers, func(c Container) bool { return c.alive() })
}

// oversized says that a running container still has another size than it was given.
func (s seen) oversized() bool {
	return slices.ContainsFunc(sizedContainers(s.pod), func(c *v1.Container) bool {
		latest := s.latest(c.Name)
		return latest != nil && latest.State == Running && s.change(c, latest) != unchanged
	})
}

// resizeConditions tells how far a resize is. Both conditions go when there is nothing to tell.
func (s seen) resizeConditions(status *v1.PodStatus) {
	drop := func(kind v1.PodConditionType) {
		status.Conditions = slices.DeleteFunc(status.Conditions, func(c v1.PodCondition) bool { return c.Type == kind })
	}
	if s.pending != nil && !ended(s.pod) {
		s.setCondition(status, v1.PodResizePending, true, s.pending.reason, s.pending.message)
	} else {
		drop(v1.PodResizePending)
	}
	switch {
	case ended(s.pod) || !s.oversized():
		drop(v1.PodResizeInProgress)
	case s.resizeErr != "":
		s.setCondition(status, v1.PodResizeInProgress, true, v1.PodReasonError, s.resizeErr)
	default:
		s.setCondition(status, v1.PodResizeInProgress, true, "", "")
	}
}

// sizeStatus tells what a container was given and what it has.
func (s seen) sizeStatus(c *v1.Container, latest *Container, cs *v1.ContainerStatus) {
	if len(c.Resources.Requests) > 0 {
		cs.AllocatedResources = c.Resources.Requests.DeepCopy()
	}
	has := c.DeepCopy()
	if latest != nil && latest.State == Running {
		if had, known := keptSize(latest, labelSize); known {
			had.give(&has.Resources)
		}
	}
	cs.Resources = &has.Resources
	cs.Resources.Claims = nil
}

// wholeStatus tells what a pod as a whole was given, and what it has: that only once all of its containers have it.
func (s seen) wholeStatus(status *v1.PodStatus) {
	status.AllocatedResources = podresource.PodRequests(s.pod, podresource.PodResourcesOptions{})
	if s.oversized() && s.pod.Status.Resources != nil {
		status.Resources = s.pod.Status.Resources.DeepCopy()
		return
	}
	status.Resources = &v1.ResourceRequirements{
		Requests: status.AllocatedResources.DeepCopy(),
		Limits:   podresource.PodLimits(s.pod, podresource.PodResourcesOptions{}),
	}
}

// resizeEvents lists the Events that a change of a resize's conditions is worth.
func resizeEvents(pod *v1.Pod, status *v1.PodStatus) []podEvent {
	now, was := status.Conditions, pod.Status.Conditions
	var events []podEvent
	add := func(kind, reason, message, problem string) {
		events = append(events, podEvent{"", kind, reason, message + ": " + sizesText(pod, problem)})
	}
	pending, busy := conditionOf(now, v1.PodResizePending), conditionOf(now, v1.PodResizeInProgress)
	before, wasBusy := conditionOf(was, v1.PodResizePending), conditionOf(was, v1.PodResizeInProgress)
	if pending != nil && (before == nil || before.Reason != pending.Reason || before.Message != pending.Message) {
		add(v1.EventTypeWarning, "Resize"+pending.Reason, "Pod resize "+pending.Reason, pending.Message)
	}
	switch {
	case busy != nil && busy.Reason == v1.PodReasonError && (wasBusy == nil || wasBusy.Message != busy.Message):
		add(v1.EventTypeWarning, "ResizeError", "Pod resize error", busy.Message)
	case busy != nil && wasBusy == nil:
		add(v1.EventTypeNormal, "ResizeStarted", "Pod resize started", "")
	case busy == nil && !sameStatusSizes(&pod.Status, status):
		if wasBusy == nil { // It took no longer than from one status to the next.
			add(v1.EventTypeNormal, "ResizeStarted", "Pod resize started", "")
		}
		add(v1.EventTypeNormal, "ResizeCompleted", "Pod resize completed", "")
	}
	return events
}

// sameStatusSizes compares the sizes that two statuses tell of, the pod's and its containers', as far as both do.
func sameStatusSizes(a, b *v1.PodStatus) bool {
	same := func(a, b *v1.ResourceRequirements) bool {
		return a == nil || b == nil || apiequality.Semantic.DeepEqual(a, b)
	}
	for _, x := range a.ContainerStatuses {
		i := slices.IndexFunc(b.ContainerStatuses, func(y v1.ContainerStatus) bool { return x.Name == y.Name })
		if i >= 0 && !same(x.Resources, b.ContainerStatuses[i].Resources) {
			return false
		}
	}
	return same(a.Resources, b.Resources)
}

func conditionOf(list []v1.PodCondition, kind v1.PodConditionType) *v1.PodCondition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

// sizesText tells what a pod's containers want, in the form that the kubelet's Events have.
func sizesText(pod *v1.Pod, problem string) string {
	type sized struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	summary := struct {
		InitContainers []sized `json:"initContainers,omitempty"`
		Containers     []sized `json:"containers,omitempty"`
		Generation     int64   `json:"generation"`
		Error          string  `json:"error,omitempty"`
	}{Generation: pod.Generation, Error: problem}
	for _, c := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, sized{c.Name, c.Resources})
	}
	for _, c := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, sized{c.Name, c.Resources})
	}
	text, err := json.Marshal(summary)
	if err != nil {
		return problem
	}
	return string(text)
}
