package test

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkRollout replaces 20 pods under load: as skiff does it, and in Kubernetes' order, in which the stop signal races
// against the removal of the endpoint.
func BenchmarkRollout(b *testing.B) {
	const restarts = 5
	for _, order := range []struct {
		name  string
		flags []string
	}{
		{"orderly", nil},
		{"racing", []string{"--racing-stop"}},
	} {
		n := newNode(b, order.flags...)
		n.start()
		s := n.shell(b)
		l := s.underLoad(20)
		var took []time.Duration
		lost := 0
		for range restarts {
			start := time.Now()
			s.do("kubectl rollout restart deployment/web")
			s.do("kubectl rollout status deployment/web --timeout=120s")
			took = append(took, time.Since(start))
			s.until("kubectl get pods -l app=web --no-headers", `(?:\S+ +1/1 +Running +0 +\S+\n?){20}`)
			losses := l.losses()
			lost += len(losses)
			if len(losses) > 0 {
				b.Logf("%s: lost %d:\n%s", order.name, len(losses), strings.Join(losses[:min(5, len(losses))], "\n"))
			}
		}
		l.stop()
		b.Logf("%s: requests: %v", order.name, l)
		report(b, order.name+"-ms", took)
		b.ReportMetric(float64(lost), order.name+"-lost")
		n.stop(syscall.SIGTERM)
		n.purge()
	}
}
