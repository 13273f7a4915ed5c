package test

import (
	"fmt"
	"strings"
	"testing"
)

// testServiceLessons takes the lessons of examples/services, in their order.
func testServiceLessons(t *testing.T, s *shell) {
	const name = `web-[0-9a-z]+-[0-9a-z]{5}`
	asked := func(service string) string {
		return s.do("kubectl exec client -- sh -c 'for i in $(seq 24); do curl -sS " + service + "; done | sort | uniq -c'")
	}

	s.do("kubectl apply -f services/01-clusterip.yaml")
	s.do("kubectl rollout status deployment/web --timeout=60s && kubectl wait --for=condition=Ready pod/client --timeout=60s")
	s.until("kubectl get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{.items[0].endpoints[*].conditions.ready}'", "true true")
	if got := asked("web"); !matches(`(?: +\d+ `+name+`\n?){2}`, got) {
		t.Errorf("01: 24 requests were answered by:\n%s\nwant both pods", got)
	}

	s.do("kubectl apply -f services/02-headless.yaml")
	s.until("kubectl exec client -- sh -c 'for i in $(seq 24); do curl -sS -o /dev/null -w \"%{remote_ip}\\n\" pods; done | sort -u'",
		strings.TrimSpace(s.do("kubectl get pods -l app=web -o jsonpath='{range .items[*]}{.status.podIP}{\"\\n\"}{end}' | sort -u")))

	s.do("kubectl apply -f services/03-nodeport.yaml")
	s.untilAnswers("http://"+nodeAddr+":30080", "/", name+`\n`)

	s.do("kubectl apply -f services/04-loadbalancer.yaml")
	s.until("kubectl get service web-outside -o jsonpath={.status.loadBalancer.ingress[0].ip}", nodeAddr)
	s.untilAnswers("http://"+nodeAddr+":8080", "/", name+`\n`)

	s.do("kubectl apply -f services/05-affinity.yaml")
	s.until("kubectl exec client -- curl -sS web-sticky", name)
	if got := asked("web-sticky"); !matches(` +24 `+name+`\n?`, got) {
		t.Errorf("05: 24 requests were answered by:\n%s\nwant one pod", got)
	}

	s.says(repository("bin/skiff")+" proxy dump --run-dir "+s.run+" | grep -c '# "+s.space+"/web-sticky$'", `[1-9]\d*`)

	s.says("kubectl apply -f services/06-policy.yaml", "networkpolicy.networking.k8s.io/web created") // And no warning.
	s.until("kubectl exec client -- sh -c 'curl -sS --max-time 1 web; echo status $?'", "status 28")
	s.do("kubectl label pod client access=web")
	s.until("kubectl exec client -- curl -sS --max-time 1 web", name)
	s.do("kubectl scale deployment/web --replicas=3 && kubectl rollout status deployment/web --timeout=60s") // Probes pass.

	s.do("kubectl apply -f services/07-dualstack.yaml")
	s.says("kubectl get service web-both -o jsonpath='{.spec.clusterIPs[*]}'", `10\.43\.\d+\.\d+`) // This cluster has one family.
	s.until("kubectl exec client -- curl -sS --max-time 1 web-both", name)
	s.do("kubectl delete -f services/")
}

// untilAnswers waits for a page, from a machine outside.
func (s *shell) untilAnswers(url, path, want string) {
	s.t.Helper()
	eventually(s.t, patience, func() error {
		if r := s.get(s.outside, url, path); !matches(want, r.stdout) {
			return fmt.Errorf("%v\nwant: %s", r, want)
		}
		return nil
	})
}
