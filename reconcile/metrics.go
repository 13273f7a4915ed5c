package reconcile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
)

// Metrics count what the queues of all loops do, under Kubernetes' names. They count from [workqueue.SetProvider] on. Left out are
// workqueue_unfinished_work_seconds and workqueue_longest_running_processor_seconds, for which each queue would wake twice a
// second, whether it has work or not.
// https://kubernetes.io/docs/reference/instrumentation/metrics/
type Metrics struct {
	depth         *prometheus.GaugeVec
	adds, retries *prometheus.CounterVec
	waited, took  *prometheus.HistogramVec
}

var (
	_ workqueue.MetricsProvider = (*Metrics)(nil)
	_ prometheus.Collector      = (*Metrics)(nil)
)

// NewMetrics makes Metrics that have counted nothing.
func NewMetrics() *Metrics {
	labels, buckets := []string{"name"}, prometheus.ExponentialBuckets(1e-5, 10, 8) // From 10 µs to 100 s.
	return &Metrics{
		depth: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "workqueue_depth", Help: "Keys that wait."}, labels),
		adds:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_adds_total", Help: "Keys that were added."}, labels),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "workqueue_retries_total", Help: "Keys that were put back, after an error or for later.",
		}, labels),
		waited: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "workqueue_queue_duration_seconds", Help: "How long keys waited.", Buckets: buckets,
		}, labels),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "workqueue_work_duration_seconds", Help: "How long the work on keys took.", Buckets: buckets,
		}, labels),
	}
}

// Describe makes Metrics a prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range []prometheus.Collector{m.depth, m.adds, m.retries, m.waited, m.took} {
		c.Describe(out)
	}
}

// Collect makes Metrics a prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{m.depth, m.adds, m.retries, m.waited, m.took} {
		c.Collect(out)
	}
}

// NewDepthMetric makes Metrics a workqueue.MetricsProvider, as do the methods after it.
func (m *Metrics) NewDepthMetric(name string) workqueue.GaugeMetric {
	return m.depth.WithLabelValues(name)
}

// NewAddsMetric counts the keys added to a queue.
func (m *Metrics) NewAddsMetric(name string) workqueue.CounterMetric {
	return m.adds.WithLabelValues(name)
}

// NewLatencyMetric tells how long keys wait.
func (m *Metrics) NewLatencyMetric(name string) workqueue.HistogramMetric {
	return m.waited.WithLabelValues(name)
}

// NewWorkDurationMetric tells how long the work on keys takes.
func (m *Metrics) NewWorkDurationMetric(name string) workqueue.HistogramMetric {
	return m.took.WithLabelValues(name)
}

// NewRetriesMetric counts the keys put back.
func (m *Metrics) NewRetriesMetric(name string) workqueue.CounterMetric {
	return m.retries.WithLabelValues(name)
}

// NewUnfinishedWorkSecondsMetric is left out.
func (m *Metrics) NewUnfinishedWorkSecondsMetric(string) workqueue.SettableGaugeMetric {
	return ignored{}
}

// NewLongestRunningProcessorSecondsMetric is left out.
func (m *Metrics) NewLongestRunningProcessorSecondsMetric(string) workqueue.SettableGaugeMetric {
	return ignored{}
}

type ignored struct{}

func (ignored) Set(float64) {}

// quietClock is the real clock without tickers. With one, a queue measures work under way twice a second, and sees every ten seconds
// whether it has overslept, which timers do not.
type quietClock struct {
	clock.RealClock
	stopped chan time.Time // Closed when the queue is shut down: its goroutines end with it.
}

// NewTicker returns one that never ticks.
func (c quietClock) NewTicker(time.Duration) clock.Ticker { return silence(c) }

type silence quietClock

func (s silence) C() <-chan time.Time { return s.stopped }
func (silence) Stop()                 {}
