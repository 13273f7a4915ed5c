package test

import (
	"os"
	"path/filepath"
	"testing"
)

// apply writes a manifest beside the shell's others and applies it.
func (s *shell) apply(t *testing.T, name, manifest string) {
	t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	s.do("kubectl apply -f " + file)
}

// testUsers runs a pod whose root is nobody on the node, and whose containers see each other.
func testUsers(t *testing.T, s *shell) {
	s.do("kubectl create secret generic word --from-literal=word=hidden")
	s.apply(t, "users.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: users}
spec:
  hostUsers: false
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: word, secret: {secretName: word, defaultMode: 0400}}
  containers:
  - name: one
    image: busybox
    imagePullPolicy: Never
    securityContext: {capabilities: {add: [NET_ADMIN]}}
    command: [sh, -c, "echo said > /dev/stdout; touch /scratch/mine /memory/mine; sleep 4001"]
    volumeMounts: [{name: scratch, mountPath: /scratch}, {name: memory, mountPath: /memory}, {name: word, mountPath: /word}]
  - name: two
    image: busybox
    imagePullPolicy: Never
    command: [sleep, "4002"]
    securityContext: {runAsUser: 1000}
`)
	s.do("kubectl wait --for=condition=Ready pod/users --timeout=60s")
	s.says("kubectl logs users -c one", "said")
	s.says("kubectl exec users -c one -- cat /proc/self/uid_map /word/word", `\s+0 +1879048192 +65536\nhidden`)
	s.says("kubectl exec users -c one -- stat -c %u /scratch/mine /memory/mine /etc/hosts /usr", `0\n0\n0\n0`)
	s.says("kubectl exec users -c two -- ps", `(?s).*\n +1 65535 +/pause\n.* root +sleep 4001\n.* 1000 +sleep 4002\n.*`)
	s.says("kubectl exec users -c one -- nslookup kubernetes.default.svc.cluster.local", `(?s).*Address: 10\..*`)
	s.do("kubectl exec users -c one -- ip link set lo mtu 65000") // Of a network that is its own.
	s.do("kubectl delete pod users")
}

// testRestartRules has containers end in ways that their rules wait for. Each round they are told anew what the first has left.
func testRestartRules(t *testing.T, s *shell) {
	s.apply(t, "rules.yaml", `
apiVersion: v1
kind: Pod
metadata: {name: rules}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{name: runs, emptyDir: {}}]
  initContainers:
  - name: setup
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, "echo setup >> /runs/log; echo \"WORD='was done'\" > /runs/env"]
    volumeMounts: [{name: runs, mountPath: /runs}]
  containers:
  - name: worker
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, "echo work $WORD >> /runs/log; sleep 1000"]
    env: [{name: WORD, valueFrom: {fileKeyRef: {volumeName: runs, path: env, key: WORD}}}]
    volumeMounts: [{name: runs, mountPath: /runs}]
  - name: watcher
    image: busybox
    imagePullPolicy: Never
    command: [sh, -c, "test $(grep -c setup /runs/log) = 2 && sleep 1000; exit 88"]
    volumeMounts: [{name: runs, mountPath: /runs}]
    restartPolicy: Never
    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}]
`)
	s.until("kubectl get pod rules --no-headers", `rules +2/2 +Running +\d+ \(.*`)
	s.says("kubectl get pod rules -o jsonpath='{.status.initContainerStatuses[*].restartCount}{.status.containerStatuses[*].restartCount}'", "11 1")
	s.says("kubectl exec rules -c worker -- cat /runs/log", "setup\nwork was done\nsetup\nwork was done")
	s.says(`kubectl get pod rules -o jsonpath='{.status.conditions[?(@.type=="AllContainersRestarting")].status}'`, "False")
	s.do("kubectl delete pod rules")
}
