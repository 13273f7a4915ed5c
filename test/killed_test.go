package test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestKilled kills the server at random moments, in the middle of whatever it does, while pods come and go; now and then
// its containerd or a shim as well. No container may run twice or start again for nothing, and once the pods are deleted
// nothing of them may be left. SKIFF_TEST_KILLS says how often (8 times if it is not set), SKIFF_TEST_SEED repeats a run.
func TestKilled(t *testing.T) {
	kills, seed := number("SKIFF_TEST_KILLS", 8), number("SKIFF_TEST_SEED", int(time.Now().UnixNano()))
	t.Logf("SKIFF_TEST_KILLS=%d SKIFF_TEST_SEED=%d", kills, seed)
	n := newNode(t)
	n.addDeclaring("declaring", "/etc", "/new")
	n.start()
	k := newKilling(t, n, uint64(seed))
	for range kills {
		for range k.random.IntN(3) {
			k.create()
		}
		if len(k.pods) > k.random.IntN(12) {
			k.delete()
		}
		k.pause(400 * time.Millisecond)
		switch k.random.IntN(8) {
		case 0:
			k.killContainerd()
		case 1:
			k.killShim()
		}
		n.stop(syscall.SIGKILL)
		n.launch()
		if k.random.IntN(3) == 0 { // Dies while it starts.
			k.pause(300 * time.Millisecond)
			n.stop(syscall.SIGKILL)
			n.launch()
		}
		n.awaitLog("the API answers")
	}
	k.settle()
	for len(k.pods) > 0 {
		k.delete()
	}
	k.nothingLeft()
}

// number is an environment variable's.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// killing is the work that goes on while things are killed.
type killing struct {
	t      *testing.T
	node   *node
	random *rand.Rand
	api    kubernetes.Interface
	marks  string          // Where each container writes a line when it starts.
	pods   []string        // Wanted.
	hurt   map[string]bool // UIDs of pods whose shim was killed: they start again, and rightly so.
	made   int
}

func newKilling(t *testing.T, n *node, seed uint64) *killing {
	api, err := kubernetes.NewForConfig(n.restConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	k := &killing{t: t, node: n, random: rand.New(rand.NewPCG(seed, 0)), api: api, marks: filepath.Join(n.dir, "marks"), hurt: map[string]bool{}}
	if err := os.Mkdir(k.marks, 0o777); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *killing) pause(limit time.Duration) {
	time.Sleep(time.Duration(k.random.Int64N(int64(limit)))) // The moment is what is random here.
}

// insist asks the API until it answers.
func (k *killing) insist(ask func(context.Context) error) {
	k.t.Helper()
	eventually(k.t, startTime, func() error {
		ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Second)
		defer cancel()
		return ask(ctx)
	})
}

func (k *killing) create() {
	k.t.Helper()
	k.made++
	pod := k.pod(fmt.Sprintf("killed-%d", k.made))
	k.insist(func(ctx context.Context) error {
		_, err := k.api.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	k.pods = append(k.pods, pod.Name)
}

// pod has an init container and two others. Each writes its name down when it starts; the init container ends then. Some pods' containers
// share their processes, some pods have users of their own, and one image in each declares volumes.
func (k *killing) pod(name string) *corev1.Pod {
	uid := corev1.EnvVar{Name: "UID", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}
	container := func(name, image, then string) corev1.Container {
		return corev1.Container{
			Name: name, Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Env: []corev1.EnvVar{uid},
			Command: []string{"sh", "-c", "echo started >> /marks/$(UID)." + name + "; " + then},
			VolumeMounts: []corev1.VolumeMount{{Name: "marks", MountPath: "/marks"}, {Name: "scratch", MountPath: "/scratch"},
				{Name: "scratch", MountPath: "/part", SubPath: "part"}},
		}
	}
	const hold = "trap exit TERM; sleep 100000 & wait"
	var shared, hostUsers *bool
	switch k.random.IntN(3) {
	case 0:
		shared = new(true)
	case 1:
		hostUsers = new(false)
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64(1)),
			ShareProcessNamespace:         shared,
			HostUsers:                     hostUsers,
			InitContainers:                []corev1.Container{container("init", "busybox", "")},
			Containers:                    []corev1.Container{container("one", "busybox", hold), container("two", "declaring", hold)},
			Volumes: []corev1.Volume{
				{Name: "marks", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: k.marks}}},
				{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			},
		},
	}
}

func (k *killing) delete() {
	k.t.Helper()
	i := k.random.IntN(len(k.pods))
	k.insist(func(ctx context.Context) error {
		err := k.api.CoreV1().Pods("default").Delete(ctx, k.pods[i], metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	k.pods = slices.Delete(k.pods, i, i+1)
}

func (k *killing) killContainerd() {
	for _, pid := range k.processes("/containerd\x00--config") {
		k.t.Logf("kill containerd %d", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// killShim kills one of the shims. All containers of its pod end with it.
func (k *killing) killShim() {
	for _, pid := range k.shims() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		_, after, ok := strings.Cut(string(line), "-id\x00")
		if len(after) < len(uidForm) || !ok {
			continue
		}
		k.hurt[after[:len(uidForm)]] = true
		k.t.Logf("kill shim %d of pod %s", pid, after[:len(uidForm)])
		_ = syscall.Kill(pid, syscall.SIGKILL)
		return
	}
}

const uidForm = "00000000-0000-0000-0000-000000000000"

func (k *killing) shims() []int { return k.processes("containerd-shim") }

// processes are those of the node with a word in their command line.
func (k *killing) processes(word string) []int {
	return slices.DeleteFunc(allProcesses(), func(pid int) bool {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return !bytes.Contains(line, []byte(word)) || !bytes.Contains(line, []byte(k.node.dir+"/"))
	})
}

// settle waits until what is wanted runs, and nothing else, and holds that none of it runs or has run twice.
func (k *killing) settle() {
	k.t.Helper()
	var pods *corev1.PodList
	k.insist(func(ctx context.Context) (err error) {
		if pods, err = k.api.CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); err != nil {
			return err
		}
		if len(pods.Items) != len(k.pods) {
			return fmt.Errorf("there are %d pods, want %d", len(pods.Items), len(k.pods))
		}
		for i := range pods.Items {
			if !isReady(&pods.Items[i]) {
				return fmt.Errorf("pod %s is not ready: %+v", pods.Items[i].Name, pods.Items[i].Status)
			}
		}
		return nil
	})
	for i := range pods.Items {
		pod := &pods.Items[i]
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if status.RestartCount != 0 && !k.hurt[string(pod.UID)] {
				k.t.Errorf("container %s of pod %s (%s) was started %d times more: %+v", status.Name, pod.Name, pod.UID, status.RestartCount, status)
			}
		}
		for _, name := range []string{"one", "two"} {
			eventually(k.t, startTime, func() error { // A shell that is about to start a program is two for a moment.
				if running := k.running(string(pod.UID), name); len(running) != 1 {
					return fmt.Errorf("container %s of pod %s (%s) has the processes %v, want one", name, pod.Name, pod.UID, running)
				}
				return nil
			})
		}
	}
	marks, err := os.ReadDir(k.marks)
	if err != nil {
		k.t.Error(err)
	}
	for _, mark := range marks { // Also those of pods that are gone.
		text, err := os.ReadFile(filepath.Join(k.marks, mark.Name()))
		uid, _, _ := strings.Cut(mark.Name(), ".")
		if times := bytes.Count(text, []byte("\n")); err != nil || times > 1 && !k.hurt[uid] {
			k.t.Errorf("container %s was started %d times (%v)", mark.Name(), times, err)
		}
	}
}

// running are the first processes of a container.
func (k *killing) running(uid, name string) []int {
	return slices.DeleteFunc(allProcesses(), func(pid int) bool {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return !bytes.HasPrefix(line, []byte("sh\x00")) || !bytes.Contains(line, []byte(uid+"."+name+";"))
	})
}

// nothingLeft waits until every trace of the pods is gone.
func (k *killing) nothingLeft() {
	k.t.Helper()
	eventually(k.t, startTime, func() error {
		if left := k.left(); len(left) > 0 {
			return fmt.Errorf("left of the pods:\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
}

// left lists what there is of pods, in words.
func (k *killing) left() (found []string) {
	n := k.node
	for _, dir := range []string{n.run + "/ns", n.run + "/secrets", n.run + "/runtime/containers", n.run + "/runtime/exec", n.run + "/runtime/shm",
		n.run + "/runtime/users", n.data + "/pods", n.data + "/logs"} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			found = append(found, "file "+filepath.Join(dir, e.Name()))
		}
	}
	for _, pid := range k.shims() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		found = append(found, fmt.Sprintf("shim %d: %s", pid, bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
	}
	for _, mount := range n.mounts() {
		if mount != n.run+"/runtime/pause" { // The program of all pods that share their processes.
			found = append(found, "mount "+mount)
		}
	}
	for _, dir := range n.cgroups() {
		if base := filepath.Base(dir); base != "besteffort" && base != "burstable" { // Those of the classes stay with the node.
			found = append(found, "cgroup "+dir)
		}
	}
	for _, socket := range n.sockets() {
		found = append(found, "socket "+socket)
	}
	for _, what := range n.network() {
		if strings.HasPrefix(what, "link ") && what != "link skiff0" {
			found = append(found, what)
		}
	}
	return append(found, k.leftInContainerd()...)
}

func (k *killing) leftInContainerd() (found []string) {
	ctx := k.t.Context()
	client, err := containerd.New(filepath.Join(k.node.run, "containerd", "containerd.sock"), containerd.WithDefaultNamespace("skiff"))
	if err != nil {
		return []string{err.Error()}
	}
	defer client.Close()
	containers, err := client.Containers(ctx)
	for _, c := range containers {
		found = append(found, "container "+c.ID())
	}
	leases, leaseErr := client.LeasesService().List(ctx)
	for _, l := range leases {
		if l.ID != "skiff" {
			found = append(found, "lease "+l.ID)
		}
	}
	snapshotErr := client.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		if s.Kind == snapshots.KindActive {
			found = append(found, "snapshot "+s.Name)
		}
		return nil
	})
	if err := cmp.Or(err, leaseErr, snapshotErr); err != nil {
		found = append(found, err.Error())
	}
	return found
}
