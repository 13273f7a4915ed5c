package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRestart stops the server in every way. The containers must not notice.
func TestRestart(t *testing.T) {
	n := newNode(t)
	n.start()
	s := n.shell(t)
	applied(s)
	for _, way := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(way.String(), func(t *testing.T) {
			s := n.shell(t)
			const facts = "kubectl get pods -o jsonpath='{range .items[*]}{.metadata.uid} {.status.podIP} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}'"
			before, processes := s.do(facts), n.podProcesses()
			if len(processes) < 2 {
				t.Fatalf("two pods have the processes %v", processes)
			}
			address := s.do("kubectl get svc app2-service -o jsonpath={.spec.clusterIP}")

			n.stop(way)
			s.says("nsenter --net="+n.podNamespace(s, before)+" "+s.kubectl+" --kubeconfig=/dev/null -s http://"+address+" get --raw /while-away || true", "")
			if now := n.podProcesses(); !slices.Equal(now, processes) {
				t.Errorf("with the server away the containers' processes are %v; they were %v", now, processes)
			}

			n.start()
			s.do("kubectl wait --for=condition=Available deployment/app1 deployment/app2 --timeout=60s")
			s.until(`kubectl logs deploy/app2 --tail=1`, `.*GET /while-away.*`)
			s.says("kubectl exec deploy/app1 -- curl -sS http://app2-service", welcome)
			if now := n.podProcesses(); !slices.Equal(now, processes) {
				t.Errorf("after the restart the containers' processes are %v; they were %v", now, processes)
			}
			if after := s.do(facts); after != before {
				t.Errorf("after the restart the pods are\n%s\nthey were\n%s", after, before)
			}
		})
	}
	t.Run("in a rollout", func(t *testing.T) { testRestartInRollout(t, n) })
}

// testRestartInRollout takes the server away in the middle of a rollout, while clients ask. It goes on, and none of them notices.
func testRestartInRollout(t *testing.T, n *node) {
	s := n.shell(t)
	l := s.underLoad(3)
	for _, way := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		s.do("kubectl rollout restart deployment/web")
		s.until("kubectl get deployment web -o jsonpath={.status.updatedReplicas}", "[12]")
		n.stop(way)
		n.start()
		s.do("kubectl rollout status deployment/web --timeout=60s")
		s.until("kubectl get pods -l app=web --no-headers", `(?:\S+ +1/1 +Running +0 +\S+\n?)+`)
		l.flows(t)
		if lost := l.losses(); len(lost) > 0 {
			t.Errorf("restarted by %v: %d requests lost:\n%s", way, len(lost), strings.Join(lost, "\n"))
		}
	}
	l.stop()
	t.Logf("requests: %v", l)
}

// podNamespace is the path of the first pod's network namespace.
func (n *node) podNamespace(s *shell, facts string) string {
	uid, _, _ := strings.Cut(facts, " ")
	return filepath.Join(n.run, "ns", uid, "net")
}

// podProcesses are the processes in the network namespaces of pods.
func (n *node) podProcesses() []int {
	pins, _ := filepath.Glob(filepath.Join(n.run, "ns", "*", "net"))
	return slices.Sorted(slices.Values(processesIn(pins)))
}

// TestReboot takes the power away: no process, mount, link or rule is left, and nothing of the run directory.
func TestReboot(t *testing.T) {
	n := newNode(t)
	n.start()
	s := n.shell(t)
	applied(s)
	pods := s.do("kubectl get pods -o name")
	address := s.do("kubectl get svc app2-service -o jsonpath={.spec.clusterIP}")

	n.powerOff()
	n.connect()
	n.start()
	s.until("kubectl get pods --no-headers", `(app[12]-\S+ +1/1 +Running +1 \(\S+ ago\) +\S+\n?){2}`)
	if now := s.do("kubectl get pods -o name"); now != pods {
		t.Errorf("after the reboot the pods are\n%s\nthey were\n%s", now, pods)
	}
	s.do("kubectl wait --for=condition=Available deployment/app1 deployment/app2 --timeout=60s")
	s.says("kubectl get svc app2-service -o jsonpath={.spec.clusterIP}", address)
	s.says("kubectl exec deploy/app1 -- curl -sS http://app2-service", welcome)
}

// powerOff ends everything at once, and forgets what a machine forgets.
func (n *node) powerOff() {
	n.t.Helper()
	n.kill()
	<-n.server.ended
	for _, mount := range slices.Backward(n.mounts()) {
		if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
			n.t.Fatalf("unmount %s: %v", mount, err)
		}
	}
	for _, dir := range n.cgroups() {
		removeCgroup(dir)
	}
	for _, socket := range n.sockets() {
		_ = os.Remove(socket)
	}
	if err := os.RemoveAll(n.run); err != nil {
		n.t.Fatal(err)
	}
	n.disconnect()
}

// TestPurge removes clusters in every state in which one may be. What must be gone is what remains lists.
func TestPurge(t *testing.T) {
	down := func(n *node) {
		n.purge()
		for _, what := range n.remains() {
			t.Errorf("left: %s", what)
		}
	}
	t.Run("running", func(t *testing.T) {
		n := newNode(t)
		n.start()
		applied(n.shell(t))
		down(n)
		n.shell(t).says(repository("bin/skiff")+" down --purge --data-dir "+n.data+" --run-dir "+n.run, "there is no cluster in "+n.data)
	})
	t.Run("killed", func(t *testing.T) {
		n := newNode(t)
		n.start()
		applied(n.shell(t))
		n.stop(syscall.SIGKILL)
		down(n)
	})
	t.Run("down before", func(t *testing.T) {
		n := newNode(t)
		n.start()
		s := n.shell(t)
		applied(s)
		s.says(repository("bin/skiff")+" down --data-dir "+n.data+" --run-dir "+n.run, "the cluster is down; its state is kept in "+n.data)
		if processes := n.processes(); len(processes) > 0 {
			t.Errorf("`skiff down` left the processes %v", processes)
		}
		n.start() // And is as it was.
		s.until("kubectl get deployment --no-headers", `(app[12] +1/1 .*\n?){2}`)
		n.stop(syscall.SIGTERM)
		down(n)
	})
}
