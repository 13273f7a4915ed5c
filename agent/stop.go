package agent

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// minGrace is what a container gets at least to end by itself, whatever the grace period, as from the kubelet; and what containers
// get whose pod the API no longer has.
const minGrace = 2 * time.Second

// minPodGrace is what a pod that ends gets at least: its preStop hooks have so long even where it is deleted without grace.
const minPodGrace = time.Second

// evictionGrace is what the containers of a pod get that took more than it was given.
const evictionGrace = time.Second

// killRepeat is after how long a container that survived SIGKILL gets it again.
const killRepeat = 5 * time.Second

func gracePeriod(pod *v1.Pod) time.Duration {
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		return time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	return v1.DefaultTerminationGracePeriodSeconds * time.Second
}

// probeGrace is the grace period of a container that failed a probe, which may have one of its own.
func probeGrace(pod *v1.Pod, p *v1.Probe) time.Duration {
	if seconds := p.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(*seconds) * time.Second
	}
	return gracePeriod(pod)
}

// end decides for a pod none of whose containers is to live: first all but the sidecars, then those, the last one first.
func (s seen) end(d *decision, grace time.Duration) {
	d.start = nil // Sidecars are not brought back any more.
	grace = max(grace, minPodGrace)
	var sidecars, others []*Container
	for i := range s.containers {
		c := &s.containers[i]
		if !c.alive() {
			continue
		}
		if s.sidecarIndex(c.Name) >= 0 {
			sidecars = append(sidecars, c)
		} else {
			others = append(others, c)
		}
	}
	if len(others) == 0 && len(sidecars) > 0 {
		last := slices.MaxFunc(sidecars, func(a, b *Container) int { return s.sidecarIndex(a.Name) - s.sidecarIndex(b.Name) })
		others, grace = append(others, last), s.sidecarGrace(last, grace)
	}
	for _, c := range sidecars { // Their hooks run at once, their signals come in turn.
		if _, asked := s.told[c.ID]; !asked && s.runsPreStop(c, grace) {
			d.stop = append(d.stop, stop{id: c.ID, name: c.Name, hook: true, why: "Stopping container " + c.Name})
			d.lookAgain(grace)
		}
	}
	for _, c := range others {
		s.stop(d, c, grace, "Stopping container "+c.Name)
	}
	d.ended = len(others) == 0
}

// sidecarGrace is what is left of the pod's grace period for a sidecar, whose turn comes last, but never nothing.
func (s seen) sidecarGrace(c *Container, grace time.Duration) time.Duration {
	asked := s.now
	if t, ok := s.told[c.ID]; ok {
		asked = t.asked
	}
	first := asked
	for _, t := range s.told {
		if t.asked.Before(first) {
			first = t.asked
		}
	}
	return max(first.Add(grace).Sub(asked), minGrace)
}

// stop asks a container to end, by its preStop hook first, and kills it when its time is over.
func (s seen) stop(d *decision, c *Container, grace time.Duration, why string) {
	t, ok := s.told[c.ID]
	left := t.asked.Add(grace).Sub(s.now)
	switch {
	case !ok && s.runsPreStop(c, grace):
		if !slices.ContainsFunc(d.stop, func(st stop) bool { return st.id == c.ID }) {
			d.stop = append(d.stop, stop{id: c.ID, name: c.Name, hook: true, why: why})
			d.lookAgain(grace)
		}
		return
	case !ok:
		d.stop = append(d.stop, stop{id: c.ID, name: c.Name, why: why})
		d.lookAgain(max(grace, minGrace))
		return
	case t.signalled.IsZero() && s.hooks[hookOf{preStop, c.ID}].running && left > 0:
		d.lookAgain(left)
		return
	case t.signalled.IsZero():
		d.stop = append(d.stop, stop{id: c.ID, name: c.Name})
		d.lookAgain(max(left, minGrace))
		return
	}
	left = max(left, t.signalled.Add(minGrace).Sub(s.now)) // However long the hook took, the signal must be able to do something.
	if left > 0 {
		d.lookAgain(left)
		return
	}
	d.stop = append(d.stop, stop{id: c.ID, name: c.Name, kill: true})
	d.lookAgain(killRepeat)
}

func (s seen) runsPreStop(c *Container, grace time.Duration) bool {
	return grace > 0 && preStop.handler(containerOf(s.pod, c.Name)) != nil
}
