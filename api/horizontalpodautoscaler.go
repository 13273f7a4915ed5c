package api

import (
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func horizontalPodAutoscaler() *Resource {
	spec := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()
	return row(Resource{
		Group: "autoscaling", Version: "v2", Name: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler",
		Kind: "HorizontalPodAutoscaler", Idle: true, ShortNames: []string{"hpa"}, Categories: []string{"all"}, Namespaced: true,
		Verbs: allVerbs(),
		Subs:  []Sub{statusSub("HorizontalPodAutoscaler")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Reference", "string", spec["scaleTargetRef"]),
			column("Targets", "string", spec["metrics"]),
			column("MinPods", "string", spec["minReplicas"]),
			column("MaxPods", "string", spec["maxReplicas"]),
			column("Replicas", "string", autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"]),
			ageColumn(),
		},
	}, rules[autoscalingv2.HorizontalPodAutoscaler]{
		ValidateStatus: validateAutoscalerStatus,
		Default:        defaultAutoscaler,
		Validate:       validateAutoscaler,
		Wanted:         func(a *autoscalingv2.HorizontalPodAutoscaler) any { return &a.Spec },
		Row: func(a *autoscalingv2.HorizontalPodAutoscaler) []any {
			least := "<unset>"
			if n := a.Spec.MinReplicas; n != nil {
				least = fmt.Sprint(*n)
			}
			return []any{
				a.Name, a.Spec.ScaleTargetRef.Kind + "/" + a.Spec.ScaleTargetRef.Name, printMetrics(a), least,
				int64(a.Spec.MaxReplicas), int64(a.Status.CurrentReplicas), age(a.CreationTimestamp.Time),
			}
		},
	})
}

// defaultAutoscaler aims at 80 per cent of the CPU that pods ask for. Where some behaviour is given, the rest of it is
// filled in: up by four pods or twofold each quarter of a minute, down as far as need be.
func defaultAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) {
	const utilization, period = 80, 15
	setDefaultPtr(&a.Spec.MinReplicas, 1)
	if len(a.Spec.Metrics) == 0 {
		a.Spec.Metrics = []autoscalingv2.MetricSpec{cpuUtilization(utilization)}
	}
	b := a.Spec.Behavior
	if b == nil {
		return
	}
	double := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: period}
	setDefaultPtr(&b.ScaleUp, autoscalingv2.HPAScalingRules{})
	setDefaultPtr(&b.ScaleUp.StabilizationWindowSeconds, 0)
	setDefaultPtr(&b.ScaleUp.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if b.ScaleUp.Policies == nil {
		four := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: period}
		b.ScaleUp.Policies = []autoscalingv2.HPAScalingPolicy{four, double}
	}
	setDefaultPtr(&b.ScaleDown, autoscalingv2.HPAScalingRules{})
	setDefaultPtr(&b.ScaleDown.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if b.ScaleDown.Policies == nil {
		b.ScaleDown.Policies = []autoscalingv2.HPAScalingPolicy{double}
	}
}

// printMetrics shows of the first two metrics what is and what shall be: "cpu: 12%/80%".
func printMetrics(a *autoscalingv2.HorizontalPodAutoscaler) string {
	const room = 2
	if len(a.Spec.Metrics) == 0 {
		return "<none>"
	}
	var all []string
	for i, spec := range a.Spec.Metrics {
		var status autoscalingv2.MetricStatus
		if i < len(a.Status.CurrentMetrics) {
			status = a.Status.CurrentMetrics[i]
		}
		all = append(all, printMetric(&spec, &status))
	}
	if len(all) > room {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:room], ", "), len(all)-room)
	}
	return strings.Join(all, ", ")
}

func printMetric(spec *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	switch {
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		current := func(s *autoscalingv2.ExternalMetricStatus) *autoscalingv2.MetricValueStatus { return &s.Current }
		return printValue(&spec.External.Target, currentOf(status.External, current))
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		current := func(s *autoscalingv2.ObjectMetricStatus) *autoscalingv2.MetricValueStatus { return &s.Current }
		return printValue(&spec.Object.Target, currentOf(status.Object, current))
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		current := func(s *autoscalingv2.PodsMetricStatus) *autoscalingv2.MetricValueStatus { return &s.Current }
		return printQuantity(currentOf(status.Pods, current).AverageValue) + "/" + printQuantity(spec.Pods.Target.AverageValue)
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		current := func(s *autoscalingv2.ResourceMetricStatus) *autoscalingv2.MetricValueStatus { return &s.Current }
		return printUtilization(spec.Resource.Name, &spec.Resource.Target, currentOf(status.Resource, current))
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		current := func(s *autoscalingv2.ContainerResourceMetricStatus) *autoscalingv2.MetricValueStatus {
			return &s.Current
		}
		return printUtilization(spec.ContainerResource.Name, &spec.ContainerResource.Target, currentOf(status.ContainerResource, current))
	}
	return "<unknown type>"
}

// currentOf is what a metric's status says, or nothing where there is none yet.
func currentOf[T any](status *T, current func(*T) *autoscalingv2.MetricValueStatus) *autoscalingv2.MetricValueStatus {
	if status == nil {
		return &autoscalingv2.MetricValueStatus{}
	}
	return current(status)
}

func printQuantity(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}

func printValue(target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return printQuantity(current.AverageValue) + "/" + target.AverageValue.String() + " (avg)"
	}
	return printQuantity(current.Value) + "/" + printQuantity(target.Value)
}

func printUtilization(name corev1.ResourceName, target *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return fmt.Sprintf("%s: %s/%s", name, printQuantity(current.AverageValue), target.AverageValue)
	}
	is, shall := "<unknown>", "<auto>"
	if n := current.AverageUtilization; n != nil {
		is = fmt.Sprintf("%d%%", *n)
	}
	if n := target.AverageUtilization; n != nil {
		shall = fmt.Sprintf("%d%%", *n)
	}
	return fmt.Sprintf("%s: %s/%s", name, is, shall)
}
