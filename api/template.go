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
	parsed, selectorErrs := validateOwnSelector(path.Child("selector"), selector, "deployment")
	errs = append(errs, selectorErrs...)
	if parsed == nil {
		return errs
	}
	return append(errs, validateTemplate(path.Child("template"), template, parsed)...)
}

// validateOwnSelector wants the selector by which an object of that kind knows its pods: there, and not empty. It returns
// the selector too, or nil where it can't be read.
func validateOwnSelector(path *field.Path, s *metav1.LabelSelector, kind string) (labels.Selector, field.ErrorList) {
	var errs field.ErrorList
	if s == nil {
		errs = append(errs, field.Required(path, ""))
	} else {
		errs = append(errs, validateSelector(path, s)...)
		if len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(path, s, "empty selector is invalid for "+kind))
		}
	}
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, append(errs, field.Invalid(path, s, "invalid label selector"))
	}
	return parsed, errs
}

// validateTemplate checks the template of pods that shall run until they are deleted.
func validateTemplate(path *field.Path, t *corev1.PodTemplateSpec, selector labels.Selector) field.ErrorList {
	errs := validateTemplateLabels(path, t, selector)
	errs = append(errs, validatePodTemplate(path, t)...)
	return append(errs, validateEndless(path.Child("spec"), &t.Spec, "ReplicaSet")...)
}

func validateTemplateLabels(path *field.Path, t *corev1.PodTemplateSpec, selector labels.Selector) field.ErrorList {
	if selector.Empty() || selector.Matches(labels.Set(t.Labels)) {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("metadata", "labels"), t.Labels,
		"`selector` does not match template `labels`")}
}

// validatePodTemplate checks what templates of all sorts have.
func validatePodTemplate(path *field.Path, t *corev1.PodTemplateSpec) field.ErrorList {
	errs := validateLabels(path.Child("labels"), t.Labels)
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, path.Child("annotations"))...)
	errs = append(errs, validateMirror(path.Child("annotations"), t.Annotations, &t.Spec)...)
	spec := path.Child("spec")
	errs = append(errs, validatePodSpec(spec, &t.Spec)...)
	if len(t.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// validateEndless wants pods that a controller keeps running: nothing in them may end them for good.
func validateEndless(path *field.Path, s *corev1.PodSpec, kind string) field.ErrorList {
	var errs field.ErrorList
	if s.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("restartPolicy"), s.RestartPolicy,
			[]corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("activeDeadlineSeconds"),
			"activeDeadlineSeconds in "+kind+" is not Supported"))
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
	return append(errs, atMostAll(unavailableAt, *r.MaxUnavailable)...)
}

// atMostAll wants no more than 100 per cent. What is no percentage is not looked at.
func atMostAll(path *field.Path, v intstr.IntOrString) field.ErrorList {
	if n, errs := validateNumberOrPercent(path, v); v.Type == intstr.String && len(errs) == 0 && n > 100 {
		return field.ErrorList{field.Invalid(path, v, "must not be greater than 100%")}
	}
	return nil
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
