package api

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateJobUpdate keeps what the Job's pods are made from and counted by.
func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	path, s, o := field.NewPath("spec"), &j.Spec, &old.Spec
	errs := validateCompletionsUpdate(path.Child("completions"), s, o)
	errs = append(errs, immutable(path.Child("selector"), s.Selector, o.Selector)...)
	errs = append(errs, validateJobTemplateUpdate(path, s, old)...)
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"completionMode", s.CompletionMode, o.CompletionMode},
		{"podFailurePolicy", s.PodFailurePolicy, o.PodFailurePolicy},
		{"backoffLimitPerIndex", s.BackoffLimitPerIndex, o.BackoffLimitPerIndex},
		{"managedBy", s.ManagedBy, o.ManagedBy},
		{"successPolicy", s.SuccessPolicy, o.SuccessPolicy},
	} {
		errs = append(errs, immutable(path.Child(f.name), f.now, f.was)...)
	}
	return errs
}

// validateCompletionsUpdate lets an Indexed Job grow or shrink, with as many pods as it has indexes.
func validateCompletionsUpdate(path *field.Path, s, old *batchv1.JobSpec) field.ErrorList {
	switch {
	case !indexed(s):
		return immutable(path, s.Completions, old.Completions)
	case s.Completions == nil || equality.Semantic.DeepEqual(s.Completions, old.Completions):
		return nil
	case *s.Completions != deref(s.Parallelism):
		return field.ErrorList{field.Invalid(path, s.Completions, "can only be modified in tandem with spec.parallelism")}
	}
	return nil
}

// validateJobTemplateUpdate lets the template of a suspended Job without pods change in where its pods may run, and in
// what they ask for.
func validateJobTemplateUpdate(path *field.Path, s *batchv1.JobSpec, old *batchv1.Job) field.ErrorList {
	was := old.Spec.Template.DeepCopy()
	if !deref(old.Spec.Suspend) {
		return immutable(path.Child("template"), &s.Template, was)
	}
	if old.Status.Active > 0 || old.Status.StartTime != nil && jobStatus(old) != string(batchv1.JobSuspended) {
		return immutable(path.Child("template"), &s.Template, was)
	}
	now := &s.Template
	was.Labels, was.Annotations = now.Labels, now.Annotations
	was.Spec.NodeSelector, was.Spec.Tolerations = now.Spec.NodeSelector, now.Spec.Tolerations
	was.Spec.SchedulingGates = now.Spec.SchedulingGates
	takeNodeAffinity(&was.Spec, &now.Spec)
	takeResources(was.Spec.Containers, now.Spec.Containers)
	takeResources(was.Spec.InitContainers, now.Spec.InitContainers)
	return immutable(path.Child("template.spec"), now.Spec, was.Spec)
}

// takeNodeAffinity gives s the node affinity of another, and leaves the rest of its affinity.
func takeNodeAffinity(s, from *corev1.PodSpec) {
	var affinity corev1.Affinity
	if s.Affinity != nil {
		affinity = *s.Affinity
	}
	affinity.NodeAffinity = nil
	if from.Affinity != nil {
		affinity.NodeAffinity = from.Affinity.NodeAffinity
	}
	s.Affinity = &affinity
	if affinity == (corev1.Affinity{}) && from.Affinity == nil {
		s.Affinity = nil
	}
}

// takeResources gives containers the resources of those that have the same place and name.
func takeResources(containers, from []corev1.Container) {
	if len(containers) != len(from) {
		return
	}
	for i := range containers {
		if containers[i].Name == from[i].Name {
			containers[i].Resources = from[i].Resources
		}
	}
}
