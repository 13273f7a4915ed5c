package agent

import (
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Whether a container that has ended is started again its own rules say, by its exit code; where none does, its own policy; where
// it has none, the pod's. https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#container-restart-rules
//
// A rule may also have all containers of the pod start anew, init containers too. Then a round begins: each container knows the
// round that it was started in, and one of an earlier round is ended at once, and started again however it ended. The pod keeps its
// namespaces, its addresses and its volumes.

// labelRound is the round that a container was started in; none for the first.
const labelRound = "skiff.dev/round"

// restartPolicy says after which ends a container is started again.
type restartPolicy struct {
	rules     []v1.ContainerRestartRule
	otherwise v1.RestartPolicy
}

func policyOf(spec *v1.PodSpec, c *v1.Container) restartPolicy {
	p := restartPolicy{rules: c.RestartPolicyRules, otherwise: spec.RestartPolicy}
	if c.RestartPolicy != nil {
		p.otherwise = v1.RestartPolicy(*c.RestartPolicy)
	}
	return p
}

func (p restartPolicy) restarts(exitCode int32) bool {
	if _, ruled := p.rule(exitCode); ruled {
		return true // Both actions that there are begin with it.
	}
	return p.otherwise == v1.RestartPolicyAlways || p.otherwise == v1.RestartPolicyOnFailure && exitCode != 0
}

// rule is what the first rule for an exit code does.
func (p restartPolicy) rule(exitCode int32) (action v1.ContainerRestartRuleAction, ruled bool) {
	for _, r := range p.rules {
		if r.ExitCodes == nil {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, exitCode)
		if in == (r.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn) {
			return r.Action, true
		}
	}
	return "", false
}

// mayRenew says that a rule of the pod may have all of its containers start anew.
func mayRenew(pod *v1.Pod) bool {
	return slices.ContainsFunc(sizedContainers(pod), func(c *v1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
			return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

func roundOf(c *Container) int {
	n, _ := strconv.Atoi(c.Labels[labelRound]) // Whoever has none is of the first.
	return n
}

// rounds finds the round that the pod's containers are to be in, and whether it is still to begin: a container of the latest round
// has ended in the way that a rule waits for.
func (s seen) rounds() (round int, begins bool) {
	if !mayRenew(s.pod) {
		return 0, false
	}
	for _, c := range sizedContainers(s.pod) {
		latest := s.latest(c.Name)
		if latest == nil || roundOf(latest) < round {
			continue
		}
		begins = roundOf(latest) == round && begins || s.renews(c, latest)
		round = roundOf(latest)
	}
	if begins {
		round++
	}
	return round, begins
}

// renews says that a container's end has all containers start anew.
func (s seen) renews(c *v1.Container, latest *Container) bool {
	if latest.State != Exited || s.replaced(c, latest) {
		return false
	}
	action, ruled := policyOf(&s.pod.Spec, c).rule(s.terminated(latest, "").ExitCode)
	return ruled && action == v1.ContainerRestartRuleActionRestartAllContainers
}

// outdated says that a container belongs to an earlier round.
func (s seen) outdated(c *Container) bool { return c != nil && roundOf(c) < s.round }

// renew ends what runs of earlier rounds, with no more grace than there must be. It says whether nothing may be started yet: something of them is alive, or
// the container that brought the round about must wait for its restart.
func (s seen) renew(d *decision) (busy bool) {
	for _, c := range sizedContainers(s.pod) {
		latest := s.latest(c.Name)
		switch {
		case !s.outdated(latest):
		case latest.alive():
			s.stop(d, latest, 0, "Stopping container "+c.Name)
			busy = true
		case s.renews(c, latest):
			delay := s.backoff(latest)
			if wait := latest.Finished.Add(delay).Sub(s.now); wait > 0 {
				d.wait(c.Name, delay)
				d.lookAgain(wait)
				busy = true
			}
		}
	}
	return busy
}

// changed says that a container that ended had another image than its successor, or another size: what it did is not held against that,
// as the kubelet's key of a back-off (GetBackoffKey) has it.
func changed(c *v1.Container, latest *Container) bool {
	had, known := keptSize(latest, labelSize)
	return latest.Image != c.Image || known && !sameSize(had, sizeOf(&c.Resources))
}

// nextBackoff is how long to wait after the container that follows latest, which has ended. Who was ended only because all start
// anew has not failed.
func (s seen) nextBackoff(c *v1.Container, latest *Container) time.Duration {
	switch {
	case latest == nil || changed(c, latest):
		return firstBackoff
	case s.outdated(latest) && !s.renews(c, latest):
		return s.backoff(latest)
	}
	return min(max(firstBackoff, 2*s.backoff(latest)), s.maxBackoff)
}
