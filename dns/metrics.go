package dns

import (
	"sync/atomic"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// nameClass is what kind of name was asked for.
type nameClass int

const (
	classService nameClass = iota // In the cluster domain, but for pods.
	classPod
	classReverse
	classOutside
	classes
)

func (c nameClass) String() string { return [...]string{"service", "pod", "reverse", "outside"}[c] }

// origin is where an answer came from.
type origin int

const (
	fromIndex origin = iota
	fromCache
	fromStale // The cache, past its time.
	fromUpstream
	fromServer // Refusals and failures of our own.
	origins
)

func (o origin) String() string {
	return [...]string{"index", "cache", "stale", "upstream", "server"}[o]
}

const rcodes = 16 // Those that fit into a header; the few others count as SERVFAIL.

// metrics are counted from the start. The fast path counts by one atomic addition.
type metrics struct {
	all       []prometheus.Collector
	requests  requestCounts
	forwards  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	rejected  prometheus.Counter
	unlogged  prometheus.Counter
}

// requestCounts is a [prometheus.Collector] of what has been answered.
type requestCounts struct {
	description *prometheus.Desc
	counts      [classes][origins][rcodes]atomic.Uint64
}

func (c *requestCounts) Describe(to chan<- *prometheus.Desc) { to <- c.description }

func (c *requestCounts) Collect(to chan<- prometheus.Metric) {
	for class := range classes {
		for from := range origins {
			for rcode := range rcodes {
				if n := c.counts[class][from][rcode].Load(); n > 0 {
					to <- prometheus.MustNewConstMetric(c.description, prometheus.CounterValue, float64(n),
						class.String(), from.String(), rcodeName(rcode))
				}
			}
		}
	}
}

func rcodeName(rcode int) string {
	if name, ok := dns.RcodeToString[rcode]; ok {
		return name
	}
	return "other"
}

// newMetrics makes the metrics; entries and names count the cache and the index at the time of reading.
func newMetrics(entries, names func() float64) *metrics {
	m := &metrics{}
	m.requests.description = prometheus.NewDesc("skiff_dns_requests_total",
		"Questions answered, by kind of name, where the answer came from, and response code.", []string{"class", "source", "rcode"}, nil)
	m.forwards = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "skiff_dns_forward_requests_total",
		Help: "Questions put to a server outside, by response code; error is no answer."}, []string{"to", "rcode"})
	m.durations = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "skiff_dns_forward_duration_seconds",
		Help: "How long a server outside took to answer.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 7)}, []string{"to"})
	m.rejected = prometheus.NewCounter(prometheus.CounterOpts{Name: "skiff_dns_forward_rejected_total",
		Help: "Questions not forwarded because their client had too many under way."})
	m.unlogged = prometheus.NewCounter(prometheus.CounterOpts{Name: "skiff_dns_log_dropped_total",
		Help: "Lines of the query log that a reader was too slow for."})
	m.all = []prometheus.Collector{&m.requests, m.forwards, m.durations, m.rejected, m.unlogged,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "skiff_dns_cache_entries", Help: "Answers of others that are kept."}, entries),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "skiff_dns_names", Help: "Names in the cluster's zones."}, names)}
	return m
}

// Describe implements [prometheus.Collector].
func (s *Server) Describe(to chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all {
		c.Describe(to)
	}
}

// Collect implements [prometheus.Collector].
func (s *Server) Collect(to chan<- prometheus.Metric) {
	for _, c := range s.metrics.all {
		c.Collect(to)
	}
}

// answered counts an answer.
func (m *metrics) answered(class nameClass, from origin, rcode int) {
	m.requests.counts[class][from][rcode&(rcodes-1)].Add(1)
}

// asked counts an attempt at an upstream.
func (m *metrics) asked(a attempt) {
	to, rcode := a.upstream.address.String(), "error"
	if a.err == nil {
		rcode = rcodeName(a.reply.Rcode)
		m.durations.WithLabelValues(to).Observe(a.took.Seconds())
	}
	m.forwards.WithLabelValues(to, rcode).Inc()
}
