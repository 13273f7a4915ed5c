package api

import (
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	path, s := field.NewPath("spec"), &a.Spec
	errs := nonNegative(path.Child("minReplicas"), deref(s.MinReplicas))
	at := path.Child("maxReplicas")
	if s.MaxReplicas < deref(s.MinReplicas) {
		errs = append(errs, field.Invalid(at, s.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	// Of the core group, which has no name, only this kind can be scaled.
	coreToo := s.ScaleTargetRef.Kind == "ReplicationController"
	errs = append(errs, validateTargetRef(path.Child("scaleTargetRef"), &s.ScaleTargetRef, coreToo)...)
	outside := false
	for i, m := range s.Metrics {
		errs = append(errs, validateMetric(path.Child("metrics").Index(i), &m)...)
		outside = outside || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if s.MinReplicas != nil && *s.MinReplicas == 0 && !outside { // Without a pod there is no metric of pods.
		errs = append(errs, field.Forbidden(path.Child("metrics"),
			"must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if b := s.Behavior; b != nil {
		errs = append(errs, validateScalingRules(path.Child("behavior", "scaleUp"), b.ScaleUp)...)
		errs = append(errs, validateScalingRules(path.Child("behavior", "scaleDown"), b.ScaleDown)...)
	}
	switch { // Last, as all that Kubernetes has only declared.
	case s.MaxReplicas == 0:
		errs = append(errs, field.Required(at, ""))
	case s.MaxReplicas < 0:
		errs = append(errs, field.Invalid(at, s.MaxReplicas, "must be greater than or equal to 1"))
	}
	return errs
}

func validateTargetRef(path *field.Path, r *autoscalingv2.CrossVersionObjectReference, coreToo bool) field.ErrorList {
	errs := requiredName(path.Child("kind"), r.Kind, content.IsPathSegmentName)
	errs = append(errs, requiredName(path.Child("name"), r.Name, content.IsPathSegmentName)...)
	gv, err := schema.ParseGroupVersion(r.APIVersion)
	if err != nil {
		return append(errs, field.Invalid(path.Child("apiVersion"), r.APIVersion, err.Error()))
	}
	if gv.Group == "" && !coreToo {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), r.APIVersion, "apiVersion must specify API group"))
	}
	return errs
}

func validateScalingRules(path *field.Path, r *autoscalingv2.HPAScalingRules) field.ErrorList {
	const maxWindow, maxPeriod = 3600, 1800 // Seconds.
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	if n := r.StabilizationWindowSeconds; n != nil {
		at := path.Child("stabilizationWindowSeconds")
		if *n < 0 {
			errs = append(errs, field.Invalid(at, *n, "must be greater than or equal to zero"))
		}
		if *n > maxWindow {
			errs = append(errs, field.Invalid(at, *n, fmt.Sprintf("must be less than or equal to %d", maxWindow)))
		}
	}
	if p := r.SelectPolicy; p != nil {
		errs = append(errs, oneOfAll(path.Child("selectPolicy"), *p, autoscalingv2.DisabledPolicySelect,
			autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	}
	at := path.Child("policies")
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(at, "must specify at least one Policy"))
	}
	for i, p := range r.Policies {
		at := at.Index(i)
		errs = append(errs, oneOfAll(at.Child("type"), p.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)...)
		if p.Value <= 0 {
			errs = append(errs, field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		}
		if p.PeriodSeconds > maxPeriod {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds,
				fmt.Sprintf("must be less than or equal to %d", maxPeriod)))
		}
	}
	if t := r.Tolerance; t != nil && t.Sign() < 0 {
		errs = append(errs, field.Invalid(path.Child("tolerance"), t.String(), "must be greater than or equal to 0"))
	}
	return errs
}

// metricSource is the one of a metric's sources that its type names.
type metricSource struct {
	kind     autoscalingv2.MetricSourceType
	name     string
	set      bool
	validate func(*field.Path) field.ErrorList
}

// validateMetric wants the source that the type names, and no other. Only the first that is set is looked into.
func validateMetric(path *field.Path, m *autoscalingv2.MetricSpec) field.ErrorList {
	sources := []metricSource{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(at *field.Path) field.ErrorList {
			errs := validateTargetRef(at.Child("describedObject"), &m.Object.DescribedObject, true)
			errs = append(errs, validateMetricName(at.Child("metric", "name"), m.Object.Metric.Name)...)
			return append(errs, validateTarget(at.Child("target"), &m.Object.Target, "must set either a target value or averageValue")...)
		}},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(at *field.Path) field.ErrorList {
			t := &m.External.Target
			errs := validateMetricName(at.Child("metric", "name"), m.External.Metric.Name)
			errs = append(errs, validateTarget(at.Child("target"), t, "must set either a target value for metric or a per-pod target")...)
			if t.Value != nil && t.AverageValue != nil {
				errs = append(errs, field.Forbidden(at.Child("target", "value"),
					"may not set both a target value for metric and a per-pod target"))
			}
			return errs
		}},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(at *field.Path) field.ErrorList {
			errs := validateMetricName(at.Child("metric", "name"), m.Pods.Metric.Name)
			errs = append(errs, validateAmounts(at.Child("target"), &m.Pods.Target)...)
			if m.Pods.Target.AverageValue == nil {
				errs = append(errs, field.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue"))
			}
			return errs
		}},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(at *field.Path) field.ErrorList {
			var errs field.ErrorList
			if m.Resource.Name == "" {
				errs = append(errs, field.Required(at.Child("name"), "must specify a resource name"))
			}
			return append(errs, validateUtilization(at.Child("target"), &m.Resource.Target)...)
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(at *field.Path) field.ErrorList {
			errs := validateContainerMetric(at, m.ContainerResource.Name, m.ContainerResource.Container)
			return append(errs, validateUtilization(at.Child("target"), &m.ContainerResource.Target)...)
		}},
	}
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	}
	errs = append(errs, oneOfAll(path.Child("type"), m.Type, autoscalingv2.ContainerResourceMetricSourceType,
		autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType,
		autoscalingv2.ResourceMetricSourceType)...)
	first, known := true, slices.ContainsFunc(sources, func(s metricSource) bool { return s.kind == m.Type })
	for _, s := range sources {
		if s.set && first {
			errs = append(errs, s.validate(path.Child(s.name))...)
		}
		first = first && !s.set
		if s.kind == m.Type && !s.set {
			errs = append(errs, field.Required(path.Child(s.name), "must populate information for the given metric source"))
		}
		if s.kind != m.Type && s.set && known {
			errs = append(errs, field.Forbidden(path.Child(s.name), "must populate the given metric source only"))
		}
	}
	return errs
}

func validateMetricName(path *field.Path, name string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "must specify a metric name")}
	}
	return invalid(path, name, content.IsPathSegmentName(name))
}

func validateContainerMetric(path *field.Path, name corev1.ResourceName, container string) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	} else {
		errs = append(errs, validateResourceName(path.Child("name"), name)...)
	}
	if container == "" {
		return append(errs, field.Required(path.Child("container"), "must specify a container"))
	}
	return append(errs, invalid(path.Child("container"), container, validation.IsDNS1123Label(container))...)
}

// validateAmounts wants each amount of a target that is there to be positive.
func validateAmounts(path *field.Path, t *autoscalingv2.MetricTarget) field.ErrorList {
	var errs field.ErrorList
	if t.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() <= 0 {
		errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() <= 0 {
		errs = append(errs, field.Invalid(path.Child("averageValue"), t.AverageValue, "must be positive"))
	}
	if n := t.AverageUtilization; n != nil && *n < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), *n, "must be greater than 0"))
	}
	return errs
}

// validateTarget wants a value, of the whole or of each pod.
func validateTarget(path *field.Path, t *autoscalingv2.MetricTarget, missing string) field.ErrorList {
	errs := validateAmounts(path, t)
	if t.Value == nil && t.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("averageValue"), missing))
	}
	return errs
}

// validateUtilization wants a share of what pods ask for, or an amount, but not both.
func validateUtilization(path *field.Path, t *autoscalingv2.MetricTarget) field.ErrorList {
	errs := validateAmounts(path, t)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		errs = append(errs, field.Required(path.Child("averageUtilization"),
			"must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		errs = append(errs, field.Forbidden(path.Child("averageValue"),
			"may not set both a target raw value and a target utilization"))
	}
	return errs
}
