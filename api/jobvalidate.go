package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

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
	if !indexed(s) {
		if deref(s.CompletionMode) != batchv1.NonIndexedCompletion && s.CompletionMode != nil {
			return errs
		}
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

func validateFailurePolicy(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	const maxRules, maxPatterns = 20, 20
	if s.PodFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	at, all := path.Child("rules"), s.PodFailurePolicy.Rules
	if len(all) > maxRules {
		errs = append(errs, field.TooMany(at, len(all), maxRules))
	}
	for i, rule := range all {
		at := at.Index(i)
		errs = append(errs, validateFailureAction(at.Child("action"), rule.Action, s.BackoffLimitPerIndex != nil)...)
		if rule.OnExitCodes != nil {
			errs = append(errs, validateOnExitCodes(at.Child("onExitCodes"), rule.OnExitCodes, &s.Template.Spec)...)
		}
		conditionsAt := at.Child("onPodConditions")
		if n := len(rule.OnPodConditions); n > maxPatterns {
			errs = append(errs, field.TooMany(conditionsAt, n, maxPatterns))
		}
		for j, pattern := range rule.OnPodConditions {
			at := conditionsAt.Index(j)
			errs = append(errs, invalid(at.Child("type"), pattern.Type, validation.IsQualifiedName(string(pattern.Type)))...)
			errs = append(errs, oneOfAll(at.Child("status"), pattern.Status,
				corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
		switch codes, conditions := rule.OnExitCodes != nil, len(rule.OnPodConditions) > 0; {
		case codes && conditions:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
		case !codes && !conditions:
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
	}
	return errs
}

func validateFailureAction(path *field.Path, action batchv1.PodFailurePolicyAction, perIndex bool) field.ErrorList {
	supported := []batchv1.PodFailurePolicyAction{
		batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore,
	}
	if action == "" {
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", supported))}
	}
	if action == batchv1.PodFailurePolicyActionFailIndex && !perIndex {
		return field.ErrorList{field.Invalid(path, action, "requires the backoffLimitPerIndex to be set")}
	}
	return oneOf(path, action, supported...)
}

func validateOnExitCodes(path *field.Path, r *batchv1.PodFailurePolicyOnExitCodesRequirement, s *corev1.PodSpec) field.ErrorList {
	const maxCodes = 255
	supported := []batchv1.PodFailurePolicyOnExitCodesOperator{
		batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn,
	}
	var errs field.ErrorList
	if r.Operator == "" {
		errs = append(errs, field.Required(path.Child("operator"), fmt.Sprintf("valid values: %q", supported)))
	} else {
		errs = append(errs, oneOf(path.Child("operator"), r.Operator, supported...)...)
	}
	named := func(c corev1.Container) bool { return c.Name == *r.ContainerName }
	if r.ContainerName != nil && !slices.ContainsFunc(slices.Concat(s.Containers, s.InitContainers), named) {
		errs = append(errs, field.Invalid(path.Child("containerName"), *r.ContainerName,
			"must be one of the container or initContainer names in the pod template"))
	}
	at := path.Child("values")
	switch n := len(r.Values); {
	case n == 0:
		errs = append(errs, field.Invalid(at, r.Values, "at least one value is required"))
	case n > maxCodes:
		errs = append(errs, field.TooMany(at, n, maxCodes))
	}
	for i, code := range r.Values {
		if code == 0 && r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			errs = append(errs, field.Invalid(at.Index(i), code, "must not be 0 for the In operator"))
		}
		if slices.Contains(r.Values[:i], code) {
			errs = append(errs, field.Duplicate(at.Index(i), code))
		}
	}
	if !slices.IsSorted(r.Values) {
		errs = append(errs, field.Invalid(at, r.Values, "must be ordered"))
	}
	return errs
}

func validateSuccessPolicy(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	const maxRules, maxLength = 20, 64 << 10
	switch {
	case s.SuccessPolicy == nil:
		return nil
	case !indexed(s):
		return field.ErrorList{field.Invalid(path, *s.SuccessPolicy, "requires indexed completion mode")}
	}
	var errs field.ErrorList
	at, all := path.Child("rules"), s.SuccessPolicy.Rules
	switch n := len(all); {
	case n == 0:
		errs = append(errs, field.Required(at, "at least one rules must be specified when the successPolicy is specified"))
	case n > maxRules:
		errs = append(errs, field.TooMany(at, n, maxRules))
	}
	completions := deref(s.Completions)
	for i, rule := range all {
		at := at.Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		total := completions
		if text := rule.SucceededIndexes; text != nil {
			at := at.Child("succeededIndexes")
			if len(*text) > maxLength {
				errs = append(errs, field.TooLong(at, "", maxLength))
			}
			n, err := countIndexes(*text, completions)
			if err != nil {
				errs = append(errs, field.Invalid(at, *text, fmt.Sprintf("error parsing succeededIndexes: %v", err)))
			}
			total = n
		}
		if count := rule.SucceededCount; count != nil {
			at := at.Child("succeededCount")
			errs = append(errs, nonNegative(at, *count)...)
			if *count > completions {
				errs = append(errs, field.Invalid(at, *count,
					fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
			}
			if rule.SucceededIndexes != nil && *count > total {
				errs = append(errs, field.Invalid(at, *count,
					fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
			}
		}
	}
	return errs
}

// countIndexes reads a list of numbers and ranges, "1,3-5,7", all below completions and rising.
func countIndexes(text string, completions int32) (total int32, err error) {
	if text == "" {
		return 0, nil
	}
	last := -1
	for part := range strings.SplitSeq(text, ",") {
		bounds := strings.Split(part, "-")
		if len(bounds) > 2 {
			return 0, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", part)
		}
		first := last + 1
		for i, bound := range bounds {
			n, err := strconv.Atoi(bound)
			switch {
			case err != nil:
				return 0, fmt.Errorf("cannot convert string to integer for index: %q", bound)
			case n >= int(completions):
				return 0, fmt.Errorf("too large index: %q", bound)
			case n <= last:
				return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, n)
			}
			if i == 0 {
				first = n
			}
			last = n
		}
		total += int32(last - first + 1)
	}
	return total, nil
}
