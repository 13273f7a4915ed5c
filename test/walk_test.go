package test

import (
	"regexp"
	"strings"
	"testing"
)

// What kubectl prints of the walk. Ages and generated names differ, and nothing else.
const (
	deployments = `NAME +READY +UP-TO-DATE +AVAILABLE +AGE
app1 +1/1 +1 +1 +\S+
app2 +1/1 +1 +1 +\S+`
	services = `NAME +TYPE +CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +AGE
app1-service +ClusterIP +10\.43\.\d+\.\d+ +<none> +80/TCP +\S+
app2-service +ClusterIP +10\.43\.\d+\.\d+ +<none> +80/TCP +\S+`
	pods = `NAME +READY +STATUS +RESTARTS +AGE
app1-[0-9a-z]+-[0-9a-z]{5} +1/1 +Running +0 +\S+
app2-[0-9a-z]+-[0-9a-z]{5} +1/1 +Running +0 +\S+`
	welcome = `(?s).*<title>Welcome to nginx!</title>.*`
)

// testWalk plays the walk of examples/README.md, word for word, with each kubectl there is.
func testWalk(t *testing.T, s *shell) {
	for name, path := range kubectls() {
		t.Run(name, func(t *testing.T) {
			s := s.with(t, path)
			s.says("kubectl apply -f deployment1.yaml", "deployment.apps/app1 created")
			s.says("kubectl apply -f service1.yaml", "service/app1-service created")
			s.says("kubectl apply -f deployment2.yaml", "deployment.apps/app2 created")
			s.says("kubectl apply -f service2.yaml", "service/app2-service created")
			s.until("kubectl get deployment", deployments)
			s.says("kubectl get svc", services)
			s.says("kubectl get pods", pods)

			pod := s.do("kubectl get pods -l app=app1 -o name")
			address := s.do("kubectl get svc app2-service -o jsonpath={.spec.clusterIP}")
			terminal := s.terminal("kubectl exec -it " + pod + " -- /bin/sh")
			terminal.sees("# ")
			terminal.types("curl http://" + address + ":80\n")
			terminal.sees("Welcome to nginx!(?s:.*)# ")
			terminal.types("curl http://app2-service:80\n")
			terminal.sees("Welcome to nginx!(?s:.*)# ")
			terminal.types("exit\n")
			terminal.ends(0)

			s.says("kubectl apply -f deployment1.yaml -f service1.yaml -f deployment2.yaml -f service2.yaml",
				`deployment.apps/app1 unchanged
service/app1-service unchanged
deployment.apps/app2 unchanged
service/app2-service unchanged`)
			s.do("kubectl delete -f .")
			s.until("kubectl get deployment,svc,pods", "")
		})
	}
	s.says(repository("bin/skiff")+" kubectl --data-dir "+s.data+" get nodes",
		`NAME +STATUS +ROLES +AGE +VERSION\n`+nodeName+` +Ready +\S+ +\S+ +v1\.37\.2\+skiff`)
}

// testWrongType applies the walk's own service2.yaml, as it was first written: with the type "Cluste".
func testWrongType(t *testing.T, s *shell) {
	wrong := "kubectl apply -f " + repository("test/testdata/service2.yaml")
	s.fails(wrong, 1, regexp.QuoteMeta(`The Service "app2-service" is invalid: spec.type: Unsupported value: "Cluste": `+
		`supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`))
	s.says("kubectl get svc", "")

	s.do("kubectl apply -f service2.yaml")
	before := s.do("kubectl get svc app2-service -o yaml")
	s.fails(wrong, 1, "(?s)The Service \"app2-service\" is invalid.*")
	if after := s.do("kubectl get svc app2-service -o yaml"); after != before {
		t.Errorf("a refused apply changed the Service:\n%s\nbefore:\n%s", after, before)
	}
}

// testNotFound asks for what there is not.
func testNotFound(t *testing.T, s *shell) {
	s.fails("kubectl get pod nobody", 1, `Error from server \(NotFound\): pods "nobody" not found`)
	s.fails("kubectl get deployment nobody", 1, `Error from server \(NotFound\): deployments.apps "nobody" not found`)
	s.fails("kubectl delete svc nobody", 1, `Error from server \(NotFound\): services "nobody" not found`)
	s.fails("kubectl exec nobody -- true", 1, `Error from server \(NotFound\): pods "nobody" not found`)
	s.fails("kubectl logs nobody", 1, `error: error from server \(NotFound\): pods "nobody" not found in namespace "`+s.space+`"`)
	s.fails("kubectl get widgets", 1, `error: the server doesn't have a resource type "widgets"`)
	got := s.try("kubectl get --raw /apis/example.com/v1/widgets")
	if got.status != 1 || !strings.Contains(got.stderr, "the server could not find the requested resource") {
		t.Errorf("a path that is not served: %v", got)
	}
}
