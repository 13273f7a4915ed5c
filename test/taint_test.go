package test

import "testing"

// testTaint drives the pods out of the node by hand.
func testTaint(t *testing.T, s *shell) {
	pod := func(name, toleration string) {
		s.apply(t, name+".yaml", `
apiVersion: v1
kind: Pod
metadata: {name: `+name+`}
spec:
  terminationGracePeriodSeconds: 1
  tolerations: [`+toleration+`]
  containers:
  - {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, "1000"]}
`)
	}
	pod("plain", "")
	pod("shortly", "{key: gpu, operator: Exists, effect: NoExecute, tolerationSeconds: 2}")
	pod("patient", "{key: gpu, value: broken, effect: NoExecute, tolerationSeconds: 600}")
	pod("daemon", "{operator: Exists}")
	s.do("kubectl wait --for=condition=Ready pod --all --timeout=60s")
	s.do(`kubectl patch pod plain --type=merge -p '{"metadata":{"finalizers":["example.com/seen"]}}'`) // It is to be seen how it ended.
	t.Cleanup(func() { s.try("kubectl taint nodes " + nodeName + " gpu-") })

	s.says("kubectl taint nodes "+nodeName+" gpu=broken:NoExecute", "node/"+nodeName+" tainted")
	s.until("kubectl get pods -o name", "pod/daemon\npod/patient\npod/plain")
	s.until("kubectl get pod plain -o jsonpath='{.status.conditions[?(@.type==\"DisruptionTarget\")].reason} {.status.containerStatuses[0].state.terminated.exitCode}'",
		"DeletionByTaintManager 137")
	s.do(`kubectl patch pod plain --type=merge -p '{"metadata":{"finalizers":null}}'`)
	s.until("kubectl get events --field-selector reason=TaintManagerEviction,involvedObject.name=plain -o jsonpath='{.items[0].message} {.items[0].source.component}'",
		"Marking for deletion Pod "+s.space+"/plain taint-eviction-controller")
	pod("plain", "")
	s.until("kubectl get pod plain -o jsonpath='{.status.conditions[0].message}'", `0/1 nodes are available: 1 node\(s\) had untolerated taint\(s\)\.`)

	s.do("kubectl taint nodes " + nodeName + " gpu-")
	s.until("kubectl describe pod patient | grep Cancelling", `.*TaintManagerEviction.*Cancelling deletion of Pod `+s.space+`/patient`)
	s.do("kubectl wait --for=condition=Ready pod --all --timeout=60s")
	s.says("kubectl get pods -o name", "pod/daemon\npod/patient\npod/plain")
}
