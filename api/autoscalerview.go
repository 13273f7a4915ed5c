package api

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// The annotations in which autoscaling/v1 carries what it has no fields for, as Kubernetes names and writes them.
const (
	metricsAnnotation        = "autoscaling.alpha.kubernetes.io/metrics"
	currentMetricsAnnotation = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation     = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation       = "autoscaling.alpha.kubernetes.io/behavior"
)

// autoscalerView shows autoscalers in the form of autoscaling/v1, which knows one metric: the use of CPU. All else goes in
// annotations, so that nothing is lost on the way there and back. They are seen in this form only.
func autoscalerView(of *Resource) *Resource {
	return viewOf(of, autoscalingv1.SchemeGroupVersion, showAutoscaler, storeAutoscaler)
}

func showAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	shown := &autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: a.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(a.Spec.ScaleTargetRef),
			MinReplicas:    a.Spec.MinReplicas, MaxReplicas: a.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: a.Status.ObservedGeneration, LastScaleTime: a.Status.LastScaleTime,
			CurrentReplicas: a.Status.CurrentReplicas, DesiredReplicas: a.Status.DesiredReplicas,
		},
	}
	var others []autoscalingv1.MetricSpec
	for i := range a.Spec.Metrics {
		m := &a.Spec.Metrics[i]
		if !isCPU(m) {
			others = append(others, showMetric(m))
		} else if shown.Spec.TargetCPUUtilizationPercentage == nil {
			shown.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	var current []autoscalingv1.MetricStatus
	for i := range a.Status.CurrentMetrics {
		m := &a.Status.CurrentMetrics[i]
		current = append(current, showMetricStatus(m))
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU {
			shown.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range a.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type:   autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type),
			Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
			ObservedGeneration: c.ObservedGeneration,
		})
	}
	shown.Annotations = withoutAutoscaling(a.Annotations)
	annotate(&shown.Annotations, metricsAnnotation, others, len(others) > 0)
	annotate(&shown.Annotations, currentMetricsAnnotation, current, len(current) > 0)
	annotate(&shown.Annotations, conditionsAnnotation, conditions, len(conditions) > 0)
	annotate(&shown.Annotations, behaviorAnnotation, (*behavior)(a.Spec.Behavior), a.Spec.Behavior != nil)
	return shown
}

// storeAutoscaler passes over annotations that are not well formed, as Kubernetes does.
func storeAutoscaler(a *autoscalingv1.HorizontalPodAutoscaler) (*autoscalingv2.HorizontalPodAutoscaler, error) {
	stored := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: a.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(a.Spec.ScaleTargetRef),
			MinReplicas:    a.Spec.MinReplicas, MaxReplicas: a.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: a.Status.ObservedGeneration, LastScaleTime: a.Status.LastScaleTime,
			CurrentReplicas: a.Status.CurrentReplicas, DesiredReplicas: a.Status.DesiredReplicas,
		},
	}
	for _, m := range annotated[[]autoscalingv1.MetricSpec](a.Annotations, metricsAnnotation) {
		stored.Spec.Metrics = append(stored.Spec.Metrics, storeMetric(&m))
	}
	if n := a.Spec.TargetCPUUtilizationPercentage; n != nil {
		stored.Spec.Metrics = append(stored.Spec.Metrics, cpuUtilization(*n))
	}
	for _, m := range annotated[[]autoscalingv1.MetricStatus](a.Annotations, currentMetricsAnnotation) {
		stored.Status.CurrentMetrics = append(stored.Status.CurrentMetrics, storeMetricStatus(&m))
	}
	if n := a.Status.CurrentCPUUtilizationPercentage; n != nil && len(stored.Status.CurrentMetrics) == 0 {
		stored.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{
				Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: n},
			},
		}}
	}
	for _, c := range annotated[[]autoscalingv1.HorizontalPodAutoscalerCondition](a.Annotations, conditionsAnnotation) {
		stored.Status.Conditions = append(stored.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
			Type:   autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type),
			Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
			ObservedGeneration: c.ObservedGeneration,
		})
	}
	if b := annotated[behavior](a.Annotations, behaviorAnnotation); b != (behavior{}) {
		stored.Spec.Behavior = (*autoscalingv2.HorizontalPodAutoscalerBehavior)(&b)
	}
	stored.Annotations = withoutAutoscaling(a.Annotations)
	return stored, nil
}

// isCPU tells the one metric that has a field of its own.
func isCPU(m *autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU &&
		m.Resource.Target.AverageUtilization != nil
}

// withoutAutoscaling copies annotations, without those that stand for fields.
func withoutAutoscaling(in map[string]string) map[string]string {
	out := maps.Clone(in)
	for _, key := range []string{metricsAnnotation, currentMetricsAnnotation, conditionsAnnotation, behaviorAnnotation} {
		delete(out, key)
	}
	return out
}

func annotate(annotations *map[string]string, key string, value any, has bool) {
	text, err := json.Marshal(value)
	if !has || err != nil { // These types have nothing that JSON can't say.
		return
	}
	if *annotations == nil {
		*annotations = map[string]string{}
	}
	(*annotations)[key] = string(text)
}

// annotated reads an annotation; the zero value stands for one that is not there or not well formed.
func annotated[T any](annotations map[string]string, key string) T {
	var value, none T
	if err := json.Unmarshal([]byte(annotations[key]), &value); err != nil {
		return none
	}
	return value
}

// behavior is written in the annotation without the names that JSON has for its fields: Kubernetes keeps to that for the
// sake of older servers, and reads both.
type behavior autoscalingv2.HorizontalPodAutoscalerBehavior

func (b *behavior) MarshalJSON() ([]byte, error) {
	type rules struct {
		StabilizationWindowSeconds *int32
		SelectPolicy               *autoscalingv2.ScalingPolicySelect
		Policies                   []struct {
			Type                 autoscalingv2.HPAScalingPolicyType
			Value, PeriodSeconds int32
		}
		Tolerance *resource.Quantity
	}
	show := func(r *autoscalingv2.HPAScalingRules) *rules {
		if r == nil {
			return nil
		}
		out := &rules{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
		for _, p := range r.Policies {
			out.Policies = append(out.Policies, struct {
				Type                 autoscalingv2.HPAScalingPolicyType
				Value, PeriodSeconds int32
			}(p))
		}
		return out
	}
	return json.Marshal(struct{ ScaleUp, ScaleDown *rules }{show(b.ScaleUp), show(b.ScaleDown)})
}
