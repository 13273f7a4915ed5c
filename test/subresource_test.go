package test

import (
	"strings"
	"testing"
)

// testDrain empties the node of pods that a budget guards: one goes, and the next not before another has taken its place.
func testDrain(t *testing.T, s *shell) {
	s.do("kubectl create deployment guarded --image=nginx --replicas=2")
	s.do(`kubectl patch deployment guarded --type=json -p '[{"op":"add","path":"/spec/template/spec/containers/0/imagePullPolicy","value":"IfNotPresent"}]'`)
	s.do("kubectl rollout status deployment guarded --timeout=60s")
	s.until("kubectl get pods -l app=guarded -o name | wc -l", "2")
	s.do("kubectl create poddisruptionbudget guarded --selector=app=guarded --max-unavailable=1")
	s.until("kubectl get pdb guarded --no-headers", `guarded +N/A +1 +1 +\S+`)
	before := s.do("kubectl get pods -l app=guarded -o name")
	t.Cleanup(func() { s.do("kubectl uncordon " + nodeName) })
	drained := s.do("kubectl drain " + nodeName + " --pod-selector=app=guarded --timeout=90s >$HOME/drain.log 2>&1 & drain=$!; " +
		"until grep -q 'Cannot evict pod as it would violate' $HOME/drain.log; do kill -0 $drain || exit 1; sleep 0.2; done; " +
		"kubectl get pdb guarded --no-headers; kubectl get pods -l app=guarded --field-selector=status.phase=Running --no-headers | grep -v Terminating | wc -l; " +
		"kubectl uncordon " + nodeName + " >/dev/null; wait $drain; cat $HOME/drain.log")
	if !matches(`(?s)guarded +N/A +1 +0 +\S+\n1\n.*node/`+nodeName+` drained`, drained) {
		t.Errorf("while the budget is spent, and then: %s", drained)
	}
	for _, pod := range strings.Fields(before) {
		s.fails("kubectl get "+pod, 1, `Error from server \(NotFound\): .*`)
	}
	s.do("kubectl rollout status deployment guarded --timeout=60s")
}

// testTokens comes as a ServiceAccount.
func testTokens(t *testing.T, s *shell) {
	s.until("kubectl get serviceaccount default -o name", "serviceaccount/default")
	as := func(token string) {
		t.Helper()
		s.do("kubectl config set-credentials robot --token=" + token)
		s.do("kubectl config set-context robot --user=robot --cluster=$(kubectl config view -o jsonpath='{.clusters[0].name}')")
	}
	me := "system:serviceaccount:" + s.space + ":default"
	as(s.do("kubectl create token default"))
	s.says("kubectl --context=robot auth whoami", `(?s)ATTRIBUTE +VALUE\nUsername +`+me+`\nUID +\S+\nGroups +\[system:serviceaccounts system:serviceaccounts:`+s.space+
		` system:authenticated\]\nExtra: authentication\.kubernetes\.io/credential-id +\[JTI=\S+\]`)
	s.fails("kubectl --context=robot get --raw /api/v1/namespaces/"+s.space+"/pods", 1,
		`Error from server \(Forbidden\): pods is forbidden: User "`+me+`" cannot list resource "pods" in API group "" in the namespace "`+s.space+`"`)
	s.says("kubectl auth whoami --as="+me+" --as-uid=7 -o jsonpath='{.status.userInfo.uid} {.status.userInfo.groups[0]}'", "7 system:serviceaccounts")
	s.fails("kubectl create token default --duration=1m", 1, `(?s).*may not specify a duration less than 10 minutes.*`)

	s.do("kubectl create secret generic life --from-literal=a=b")
	as(s.do("kubectl create token default --bound-object-kind=Secret --bound-object-name=life"))
	s.do("kubectl --context=robot auth whoami")
	s.do("kubectl delete secret life")
	s.fails("kubectl --context=robot auth whoami", 1, `error: You must be logged in to the server \(.*Unauthorized.*\)`)
}

// testDebug looks into a running pod from a container that comes for that.
func testDebug(t *testing.T, s *shell) {
	s.do("kubectl apply -f deployment1.yaml")
	s.do("kubectl wait --for=condition=Available deployment/app1 --timeout=60s")
	pod := s.do("kubectl get pods -l app=app1 -o jsonpath='{.items[0].metadata.name}'")
	s.do("kubectl debug " + pod + " --image=busybox --target=app1-container -c look -- sh -c 'cat /proc/1/comm; echo seen; exit 5'")
	s.until("kubectl get pod "+pod+" -o jsonpath='{.status.ephemeralContainerStatuses[0].state.terminated.exitCode}'", "5")
	s.says("kubectl logs "+pod+" -c look", "nginx\nseen")
	s.says("kubectl describe pod "+pod, `(?s).*Ephemeral Containers:\n  look:.*spec\.ephemeralContainers\{look\}.*`)

	term := s.terminal("kubectl debug -it " + pod + " --image=busybox --target=app1-container -c sit -- sh")
	term.sees("# ")
	term.types("cat /proc/1/comm\n")
	term.sees("\nnginx\r\n")
	s.says("kubectl exec "+pod+" -c sit -- cat /proc/1/comm", "nginx")
	term.types("exit\n")
	term.ends(0)

	s.do("kubectl debug " + pod + " --image=busybox -c apart -- cat /proc/1/comm")
	s.until("kubectl logs "+pod+" -c apart", "cat") // Without a target it sees its own processes only.
	s.says("kubectl get pod "+pod+" --no-headers", pod+` +1/1 +Running +0 +\S+`)
}
