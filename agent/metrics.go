package agent

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes bounds how many clients may read metrics at once.
const maxScrapes = 4

// scrapeTime bounds how long they take to gather.
const scrapeTime = 10 * time.Second

// metricsHandler serves /metrics: what the agent itself does, and what else is counted on this node.
func (a *Agent) metricsHandler() http.Handler {
	own := []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), agentMetrics{a}}
	return scraped(slices.Concat(own, a.counts.collectors(), a.Metrics)...)
}

// resourceMetricsHandler serves /metrics/resource: what pods use, for who computes rates himself. It is what a metrics-server reads.
// https://kubernetes.io/docs/reference/instrumentation/node-metrics/
func (a *Agent) resourceMetricsHandler() http.Handler { return scraped(resourceMetrics{a}) }

func scraped(collectors ...prometheus.Collector) http.Handler {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collectors...)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}

// agentMetrics are some of the kubelet's own, under its names.
type agentMetrics struct{ *Agent }

var (
	nodeNameMetric = prometheus.NewDesc("kubelet_node_name", "The node's name. The count is always 1.", []string{"node"}, nil)
	podsMetric     = prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running container.", nil, nil)
	stateMetric    = prometheus.NewDesc("kubelet_running_containers", "Number of containers, by state.", []string{"container_state"}, nil)
)

// Describe implements [prometheus.Collector].
func (agentMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeNameMetric, podsMetric, stateMetric} {
		out <- d
	}
	for _, metric := range volumeMetrics() {
		out <- metric.desc
	}
}

// Collect implements [prometheus.Collector].
func (m agentMetrics) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	out <- prometheus.MustNewConstMetric(nodeNameMetric, prometheus.GaugeValue, 1, m.NodeName)
	containers, err := m.runtime.Containers(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(stateMetric, err)
		return
	}
	states, pods := map[State]float64{Created: 0, Running: 0, Exited: 0}, map[string]bool{}
	for _, c := range containers {
		states[c.State]++
		if c.alive() {
			pods[c.Pod.UID] = true
		}
	}
	out <- prometheus.MustNewConstMetric(podsMetric, prometheus.GaugeValue, float64(len(pods)))
	m.sendVolumes(out, pods)
	for state, count := range states {
		out <- prometheus.MustNewConstMetric(stateMetric, prometheus.GaugeValue, count, string(state))
	}
}

// resourceMetrics count what node, pods and containers have used.
type resourceMetrics struct{ *Agent }

var (
	ofPod, ofContainer = []string{"namespace", "pod"}, []string{"container", "namespace", "pod"}

	nodeCPU         = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory      = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	podCPU          = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", ofPod, nil)
	podMemory       = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", ofPod, nil)
	containerCPU    = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", ofContainer, nil)
	containerMemory = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", ofContainer, nil)
	containerStart  = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", ofContainer, nil)
	scrapeError     = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

// Describe implements [prometheus.Collector].
func (resourceMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeCPU, nodeMemory, podCPU, podMemory, containerCPU, containerMemory, containerStart, scrapeError} {
		out <- d
	}
}

// Collect implements [prometheus.Collector]. Counters need no second reading.
func (m resourceMetrics) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	pods, _, err := m.residents(ctx)
	failed := 0.0
	if err != nil {
		failed = 1
	}
	out <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, failed)
	m.send(out, nodeCgroup, nodeCPU, nodeMemory)
	for _, pod := range pods {
		m.send(out, pod.cgroup, podCPU, podMemory, pod.Namespace, pod.Name)
		for _, c := range pod.containers {
			m.send(out, c.Cgroup, containerCPU, containerMemory, c.Name, pod.Namespace, pod.Name)
			out <- prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue, float64(c.Started.UnixNano())/1e9, c.Name, pod.Namespace, pod.Name)
		}
	}
}

// send reads a cgroup and tells of it, if it is still there.
func (m resourceMetrics) send(out chan<- prometheus.Metric, cgroup string, cpu, memory *prometheus.Desc, labels ...string) {
	u, err := m.usages.fs.Usage(cgroup)
	if err != nil {
		return
	}
	at := func(metric prometheus.Metric) { out <- prometheus.NewMetricWithTimestamp(u.At, metric) }
	at(prometheus.MustNewConstMetric(cpu, prometheus.CounterValue, u.CPU.Seconds(), labels...))
	at(prometheus.MustNewConstMetric(memory, prometheus.GaugeValue, float64(u.WorkingSet), labels...))
}
