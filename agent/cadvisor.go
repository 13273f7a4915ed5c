package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"

	"skiff/agent/cgroup"
)

// cadvisorHandler serves /metrics/cadvisor: what pods use in more detail, under the names and labels of cAdvisor, which is a part of the
// kubelet. Most dashboards of Kubernetes are made of these.
// https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md
func (a *Agent) cadvisorHandler() http.Handler { return scraped(cadvisorMetrics{a}) }

// cadvisorMetrics are those of cAdvisor's that cgroups and network namespaces tell of. How much disk a container's layer takes would
// have to be counted file by file at each reading; /stats/summary does so.
type cadvisorMetrics struct{ *Agent }

// The labels of what cAdvisor counts. A pod as a whole has neither container, image nor name; the machine has an ID only.
var ofCgroup = []string{"container", "id", "image", "name", "namespace", "pod"}

// gauge is a metric that is read of a cgroup. Some have a label more, of which this is one value.
type gauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	more  []string
	value func(cgroup.Usage) float64
}

func ofUsage(kind prometheus.ValueType, name, help string, value func(cgroup.Usage) float64) gauge {
	return gauge{desc: prometheus.NewDesc("container_"+name, help, ofCgroup, nil), kind: kind, value: value}
}

var (
	cadvisorCPU = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.",
		append(slices.Clone(ofCgroup), "cpu"), nil)
	cadvisorFaults = prometheus.NewDesc("container_memory_failures_total", "Cumulative count of memory allocation failures.",
		append(slices.Clone(ofCgroup), "failure_type", "scope"), nil)

	cadvisorGauges = []gauge{
		{cadvisorCPU, prometheus.CounterValue, []string{"total"}, func(u cgroup.Usage) float64 { return u.CPU.Seconds() }},
		{cadvisorFaults, prometheus.CounterValue, []string{"pgfault", "hierarchy"}, func(u cgroup.Usage) float64 { return float64(u.Faults) }},
		{cadvisorFaults, prometheus.CounterValue, []string{"pgmajfault", "hierarchy"}, func(u cgroup.Usage) float64 { return float64(u.BigFaults) }},
		ofUsage(prometheus.CounterValue, "cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.",
			func(u cgroup.Usage) float64 { return float64(u.Periods) }),
		ofUsage(prometheus.CounterValue, "cpu_cfs_throttled_periods_total", "Number of throttled period intervals.",
			func(u cgroup.Usage) float64 { return float64(u.Throttled) }),
		ofUsage(prometheus.CounterValue, "cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.",
			func(u cgroup.Usage) float64 { return u.Waited.Seconds() }),
		ofUsage(prometheus.GaugeValue, "memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed",
			func(u cgroup.Usage) float64 { return float64(u.Memory) }),
		ofUsage(prometheus.GaugeValue, "memory_working_set_bytes", "Current working set in bytes.",
			func(u cgroup.Usage) float64 { return float64(u.WorkingSet) }),
		ofUsage(prometheus.GaugeValue, "memory_rss", "Size of RSS in bytes.", func(u cgroup.Usage) float64 { return float64(u.RSS) }),
		ofUsage(prometheus.GaugeValue, "memory_swap", "Container swap usage in bytes.", func(u cgroup.Usage) float64 { return float64(u.Swap) }),
		ofUsage(prometheus.GaugeValue, "spec_memory_limit_bytes", "Memory limit for the container.", func(u cgroup.Usage) float64 { return float64(u.Limit) }),
		ofUsage(prometheus.GaugeValue, "processes", "Number of processes running inside the container.", func(u cgroup.Usage) float64 { return float64(u.Processes) }),
		ofUsage(prometheus.GaugeValue, "last_seen", "Last time a container was seen by the exporter", func(u cgroup.Usage) float64 { return float64(u.At.Unix()) }),
	}
	cadvisorStart = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", ofCgroup, nil)

	machineCores  = prometheus.NewDesc("machine_cpu_cores", "Number of logical CPU cores.", nil, nil)
	machineMemory = prometheus.NewDesc("machine_memory_bytes", "Amount of memory installed on the machine.", nil, nil)
)

// linkMetrics are those of a link, in the order of linkCounts: bytes, packets, errors, dropped; received, then sent.
var linkMetrics = [8]*prometheus.Desc{
	ofLink("receive_bytes", "Cumulative count of bytes received"), ofLink("receive_packets", "Cumulative count of packets received"),
	ofLink("receive_errors", "Cumulative count of errors encountered while receiving"),
	ofLink("receive_packets_dropped", "Cumulative count of packets dropped while receiving"),
	ofLink("transmit_bytes", "Cumulative count of bytes transmitted"), ofLink("transmit_packets", "Cumulative count of packets transmitted"),
	ofLink("transmit_errors", "Cumulative count of errors encountered while transmitting"),
	ofLink("transmit_packets_dropped", "Cumulative count of packets dropped while transmitting"),
}

func ofLink(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("container_network_"+name+"_total", help, append(slices.Clone(ofCgroup), "interface"), nil)
}

// Describe implements [prometheus.Collector].
func (cadvisorMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, g := range cadvisorGauges {
		out <- g.desc
	}
	for _, d := range linkMetrics {
		out <- d
	}
	out <- cadvisorStart
	out <- machineCores
	out <- machineMemory
}

// Collect implements [prometheus.Collector].
func (m cadvisorMetrics) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	cores, memory := m.capacity[v1.ResourceCPU], m.capacity[v1.ResourceMemory]
	out <- prometheus.MustNewConstMetric(machineCores, prometheus.GaugeValue, float64(cores.Value()))
	out <- prometheus.MustNewConstMetric(machineMemory, prometheus.GaugeValue, float64(memory.Value()))
	pods, _, err := m.residents(ctx)
	if err != nil {
		out <- prometheus.NewInvalidMetric(cadvisorCPU, err)
		return
	}
	root := []string{"", nodeCgroup, "", "", "", ""}
	m.usage(out, nodeCgroup, root)
	m.links(out, "/proc/net/dev", root)
	for _, pod := range pods {
		labels := []string{"", pod.cgroup, "", "", pod.Namespace, pod.Name}
		m.usage(out, pod.cgroup, labels)
		if !pod.Spec.HostNetwork {
			m.podLinks(out, pod, labels)
		}
		for _, c := range pod.containers {
			image, _ := imageNames(c.Image, c.ImageID)
			labels := []string{c.Name, c.Cgroup, image, c.ID, pod.Namespace, pod.Name}
			m.usage(out, c.Cgroup, labels)
			out <- prometheus.MustNewConstMetric(cadvisorStart, prometheus.GaugeValue, float64(c.Started.UnixNano())/float64(time.Second), labels...)
		}
	}
}

// usage reads a cgroup, if it is still there.
func (m cadvisorMetrics) usage(out chan<- prometheus.Metric, cgroup string, labels []string) {
	u, err := m.usages.fs.Usage(cgroup)
	if err != nil {
		return
	}
	for _, g := range cadvisorGauges {
		metric := prometheus.MustNewConstMetric(g.desc, g.kind, g.value(u), slices.Concat(labels, g.more)...)
		out <- prometheus.NewMetricWithTimestamp(u.At, metric)
	}
}

// podLinks reads the links of a pod, which any process of it can tell.
func (m cadvisorMetrics) podLinks(out chan<- prometheus.Metric, pod resident, labels []string) {
	for _, c := range pod.containers {
		for _, pid := range m.usages.fs.Processes(c.Cgroup) {
			m.links(out, fmt.Sprintf("/proc/%d/net/dev", pid), labels)
			return
		}
	}
}

func (cadvisorMetrics) links(out chan<- prometheus.Metric, file string, labels []string) {
	for _, link := range readLinks(file) {
		for i, count := range link.counts {
			out <- prometheus.MustNewConstMetric(linkMetrics[i], prometheus.CounterValue, float64(count), slices.Concat(labels, []string{link.name})...)
		}
	}
}
