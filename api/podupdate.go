package api

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePodUpdate lets a pod change in the few ways that a running pod can follow.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	mirrorErrs := validateMirrorUpdate(p, old)
	for _, c := range []struct {
		field    string
		now, was []corev1.Container
	}{
		{"containers", p.Spec.Containers, old.Spec.Containers},
		{"initContainers", p.Spec.InitContainers, old.Spec.InitContainers},
	} {
		if len(c.now) != len(c.was) {
			return append(mirrorErrs, field.Forbidden(path.Child(c.field), "pod updates may not add or remove containers"))
		}
	}
	errs := append(mirrorErrs, validateDeadlineUpdate(path.Child("activeDeadlineSeconds"),
		p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)...)
	errs = append(errs, validateTolerationsUpdate(path.Child("tolerations"), p.Spec.Tolerations, old.Spec.Tolerations)...)
	for i, gate := range p.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, gate) {
			errs = append(errs, field.Forbidden(path.Child("schedulingGates").Index(i).Child("name"),
				fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name)))
		}
	}
	errs = append(errs, validateNodeSelectorUpdate(path.Child("nodeSelector"), &p.Spec, &old.Spec)...)
	errs = append(errs, validateNodeAffinityUpdate(path.Child("affinity"), &p.Spec, &old.Spec)...)
	if Same(&p.Spec, &old.Spec) {
		return errs
	}
	rest := withoutMutable(&p.Spec, &old.Spec)
	if !Same(rest, &old.Spec) {
		errs = append(errs, field.Forbidden(path, "pod updates may not change fields other than "+
			"`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"+
			"`spec.tolerations` (only additions to existing tolerations),"+
			"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"+
			diff.Diff(old.Spec, *rest)))
	}
	return errs
}

// withoutMutable is s with all that may change set back to what it was.
func withoutMutable(s, old *corev1.PodSpec) *corev1.PodSpec {
	rest := s.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.ActiveDeadlineSeconds
	rest.Tolerations = old.Tolerations
	rest.SchedulingGates = old.SchedulingGates
	if deref(old.TerminationGracePeriodSeconds) < 0 && deref(rest.TerminationGracePeriodSeconds) == 1 {
		rest.TerminationGracePeriodSeconds = old.TerminationGracePeriodSeconds
	}
	if len(old.SchedulingGates) > 0 {
		rest.NodeSelector = old.NodeSelector
		rest.Affinity = withNodeAffinity(rest.Affinity, old.Affinity)
	}
	return rest
}

// withNodeAffinity is a with the node affinity of old.
func withNodeAffinity(a, old *corev1.Affinity) *corev1.Affinity {
	was := nodeAffinity(old)
	switch {
	case a == nil && was == nil:
		return nil
	case a == nil:
		return &corev1.Affinity{NodeAffinity: was}
	case old == nil && a.PodAffinity == nil && a.PodAntiAffinity == nil:
		return nil
	}
	a.NodeAffinity = was
	return a
}

func nodeAffinity(a *corev1.Affinity) *corev1.NodeAffinity {
	if a == nil {
		return nil
	}
	return a.NodeAffinity
}

// validateNodeAffinityUpdate lets what a gated pod requires of its node become more, and what it prefers anything.
func validateNodeAffinityUpdate(path *field.Path, s, old *corev1.PodSpec) field.ErrorList {
	if len(old.SchedulingGates) == 0 {
		return nil // Then it may not change at all, like the rest of the spec.
	}
	was, now := requiredTerms(old.Affinity), requiredTerms(s.Affinity)
	path = path.Child("nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	if len(was) > 0 && len(now) != len(was) {
		return field.ErrorList{field.Invalid(path, now, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i := range was {
		if !onlyAdds(&now[i], &was[i]) {
			errs = append(errs, field.Invalid(path.Index(i), now[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func requiredTerms(a *corev1.Affinity) []corev1.NodeSelectorTerm {
	if n := nodeAffinity(a); n != nil && n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		return n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	return nil
}

// onlyAdds tells whether a term has all requirements that it had, first. One that had none matched no node, and is to stay so.
func onlyAdds(now, was *corev1.NodeSelectorTerm) bool {
	begins := func(now, was []corev1.NodeSelectorRequirement) bool {
		return len(now) >= len(was) && equality.Semantic.DeepEqual(now[:len(was)], was)
	}
	if len(was.MatchExpressions)+len(was.MatchFields) == 0 {
		return len(now.MatchExpressions)+len(now.MatchFields) == 0
	}
	return begins(now.MatchExpressions, was.MatchExpressions) && begins(now.MatchFields, was.MatchFields)
}

// validateNodeSelectorUpdate lets the node selector of a gated pod, which the scheduler has not seen yet, grow.
func validateNodeSelectorUpdate(path *field.Path, s, old *corev1.PodSpec) field.ErrorList {
	if len(old.SchedulingGates) == 0 {
		return nil // Then it may not change at all, like the rest of the spec.
	}
	for key, value := range old.NodeSelector {
		if now, ok := s.NodeSelector[key]; !ok || now != value {
			return field.ErrorList{field.Invalid(path, s.NodeSelector,
				"only additions to spec.nodeSelector are allowed (no mutations or deletions)")}
		}
	}
	return nil
}

// validateDeadlineUpdate lets a deadline be set, or brought nearer.
func validateDeadlineUpdate(path *field.Path, now, was *int64) field.ErrorList {
	switch {
	case was != nil && now == nil:
		return field.ErrorList{field.Invalid(path, now, "must not update from a positive integer to nil value")}
	case was != nil && *now > *was:
		return field.ErrorList{field.Invalid(path, *now, "must be less than or equal to previous value")}
	}
	return nil
}

func validateTolerationsUpdate(path *field.Path, now, was []corev1.Toleration) field.ErrorList {
	for _, old := range was {
		kept := slices.ContainsFunc(now, func(t corev1.Toleration) bool {
			t.TolerationSeconds = old.TolerationSeconds
			return reflect.DeepEqual(t, old)
		})
		if !kept {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}
