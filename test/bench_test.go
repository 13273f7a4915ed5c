package test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	toolswatch "k8s.io/client-go/tools/watch"
)

const rounds = 12 // Of which the median is told.

// BenchmarkStart starts servers on empty directories.
func BenchmarkStart(b *testing.B) {
	var answering, ready []time.Duration
	for range rounds {
		n := newNode(b)
		if err := os.RemoveAll(filepath.Join(n.data, "images")); err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		n.launch()
		soon(b, func() bool { return n.answers(b) })
		answering = append(answering, time.Since(start))
		soon(b, func() bool { return strings.Contains(n.log(), "is Ready") })
		ready = append(ready, time.Since(start))
		n.purge()
	}
	report(b, "API-answering-ms", answering)
	report(b, "node-Ready-ms", ready)
}

// answers tells if somebody takes connections on the API's port. The server opens it last before it serves.
func (n *node) answers(b *testing.B) bool {
	conn, err := dialIn(context.Background(), n.netns, "tcp", "127.0.0.1:6443")
	if err != nil {
		return false
	}
	conn.Close()
	return strings.Contains(n.log(), "the API answers")
}

// soon looks every millisecond whether something has become true.
func soon(b *testing.B, true func() bool) {
	b.Helper()
	deadline := time.After(patience)
	every := time.NewTicker(time.Millisecond)
	defer every.Stop()
	for !true() {
		select {
		case <-every.C:
		case <-deadline:
			b.Fatalf("not within %v", patience)
		}
	}
}

// BenchmarkPods starts and ends pods, and in turn with them containers without a cluster. The floor is containers that are what the pods'
// are: what a pod must have (the seccomp filter RuntimeDefault, the mounts, the limits) takes time whoever asks for it, most of it the
// filter, which runc compiles anew for each container. Beside it are told bare ones, as containerd makes them by default, without all that.
func BenchmarkPods(b *testing.B) {
	n := newNode(b)
	n.runInMemory()
	n.start()
	c := n.client(b)
	f := newFloor(b, n)
	f.open()
	c.begin("model", 1)
	model := f.model(c.only("model"))

	var one, fifty samples
	for i := range rounds {
		one.add(c, fmt.Sprintf("one-%d", i), f, model, 1)
	}
	one.report(b, "1-pod", "1-container")
	report(b, "1-pod-seen-to-started-ms", one.seen)
	compare(b, "1-pod-seen-to-started", one.seen, one.floorUp, one.bareUp)
	for i := range 3 {
		fifty.add(c, fmt.Sprintf("fifty-%d", i), f, model, 50)
	}
	fifty.report(b, "50-pods", "50-containers")
}

// samples are the lives of some pods, and in turn with them of as many containers: those of the floor, and bare ones.
type samples struct {
	up, bound, seen, gone                []time.Duration
	floorUp, floorGone, bareUp, bareGone []time.Duration
}

func (s *samples) add(c client, name string, f *floor, model *oci.Spec, count int) {
	c.b.Helper()
	const atOnce = 4
	up, gone := f.run(nil, count, atOnce)
	s.bareUp, s.bareGone = append(s.bareUp, up), append(s.bareGone, gone)
	up, gone = f.run(model, count, atOnce)
	s.floorUp, s.floorGone = append(s.floorUp, up), append(s.floorGone, gone)
	before := c.starts()
	took := c.run(name, int32(count))
	s.up, s.bound, s.gone = append(s.up, took.up), append(s.bound, took.bound), append(s.gone, took.gone)
	s.seen = append(s.seen, c.starts()-before)
}

func (s *samples) report(b *testing.B, pods, containers string) {
	report(b, pods+"-ms", s.up)
	report(b, pods+"-bound-to-Ready-ms", s.bound)
	report(b, pods+"-gone-ms", s.gone)
	report(b, containers+"-ms", s.floorUp)
	report(b, containers+"-gone-ms", s.floorGone)
	report(b, containers+"-bare-ms", s.bareUp)
	report(b, containers+"-bare-gone-ms", s.bareGone)
	compare(b, pods, s.up, s.floorUp, s.bareUp)
	compare(b, pods+"-bound-to-Ready", s.bound, s.floorUp, s.bareUp)
	compare(b, pods+"-gone", s.gone, s.floorGone, s.bareGone)
}

// compare tells how many times as long something took as the floor, and as bare containers.
func compare(b *testing.B, what string, took, floor, bare []time.Duration) {
	b.ReportMetric(float64(median(took))/float64(median(floor)), what+"/floor")
	b.ReportMetric(float64(median(took))/float64(median(bare)), what+"/bare")
}

// client is a small client of a node's API.
type client struct {
	b *testing.B
	kubernetes.Interface
}

func (n *node) client(b *testing.B) client {
	b.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(n.data, "admin.kubeconfig"))
	if err != nil {
		b.Fatal(err)
	}
	config.QPS = -1
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialIn(ctx, n.netns, network, address)
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		b.Fatal(err)
	}
	return client{b, c}
}

// starts is how long all pods of the node together took from when the agent heard of them until their containers ran, as it says.
func (c client) starts() time.Duration {
	c.b.Helper()
	text, err := c.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + nodeName + "/proxy/metrics").DoRaw(context.Background())
	if err != nil {
		c.b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if number, ok := strings.CutPrefix(line, "kubelet_pod_start_duration_seconds_sum "); ok {
			seconds, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
			if err != nil {
				c.b.Fatal(err)
			}
			return time.Duration(seconds * float64(time.Second))
		}
	}
	c.b.Fatal("the agent does not say how long pods take to start")
	return 0
}

// life is what a Deployment's pods took: from the request for it until they are Ready, in it from the first one's being bound to the node;
// and from its deletion until they are gone.
type life struct{ up, bound, gone time.Duration }

// run measures the life of a Deployment.
func (c client) run(name string, replicas int32) (took life) {
	c.b.Helper()
	took.up, took.bound = c.begin(name, replicas)
	took.gone = c.end(name)
	return took
}

// begin makes a Deployment and waits for its pods.
func (c client) begin(name string, replicas int32) (up, sinceBound time.Duration) {
	c.b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	labels := map[string]string{"app": name}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas,
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "nginx", Image: "nginx", ImagePullPolicy: corev1.PullIfNotPresent}},
		}},
	}}
	events, err := c.CoreV1().Pods("default").Watch(ctx, of(name))
	if err != nil {
		c.b.Fatal(err)
	}
	start := time.Now()
	if _, err := c.AppsV1().Deployments("default").Create(ctx, deployment, metav1.CreateOptions{}); err != nil {
		c.b.Fatal(err)
	}
	ready, bound := map[string]bool{}, time.Time{}
	_, err = toolswatch.UntilWithoutRetry(ctx, events, func(ev watch.Event) (bool, error) {
		pod, ok := ev.Object.(*corev1.Pod)
		if ok && pod.Spec.NodeName != "" && bound.IsZero() {
			bound = time.Now()
		}
		if ok && isReady(pod) {
			ready[pod.Name] = true
		}
		return len(ready) == int(replicas), nil
	})
	up, sinceBound = time.Since(start), time.Since(bound)
	if err != nil {
		c.b.Fatalf("%d of %d pods are Ready: %v", len(ready), replicas, err)
	}
	return up, sinceBound
}

// end deletes a Deployment and waits until its pods are gone.
func (c client) end(name string) time.Duration {
	c.b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	pods := c.CoreV1().Pods("default")
	left, err := pods.List(ctx, of(name))
	if err != nil {
		c.b.Fatal(err)
	}
	options := of(name)
	options.ResourceVersion = left.ResourceVersion
	events, err := pods.Watch(ctx, options) // To list again and again would take the time that is measured.
	if err != nil {
		c.b.Fatal(err)
	}
	start := time.Now()
	if err := c.AppsV1().Deployments("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		c.b.Fatal(err)
	}
	count := len(left.Items)
	_, err = toolswatch.UntilWithoutRetry(ctx, events, func(ev watch.Event) (bool, error) {
		if ev.Type == watch.Deleted {
			count--
		}
		return count == 0, nil
	})
	if err != nil {
		c.b.Fatalf("%d pods are left: %v", count, err)
	}
	return time.Since(start)
}

// only is the pod of a Deployment that has one.
func (c client) only(name string) *corev1.Pod {
	c.b.Helper()
	list, err := c.CoreV1().Pods("default").List(context.Background(), of(name))
	if err != nil || len(list.Items) != 1 {
		c.b.Fatalf("%s has %d pods, want 1: %v", name, len(list.Items), err)
	}
	return &list.Items[0]
}

// of selects a Deployment's pods.
func of(name string) metav1.ListOptions { return metav1.ListOptions{LabelSelector: "app=" + name} }

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// dialIn connects from a network namespace.
func dialIn(ctx context.Context, namespace, network, address string) (conn net.Conn, err error) {
	onOwnThread(func() {
		if err = enter(namespace); err == nil {
			conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
		}
	})
	return conn, err
}

// BenchmarkIdlePods leaves 500 pods of a pretended runtime alone for half a minute: what the agents keep of each, and what they do. They
// are two, in one process, as a node that only pretends takes 250.
func BenchmarkIdlePods(b *testing.B) {
	const count = 500
	n := newNode(b, "--no-agent")
	n.launch()
	n.awaitLog("the API answers")
	agents := n.launchAgents("--nodes", "2", "--max-pods", "250")
	s := n.shell(b)
	s.until("kubectl get nodes --no-headers", `(fake-\d+ +Ready .*\n?){2}`)
	pid := fmt.Sprint(agents.Process.Pid)
	resident := func() float64 { return float64(procField(b, "/proc/"+pid+"/status", "VmRSS")) }
	time.Sleep(10 * time.Second)
	empty := resident()
	s.do(fmt.Sprintf("kubectl create deployment idle --image=nginx --replicas=%d", count))
	s.until("kubectl get deployment idle --no-headers", fmt.Sprintf("idle +%d/%d .*", count, count))
	time.Sleep(30 * time.Second) // What follows a start is not idleness.
	before, full := processorTime(b, pid), resident()
	time.Sleep(30 * time.Second)
	b.ReportMetric((full-empty)/count, "KiB-resident/pod")
	b.ReportMetric(100*(processorTime(b, pid)-before).Seconds()/30, "%-of-a-core")
	b.ReportMetric(0, "ns/op")
	if err := agents.Process.Signal(syscall.SIGTERM); err != nil {
		b.Error(err)
	}
	if err := agents.Wait(); err != nil {
		b.Errorf("the agents ended with %v", err)
	}
}

// BenchmarkIdle leaves the walk's cluster alone for a minute.
func BenchmarkIdle(b *testing.B) {
	n := newNode(b)
	n.start()
	applied(n.shell(b))
	time.Sleep(15 * time.Second) // What follows a start is not idleness.
	before := n.usage(b)
	time.Sleep(time.Minute)
	after := n.usage(b)
	b.ReportMetric(float64(after.resident)/1e6, "MB-resident")
	b.ReportMetric(100*(after.cpu-before.cpu).Seconds()/60, "%-of-a-core")
	b.ReportMetric(float64(after.commits-before.commits), "commits/min") // Each with two fdatasyncs.
	b.ReportMetric(float64(after.written-before.written)/1e3, "kB-written/min")
	b.ReportMetric(0, "ns/op")
	n.stop(syscall.SIGTERM)
}

// usage is what the server has used so far, of the machine.
type usage struct {
	resident, written int64 // Bytes.
	cpu               time.Duration
	commits           uint64 // Transactions of the store.
}

func (n *node) usage(b *testing.B) usage {
	b.Helper()
	proc := fmt.Sprintf("/proc/%d/", n.server.Pid)
	return usage{
		resident: procField(b, proc+"status", "VmRSS") * 1024,
		written:  procField(b, proc+"io", "write_bytes"),
		cpu:      processorTime(b, fmt.Sprint(n.server.Pid)),
		commits:  commits(read(b, filepath.Join(n.data, "state.db"))),
	}
}

// processorTime is what a process has used of the processors, for itself and in the kernel.
func processorTime(b *testing.B, pid string) time.Duration {
	b.Helper()
	_, stat, _ := strings.Cut(string(read(b, "/proc/"+pid+"/stat")), ") ")
	var ticks int64
	for _, value := range strings.Fields(stat)[11:13] { // utime and stime, see proc(5).
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond
	return time.Duration(ticks) * tick
}

func read(b *testing.B, path string) []byte {
	b.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

// procField is the number behind a name in a file of /proc.
func procField(b *testing.B, file, name string) int64 {
	b.Helper()
	for line := range strings.Lines(string(read(b, file))) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			number, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return number
		}
	}
	b.Fatalf("%s has no %s", file, name)
	return 0
}

// commits is the number of bbolt's last transaction, which is in one of the file's first two pages.
func commits(file []byte) uint64 {
	const transaction = 64 // Where it is in the page.
	page := len(file[:os.Getpagesize()])
	return max(binary.NativeEndian.Uint64(file[transaction:]), binary.NativeEndian.Uint64(file[page+transaction:]))
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// report prints the median, and the single times for those who want to see how far they are from it.
func report(b *testing.B, what string, all []time.Duration) {
	b.Helper()
	b.Logf("%s: %v", what, all)
	b.ReportMetric(float64(median(all).Microseconds())/1e3, what)
	b.ReportMetric(0, "ns/op") // Means nothing here, and is not printed when 0.
}
