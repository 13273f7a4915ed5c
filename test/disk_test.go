package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFilledDisk has a pod fill the disk that the node's data is on, the cluster's own state among it: the pod goes, what ran runs on,
// nothing is lost, and what comes later runs.
func TestFilledDisk(t *testing.T) {
	requireRoot(t)
	disk := smallDisk(t)
	n := newNode(t, "--eviction-hard", "nodefs.available<20%,imagefs.available<20%", "--eviction-pressure-transition-period=3s")
	n.data = filepath.Join(disk, "data")
	n.addImages("busybox")
	n.start()
	s := n.namespace(t, "full")
	almostFill(t, disk, 22)
	s.do("kubectl apply -f - <<'EOF'\n" + modestPod + "\nEOF")
	s.do("kubectl create configmap before --from-literal=a=b")
	s.do("kubectl wait --for=condition=Ready pod/modest --timeout=60s")
	s.do("kubectl apply -f - <<'EOF'\n" + fillingPod + "\nEOF")
	s.until("kubectl get pod filling -o jsonpath='{.status.phase} {.status.reason} {.status.message}'",
		`Failed Evicted The node was low on resource: ephemeral-storage\. Threshold quantity: \S+, available: \S+\. Container app was using \d+Ki, request is 0, has larger consumption of ephemeral-storage\. `)
	s.until(`kubectl get node `+nodeName+` -o jsonpath='{.status.conditions[?(@.type=="DiskPressure")].status} {.spec.taints}'`, "False ")
	s.says("kubectl get pod modest --no-headers", `modest +1/1 +Running +0 +\S+`)
	s.says("kubectl get configmap before -o jsonpath='{.data.a}'", "b")
	s.do("kubectl run later --image=busybox --image-pull-policy=Never --command -- sleep 1000")
	s.do("kubectl wait --for=condition=Ready pod/later --timeout=60s")
}

// almostFill leaves so many percent of a disk: near to the threshold, the node looks often.
func almostFill(t *testing.T, dir string, percent int64) {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	ballast := (int64(fs.Bavail) - int64(fs.Blocks)*percent/100) * fs.Bsize
	host(t, fmt.Sprintf("fallocate -l %d %s/ballast", ballast, dir))
}

const fillingPod = `
apiVersion: v1
kind: Pod
metadata: {name: filling}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: app, image: busybox, imagePullPolicy: Never, command: [sh, -c, "dd if=/dev/zero of=/it bs=1M; sleep 1000"]}
`

// smallDisk makes a file system of 256 MiB in a file, and mounts it.
func smallDisk(t *testing.T) (dir string) {
	t.Helper()
	file, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 256<<20); err != nil {
		t.Fatal(err)
	}
	host(t, "mkfs.ext4 -q -m 0 "+file)
	host(t, "mount -o loop "+file+" "+dir)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
