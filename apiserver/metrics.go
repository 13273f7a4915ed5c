package apiserver

import (
	"bufio"
	"cmp"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"skiff/api"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// metrics count what the server does, under Kubernetes' names where they mean the same. Labels have only values of the
// table, so that no client can make them many.
// https://kubernetes.io/docs/reference/instrumentation/metrics/
type metrics struct {
	requests    *prometheus.CounterVec
	durations   *prometheus.HistogramVec
	longRunning *prometheus.GaugeVec
	handler     http.Handler
}

// ofRequest are the labels that say what a request was about.
var ofRequest = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}

func newMetrics(s *Server) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests, by what they were about and the code of their answer.",
		}, append([]string{"code"}, ofRequest...)),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "How long requests took, but for those that last.",
			Buckets: []float64{0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 60},
		}, ofRequest),
		longRunning: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests", Help: "Requests under way that last, such as watches.",
		}, ofRequest),
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m.requests, m.durations, m.longRunning, stored{s},
		inFlight("readOnly", func() int { return len(s.limits.reading) }), inFlight("mutating", func() int { return len(s.limits.changing) }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(s.config.Collectors...)
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return m
}

func inFlight(kind string, count func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "apiserver_current_inflight_requests", Help: "Requests from outside this process that hold a slot.",
		ConstLabels: prometheus.Labels{"request_kind": kind},
	}, func() float64 { return float64(count()) })
}

// stored counts objects when it is asked.
type stored struct{ server *Server }

var storedObjects = prometheus.NewDesc("apiserver_storage_objects", "Stored objects by resource.", []string{"resource"}, nil)

func (stored) Describe(out chan<- *prometheus.Desc) { out <- storedObjects }

func (c stored) Collect(out chan<- prometheus.Metric) {
	for _, sh := range c.server.cache.shelves() {
		sh.mu.RLock()
		count := sh.tree.Len()
		sh.mu.RUnlock()
		out <- prometheus.MustNewConstMetric(storedObjects, prometheus.GaugeValue, float64(count), sh.resource.GroupResource().String())
	}
}

// observe counts the requests of a route.
func (m *metrics) observe(res *api.Resource, verb, sub string, next handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		lasts := longRunning(r)
		labels := []string{verbOf(verb, sub, r), res.Group, res.Version, res.Name, sub, scopeOf(r), "apiserver"}
		if lasts {
			gauge := m.longRunning.WithLabelValues(labels...)
			gauge.Inc()
			defer gauge.Dec()
		}
		began := time.Now()
		seen, code := &codeSeen{ResponseWriter: w}, http.StatusInternalServerError // That of a panic.
		defer func() {
			if !lasts {
				m.durations.WithLabelValues(labels...).Observe(time.Since(began).Seconds())
			}
			m.requests.WithLabelValues(append([]string{strconv.Itoa(code)}, labels...)...).Inc()
		}()
		err := next(seen, r)
		if code = cmp.Or(seen.code, http.StatusOK); err != nil {
			code = int(statusOf(err).Code)
		}
		return err
	}
}

// observePath counts the requests of routes that are for no resource. They go by their path, as the subresource: that is how
// Kubernetes counts those that it counts, health and aggregated discovery.
func (m *metrics) observePath(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		seen := &codeSeen{ResponseWriter: w}
		next.ServeHTTP(seen, r)
		path := chi.RouteContext(r.Context()).RoutePattern() // Of the table, where what was asked for is the client's.
		labels := []string{http.MethodGet, "", "", "", path, "", "apiserver"}
		m.durations.WithLabelValues(labels...).Observe(time.Since(began).Seconds())
		m.requests.WithLabelValues(append([]string{strconv.Itoa(cmp.Or(seen.code, http.StatusOK))}, labels...)...).Inc()
	})
}

// dropped counts a request that was not even routed. A method may be anything that a client thinks of; only some are labels.
func (m *metrics) dropped(r *http.Request) {
	verb := r.Method
	if !slices.Contains([]string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, verb) {
		verb = "other" // As Kubernetes calls it.
	}
	m.requests.WithLabelValues(strconv.Itoa(http.StatusTooManyRequests), verb, "", "", "", "", "", "apiserver").Inc()
}

// verbOf names what a request does as Kubernetes' metrics do.
func verbOf(verb, sub string, r *http.Request) string {
	switch sub {
	case "exec", "attach", "portforward", "proxy":
		return "CONNECT"
	}
	switch verb {
	case "list":
		if isWatch(r) {
			return "WATCH"
		}
	case "create":
		return "POST"
	case "update":
		return "PUT"
	case "patch":
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/apply-patch") {
			return "APPLY"
		}
	}
	return strings.ToUpper(verb)
}

func scopeOf(r *http.Request) string {
	switch {
	case chi.URLParam(r, "name") != "":
		return "resource"
	case chi.URLParam(r, "namespace") != "":
		return "namespace"
	}
	return "cluster"
}

// codeSeen notes the code of an answer: 0, until it has begun.
type codeSeen struct {
	http.ResponseWriter
	code int
}

func (w *codeSeen) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

func (w *codeSeen) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *codeSeen) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Hijack is for those that take over a connection and do not know http.ResponseController.
func (w *codeSeen) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.code = http.StatusSwitchingProtocols
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// serveMetrics answers administrators: how much of what there is tells a lot.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) error {
	if u, _ := userOf(r); !isAdministrator(u) {
		return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("User %q cannot get path %q", u.Name, r.URL.Path))
	}
	s.metrics.handler.ServeHTTP(w, r)
	return nil
}
