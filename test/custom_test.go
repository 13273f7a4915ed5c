package test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// crontabs is the definition that the Kubernetes documentation explains, with all that one may have.
const crontabs = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [timers]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec, description: When it runs}
    - {name: Image, type: string, jsonPath: .spec.image, priority: 1}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    schema: &schema
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What is wanted of a CronTab.
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: "self.replicas <= 10", message: no more than ten}
            properties:
              cronSpec: {type: string, pattern: '^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$', description: When to run it.}
              image: {type: string, default: nginx}
              replicas: {type: integer, minimum: 0, default: 1}
          status:
            type: object
            properties:
              replicas: {type: integer}
              conditions: {type: array, items: {type: object, properties: {type: {type: string}, status: {type: string}}}}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: *schema
`

const crontab = `
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: mine}
spec: {cronSpec: "* * * * */5"}
`

// TestCustomResources goes with kubectl through the life of a kind of one's own.
func TestCustomResources(t *testing.T) {
	n := newNode(t)
	n.start()
	s := n.shell(t)
	s.folder = s.dir
	for name, text := range map[string]string{"crd.yaml": crontabs, "mine.yaml": crontab, "bad.yaml": strings.Replace(crontab, "* * * * */5", "never", 1)} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.says("kubectl apply -f crd.yaml", "customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com created")
	s.says("kubectl wait --for=condition=Established crd/crontabs.stable.example.com --timeout=20s", "customresourcedefinition.apiextensions.k8s.io/crontabs.stable.example.com condition met")
	s.says("kubectl get crd", `NAME +SCOPE +VERSIONS +CREATED AT\ncrontabs.stable.example.com +Namespaced +v1\(storage\),v1beta1 +20\d\d-\S+Z`)
	s.says("kubectl api-resources --api-group=stable.example.com", `NAME +SHORTNAMES +APIVERSION +NAMESPACED +KIND\ncrontabs +ct +stable.example.com/v1 +true +CronTab`)

	s.says("kubectl apply -f mine.yaml", "crontab.stable.example.com/mine created")
	s.says("kubectl apply -f mine.yaml", "crontab.stable.example.com/mine unchanged")
	s.says("kubectl get ct", `NAME +SPEC +READY\nmine +\* \* \* \* \*/5 *`)
	s.says("kubectl get ct -A -o wide", `NAMESPACE +NAME +SPEC +IMAGE +READY\ndefault +mine +\* \* \* \* \*/5 +nginx *`)
	s.says("kubectl get timers -o name", "crontab.stable.example.com/mine")
	s.says("kubectl get crontabs.v1beta1.stable.example.com mine -o jsonpath={.apiVersion} 2>&1", `Warning: stable.example.com/v1beta1 CronTab is deprecated; use stable.example.com/v1 CronTab\nstable.example.com/v1beta1`)
	s.says("kubectl explain crontab.spec", `(?s)GROUP: +stable.example.com\nKIND: +CronTab\nVERSION: +v1\n\nFIELD: spec <Object>\n.*What is wanted of a CronTab.*cronSpec\t<string> -required-\n    When to run it.*`)
	s.says("kubectl explain --recursive ct --api-version=stable.example.com/v1beta1", `(?s).*VERSION: +v1beta1\n.*      status\t<string>\n      type\t<string>.*`)
	if r := s.try("kubectl apply -f bad.yaml"); r.status != 1 || !strings.Contains(r.stderr, `The CronTab "mine" is invalid: spec.cronSpec: Invalid value: "never": spec.cronSpec in body should match`) {
		t.Errorf("a bad object: %v", r)
	}
	if r := s.try("kubectl scale ct/mine --replicas=11"); r.status != 1 || !strings.Contains(r.stderr, "spec: Invalid value: no more than ten") {
		t.Errorf("a broken rule: %v", r)
	}
	if r := s.try(`kubectl patch ct mine --type=merge -p '{"spec":{"clock":1}}'`); !strings.Contains(r.stderr, `Warning: unknown field "spec.clock"`) {
		t.Errorf("an unknown field: %v", r)
	}
	s.says("kubectl scale ct/mine --replicas=3", "crontab.stable.example.com/mine scaled")
	s.says("kubectl get ct mine -o jsonpath={.spec.replicas}", "3")
	s.says(`kubectl patch ct mine --subresource=status --type=merge -p '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'`, "crontab.stable.example.com/mine patched")
	s.says("kubectl wait --for=condition=Ready ct/mine --timeout=20s", "crontab.stable.example.com/mine condition met")
	s.says(`KUBE_EDITOR="sed -i 's/image: nginx/image: busybox/'" kubectl edit ct mine`, "crontab.stable.example.com/mine edited")
	s.says("kubectl label ct mine a=b", "crontab.stable.example.com/mine labeled")
	s.says("kubectl apply --server-side --force-conflicts -f mine.yaml", "crontab.stable.example.com/mine serverside-applied")
	s.says("kubectl describe ct mine", `(?s)Name: +mine\n.*Cron Spec: +\* \* \* \* \*/5\n.*`)

	n.stop(syscall.SIGKILL)
	n.start()
	s.says("kubectl get ct mine -o jsonpath={.spec.image}", "busybox")
	s.says("kubectl delete -f mine.yaml", `crontab.stable.example.com "mine" deleted(?: from default namespace)?`)
	s.says("kubectl apply -f mine.yaml", "crontab.stable.example.com/mine created")
	s.says("kubectl delete crd crontabs.stable.example.com", `customresourcedefinition.apiextensions.k8s.io "crontabs.stable.example.com" deleted`)
	s.fails("kubectl get ct", 1, `.*(the server could not find the requested resource|the server doesn't have a resource type "ct")`)
	s.says("kubectl api-resources --api-group=stable.example.com", `NAME +SHORTNAMES +APIVERSION +NAMESPACED +KIND`)
}
