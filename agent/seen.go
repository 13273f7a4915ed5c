package agent

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// seen is all that a decision about a pod rests on.
type seen struct {
	pod        *v1.Pod
	containers []Container          // The pod's, as the runtime has them.
	unserved   []string             // Of the pod's spec.
	told       map[string]told      // By container ID: when it was asked to stop.
	trouble    map[string]trouble   // By container name: why its last start came to nothing.
	silent     map[string]time.Time // By container ID: since when nothing is heard of those that are Silent.
	messages   map[string]string    // By container ID: what an ended container left as its termination message.
	health     map[string]health    // By container ID: what the probes of those that have any found.
	hooks      map[hookOf]hookRun   // Those that were begun.
	measured   measured             // Of emptyDirs with a limit.
	rejected   *failure             // Why the node cannot run the pod at all.
	evicted    string               // Why the pod has to go, for the node is short of something.
	parting    time.Duration        // A deleted pod's containers are left alone for so long, for requests may still come.
	recursive  bool                 // Mounts can be read-only with all that is below them.
	boot       string
	round      int  // That the pod's containers are to be in; decide and podStatus find it.
	begins     bool // None is yet.
	maxBackoff time.Duration
	now        time.Time

	resizing
}

// told is when a container was asked to end, and when it got its first signal: later, if it has a preStop hook.
type told struct{ asked, signalled time.Time }

// names lists the containers' names in order of first appearance.
func (s seen) names() []string {
	var names []string
	for _, c := range s.containers {
		if !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}

// attempts lists the containers of a name, the newest first.
func (s seen) attempts(name string) []*Container {
	var found []*Container
	for i := range s.containers {
		if s.containers[i].Name == name {
			found = append(found, &s.containers[i])
		}
	}
	slices.SortFunc(found, func(a, b *Container) int { return b.Attempt - a.Attempt })
	return found
}

// latest is the newest container of a name that was started.
func (s seen) latest(name string) *Container {
	for _, c := range s.attempts(name) {
		if c.State != Created {
			return c
		}
	}
	return nil
}

// started says that a container runs, its postStart hook is done, and its startup probe has passed.
func (s seen) started(c *v1.Container) bool {
	latest := s.latest(c.Name)
	return latest != nil && latest.State == Running && s.postStartDone(latest.ID) && s.healthOf(c, latest).started
}

// A container of which nothing is heard is asked for after as long as it has been so already, within these bounds.
const (
	firstSilence = time.Second
	lastSilence  = time.Minute
)

// patience is how long to wait before a silent container is looked at again.
func (s seen) patience(c *Container) time.Duration {
	return min(max(s.now.Sub(s.silent[c.ID]), firstSilence), lastSilence)
}

func (s seen) postStartRuns(id string) bool { return s.hooks[hookOf{postStart, id}].running }

// postStartDone says that a running container's postStart hook, if it has one, has done its work. Before that the container does not
// count as running, and never where the hook failed: it is being killed.
// https://kubernetes.io/docs/tasks/configure-pod-container/attach-handler-lifecycle-event/#discussion
func (s seen) postStartDone(id string) bool {
	hook := s.hooks[hookOf{postStart, id}]
	return !hook.running && !hook.failed
}

// healthOf is what a container's probes found; before the first of them, what they will begin with.
func (s seen) healthOf(c *v1.Container, latest *Container) health {
	if h, ok := s.health[latest.ID]; ok {
		return h
	}
	return newborn(c)
}

// ailment is why a container must end although its pod goes on, and the probe that says so, "" for none.
func (s seen) ailment(c *v1.Container, latest *Container) (why string, by *v1.Probe) {
	switch failed := s.health[latest.ID].failed; {
	case s.hooks[hookOf{postStart, latest.ID}].failed:
		return "FailedPostStartHook", nil
	case failed == livenessProbe:
		return "Container " + c.Name + " failed liveness probe", c.LivenessProbe
	case failed == startupProbe:
		return "Container " + c.Name + " failed startup probe", c.StartupProbe
	}
	return "", nil
}

// past is what the pod's status says of a container.
func (s seen) past(name string) *v1.ContainerStatus {
	status := &s.pod.Status
	for _, statuses := range [][]v1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == name {
				return &statuses[i]
			}
		}
	}
	return nil
}

// initialized says that the init containers are behind us.
func (s seen) initialized() bool {
	for i := range s.pod.Spec.Containers {
		for _, c := range s.attempts(s.pod.Spec.Containers[i].Name) {
			if c.State != Created && s.counts(c) {
				return true
			}
		}
	}
	return false
}

func (s seen) initDone(name string) bool {
	c := s.latest(name)
	return s.counts(c) && c.State == Exited && s.terminated(c, "").ExitCode == 0
}

// counts says that what an init container did before c is still there, or what c did: it was started in this boot, for what is set up
// in the pod's namespaces goes with the boot, and in this round.
func (s seen) counts(c *Container) bool {
	return c != nil && c.Labels[labelBoot] == s.boot && roundOf(c) == s.round
}

func isSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// replaced says that the agent itself ended the container because the pod now names another image, or another size.
func (s seen) replaced(c *v1.Container, latest *Container) bool {
	if latest == nil || latest.Image == c.Image && s.change(c, latest) != byRestart {
		return false
	}
	_, told := s.told[latest.ID]
	return told
}

func (s seen) sidecarIndex(name string) int {
	return slices.IndexFunc(s.pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == name && isSidecar(&c) })
}

// nextAttempt goes on counting from the runtime's containers and, if those are gone, from the pod's status.
func (s seen) nextAttempt(name string) int {
	next := 0
	if past := s.past(name); past != nil && (past.ContainerID != "" || past.RestartCount > 0) {
		next = int(past.RestartCount) + 1
	}
	for _, c := range s.attempts(name) {
		if c.State != Created {
			next = max(next, c.Attempt+1)
		}
	}
	return next
}
