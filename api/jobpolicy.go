package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

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
