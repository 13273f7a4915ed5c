package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// outageTime is longer than what the agents' clients of old waited at first before they asked again.
const outageTime = 10 * time.Second

// TestPretended runs a control plane with many nodes that only pretend their containers. To its users it is a cluster, also after the
// API was away.
func TestPretended(t *testing.T) {
	n := newNode(t, "--no-agent")
	n.launch()
	n.awaitLog("the API answers")
	agents := n.launchAgents("--nodes", "30")
	s := n.shell(t)
	s.until("kubectl get nodes --no-headers", `(fake-\d+ +Ready .*\n?){30}`)
	s.do("kubectl create deployment web --image=nginx --replicas=100")
	s.until("kubectl get deployment web --no-headers", `web +100/100 .*`)
	s.do("kubectl exec deploy/web -- true")
	s.says("kubectl logs deploy/web", "")

	n.stop(syscall.SIGTERM)
	time.Sleep(outageTime)
	n.launch()
	n.awaitLog("the API answers")
	back := time.Now()
	s.do("kubectl scale deployment web --replicas=120")
	s.do("kubectl delete --wait=false $(kubectl get pods -o name | head -n 20)")
	s.until("kubectl get deployment web --no-headers", `web +120/120 .*`)
	s.until("kubectl get pods --no-headers", `(web-\S+ +1/1 +Running .*\n?){120}`)
	t.Logf("%v after the API's return the agents had done what was asked for", time.Since(back).Round(time.Millisecond))

	s.do("kubectl delete deployment web")
	s.until("kubectl get pods --no-headers", "")
	if err := agents.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := agents.Wait(); err != nil {
		t.Errorf("the agents ended with %v", err)
	}
}

// launchAgents starts the agents of pretended nodes.
func (n *node) launchAgents(flags ...string) *exec.Cmd {
	n.t.Helper()
	cmd := in(n.netns, repository("bin/skiff"), append([]string{"agent", "--kubeconfig", filepath.Join(n.data, "admin.kubeconfig"), "--fake-runtime",
		"--pki-dir", filepath.Join(n.data, "pki")}, flags...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	return cmd
}
