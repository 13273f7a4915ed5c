package api

import (
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// containersAndImages are the two wide columns of everything that has a pod template.
func containersAndImages(template *corev1.PodTemplateSpec) (names, images string) {
	var n, i []string
	for _, c := range template.Spec.Containers {
		n = append(n, c.Name)
		i = append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// validateReplicas checks what Deployments and ReplicaSets have in common: how many pods of which template, known again
// by a selector that matches the template's labels.
func validateReplicas(path *field.Path, replicas *int32, minReady int32, selector *metav1.LabelSelector,
	template *corev1.PodTemplateSpec) field.ErrorList {
	errs := nonNegative(path.Child("replicas"), deref(replicas))
	errs = append(errs, nonNegative(path.Child("minReadySeconds"), minReady)...)
	at := path.Child("selector")
	if selector == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validateSelector(at, selector)...)
		if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at, selector, "empty selector is invalid for deployment"))
		}
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return append(errs, field.Invalid(at, selector, "invalid label selector"))
	}
	return append(errs, validateTemplate(path.Child("template"), template, parsed)...)
}

func validateTemplate(path *field.Path, t *corev1.PodTemplateSpec, selector labels.Selector) field.ErrorList {
	var errs field.ErrorList
	if !selector.Empty() && !selector.Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), t.Labels,
			"`selector` does not match template `labels`"))
	}
	errs = append(errs, validateLabels(path.Child("labels"), t.Labels)...)
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	spec := path.Child("spec")
	errs = append(errs, validatePodSpec(spec, &t.Spec)...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(spec.Child("restartPolicy"), t.Spec.RestartPolicy,
			[]corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(spec.Child("activeDeadlineSeconds"),
			"activeDeadlineSeconds in ReplicaSet is not Supported"))
	}
	return errs
}

func validateStrategy(path *field.Path, s *appsv1.DeploymentStrategy) field.ErrorList {
	at := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(at, "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		return validateRollingUpdate(at, s.RollingUpdate)
	}
	return field.ErrorList{field.NotSupported(path, s,
		[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

// validateRollingUpdate wants room for a change: one pod more or one pod less.
func validateRollingUpdate(path *field.Path, r *appsv1.RollingUpdateDeployment) field.ErrorList {
	unavailableAt := path.Child("maxUnavailable")
	unavailable, errs := validateNumberOrPercent(unavailableAt, *r.MaxUnavailable)
	surge, surgeErrs := validateNumberOrPercent(path.Child("maxSurge"), *r.MaxSurge)
	errs = append(errs, surgeErrs...)
	if unavailable == 0 && surge == 0 {
		errs = append(errs, field.Invalid(unavailableAt, *r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	if r.MaxUnavailable.Type == intstr.String && unavailable > 100 {
		errs = append(errs, field.Invalid(unavailableAt, *r.MaxUnavailable, "must not be greater than 100%"))
	}
	return errs
}

// validateNumberOrPercent returns the number too, of pods or of per cent.
func validateNumberOrPercent(path *field.Path, v intstr.IntOrString) (int, field.ErrorList) {
	if v.Type == intstr.Int {
		return v.IntValue(), nonNegative(path, v.IntVal)
	}
	if errs := invalid(path, v, validation.IsValidPercent(v.StrVal)); len(errs) > 0 {
		return 0, errs
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	if err != nil {
		return 0, field.ErrorList{field.Invalid(path, v, "must be an integer or percentage (e.g '5%%')")}
	}
	return n, nil
}
