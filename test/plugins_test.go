package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestNetworkPlugins has the reference CNI plugins connect the pods, with a bridge, and takes the way from a pod to the Service of another.
func TestNetworkPlugins(t *testing.T) {
	requireRoot(t)
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		t.Skip("needs the reference CNI plugins: apt-get install containernetworking-plugins")
	}
	for _, dir := range []string{"/var/lib/cni", "/var/lib/cni/results"} { // Where plugins remember.
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			t.Cleanup(func() { _ = os.Remove(dir) }) // If it is empty, as it should be.
		}
	}
	conf := t.TempDir()
	n := newNode(t, "--cni-conf-dir="+conf)
	n.start()
	s := n.shell(t)
	s.do("kubectl apply -f .")
	s.until("kubectl get events --field-selector reason=FailedCreatePodSandBox -o jsonpath='{.items[0].message}'", "Failed to create pod sandbox: .*"+conf+".*")

	text := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
		"ipam": {"type": "host-local", "subnet": "10.42.7.0/24", "routes": [{"dst": "0.0.0.0/0"}], "dataDir": %q}}]}`, filepath.Join(n.dir, "cni"))
	if err := os.WriteFile(filepath.Join(conf, "10-test.conflist"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s.do("kubectl wait --for=condition=Available deployment/app1 deployment/app2 --timeout=60s")
	s.says("kubectl get pods -l app=app1 -o jsonpath={.items[0].status.podIP}", `10\.42\.7\.\d+`)
	s.until("kubectl exec deploy/app1 -- curl -sS --max-time 5 http://app2-service", welcome)
	s.do("kubectl delete -f .")
	s.until("kubectl get pods", "")
	host(t, "ip -n "+n.netns+" link del cni0") // The plugin leaves it.
}
