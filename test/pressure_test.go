package test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestPressure fills the memory of a node whose threshold is near, and sees the right pod go.
func TestPressure(t *testing.T) {
	available := memoryAvailable(t)
	n := newNode(t, "--eviction-hard", fmt.Sprintf("memory.available<%d", available-available/16), "--eviction-pressure-transition-period=3s",
		"--system-reserved=cpu=100m,memory=64Mi")
	n.start()
	s := n.namespace(t, "full")
	s.says("kubectl get node "+nodeName+" -o jsonpath='{.status.allocatable.cpu}'", `\d+900m`)
	s.do("kubectl apply -f - <<'EOF'\n" + modestPod + "\nEOF")
	s.do("kubectl wait --for=condition=Ready pod/modest --timeout=60s")
	// More than there is to the threshold, and less than twice that: a virtual machine may take many seconds to give back what was freed.
	s.do("kubectl apply -f - <<'EOF'\n" + strings.ReplaceAll(hungryPod, "MEGABYTES", fmt.Sprint(available/11>>20)) + "\nEOF")
	s.until("kubectl get pod hungry -o jsonpath='{.status.phase} {.status.reason} {.status.message}'",
		`Failed Evicted The node was low on resource: memory\. Threshold quantity: \S+, available: \S+\. Container app was using \d+Ki, request is 0, has larger consumption of memory\. `)
	s.says(`kubectl get pod hungry -o jsonpath='{.status.conditions[?(@.type=="DisruptionTarget")].reason}'`, "TerminationByKubelet")
	s.until("kubectl get events --field-selector involvedObject.name=hungry,reason=Evicted -o jsonpath='{.items[0].message}'", `The node was low on resource: memory.*`)
	s.until("kubectl get events -A --field-selector involvedObject.kind=Node -o jsonpath='{.items[*].reason}'", ".*NodeHasInsufficientMemory.*NodeHasSufficientMemory.*")
	s.until(`kubectl get node `+nodeName+` -o jsonpath='{.status.conditions[?(@.type=="MemoryPressure")].status} {.spec.taints}'`, "False ")
	s.says("kubectl get pod modest --no-headers", `modest +1/1 +Running +0 +\S+`)
}

// memoryAvailable is what the machine has, in bytes.
func memoryAvailable(t *testing.T) (bytes int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	t.Fatal("the kernel does not tell how much memory there is")
	return 0
}

const modestPod = `
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sleep, "1000"], resources: {requests: {memory: 32Mi}}}
`

const hungryPod = `
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sh, -c, "dd if=/dev/zero of=/fill/it bs=1M count=MEGABYTES; sleep 1000"], volumeMounts: [{name: fill, mountPath: /fill}]}
  volumes:
  - {name: fill, emptyDir: {medium: Memory}}
`
