package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"skiff/agent/cgroup"
)

// limitOf is what the kernel says in a file of the only container of a pod, in the words of whichever version of cgroups there is.
func limitOf(t *testing.T, uid string, files ...string) string {
	t.Helper()
	if len(cgroup.Host().Find("/skiff*/"+uid)) > 0 { // A Guaranteed pod's.
		return limitIn(t, "/skiff*/"+uid+"/*", files...)
	}
	return limitIn(t, "/skiff*/*/"+uid+"/*", files...)
}

// limitIn is what a file of a cgroup says: of the last one that the pattern matches.
func limitIn(t *testing.T, pattern string, files ...string) string {
	t.Helper()
	dirs := cgroup.Host().Find(pattern)
	slices.Sort(dirs)
	for _, dir := range slices.Backward(dirs) { // The one of a restarted container comes after that of the one before.
		for _, file := range files {
			if text, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				return strings.TrimSpace(string(text))
			}
		}
	}
	t.Errorf("no cgroup %s has %v", pattern, files)
	return ""
}

// testResize changes the size of a running pod, and asks the kernel.
func testResize(t *testing.T, s *shell) {
	s.do(`kubectl run elastic --image=busybox --image-pull-policy=Never --overrides='{"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"elastic",
		"image":"busybox","imagePullPolicy":"Never","command":["sleep","1000"],"resizePolicy":[{"resourceName":"memory","restartPolicy":"RestartContainer"}],
		"resources":{"requests":{"cpu":"50m","memory":"16Mi"},"limits":{"cpu":"100m","memory":"32Mi"}}}]}}'`)
	s.do("kubectl wait --for=condition=Ready pod/elastic --timeout=60s")
	uid := s.do("kubectl get pod elastic -o jsonpath={.metadata.uid}")
	size := func(cpu, memory string) string {
		return `kubectl patch pod elastic --subresource=resize -p '{"spec":{"containers":[{"name":"elastic","resources":{"limits":{"cpu":"` + cpu + `","memory":"` + memory + `"}}}]}}'`
	}
	const has = "kubectl get pod elastic -o jsonpath='{.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].resources.limits.memory} " +
		"{.status.containerStatuses[0].allocatedResources.cpu} {.status.containerStatuses[0].restartCount}'"
	s.says(has, "100m 32Mi 50m 0")

	s.do(size("200m", "32Mi"))
	s.until(has, "200m 32Mi 50m 0")
	if got := limitOf(t, uid, "cpu.cfs_quota_us", "cpu.max"); got != "20000" && got != "20000 100000" {
		t.Errorf("after the resize the quota is %s", got)
	}
	s.do(size("200m", "64Mi"))
	s.until(has, "200m 64Mi 50m 1")
	s.until("kubectl get pod elastic -o jsonpath='{.status.containerStatuses[0].state.running.startedAt} {.status.conditions[*].type}'", `\S+Z PodScheduled PodReadyToStartContainers Initialized ContainersReady Ready`)
	if got := limitOf(t, uid, "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("after the restart the limit is %s", got)
	}
	s.fails(`kubectl patch pod elastic --subresource=resize -p '{"spec":{"containers":[{"name":"elastic","resources":{"requests":{"cpu":"900"},"limits":{"cpu":"900"}}}]}}'`, 1,
		`(?s).*pods "elastic" is forbidden: node didn't have enough allocatable resources: cpu, requested: 900000, allocatable: .*`)
	s.says(has, "200m 64Mi 50m 1")
	s.do(`kubectl patch pod elastic --subresource=resize -p '{"spec":{"containers":[{"name":"elastic","resources":{"requests":{"cpu":"60m"},"limits":{"cpu":"150m"}}}]}}'`)
	s.until(has, "150m 64Mi 60m 1")
	s.fails(`kubectl patch pod elastic -p '{"spec":{"containers":[{"name":"elastic","resources":{"requests":{"cpu":"70m"}}}]}}'`, 1, `(?s).*pod updates may not change fields other than.*`)
	s.until("kubectl get events --field-selector involvedObject.name=elastic -o jsonpath='{.items[*].reason}'", ".*ResizeStarted.*ResizeCompleted.*")
}

// testResizeWhole changes the size of a running pod as a whole, and asks the kernel: the pod's cgroup has it, and that of the container
// without a limit of its own.
func testResizeWhole(t *testing.T, s *shell) {
	s.do(`kubectl run whole --image=busybox --image-pull-policy=Never --overrides='{"spec":{"terminationGracePeriodSeconds":0,
		"resources":{"requests":{"cpu":"50m","memory":"16Mi"},"limits":{"cpu":"100m","memory":"32Mi"}},
		"containers":[{"name":"whole","image":"busybox","imagePullPolicy":"Never","command":["sleep","1000"]}]}}'`)
	s.do("kubectl wait --for=condition=Ready pod/whole --timeout=60s")
	uid := s.do("kubectl get pod whole -o jsonpath={.metadata.uid}")
	const has = "kubectl get pod whole -o jsonpath='{.status.resources.limits.cpu} {.status.resources.limits.memory} {.status.allocatedResources.cpu} " +
		"{.status.containerStatuses[0].restartCount}'"
	s.until(has, "100m 32Mi 50m 0")
	for _, to := range []struct{ cpu, memory, quota, bytes string }{{"200m", "64Mi", "20000", "67108864"}, {"80m", "24Mi", "8000", "25165824"}} {
		s.do(`kubectl patch pod whole --subresource=resize -p '{"spec":{"resources":{"limits":{"cpu":"` + to.cpu + `","memory":"` + to.memory + `"}}}}'`)
		s.until(has, to.cpu+" "+to.memory+" 50m 0")
		for _, below := range []string{"", "/*"} {
			group := "/skiff*/burstable/" + uid + below
			if got := limitIn(t, group, "cpu.cfs_quota_us", "cpu.max"); got != to.quota && got != to.quota+" 100000" {
				t.Errorf("with %s the quota of %s is %s", to.cpu, group, got)
			}
			if got := limitIn(t, group, "memory.limit_in_bytes", "memory.max"); got != to.bytes {
				t.Errorf("with %s the limit of %s is %s", to.memory, group, got)
			}
		}
	}
	s.fails(`kubectl patch pod whole --subresource=resize -p '{"spec":{"resources":{"requests":{"cpu":"900"},"limits":{"cpu":"900"}}}}'`, 1,
		`(?s).*pods "whole" is forbidden: node didn't have enough allocatable resources: cpu, requested: 900000, allocatable: .*`)
	s.says(has, "80m 24Mi 50m 0")
	s.until("kubectl get events --field-selector involvedObject.name=whole -o jsonpath='{.items[*].reason}'", ".*ResizeStarted.*ResizeCompleted.*")
}

// testLimits has the kernel, and the agent, hold pods to what they may have.
func testLimits(t *testing.T, s *shell) {
	s.do("kubectl apply -f - <<'EOF'\n" + greedyPods + "\nEOF")
	const why = "-o jsonpath='{.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}'"
	s.until("kubectl get pod greedy "+why, "OOMKilled 137")
	s.until("kubectl get pod greedy-together "+why, "OOMKilled 137")
	s.until("kubectl get pod killed "+why, "Error 137") // By somebody else.
	s.says("kubectl get pod greedy greedy-together -o jsonpath='{.items[*].status.qosClass}'", "Burstable Burstable")
	s.until("kubectl get pod writer -o jsonpath='{.status.phase} {.status.reason} {.status.message}'", `Failed Evicted Container app exceeded its local ephemeral storage limit "4Mi". `)
	s.do(`kubectl patch node ` + nodeName + ` --subresource=status -p '{"status":{"capacity":{"example.com/dongle":"1"},"allocatable":{"example.com/dongle":"1"}}}'`)
	s.do("kubectl wait --for=condition=Ready pod/one-dongle --timeout=60s")
	s.until("kubectl get pod two-dongles -o jsonpath='{.status.conditions[0].message}'", `0/1 nodes are available: 1 Insufficient example.com/dongle.*`)
	uid := s.do("kubectl get pod one-dongle -o jsonpath={.metadata.uid}")
	if groups := cgroup.Host().Find("/skiff*/burstable/" + uid); len(groups) == 0 {
		t.Error("a Burstable pod's cgroup is not below that of its class")
	}
}

const greedyPods = `
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [dd, if=/dev/zero, of=/dev/null, bs=96M, count=1], resources: {limits: {memory: 24Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy-together}
spec:
  restartPolicy: Never
  resources: {limits: {memory: 24Mi}}
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [dd, if=/dev/zero, of=/dev/null, bs=96M, count=1]}
---
apiVersion: v1
kind: Pod
metadata: {name: killed}
spec:
  restartPolicy: Never
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sh, -c, "sh -c 'exit 137'"], resources: {limits: {memory: 24Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sh, -c, "dd if=/dev/zero of=/file bs=1M count=8; sleep 1000"], resources: {limits: {ephemeral-storage: 4Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: one-dongle}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sleep, "1000"], resources: {requests: {cpu: 10m}, limits: {example.com/dongle: 1}}}
---
apiVersion: v1
kind: Pod
metadata: {name: two-dongles}
spec:
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sleep, "1000"], resources: {limits: {example.com/dongle: 2}}}
`
