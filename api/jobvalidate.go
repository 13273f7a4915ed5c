package api

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateJob(j *batchv1.Job) field.ErrorList {
	path, s := field.NewPath("spec"), &j.Spec
	errs := validateGeneratedLabels(path, j)
	errs = append(errs, validateJobSpec(path, s)...)
	if s.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = append(errs, validateSelector(path.Child("selector"), s.Selector)...)
	}
	if parsed, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !parsed.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), s.Template.Labels,
			"`selector` does not match template `labels`"))
	}
	if indexed(s) && deref(s.Completions) > 0 {
		// A pod's hostname ends with its index, so the longest must be a name still.
		host := fmt.Sprintf("%s-%d", j.Name, *s.Completions-1)
		if len(validation.IsDNS1123Label(host)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name,
				"will not able to create pod with invalid DNS label: "+host))
		}
	}
	return errs
}

func indexed(s *batchv1.JobSpec) bool { return deref(s.CompletionMode) == batchv1.IndexedCompletion }

// validateGeneratedLabels finds where the user's labels contradict those that the server gives.
func validateGeneratedLabels(path *field.Path, j *batchv1.Job) field.ErrorList {
	if deref(j.Spec.ManualSelector) || j.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	expected := labels.Set{}
	for _, l := range []struct{ label, value string }{
		{jobUIDLabels[1], string(j.UID)}, {jobNameLabels[1], j.Name},
		{jobUIDLabels[0], string(j.UID)}, {jobNameLabels[0], j.Name},
	} {
		expected[l.label] = l.value
		at := path.Child("template", "metadata", "labels").Key(l.label)
		switch have, ok := j.Spec.Template.Labels[l.label]; {
		case !ok:
			errs = append(errs, field.Required(at, fmt.Sprintf("must be '%s'", l.value)))
		case have != l.value:
			errs = append(errs, field.Invalid(at, j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", l.value)))
		}
	}
	if parsed, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !parsed.Matches(expected) {
		errs = append(errs, field.Invalid(path.Child("selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// validateJobSpec checks a Job's spec, or that of a CronJob's template, but for the selector.
func validateJobSpec(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	const maxManager = 63
	var errs field.ErrorList
	for _, n := range []struct {
		name  string
		value *int32
	}{
		{"parallelism", s.Parallelism}, {"completions", s.Completions}, {"backoffLimit", s.BackoffLimit},
		{"ttlSecondsAfterFinished", s.TTLSecondsAfterFinished}, {"backoffLimitPerIndex", s.BackoffLimitPerIndex},
		{"maxFailedIndexes", s.MaxFailedIndexes},
	} {
		errs = append(errs, nonNegative(path.Child(n.name), deref(n.value))...)
	}
	errs = append(errs, nonNegative(path.Child("activeDeadlineSeconds"), deref(s.ActiveDeadlineSeconds))...)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if by := s.ManagedBy; by != nil {
		at := path.Child("managedBy")
		errs = append(errs, validation.IsDomainPrefixedPath(at, *by)...)
		if len(*by) > maxManager {
			errs = append(errs, field.TooLong(at, "", maxManager))
		}
	}
	errs = append(errs, validateCompletionMode(path, s)...)
	errs = append(errs, validateFailurePolicy(path.Child("podFailurePolicy"), s)...)
	errs = append(errs, validateSuccessPolicy(path.Child("successPolicy"), s)...)
	if p := s.PodReplacementPolicy; p != nil {
		supported := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
		if s.PodFailurePolicy != nil {
			supported = supported[:1]
		}
		errs = append(errs, oneOfAll(path.Child("podReplacementPolicy"), *p, supported...)...)
	}
	errs = append(errs, validatePodTemplate(path.Child("template"), &s.Template)...)
	return append(errs, validateEnding(path.Child("template", "spec", "restartPolicy"), s)...)
}

// validateEnding wants pods that come to an end.
func validateEnding(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	switch p := s.Template.Spec.RestartPolicy; {
	case p == corev1.RestartPolicyAlways || p == "":
		return field.ErrorList{field.Required(path,
			fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))}
	case p != corev1.RestartPolicyOnFailure && p != corev1.RestartPolicyNever:
		return field.ErrorList{field.NotSupported(path, p,
			[]corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})}
	case s.PodFailurePolicy != nil && p != corev1.RestartPolicyNever:
		return field.ErrorList{field.Invalid(path, p,
			fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))}
	}
	return nil
}

// validateCompletionMode checks what depends on whether each completion is one of its own. Kubernetes bounds the indexes
// so that the status, which lists those that are done, stays small.
func validateCompletionMode(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	const maxIndexes, many = 100_000, 10_000
	failedAt, parallelismAt := path.Child("maxFailedIndexes"), path.Child("parallelism")
	parallelism, failed := deref(s.Parallelism), s.MaxFailedIndexes
	var errs field.ErrorList
	if mode := s.CompletionMode; mode != nil {
		errs = oneOfAll(path.Child("completionMode"), *mode, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	}
	if len(errs) > 0 {
		return errs
	}
	if !indexed(s) {
		if n := s.BackoffLimitPerIndex; n != nil {
			errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *n, "requires indexed completion mode"))
		}
		if failed != nil {
			errs = append(errs, field.Invalid(failedAt, *failed, "requires indexed completion mode"))
		}
		return errs
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
	}
	if parallelism > maxIndexes {
		errs = append(errs, field.Invalid(parallelismAt, parallelism,
			fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexes)))
	}
	if failed != nil && s.Completions != nil && *failed > *s.Completions {
		errs = append(errs, field.Invalid(failedAt, *failed, "must be less than or equal to completions"))
	}
	if deref(failed) > maxIndexes {
		errs = append(errs, field.Invalid(failedAt, *failed, fmt.Sprintf("must be less than or equal to %d", maxIndexes)))
	}
	if deref(s.Completions) <= maxIndexes || s.BackoffLimitPerIndex == nil {
		return errs
	}
	if failed == nil {
		errs = append(errs, field.Required(failedAt, fmt.Sprintf("must be specified when completions is above %d", maxIndexes)))
	}
	text := fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index",
		many, maxIndexes)
	if parallelism > many {
		errs = append(errs, field.Invalid(parallelismAt, parallelism, text))
	}
	if deref(failed) > many {
		errs = append(errs, field.Invalid(failedAt, *failed, text))
	}
	return errs
}
