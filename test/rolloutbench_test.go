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
		s.do("kubectl apply -f " + repository("test/testdata/rollout.yaml"))
		s.do("kubectl scale deployment/web --replicas=20")
		s.do("kubectl rollout status deployment/web --timeout=120s")
		s.do("kubectl wait --for=condition=Ready pod/client --timeout=60s")
		s.served(20)
		l := newLoad(b, s.namespaceOf("client"), s.do("kubectl get svc web -o jsonpath={.spec.clusterIP}"))
		l.flows(b)
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
