package agent

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Labels that the agent keeps with a container, beside what [Container] says already.
const (
	labelBoot    = "skiff.dev/boot"    // The boot that it was started in.
	labelBackoff = "skiff.dev/backoff" // How long to wait, once it has ended, before the next attempt.
)

// Back-off of restarts: the first restart is at once, the next after firstBackoff, then twice as long each time up to
// Config.MaxRestartBackoff. A container that ran twice that maximum starts afresh.
const firstBackoff = 10 * time.Second

// troubleRepeat is after how long a start is tried again that failed for a reason in the pod's surroundings, if nothing
// tells sooner that they have changed.
const troubleRepeat = 30 * time.Second

// startErrorRepeat is after how long a container that could not be started is first tried again, if nothing has the pod looked at before.
const startErrorRepeat = time.Second

// trouble is a start that came to nothing.
type trouble struct {
	reason, message string
	at              time.Time
	delay           time.Duration // Before the next try. Zero: try again whenever the pod is looked at.
}

// holds says that it is too early for the next try.
func (t trouble) holds(now time.Time) bool { return t.at.Add(t.delay).After(now) }

// nextLook is when there is something to do about it, or to be told.
func (t trouble) nextLook(now time.Time) time.Time {
	next := now.Add(troubleRepeat)
	if t.holds(now) {
		next = t.at.Add(t.delay)
	}
	if shown := t.at.Add(pullBackoffShownFor); t.reason == reasonPull && shown.After(now) {
		next = sooner(next, shown)
	}
	return next
}

// decision is what to do about a pod, and when to look again without being called.
type decision struct {
	stop      []stop
	remove    []*Container
	resize    []resize
	sizesLeft bool                     // A container has another size than it was given, and is to be restarted for it.
	start     []start                  // In this order.
	waiting   map[string]time.Duration // By container name: its restart waits, so long in all.
	fail      *failure
	ended     bool // The pod is to end and no container of it is alive.
	again     time.Duration
}

type stop struct {
	id, name string
	kill     bool
	hook     bool   // Run its preStop hook; a signal follows.
	why      string // Of the Killing event.
}

type start struct {
	container *v1.Container
	attempt   int
	backoff   time.Duration // After this attempt.
	round     int           // Of the pod's containers.
}

// resize gives a running container the size that its spec says.
type resize struct {
	id, cgroup string
	container  *v1.Container
}

// failure is the end of a pod that its containers did not bring about.
type failure struct {
	reason, message string
	rejected        bool // It never began: the node cannot run it.
}

func (d *decision) lookAgain(after time.Duration) {
	if after > 0 && (d.again == 0 || after < d.again) {
		d.again = after
	}
}

// decide is the agent's mind. It changes nothing and asks nobody.
func decide(s seen) decision {
	var d decision
	s.round, s.begins = s.rounds()
	s.discard(&d)
	pod := s.pod
	switch {
	case s.parting > 0:
		d.lookAgain(s.parting)
	case pod.DeletionTimestamp != nil:
		s.end(&d, gracePeriod(pod))
	case pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed:
		s.end(&d, gracePeriod(pod)) // Usually nothing is alive; but others may fail a pod too, to evict it.
	case s.pastDeadline(&d):
		d.fail = &failure{reason: "DeadlineExceeded", message: "Pod was active on the node longer than the specified deadline"}
		s.end(&d, gracePeriod(pod))
	case s.rejected != nil:
		d.fail = s.rejected
		s.end(&d, 0)
	case s.evicted != "":
		d.fail = &failure{reason: reasonEvicted, message: s.evicted}
		s.end(&d, evictionGrace)
	case s.measured.over != "":
		d.fail = &failure{reason: reasonEvicted, message: s.measured.over}
		s.end(&d, evictionGrace)
	case len(s.unserved) > 0:
	default:
		d.lookAgain(s.measured.next)
		s.run(&d)
	}
	return d
}

// decideOrphan is decide for containers that no pod of the API wants.
func decideOrphan(s seen) decision {
	var d decision
	s.pod = &v1.Pod{}
	s.end(&d, minGrace)
	return d
}

func (s seen) pastDeadline(d *decision) bool {
	limit := s.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || s.pod.Status.StartTime == nil {
		return false
	}
	left := s.pod.Status.StartTime.Add(time.Duration(*limit) * time.Second).Sub(s.now)
	d.lookAgain(left)
	return left <= 0
}

// discard removes what nobody needs any more: containers that were made but never started, and of the dead all but the
// latest and, for `logs --previous`, the one before.
func (s seen) discard(d *decision) {
	for _, name := range s.names() {
		for i, c := range s.attempts(name) {
			if c.State == Created || c.State == Exited && i >= 2 {
				d.remove = append(d.remove, c)
			}
		}
	}
}

// run decides for a pod that is to run: the init containers one after the other, then the others together; the ephemeral ones at
// any time.
func (s seen) run(d *decision) {
	spec := &s.pod.Spec
	s.debug(d) // Whatever the others wait for.
	if s.renew(d) {
		return
	}
	initialized := s.initialized()
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		switch {
		case isSidecar(c):
			s.keep(d, c, policyOf(spec, c))
			if !initialized && !s.started(c) || s.holdsUp(d, c) {
				return
			}
		case initialized || s.initDone(c.Name):
		default:
			policy := policyOf(spec, c)
			if !s.counts(s.latest(c.Name)) {
				policy.otherwise = v1.RestartPolicyAlways // However it ended, it is due again.
			}
			if over := s.keep(d, c, policy); over {
				s.end(d, gracePeriod(s.pod)) // It failed for good: the sidecars before it have nothing to wait for.
			}
			return
		}
	}
	over := true
	for i := range spec.Containers {
		c := &spec.Containers[i]
		if !s.keep(d, c, policyOf(spec, c)) {
			over = false
		}
		if s.holdsUp(d, c) {
			return
		}
	}
	if over {
		s.end(d, gracePeriod(s.pod))
	}
}

// holdsUp says that the containers after this one must wait for its postStart hook.
func (s seen) holdsUp(d *decision, c *v1.Container) bool {
	if postStart.handler(c) == nil {
		return false
	}
	latest := s.latest(c.Name)
	return d.starts(c) || latest != nil && latest.State == Running && s.postStartRuns(latest.ID)
}

// keep decides for one container that is to run now, and says whether it has ended for good.
func (s seen) keep(d *decision, c *v1.Container, policy restartPolicy) (over bool) {
	latest := s.latest(c.Name)
	if latest != nil && latest.State == Silent {
		d.lookAgain(s.patience(latest)) // To start another would be to run it twice.
		return false
	}
	if latest != nil && latest.State == Running {
		why, by := s.ailment(c, latest)
		switch {
		case latest.Image != c.Image:
			s.stop(d, latest, gracePeriod(s.pod), "Container "+c.Name+" definition changed, will be restarted")
		case by != nil:
			if policy.restarts(exitUnknown) {
				why += ", will be restarted"
			}
			s.stop(d, latest, probeGrace(s.pod, by), why)
		case why != "":
			s.stop(d, latest, gracePeriod(s.pod), why)
		default:
			s.fit(d, c, latest)
		}
		return false
	}
	next := start{container: c, attempt: s.nextAttempt(c.Name), round: s.round}
	if end := s.ending(c.Name, ""); end != nil {
		due := s.replaced(c, latest) || s.outdated(latest) || latest == nil && s.round > 0 // It never began in this round.
		if !due && !policy.restarts(end.ExitCode) && !s.recovers(c, latest, policy) {
			return true
		}
		next.backoff = s.nextBackoff(c, latest)
		if latest != nil && !due && !changed(c, latest) {
			delay := s.backoff(latest)
			if wait := latest.Finished.Add(delay).Sub(s.now); wait > 0 {
				d.wait(c.Name, delay)
				d.lookAgain(wait)
				return false
			}
		}
	}
	if t, ok := s.trouble[c.Name]; ok {
		d.lookAgain(t.nextLook(s.now).Sub(s.now))
		if t.holds(s.now) {
			return false
		}
	}
	if latest != nil && latest.StartError != "" {
		d.lookAgain(startErrorRepeat) // Nothing that ends will call for it.
	}
	d.start = append(d.start, next)
	return false
}

func (d *decision) starts(c *v1.Container) bool {
	return slices.ContainsFunc(d.start, func(st start) bool { return st.container == c })
}

// fit decides how a running container comes to the size that it was given.
func (s seen) fit(d *decision, c *v1.Container, latest *Container) {
	if s.pending != nil {
		d.lookAgain(resizeRepeat)
	}
	switch s.change(c, latest) {
	case byRestart:
		d.sizesLeft = true
		s.stop(d, latest, gracePeriod(s.pod), "Container "+c.Name+" resize requires restart")
	case inPlace:
		if wait := s.resizeTried.Add(resizeRepeat).Sub(s.now); s.resizeErr != "" && wait > 0 {
			d.sizesLeft = true
			d.lookAgain(wait)
			return
		}
		d.resize = append(d.resize, resize{latest.ID, latest.Cgroup, c})
	}
}

// recovers says that the agent ended the container because it was not well: then it counts as failed, whatever its exit code.
func (s seen) recovers(c *v1.Container, latest *Container, policy restartPolicy) bool {
	if latest == nil {
		return false
	}
	why, _ := s.ailment(c, latest)
	return why != "" && policy.restarts(exitUnknown)
}

func (d *decision) wait(name string, delay time.Duration) {
	if d.waiting == nil {
		d.waiting = map[string]time.Duration{}
	}
	d.waiting[name] = delay
}

// backoff is how long to wait after the end of c before the next attempt.
func (s seen) backoff(c *Container) time.Duration {
	if c.StartError == "" && c.Finished.Sub(c.Started) > 2*s.maxBackoff {
		return 0
	}
	delay, err := time.ParseDuration(c.Labels[labelBackoff])
	if err != nil {
		return 0
	}
	return min(delay, s.maxBackoff)
}
