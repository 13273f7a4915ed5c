package api

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// componentStatus says whether a part of the cluster is well. Nobody writes it: the server looks when it is asked.
func componentStatus() *Resource {
	return row(Resource{
		Version: "v1", Name: "componentstatuses", Singular: "componentstatus", Kind: "ComponentStatus", ShortNames: []string{"cs"},
		Live: true, Deprecated: "v1 ComponentStatus is deprecated in v1.19+",
		Verbs: []string{"get", "list"},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", "Status of the component conditions"),
			column("Message", "string", "Message of the component conditions"),
			column("Error", "string", "Error of the component conditions"),
		},
	}, rules[corev1.ComponentStatus]{Row: func(c *corev1.ComponentStatus) []any {
		status, message, problem := "Unknown", "", ""
		for _, condition := range c.Conditions {
			if condition.Type != corev1.ComponentHealthy {
				continue
			}
			status, message, problem = "Unhealthy", condition.Message, condition.Error
			if condition.Status == corev1.ConditionTrue {
				status = "Healthy"
			}
		}
		return []any{c.Name, status, message, problem}
	}})
}

// binding is the order to put a pod on a node; its other form is the pod's subresource of that name.
func binding() *Resource {
	return row(Resource{
		Version: "v1", Name: "bindings", Singular: "binding", Kind: "Binding", Namespaced: true, Review: true,
		Verbs: []string{"create"},
	}, rules[corev1.Binding]{})
}
