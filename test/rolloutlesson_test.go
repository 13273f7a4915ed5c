package test

import "testing"

// testRolloutLessons takes the lessons of examples/rollouts, in their order.
func testRolloutLessons(t *testing.T, s *shell) {
	s.do("kubectl apply -f rollouts/01-rollingupdate.yaml")
	s.do("kubectl rollout status deployment/web --timeout=60s")
	s.do("kubectl set env deployment/web COLOUR=blue")
	s.says("kubectl rollout status deployment/web --timeout=60s", `(?s).*deployment "web" successfully rolled out`)
	s.says("kubectl rollout history deployment/web", `(?s)deployment.apps/web \nREVISION +CHANGE-CAUSE\n1 +<none>\n2 +<none>\n?`)
	s.do("kubectl rollout undo deployment/web")
	s.do("kubectl rollout status deployment/web --timeout=60s")
	s.says("kubectl get deployment web -o jsonpath={.spec.template.spec.containers[0].env}", "")
	s.says("kubectl rollout history deployment/web", `(?s)deployment.apps/web \nREVISION +CHANGE-CAUSE\n2 +<none>\n3 +<none>\n?`)

	s.do("kubectl apply -f rollouts/02-recreate.yaml")
	s.do("kubectl rollout status deployment/single --timeout=60s")
	first := s.do("kubectl get pods -l app=single -o name")
	s.do("kubectl rollout restart deployment/single && kubectl rollout status deployment/single --timeout=60s")
	if second := s.do("kubectl get pods -l app=single -o name"); second == first || !matches(`pod/single-\S+`, second) {
		t.Errorf("02: after %s there is %s, want one other pod", first, second)
	}

	s.do("kubectl apply -f rollouts/03-pause.yaml")
	s.do("kubectl set env deployment/patient A=1 && kubectl set env deployment/patient B=2")
	s.until("kubectl get deployment patient -o jsonpath={.status.conditions[?\\(@.type==\\'Progressing\\'\\)].reason}", "DeploymentPaused")
	s.says("kubectl get rs -l app=patient", "")
	s.do("kubectl rollout resume deployment/patient && kubectl rollout status deployment/patient --timeout=60s")
	s.says("kubectl get rs -l app=patient -o name", `replicaset.apps/patient-\S+`)
	s.says("kubectl exec deploy/patient -- printenv A B", "1\n2")

	s.do("kubectl apply -f rollouts/04-stuck.yaml")
	s.fails("kubectl rollout status deployment/web --timeout=60s", 1, `error: deployment "web" exceeded its progress deadline`)
	s.says("kubectl get deployment web -o jsonpath={.status.availableReplicas}", "3")
	s.do("kubectl rollout undo deployment/web && kubectl rollout status deployment/web --timeout=60s")

	s.do("kubectl apply -f rollouts/05-cost.yaml")
	s.do("kubectl wait --for=jsonpath={.status.readyReplicas}=2 replicaset/spare --timeout=60s")
	cheap := s.do("kubectl get pods -l app=spare -o name | tail -n 1")
	s.do("kubectl annotate " + cheap + " controller.kubernetes.io/pod-deletion-cost=-1 && kubectl scale replicaset spare --replicas=1")
	s.do("kubectl wait --for=delete " + cheap + " --timeout=60s")
	s.says("kubectl get pods -l app=spare --no-headers", `spare-\S+ +1/1 +Running +0 +\S+`)

	s.do("kubectl apply -f rollouts/06-replicationcontroller.yaml")
	s.do("kubectl scale rc old --replicas=2 && kubectl wait --for=jsonpath={.status.readyReplicas}=2 rc/old --timeout=60s")
	s.says("kubectl get rc old --no-headers", `old +2 +2 +2 +\S+`)

	s.do("kubectl apply -f rollouts/07-endpoints.yaml")
	s.until("kubectl get endpointslices -l kubernetes.io/service-name=elsewhere --no-headers", `elsewhere-\S+ +IPv4 +80 +198\.51\.100\.2 +\S+`)
}
