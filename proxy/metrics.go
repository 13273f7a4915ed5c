package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are counted from the start.
type metrics struct {
	programming prometheus.Histogram
	failures    prometheus.Counter
	drift       *prometheus.CounterVec
	forgotten   prometheus.Counter
}

func newMetrics() metrics {
	return metrics{
		programming: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "skiff_proxy_programming_duration_seconds",
			Help:    "Time from when the proxy hears of a change until the kernel has it; of the first, where several go together.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "skiff_proxy_failures_total",
			Help: "Times that the kernel was not brought up to date, after which it is tried again."}),
		drift: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "skiff_proxy_drift_repaired_total",
			Help: "Elements that the kernel had too many or too few because somebody else changed them, and tables that were written anew."}, []string{"what"}),
		forgotten: prometheus.NewCounter(prometheus.CounterOpts{Name: "skiff_proxy_connections_forgotten_total",
			Help: "Connections removed from conntrack because they led nowhere."}),
	}
}

var (
	elementsMetric = prometheus.NewDesc("skiff_proxy_elements", "Elements that the kernel should hold, by map.", []string{"map"}, nil)
	servicesMetric = prometheus.NewDesc("skiff_proxy_services", "Services, and pods with host ports, that have elements.", nil, nil)
)

// programmed counts a change that the kernel has now.
func (m *metrics) programmed(since time.Time) {
	if !since.IsZero() {
		m.programming.Observe(time.Since(since).Seconds())
	}
}

// repaired counts what check found.
func (m *metrics) repaired(d diff, anew bool) {
	if anew {
		m.drift.WithLabelValues("tables").Inc()
	} else {
		m.drift.WithLabelValues("elements").Add(float64(len(d.remove) + len(d.add)))
	}
}

// Describe implements [prometheus.Collector].
func (p *Proxy) Describe(to chan<- *prometheus.Desc) {
	to <- elementsMetric
	to <- servicesMetric
	for _, c := range p.metrics.all() {
		c.Describe(to)
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.programming, m.failures, m.drift, m.forgotten}
}

// Collect implements [prometheus.Collector].
func (p *Proxy) Collect(to chan<- prometheus.Metric) {
	counts := map[mapID]int{}
	p.mu.Lock()
	for k := range p.rules.elements {
		counts[k.mapID()]++
	}
	owners := len(p.rules.services)
	p.mu.Unlock()
	for _, id := range mapIDs(p.rules.config.families()) {
		to <- prometheus.MustNewConstMetric(elementsMetric, prometheus.GaugeValue, float64(counts[id]), id.in.named(id.family))
	}
	to <- prometheus.MustNewConstMetric(servicesMetric, prometheus.GaugeValue, float64(owners))
	for _, c := range p.metrics.all() {
		c.Collect(to)
	}
}
