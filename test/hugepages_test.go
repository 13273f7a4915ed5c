package test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"skiff/agent/cgroup"
)

// reserveHugePages takes 8 MiB of the machine's memory for huge pages of 2 MiB, gives it back at the end, and says how many pages there
// are then. 0: the kernel grants none.
func reserveHugePages(t *testing.T) (pages int) {
	t.Helper()
	const file, wanted = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", 4
	read := func() int {
		text, err := os.ReadFile(file)
		if err != nil {
			return 0
		}
		n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	before := read()
	if err := os.WriteFile(file, []byte(strconv.Itoa(before+wanted)), 0); err != nil {
		return 0
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, []byte(strconv.Itoa(before)), 0); err != nil {
			t.Errorf("give the huge pages back: %v", err)
		}
	})
	if pages = read(); pages < before+wanted {
		return 0
	}
	return pages
}

// testHugePages gives a pod two huge pages: it can take these from its volume, and no third one, and a pod that asked for none has none.
func testHugePages(t *testing.T, s *shell, pages int) {
	if pages == 0 {
		t.Skip("needs huge pages of 2 MiB: the kernel grants none")
	}
	s.says("kubectl get node "+nodeName+" -o jsonpath='{.status.capacity.hugepages-2Mi} {.status.allocatable.hugepages-2Mi}'", fmt.Sprintf("%[1]dMi %[1]dMi", 2*pages))
	s.do("kubectl apply -f - <<'EOF'\n" + fmt.Sprintf(hugePods, 2*pages+2) + "\nEOF")
	s.do("kubectl wait --for=condition=Ready pod/huge pod/plain --timeout=60s")
	s.do("kubectl exec huge -- fallocate -l 4M /pages/two")
	s.until("kubectl get pod hungry -o jsonpath='{.status.conditions[0].message}'", `0/1 nodes are available: 1 Insufficient hugepages-2Mi.*`)
	s.until("kubectl get pod undecided -o jsonpath='{.status.phase}' && kubectl get events --field-selector involvedObject.name=undecided -o jsonpath='{.items[*].message}'",
		`Pending.*medium HugePages: hugePages storage requested, but there is no resource request for huge pages.*`)
	host := cgroup.Host()
	if len(host.Find("/skiff*/burstable/*/hugetlb.2MB.*")) == 0 {
		t.Log("the kernel does not count huge pages: nothing to hold a pod to its limit")
		return
	}
	s.fails("kubectl exec huge -- fallocate -l 2M /pages/three", 1, `(?s).*No space left on device.*`)
	for pod, limit := range map[string]string{"huge": "4194304", "plain": "0"} {
		uid := s.do("kubectl get pod " + pod + " -o jsonpath={.metadata.uid}")
		for _, below := range []string{"", "/*"} {
			if got := limitIn(t, "/skiff*/*/"+uid+below, "hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes"); got != limit {
				t.Errorf("pod %s%s may have %s bytes of huge pages, want %s", pod, below, got, limit)
			}
		}
	}
}

const hugePods = `
apiVersion: v1
kind: Pod
metadata: {name: huge}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: busybox
    imagePullPolicy: Never
    command: [sleep, "1000"]
    resources: {limits: {hugepages-2Mi: 4Mi}, requests: {memory: 16Mi}}
    volumeMounts: [{name: pages, mountPath: /pages}]
  volumes:
  - {name: pages, emptyDir: {medium: HugePages}}
---
apiVersion: v1
kind: Pod
metadata: {name: plain}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sleep, "1000"], resources: {requests: {memory: 16Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sleep, "1000"], resources: {limits: {cpu: 10m, hugepages-2Mi: %[1]dMi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: undecided}
spec:
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sleep, "1000"], volumeMounts: [{name: pages, mountPath: /pages}]}
  volumes:
  - {name: pages, emptyDir: {medium: HugePages}}
`
