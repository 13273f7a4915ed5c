package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"skiff/store/storetest"
)

const (
	etcdURL     = "http://127.0.0.1:2379" // In the node's own network namespace.
	controlAddr = "198.51.100.3"          // Of the server that is no node.
)

// TestSeveralServers promises that two servers over one etcd serve one cluster: what is written at one is read at the
// other at once, the death of the one that leads stops nothing for long, and neither does the absence of etcd.
func TestSeveralServers(t *testing.T) {
	n := newNode(t, "--storage-endpoint="+etcdURL, "--bind-address="+nodeAddr)
	etcd := startEtcd(t, n)
	t.Cleanup(n.purge) // While etcd is still there.
	host(t, "ip -n "+n.netns+" address add "+controlAddr+"/24 dev uplink")
	control := controlPlane(t, n)
	control.launch()
	control.awaitLog("the API answers")

	r := execute(t, "skiff server", n.skiff("server", n.flags...))
	if r.status != 1 || !strings.Contains(r.stderr, "copy ca.crt, ca.key and sa.key there") || strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("a server without the cluster's certificate authority: %v\nwant one line that says what to copy", r)
	}
	copyPKI(t, control, n)
	n.start()
	a, b := n.shell(t), control.shell(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the other server's log:\n%s", tail(control.log(), 40))
			n.report(t)
		}
	})

	for i := range 5 {
		b.do(fmt.Sprintf("kubectl create configmap c%d --from-literal=n=%d", i, i))
		a.says(fmt.Sprintf("kubectl get configmap c%d -o jsonpath={.data.n}", i), fmt.Sprint(i))
		a.do(fmt.Sprintf("kubectl delete configmap c%d", i))
		b.fails(fmt.Sprintf("kubectl get configmap c%d", i), 1, `Error from server \(NotFound\): .*`)
	}
	addresses := "kubectl get endpoints kubernetes -o jsonpath='{.subsets[*].addresses[*].ip}'"
	a.until(addresses, nodeAddr+" "+controlAddr)
	leader := "kubectl -n kube-system get lease kube-controller-manager -o jsonpath={.spec.holderIdentity}"
	a.says(leader, "control_.*")

	b.do("kubectl create deployment web --image=docker.io/library/nginx:latest")
	ready := "kubectl get deployment web -o jsonpath={.status.readyReplicas}"
	a.until(ready, "1")
	control.stop(syscall.SIGKILL)
	a.do("kubectl scale deployment web --replicas=2")
	a.until(ready, "2")
	a.says(leader, nodeName+"_.*")
	a.until(addresses, nodeAddr)
	control.launch()
	control.awaitLog("the API answers")
	b.says(ready, "2")

	out := filepath.Join(n.dir, "out") // Who touches a file in it ends the pod's container.
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	a.do("cat <<- END | kubectl apply -f -\n" + strings.ReplaceAll(restless, "OUT", out) + "END")
	restarts := "kubectl get pod restless -o jsonpath='{.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.exitCode}'"
	a.until("kubectl get pod restless -o jsonpath={.status.phase}", "Running")

	etcd.stop(t)
	a.do("touch " + out + "/end")
	a.until("cat "+out+"/starts", `up\nup`) // Nobody can be told; the container is started again all the same.
	a.fails("kubectl get --raw /readyz", 1, `(?s).*\[-\]store failed.*`)
	a.fails("kubectl get pods", 1, `Error from server \(ServiceUnavailable\): .*store unavailable: .*connection refused`)
	a.says("kubectl get --raw '/api/v1/namespaces/default/pods?resourceVersion=0' | grep -o '\"phase\":\"Running\"'", `("phase":"Running"\s?){3}`)
	etcd.start(t)
	a.until("kubectl get --raw /readyz", "ok")
	a.until(restarts, "1 7")
	a.do("kubectl delete pod restless --wait=false")
	b.until("kubectl scale deployment web --replicas=3", "deployment.apps/web scaled")
	a.until(ready, "3")

	control.stop(syscall.SIGTERM)
	a.until(addresses, nodeAddr)
	a.do("kubectl scale deployment web --replicas=1")
	a.until(ready, "1")
}

const restless = `
apiVersion: v1
kind: Pod
metadata: {name: restless}
spec:
  containers:
  - name: app
    image: docker.io/library/busybox:latest
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'echo up >> /out/starts; until rm /out/end 2> /dev/null; do sleep 0.1; done; exit 7']
    volumeMounts: [{name: out, mountPath: /out}]
  volumes:
  - name: out
    hostPath: {path: OUT}
`

// controlPlane is a second server on the machine of n: a control plane that is no node, at an address of its own.
func controlPlane(t *testing.T, n *node) *node {
	dir := filepath.Join(n.dir, "control")
	c := &node{t: t, netns: n.netns, outside: n.outside, dir: dir, data: filepath.Join(dir, "data"), run: filepath.Join(dir, "run"),
		flags: []string{"--storage-endpoint=" + etcdURL, "--no-agent", "--node-name=control", "--bind-address=" + controlAddr, "--advertise-address=" + controlAddr}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c.server != nil {
			_ = c.server.Kill()
			<-c.server.ended
		}
	})
	return c
}

// copyPKI gives a server what all servers of a cluster have in common.
func copyPKI(t *testing.T, from, to *node) {
	t.Helper()
	pki := filepath.Join(to.data, "pki")
	if err := os.MkdirAll(pki, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"ca.crt", "ca.key", "sa.key"} {
		host(t, "cp "+filepath.Join(from.data, "pki", file)+" "+pki)
	}
}

// etcdProcess is an etcd in a node's network namespace.
type etcdProcess struct {
	netns string
	args  []string
	cmd   *exec.Cmd
}

func startEtcd(t testing.TB, n *node) *etcdProcess {
	t.Helper()
	e := &etcdProcess{netns: n.netns, args: storetest.EtcdCommand(t, etcdURL, "http://127.0.0.1:2380")}
	e.start(t)
	t.Cleanup(func() { e.stop(t) })
	return e
}

func (e *etcdProcess) start(t testing.TB) {
	t.Helper()
	e.cmd = in(e.netns, e.args[0], e.args[1:]...)
	e.cmd.Stderr = os.Stderr
	if err := e.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, startTime, func() error {
		return in(e.netns, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/2379").Run()
	})
}

// stop kills it, as kill -9 does.
func (e *etcdProcess) stop(t testing.TB) {
	t.Helper()
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}
