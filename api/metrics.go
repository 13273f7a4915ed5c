package api

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// What nodes and pods use at the moment: `kubectl top`. Nobody writes it and nothing keeps it; the nodes are asked when somebody
// asks. https://kubernetes.io/docs/tasks/debug/debug-cluster/resource-metrics-pipeline/

func nodeMetrics() *Resource {
	return row(Resource{
		Group: metricsv1beta1.GroupName, Version: "v1beta1", Name: "nodes", Kind: "NodeMetrics",
		Live: true, Verbs: []string{"get", "list"}, Columns: usageColumns(),
	}, rules[metricsv1beta1.NodeMetrics]{Row: func(m *metricsv1beta1.NodeMetrics) []any {
		return printUsage(m.Name, m.Usage, m.Window)
	}})
}

func podMetrics() *Resource {
	return row(Resource{
		Group: metricsv1beta1.GroupName, Version: "v1beta1", Name: "pods", Kind: "PodMetrics", Namespaced: true,
		Live: true, Verbs: []string{"get", "list"}, Columns: usageColumns(),
	}, rules[metricsv1beta1.PodMetrics]{Row: func(m *metricsv1beta1.PodMetrics) []any {
		sum := corev1.ResourceList{}
		for _, c := range m.Containers {
			for name, q := range c.Usage {
				total := sum[name]
				total.Add(q)
				sum[name] = total
			}
		}
		return printUsage(m.Name, sum, m.Window)
	}})
}

func usageColumns() []metav1.TableColumnDefinition {
	name := nameColumn()
	return []metav1.TableColumnDefinition{
		name,
		{Name: "cpu", Type: "string", Format: "quantity", Description: "Processor time a second, as an average over the window."},
		{Name: "memory", Type: "string", Format: "quantity", Description: "The working set: what cannot be taken back at once."},
		{Name: "Window", Type: "string", Format: "duration", Description: "Over how long it was measured."},
	}
}

func printUsage(name string, usage corev1.ResourceList, window metav1.Duration) []any {
	quantity := func(name corev1.ResourceName) string { return usageOf(usage, name).String() }
	return []any{name, quantity(corev1.ResourceCPU), quantity(corev1.ResourceMemory), window.Round(time.Millisecond).String()}
}

func usageOf(usage corev1.ResourceList, name corev1.ResourceName) *resource.Quantity {
	q := usage[name]
	return &q
}
