package test

import (
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestSnapshot saves the state of a cluster while there are writes, and restores it after the server was killed. The
// objects are the same, the containers run on, and who watched is told to list again.
func TestSnapshot(t *testing.T) {
	n := newNode(t)
	n.start()
	s := n.shell(t)
	applied(s)
	const facts = "kubectl get pods -o jsonpath='{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}'"
	const objects = "kubectl get deployments,replicasets,services,namespaces -A -o jsonpath='{range .items[*]}{.kind} {.metadata.name} {.metadata.uid} {.metadata.generation}{\"\\n\"}{end}'"
	before, had := s.do(facts), s.do(objects)
	s.do("kubectl create configmap counter --from-literal=n=0")
	file := filepath.Join(n.dir, "snapshot")
	dirs := " --data-dir " + n.data + " --run-dir " + n.run

	s.do("(for n in $(seq 20); do kubectl create configmap -o yaml --dry-run=client counter --from-literal=n=$n | kubectl replace -f - ; done) >/dev/null & " +
		repository("bin/skiff") + " snapshot save " + file + dirs + "; wait")
	s.do("kubectl create configmap later")
	newest := s.do("kubectl get configmap later -o jsonpath={.metadata.resourceVersion}")
	s.fails(repository("bin/skiff")+" snapshot restore "+file+dirs, 1, `skiff: the server \(process \d+\) runs: stop it first, .*`)

	n.stop(syscall.SIGKILL)
	s.do(repository("bin/skiff") + " snapshot restore " + file + dirs)
	n.start()
	s.do("kubectl wait --for=condition=Available deployment/app1 deployment/app2 --timeout=60s")
	if after := s.do(facts); after != before {
		t.Errorf("after the restoration the pods are\n%s\nthey were\n%s", after, before)
	}
	if has := s.do(objects); has != had {
		t.Errorf("after the restoration the objects are\n%s\nthey were\n%s", has, had)
	}
	s.fails("kubectl get configmap later", 1, `.*not found\n?`)
	if watch := s.do("kubectl get --raw '/api/v1/configmaps?watch=true&timeoutSeconds=5&resourceVersion=" + newest + "'"); !strings.Contains(watch, `"code":410`) {
		t.Errorf("a watch from before the restoration gets %s, want 410", watch)
	}
	s.says("kubectl exec deploy/app1 -- curl -sS http://app2-service", welcome)
}

// TestFullDisk fills the disk that the state is on. Reads go on, writes say why not, and all goes on when there is room.
func TestFullDisk(t *testing.T) {
	n := newNode(t)
	s := n.shell(t)
	s.config = filepath.Join(n.dir, "admin.kubeconfig")
	n.launchAs(in(n.netns, "unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=1m state "$0" && exec "$@"`, n.data,
		repository("bin/skiff"), "server", "--no-agent", "--data-dir", n.data, "--run-dir", n.run, "--kubeconfig-out", s.config))
	n.awaitLog("the API answers")
	inMounts := "nsenter --mount --target " + strconv.Itoa(n.server.Pid) + " "

	s.do("kubectl create configmap first --from-literal=a=b")
	s.do(inMounts + "sh -c 'cat /dev/zero >" + n.data + "/filler || true' 2>/dev/null")
	s.until("for n in $(seq 20); do kubectl create configmap filler-$$-$n --from-literal=a=$(head -c 20000 /dev/zero | tr '\\0' x) 2>&1 >/dev/null || break; done",
		`error: failed to create configmap: Internal error occurred: .*no space left on device\n?`)
	s.says("kubectl get configmap first -o jsonpath={.data.a}", "b")
	s.says("kubectl get --raw /livez", "ok")
	if !strings.Contains(n.log(), "the disk does not take what is written") {
		t.Errorf("the log does not say that the disk is full:\n%s", n.log())
	}

	s.do(inMounts + "rm " + n.data + "/filler")
	s.until("kubectl get --raw /readyz", "ok")
	s.do("kubectl create configmap second --from-literal=a=b")
	n.stop(syscall.SIGTERM)
}
