package api

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
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
	}
	return rest
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
