package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// testRollout takes pods of a Service away in each way there is, while clients of each kind ask it from another pod.
func testRollout(t *testing.T, s *shell) {
	l := s.underLoad(3)
	for _, way := range []struct{ name, line string }{ // The last one ends the Deployment web.
		{"set image", "kubectl set image deployment/web nginx=docker.io/library/nginx:latest"},
		{"rollout restart", "kubectl rollout restart deployment/web"},
		{"scale up", "kubectl scale deployment/web --replicas=5"},
		{"scale down", "kubectl scale deployment/web --replicas=2"},
		{"delete pod", "kubectl delete $(kubectl get pods -l app=web -o name | head -n 1)"},
		{"drain", "kubectl drain " + nodeName + " --pod-selector=app=web --ignore-daemonsets --timeout=60s && kubectl uncordon " + nodeName},
		{"rollout undo", "kubectl rollout undo deployment/web"},
		{"another selector", "kubectl scale deployment/green --replicas=3 && kubectl rollout status deployment/green --timeout=60s && " +
			"kubectl patch service web -p '{\"spec\":{\"selector\":{\"app\":\"green\"}}}' && kubectl delete deployment web"},
	} {
		s.do(way.line)
		s.do("kubectl rollout status deployment/web deployment/green --timeout=60s || ! kubectl get deployment web")
		s.until("kubectl get pods -l 'app in (web, green)' --no-headers", `(?:\S+ +1/1 +Running +0 +\S+\n?)+`) // Those that were taken away have gone.
		l.flows(t)
		if lost := l.losses(); len(lost) > 0 {
			t.Errorf("%s: %d requests lost:\n%s", way.name, len(lost), strings.Join(lost, "\n"))
		}
	}
	l.stop()
	t.Logf("requests: %v", l)
	// On a machine that is busy enough this may happen; it need not cost a request.
	t.Logf("pods that were stopped while they were served: %s", s.do("kubectl get events --field-selector reason=StillServed -o name | wc -l"))
}

// testRolloutWithoutPods has a second rollout whose pods the API server refuses: nothing happens that the deadline could be counted
// from but the rollout's beginning.
func testRolloutWithoutPods(t *testing.T, s *shell) {
	s.do("kubectl create deployment web --image=docker.io/library/nginx:latest")
	s.do("kubectl rollout status deployment/web --timeout=60s")
	s.says("kubectl get deployment web -o jsonpath={.metadata.generation}", "1")
	s.do(`kubectl patch deployment web -p '{"spec":{"progressDeadlineSeconds":2,"template":{"spec":{"priorityClassName":"nope"}}}}'`)
	s.fails("kubectl rollout status deployment/web --timeout=60s", 1, `error: deployment "web" exceeded its progress deadline`)
	s.says("kubectl get deployment web -o jsonpath={.status.availableReplicas}", "1")
}

// underLoad has clients of each kind ask a Service of so many pods.
func (s *shell) underLoad(pods int) *load {
	s.t.Helper()
	s.do("kubectl apply -f " + repository("test/testdata/rollout.yaml"))
	s.do(fmt.Sprintf("kubectl scale deployment/web --replicas=%d", pods))
	s.do("kubectl rollout status deployment/web --timeout=120s")
	s.do("kubectl wait --for=condition=Ready pod/client --timeout=60s")
	s.served(pods)
	l := newLoad(s.t, s.namespaceOf("client"), s.do("kubectl get svc web -o jsonpath={.spec.clusterIP}"))
	l.flows(s.t)
	return l
}

// served waits until the Service has so many ready endpoints.
func (s *shell) served(pods int) {
	s.t.Helper()
	s.until("kubectl get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{.items[*].endpoints[*].conditions.ready}'",
		strings.TrimSuffix(strings.Repeat("true ", pods), " "))
}

// namespaceOf is the file of a pod's network namespace.
func (s *shell) namespaceOf(pod string) string {
	s.t.Helper()
	return filepath.Join(s.run, "ns", s.do(fmt.Sprintf("kubectl get pod %s -o jsonpath={.metadata.uid}", pod)), "net")
}
