package agent

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Traffic knows who sends requests to a pod.
type Traffic interface {
	// Leaving says what still sends requests to a pod that is being deleted, "" for nothing. Unless it is nothing, again is
	// called when it has become that.
	Leaving(pod *v1.Pod, again func()) (why string)
}

// partingTime is how long the containers of a deleted pod are left alone at most while requests may still be sent to them, before
// the preStop hook and the signal. It comes on top of the grace period, and is never longer than that.
const partingTime = 2 * time.Second

// lastConnections is how long a server has, within partingTime, for the connections that were opened just before nobody sent it any
// more: they may still wait to be accepted, and would be reset when it closes its socket.
const lastConnections = 50 * time.Millisecond

// parting is how long the containers of a deleted pod are to be left alone yet, unless the agent is called sooner. Once it was
// nothing it stays that: nobody begins to send requests to a pod that ends. A static pod's mirror is not deleted before its containers
// have ended: to wait for requests to leave it would be in vain.
func (a *Agent) parting(pod *v1.Pod, containers []Container, m *memory, now time.Time) time.Duration {
	runs := func(c Container) bool { return c.alive() }
	if a.Traffic == nil || m.parted || a.isStatic(pod) || pod.DeletionTimestamp == nil || !slices.ContainsFunc(containers, runs) {
		return 0
	}
	if m.parting.IsZero() {
		m.parting = now
	}
	left := m.parting.Add(min(partingTime, gracePeriod(pod))).Sub(now)
	why := a.Traffic.Leaving(pod, func() { a.loop.Add(string(pod.UID)) })
	switch {
	case why != "":
		m.served = true
	case !m.served: // Nobody sent it anything.
		left = 0
	default:
		if m.left.IsZero() {
			m.left = now
		}
		left = min(left, m.left.Add(lastConnections).Sub(now))
	}
	if left > 0 {
		return left
	}
	m.parted = true
	if why != "" && gracePeriod(pod) > 0 {
		a.events.Eventf(pod, v1.EventTypeWarning, "StillServed", "Stopping the containers although requests may still be sent to them: %s still has the pod", why)
	}
	return 0
}
