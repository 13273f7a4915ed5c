package test

import (
	"path/filepath"
	"strings"
	"testing"
)

// applied applies the walk's files and waits for their pods.
func applied(s *shell) {
	s.t.Helper()
	s.do("kubectl apply -f .")
	s.do("kubectl wait --for=condition=Available deployment/app1 deployment/app2 --timeout=60s")
}

// testGet asks for the same objects in every form.
func testGet(t *testing.T, s *shell) {
	applied(s)
	s.says("kubectl get deployment", deployments)
	s.says("kubectl get svc", services)
	s.says("kubectl get pods", pods)
	s.says("kubectl get rs -l app=app1", `NAME +DESIRED +CURRENT +READY +AGE\napp1-[0-9a-z]+ +1 +1 +1 +\S+`)
	s.says("kubectl get endpointslices -l kubernetes.io/service-name=app1-service",
		`NAME +ADDRESSTYPE +PORTS +ENDPOINTS +AGE\napp1-service-[0-9a-z]{5} +IPv4 +80 +10\.42\.\d+\.\d+ +\S+`)
	s.says("kubectl get namespace "+s.space, `NAME +STATUS +AGE\n`+s.space+` +Active +\S+`)

	s.says("kubectl get deployment app1 -o wide",
		`NAME +READY +UP-TO-DATE +AVAILABLE +AGE +CONTAINERS +IMAGES +SELECTOR\napp1 +1/1 +1 +1 +\S+ +app1-container +nginx +app=app1`)
	s.says("kubectl get svc app1-service -o wide",
		`NAME +TYPE +CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +AGE +SELECTOR\napp1-service +ClusterIP +\S+ +<none> +80/TCP +\S+ +app=app1`)
	s.says("kubectl get pods -l app=app1 -o wide",
		`NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES\napp1-\S+ +1/1 +Running +0 +\S+ +10\.42\.\d+\.\d+ +`+nodeName+` +<none> +<none>`)
	s.says("kubectl get nodes -o wide",
		`NAME +STATUS +ROLES +AGE +VERSION +INTERNAL-IP +EXTERNAL-IP +OS-IMAGE +KERNEL-VERSION +CONTAINER-RUNTIME\n`+
			nodeName+` +Ready .* `+nodeAddr+` +<none> .* containerd://\S+`)

	s.says("kubectl get svc app1-service -o name", "service/app1-service")
	s.says("kubectl get svc app1-service -o yaml", `(?s)apiVersion: v1\nkind: Service\nmetadata:\n.*\n  name: app1-service\n.*`)
	s.says("kubectl get svc app1-service -o json", `(?s)\{\n    "apiVersion": "v1",\n    "kind": "Service",\n.*\}`)
	s.says("kubectl get pods -l app=app2 -o jsonpath='{.items[*].spec.containers[0].image}'", "nginx")
	s.says("kubectl get pods -l app=app2 --no-headers", `app2-\S+ +1/1 +Running +0 +\S+`)
	s.says("kubectl get pods -l 'app in (app1,app2)' --field-selector status.phase=Running -o name", `pod/app1-\S+\npod/app2-\S+`)
	s.says("kubectl get pods -l app=nobody", "")
	s.says("kubectl get svc -A", `(?s)NAMESPACE +NAME .*\ndefault +kubernetes +ClusterIP +10\.43\.0\.1 .*\n`+s.space+` +app1-service .*`)
}

// testVerbs does what else one does with kubectl.
func testVerbs(t *testing.T, s *shell) {
	applied(s)
	s.says("kubectl describe deployment app1", `(?s)Name: +app1\n.*Replicas: +1 desired \| 1 updated \| 1 total \| 1 available \| 0 unavailable\n.*`+
		`Scaled up replica set app1-\S+ from 0 to 1.*`)
	s.says("kubectl describe svc app1-service", `(?s)Name: +app1-service\n.*Endpoints: +10\.42\.\d+\.\d+:80\n.*`)
	s.says("kubectl describe pod -l app=app1", `(?s).*Scheduled .*Successfully assigned `+s.space+`/app1-\S+ to `+nodeName+`.*Started .*`)
	s.says("kubectl describe node "+nodeName, `(?s)Name: +`+nodeName+`\n.*Non-terminated Pods:.*app1-.*`)

	s.says("kubectl scale deployment app1 --replicas=3", "deployment.apps/app1 scaled")
	s.says("kubectl rollout status deployment app1 --timeout=60s", `(?s).*deployment "app1" successfully rolled out`)
	s.says("kubectl get deployment app1 --no-headers", `app1 +3/3 +3 +3 +\S+`)
	s.says("kubectl scale deployment app1 --replicas=1", "deployment.apps/app1 scaled")
	s.until("kubectl get pods -l app=app1 -o name", `pod/app1-\S+`)

	s.says("kubectl set env deployment/app1 COLOUR=blue", "deployment.apps/app1 env updated")
	s.says("kubectl rollout status deployment app1 --timeout=60s", `(?s).*deployment "app1" successfully rolled out`)
	s.says("kubectl exec deploy/app1 -- printenv COLOUR", "blue")
	s.says("kubectl get rs -l app=app1 --no-headers | wc -l", " *2")

	s.says("kubectl label pod -l app=app2 tier=back", `pod/app2-\S+ labeled`)
	s.says("kubectl get pods -l tier=back -L tier", `NAME +READY +STATUS +RESTARTS +AGE +TIER\napp2-\S+ +1/1 +Running +0 +\S+ +back`)
	s.says("kubectl explain service.spec.type", `(?s)KIND: +Service\nVERSION: +v1\n\nFIELD: type <string>.*`)
	s.says("kubectl explain deployment", `(?s)GROUP: +apps\nKIND: +Deployment\nVERSION: +v1\n.*FIELDS:.*\n  spec\t<DeploymentSpec>.*`)

	watch := s.terminal("kubectl get pods -l app=app2 -w")
	watch.sees(`app2-\S+ +1/1 +Running`)
	s.says("kubectl delete deployment app2", `deployment.apps "app2" deleted(?: from `+s.space+` namespace)?`)
	watch.sees(`app2-\S+ +1/1 +Terminating`)
	watch.types("\x03")
	s.until("kubectl get pods -l app=app2", "")
	s.says("kubectl delete svc app2-service", `service "app2-service" deleted(?: from `+s.space+` namespace)?`)
	s.says("kubectl get svc -o name", "service/app1-service")
}

// testEdit changes an object in an editor.
func testEdit(t *testing.T, s *shell) {
	s.do("kubectl apply -f service1.yaml")
	s.says(`KUBE_EDITOR="sed -i 's/targetPort: 80/targetPort: 8080/'" kubectl edit svc app1-service`, "service/app1-service edited")
	s.says("kubectl get svc app1-service -o jsonpath={.spec.ports[0].targetPort}", "8080")
	s.says(`KUBE_EDITOR=true kubectl edit svc app1-service 2>&1`, "Edit cancelled, no changes made.")
	// An edit that is refused comes back, with the reason on top. An editor that leaves it alone gives up.
	seen := filepath.Join(s.dir, "seen")
	r := s.try(`KUBE_EDITOR="sed -i -e 's/protocol: TCP/protocol: XYZ/' -e 'w ` + seen + `'" kubectl edit svc app1-service`)
	edited := s.do("cat " + seen)
	if want := `# * spec.ports[0].protocol: Unsupported value: "XYZ": supported values: "SCTP", "TCP", "UDP"`; r.status != 1 || !strings.Contains(edited, want) {
		t.Errorf("%v\nwant in the editor: %s\nit had:\n%s", r, want, edited)
	}
	s.says("kubectl get svc app1-service -o jsonpath={.spec.ports[0].protocol}", "TCP")
}

// testLogs reads what a container writes, while it does.
func testLogs(t *testing.T, s *shell) {
	applied(s)
	request := func(path string) {
		s.do("kubectl exec deploy/app2 -- curl -sS -o /dev/null http://app1-service/" + path)
	}
	request("first")
	s.until("kubectl logs deploy/app1", `(?s).*"GET /first HTTP/1.1" 404.*`)
	follow := s.terminal("kubectl logs -f deploy/app1 --tail=1")
	follow.sees(`GET /first`)
	request("second")
	follow.sees(`GET /second`)
	follow.types("\x03")
	s.says("kubectl logs -l app=app1 --tail=1", `.*GET /second.*`)
	s.says("kubectl logs deploy/app1 --timestamps --tail=1", `20\d\d-\d\d-\d\dT\S+Z .*GET /second.*`)
	s.says("kubectl logs deploy/app1 --since=1h | grep -c GET", "[1-9][0-9]*")
}
