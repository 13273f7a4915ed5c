package test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const staticPod = `
apiVersion: v1
kind: Pod
metadata: {name: fixed, labels: {app: fixed}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sh, -c, "echo ANSWER; sleep 1000"]}
`

// TestStatic runs a pod from a file, through all that may happen to the file and to the pod's mirror, and drops the node's object.
func TestStatic(t *testing.T) {
	n := newNode(t)
	file := filepath.Join(n.data, "pods", "fixed.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.ReplaceAll(staticPod, "ANSWER", "one"))
	n.start()
	s := n.shell(t)
	const pod = "fixed-" + nodeName
	const running = pod + ` +1/1 +Running +0 +\S+`
	s.until("kubectl get pods --no-headers", running)
	s.says("kubectl logs "+pod, "one")
	s.says("kubectl exec "+pod+" -- hostname", pod)
	s.says("kubectl get pod "+pod+` -o jsonpath='{.metadata.annotations.kubernetes\.io/config\.source} {.metadata.ownerReferences[0].kind}'`, "file Node")
	started := s.do("kubectl get pod " + pod + " -o jsonpath='{.status.containerStatuses[0].containerID}'")
	same := func() {
		t.Helper()
		s.until("kubectl get pod "+pod+" -o jsonpath='{.status.containerStatuses[0].containerID} {.status.phase}'", started+" Running")
	}
	// Its mirror may be deleted: it comes again, and the pod has not noticed.
	uid := s.do("kubectl get pod " + pod + " -o jsonpath={.metadata.uid}")
	s.do("kubectl delete pod " + pod + " --wait=false")
	s.until("kubectl get pod "+pod+" -o jsonpath={.metadata.uid} | grep -vx "+uid, `\S+`)
	same()
	s.do("kubectl drain " + nodeName + " && kubectl uncordon " + nodeName)
	same()

	// So may the Node: it registers again, with all that it has.
	s.do("kubectl delete node " + nodeName)
	s.until("kubectl get node "+nodeName+" --no-headers", nodeName+` +Ready +<none> +\S+ +\S+`)
	same()

	// Another server finds it as it was left.
	n.stop(syscall.SIGTERM)
	n.start()
	same()

	write("kind: Pod\nthis is none")
	s.until("grep -c 'a static pod.s file is passed over' "+n.lastSeen, "1")
	same()

	write(strings.ReplaceAll(staticPod, "ANSWER", "two"))
	s.until("kubectl logs "+pod, "two")
	s.until("kubectl get pods --no-headers", running)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.until("kubectl get pods -o name | wc -l", "0")
}
