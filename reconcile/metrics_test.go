package reconcile

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/client-go/util/workqueue"
)

// value is a metric of one queue: a gauge's or counter's value, or a histogram's count.
func value(t *testing.T, m *Metrics, metric, queue string) float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, one := range f.GetMetric() {
			if f.GetName() != metric || one.GetLabel()[0].GetValue() != queue {
				continue
			}
			switch f.GetType() {
			case dto.MetricType_GAUGE:
				return one.GetGauge().GetValue()
			case dto.MetricType_COUNTER:
				return one.GetCounter().GetValue()
			case dto.MetricType_HISTOGRAM:
				return float64(one.GetHistogram().GetSampleCount())
			}
		}
	}
	t.Fatalf("there is no %s of %s", metric, queue)
	return 0
}

// provided are the metrics of all loops of this test binary: only the first provider counts.
var provided = sync.OnceValue(func() *Metrics {
	m := NewMetrics()
	workqueue.SetProvider(m)
	return m
})

// TestMetrics promises that queues are counted, that none ticks when it has nothing to do, and that all of it ends with the loop.
func TestMetrics(t *testing.T) {
	quiet(t)
	m, name := provided(), "counted-"+rand.Text()
	synctest.Test(t, func(t *testing.T) {
		failed := false
		l := New(name, func(context.Context, string) (time.Duration, error) {
			if !failed {
				failed = true
				return 0, errors.New("once")
			}
			return 0, nil
		})
		l.Add("a")
		l.Add("a") // Waits already.
		if n := value(t, m, "workqueue_depth", name); n != 1 {
			t.Errorf("%v keys wait, want 1", n)
		}
		stop := start(t, l, 1)
		time.Sleep(time.Hour) // In the bubble, where a queue that ticks costs real time.
		for metric, want := range map[string]float64{
			"workqueue_depth": 0, "workqueue_adds_total": 2, "workqueue_retries_total": 1,
			"workqueue_queue_duration_seconds": 2, "workqueue_work_duration_seconds": 2,
		} {
			if n := value(t, m, metric, name); n != want {
				t.Errorf("%s is %v, want %v", metric, n, want)
			}
		}
		stop()
	})
}
