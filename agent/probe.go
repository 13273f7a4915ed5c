package agent

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// probeKind is one of the three probes, as Events spell it.
type probeKind string

const (
	startupProbe   probeKind = "Startup"
	readinessProbe probeKind = "Readiness"
	livenessProbe  probeKind = "Liveness"
)

// eagerFirst is how soon a startup or readiness probe by network is repeated that has never passed; each time twice as long, up to
// its period. The kubelet waits a whole period, so that a server that needs 0.2 s to listen is ready after 10 s. These early
// tries count for nothing and make no Event.
const eagerFirst = 50 * time.Millisecond

// health is what its probes have found out about a container.
type health struct {
	started bool
	ready   bool
	failed  probeKind // Liveness or Startup: it is to end. "": it may go on.
}

// newborn is the health of a container that no probe has seen yet.
func newborn(c *v1.Container) health {
	started := c.StartupProbe == nil
	return health{started: started, ready: started && c.ReadinessProbe == nil}
}

// judge is what a probe's threshold, reached, changes.
func (h health) judge(kind probeKind, ok bool, c *v1.Container) health {
	switch {
	case kind == startupProbe && ok:
		h.started, h.ready = true, c.ReadinessProbe == nil
	case kind == readinessProbe:
		h.ready = ok
	case !ok:
		h.failed = kind
	}
	return h
}

// tally counts equal results in a row.
type tally struct {
	ok    bool
	count int32
}

// add says whether the result has now come as often as the probe's threshold asks for.
func (t *tally) add(ok bool, p *v1.Probe) (reached bool) {
	if t.ok != ok {
		t.count = 0
	}
	t.ok = ok
	t.count++
	if ok {
		return t.count >= p.SuccessThreshold
	}
	return t.count >= max(p.FailureThreshold, 1)
}

// probes runs the probes of this node's containers: a goroutine for each container that has any, and one for each of its probes.
// There are none for the others.
type probes struct {
	checker *checker
	changed func(uid string)
	tell    func(pod *v1.Pod, container, kind, reason, message string)
	ctx     context.Context
	wg      sync.WaitGroup

	mu   sync.Mutex
	pods map[string]map[string]*probed // By pod UID, then container ID.
}

// probed is a container that has probes.
type probed struct {
	pod        *v1.Pod
	target     target
	born       time.Time
	health     health // Guarded by probes.mu.
	stop       context.CancelFunc
	stopDeadly context.CancelFunc // Ends the probes that end containers.
}

func newProbes(checker *checker, changed func(uid string), tell func(pod *v1.Pod, container, kind, reason, message string)) *probes {
	return &probes{checker: checker, changed: changed, tell: tell, pods: map[string]map[string]*probed{}}
}

// begin sets when all probes end; to be called before any pod is looked at.
func (p *probes) begin(ctx context.Context) { p.ctx = ctx }

// wait returns when all probes have ended.
func (p *probes) wait() { p.wg.Wait() }

// follow sees to it that of these containers of a pod those that run are probed, and returns the health of all that have
// probes. A container that ended keeps its health until it is removed. One that an agent started which was killed before it told the
// pod's address is probed once that is known again.
func (p *probes) follow(s seen, ip func() string) map[string]health {
	p.mu.Lock()
	defer p.mu.Unlock()
	uid := string(s.pod.UID)
	known := p.pods[uid]
	found := map[string]*probed{}
	healths := map[string]health{}
	for i := range s.containers {
		c := &s.containers[i]
		q := known[c.ID]
		if spec := containerOf(s.pod, c.Name); q == nil && c.State == Running && hasProbes(spec) && s.postStartDone(c.ID) && ip() != "" {
			q = p.start(s, target{c.ID, ip, spec}, c.Started)
		}
		if q == nil {
			continue
		}
		switch {
		case !c.alive():
			q.stop()
		case s.pod.DeletionTimestamp != nil:
			q.stopDeadly()
		}
		found[c.ID], healths[c.ID] = q, q.health
	}
	for id, q := range known {
		if found[id] == nil {
			q.stop()
		}
	}
	delete(p.pods, uid)
	if len(found) > 0 {
		p.pods[uid] = found
	}
	return healths
}

func containerOf(pod *v1.Pod, name string) *v1.Container {
	for _, c := range allContainers(&pod.Spec) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func hasProbes(c *v1.Container) bool {
	return c != nil && (c.StartupProbe != nil || c.ReadinessProbe != nil || c.LivenessProbe != nil)
}

// forget ends the probes of a pod.
func (p *probes) forget(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.pods[uid] {
		q.stop()
	}
	delete(p.pods, uid)
}

// start begins to probe a container. What the status says of this same container stands until a probe says otherwise, so that
// a restart of the agent makes nothing unready.
func (p *probes) start(s seen, t target, born time.Time) *probed {
	q := &probed{pod: s.pod, target: t, born: born, health: newborn(t.container)}
	if past := s.past(t.container.Name); past != nil && past.ContainerID == containerScheme+"://"+t.id && past.Started != nil {
		q.health.started, q.health.ready = *past.Started, past.Ready
	}
	ctx, stop := context.WithCancel(p.ctx)
	deadly, stopDeadly := context.WithCancel(ctx)
	q.stop, q.stopDeadly = stop, stopDeadly
	if s.pod.DeletionTimestamp != nil {
		stopDeadly()
	}
	started := q.health.started
	p.wg.Go(func() {
		defer stop()
		p.run(ctx, deadly, q, started)
	})
	return q
}

// run probes one container until ctx ends: first the startup probe until it has passed, then the two others.
func (p *probes) run(ctx, deadly context.Context, q *probed, started bool) {
	c := q.target.container
	if c.StartupProbe != nil && !started {
		if !p.repeat(deadly, q, startupProbe, c.StartupProbe) {
			return
		}
	}
	var both sync.WaitGroup
	defer both.Wait()
	if c.ReadinessProbe != nil {
		both.Go(func() { p.repeat(ctx, q, readinessProbe, c.ReadinessProbe) })
	}
	if c.LivenessProbe != nil {
		both.Go(func() { p.repeat(deadly, q, livenessProbe, c.LivenessProbe) })
	}
}

// repeat probes until ctx ends or there is nothing more to find out, and says how the last probe went.
func (p *probes) repeat(ctx context.Context, q *probed, kind probeKind, probe *v1.Probe) (ok bool) {
	pause(ctx, time.Until(q.born.Add(time.Duration(probe.InitialDelaySeconds)*time.Second)))
	period := time.Duration(max(probe.PeriodSeconds, 1)) * time.Second
	eager := eagerFirst
	if kind == livenessProbe || probe.Exec != nil {
		eager = period
	}
	var t tally
	for ctx.Err() == nil {
		begun := time.Now()
		verdict, message := p.checker.probe(ctx, q.target, probe)
		if ctx.Err() != nil {
			return false
		}
		ok = verdict <= warned
		if ok {
			eager = period
		}
		next := eager
		eager = min(2*eager, period)
		if next == period {
			p.report(q, kind, verdict, message)
			if verdict != errored && t.add(ok, probe) {
				p.judge(q, kind, ok)
				if kind == startupProbe || kind == livenessProbe && !ok {
					return ok
				}
			}
		}
		pause(ctx, time.Until(begun.Add(next)))
	}
	return false
}

// report makes an Event of a probe that did not just pass.
func (p *probes) report(q *probed, kind probeKind, v verdict, message string) {
	message = message[:min(len(message), maxEventOutput)]
	reason := "Unhealthy"
	switch v {
	case passed:
		return
	case warned:
		reason, message = "ProbeWarning", string(kind)+" probe warning: "+message
	case failed:
		message = string(kind) + " probe failed: " + message
	case errored:
		message = string(kind) + " probe errored and resulted in unknown state: " + message
	}
	p.tell(q.pod, q.target.container.Name, v1.EventTypeWarning, reason, message)
}

// judge takes a finding over, and tells the pod if it changes anything.
func (p *probes) judge(q *probed, kind probeKind, ok bool) {
	p.mu.Lock()
	before := q.health
	q.health = before.judge(kind, ok, q.target.container)
	changed := q.health != before
	p.mu.Unlock()
	if changed {
		p.changed(string(q.pod.UID))
	}
}
