package api

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ScaleColumns are what `kubectl get --subresource=scale` prints.
func ScaleColumns() []metav1.TableColumnDefinition {
	name := nameColumn()
	name.Format = ""
	return []metav1.TableColumnDefinition{
		name,
		column("Desired", "integer", autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"]),
		column("Available", "integer", autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"]),
		ageColumn(),
	}
}

// ScaleRow is what it prints of one.
func ScaleRow(s *autoscalingv1.Scale) []any {
	return []any{s.Name, int64(s.Spec.Replicas), int64(s.Status.Replicas), age(s.CreationTimestamp.Time)}
}
