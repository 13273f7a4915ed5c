package test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// The API server against its floor, with the same client in the same run: an etcd on the same disk for writes, a server that
// answers out of a copy in memory for reads and watches. A peer can take part: a kubeconfig of an administrator in the environment
// variable SKIFF_PEER, and the process numbers of its API server and store in SKIFF_PEER_PIDS, with commas between.

const (
	benchWriters     = 16
	benchPods        = 3000
	benchWatchers    = 50
	restBeforeMemory = 30 * time.Second // What a server holds for the moment is gone by then.
	jsonType         = "application/json"
	protoType        = "application/vnd.kubernetes.protobuf"
)

// BenchmarkAPI measures writes, reads and watches.
func BenchmarkAPI(b *testing.B) {
	n := newNode(b, "--no-agent")
	n.launch()
	n.awaitLog("the API answers")
	skiff := newCaller(b, "skiff", n.restConfig(b), fmt.Sprint(n.server.Pid))
	callers := []*caller{skiff}
	if file := os.Getenv("SKIFF_PEER"); file != "" {
		config, err := clientcmd.BuildConfigFromFlags("", file)
		if err != nil {
			b.Fatal(err)
		}
		callers = append(callers, newCaller(b, "peer", config, strings.Split(os.Getenv("SKIFF_PEER_PIDS"), ",")...))
	}
	for _, c := range callers {
		c.settle()
	}
	for _, c := range callers {
		c.measure()
	}
	time.Sleep(restBeforeMemory)
	for _, c := range callers {
		c.tell(c.resident(), "MB-resident-at-rest")
	}
	floorOfWrites(b, n)
	floorOfReads(b, n, skiff)
	b.ReportMetric(0, "ns/op")
	n.stop(syscall.SIGTERM)
}

// restConfig reaches the API of a node from where the test runs.
func (n *node) restConfig(b testing.TB) *rest.Config {
	b.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(n.data, "admin.kubeconfig"))
	if err != nil {
		b.Fatal(err)
	}
	config.QPS = -1
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		return dialIn(ctx, n.netns, network, address)
	}
	return config
}

// caller is the client, with one server to call.
type caller struct {
	b      *testing.B
	name   string
	pids   []string
	dial   func() *lightClient
	client *lightClient
}

func newCaller(b *testing.B, name string, config *rest.Config, pids ...string) *caller {
	b.Helper()
	server, err := url.Parse(config.Host)
	if err != nil {
		b.Fatal(err)
	}
	secure, err := rest.TLSConfigFor(config)
	if err != nil {
		b.Fatal(err)
	}
	secure.ServerName = server.Hostname()
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	c := &caller{b: b, name: name, pids: pids, dial: func() *lightClient {
		conn, err := dial(context.Background(), "tcp", server.Host)
		if err != nil {
			b.Fatal(err)
		}
		return newLightClient(b, conn, secure)
	}}
	c.client = c.dial()
	return c
}

// call makes a request and returns the body of the answer.
func (c *caller) call(method, path, body string, headers ...string) []byte {
	var a answer
	c.do(&a, method, path, body, headers...)
	return a.data
}

func (c *caller) do(a *answer, method, path, body string, headers ...string) {
	ended := make(chan struct{})
	a.ended = func() { close(ended) }
	r := request{method, path, body, headers, a}
	c.client.queue(r)
	c.client.flush()
	<-ended
	r.must()
}

// patchLabel sets a label of a pod to a number.
func (c *caller) patchLabel(pod string, n int) {
	c.call("PATCH", podsOfBench+"/"+pod, fmt.Sprintf(`{"metadata":{"labels":{"n":"%d"}}}`, n), "content-type", "application/merge-patch+json")
}

// watch follows one pod from several watches, on connections of their own, each of which has up to a hundred. The addition that each
// begins with has come when it returns.
func (c *caller) watch(pod string, watchers int) (e *everybody, stop func()) {
	e = &everybody{count: watchers, all: make(chan []time.Time, 1)}
	var clients []*lightClient
	for i := range watchers {
		if i%lightStreams == 0 {
			clients = append(clients, c.dial())
		}
		client := clients[len(clients)-1]
		client.queue(request{method: "GET", path: podsOfBench + "?watch=1&fieldSelector=metadata.name%3D" + pod, answer: &answer{each: func(data []byte) {
			if bytes.HasSuffix(data, []byte("\n")) {
				e.saw(time.Now())
			}
		}}})
		client.flush()
	}
	<-e.all
	return e, func() {
		for _, client := range clients {
			client.close()
		}
	}
}

// everybody notes when each of so many has seen a change. Who waits for all is woken once, so that this takes no time from anybody.
type everybody struct {
	count int
	all   chan []time.Time

	mu   sync.Mutex
	seen []time.Time
}

func (e *everybody) saw(at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seen = append(e.seen, at); len(e.seen) == e.count {
		e.all <- e.seen
		e.seen = nil
	}
}

// since waits for all, and tells how long after start each has seen it.
func (e *everybody) since(start time.Time) (took []time.Duration) {
	for _, at := range <-e.all {
		took = append(took, at.Sub(start))
	}
	return took
}

// tell prints one figure of this server.
func (c *caller) tell(value float64, what string) { c.b.ReportMetric(value, c.name+"-"+what) }

const podsOfBench = "/api/v1/namespaces/bench/pods"

// benchPod is a pod of about 2 KB that no scheduler takes. Those with the same image have the same template.
func benchPod(name, image string, n int) string {
	return fmt.Sprintf(`{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"labels":{"app":"web","pod-template-hash":"5d8f9c7b6d","n":"%d"},
		"annotations":{"example.com/config":%q}},
		"spec":{"schedulerName":"none","serviceAccountName":"bench","automountServiceAccountToken":false,"containers":[{"name":"web","image":%q,
		"env":[{"name":"A","value":"1"},{"name":"B","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],
		"ports":[{"containerPort":8080,"name":"http"}],"resources":{"requests":{"cpu":"100m","memory":"128Mi"},"limits":{"memory":"256Mi"}},
		"readinessProbe":{"httpGet":{"path":"/healthz","port":"http"}},"volumeMounts":[{"name":"config","mountPath":"/etc/web"}]}],
		"volumes":[{"name":"config","configMap":{"name":"web"}}]}}`, name, n, strings.Repeat("x", 600), image)
}

const benchImage = "registry.example/team/web:1.2.3"

// makeNamespace makes what pods need that no controller is waited for.
func (c *caller) makeNamespace() {
	c.call("POST", "/api/v1/namespaces", `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"bench"}}`)
	c.call("POST", "/api/v1/namespaces/bench/serviceaccounts", `{"kind":"ServiceAccount","apiVersion":"v1","metadata":{"name":"bench"}}`)
}

func (c *caller) measure() {
	c.makeNamespace()
	c.differing()
	c.rate("create", benchPods, func(i int) request { return createOf(podOfBench(i)) })
	c.rate("update", benchPods, func(i int) request { return updateOf(podOfBench(i), 1) })
	c.reads()
	c.whileWriting(func() { c.latency("busy-") })
	c.tell(c.resident(), "MB-resident")
}

// differing creates pods that have no template in common, and removes them.
func (c *caller) differing() {
	c.rate("differing-create", benchPods/3, func(i int) request {
		return request{method: "POST", path: podsOfBench, body: benchPod(podOfBench(i), fmt.Sprint(benchImage, i), 0)}
	})
	c.call("DELETE", podsOfBench+"?gracePeriodSeconds=0", "")
}

// settle waits until a server has done what it does after a start, and takes no time from the others: less than a tenth of a processor.
func (c *caller) settle() {
	const look = 2 * time.Second
	for deadline := time.Now().Add(3 * time.Minute); ; {
		before := c.processorTime()
		time.Sleep(look)
		if c.processorTime()-before < look/10 {
			return
		}
		if time.Now().After(deadline) {
			c.b.Fatalf("%s does not come to rest", c.name)
		}
	}
}

func podOfBench(i int) string { return fmt.Sprintf("web-%05d", i) }

func createOf(pod string) request {
	return request{method: "POST", path: podsOfBench, body: benchPod(pod, benchImage, 0)}
}

func updateOf(pod string, n int) request {
	return request{method: "PUT", path: podsOfBench + "/" + pod, body: benchPod(pod, benchImage, n)}
}

// counted gives so many requests.
func counted(count int, of func(i int) request) func() (request, bool) {
	var next atomic.Int64
	return func() (request, bool) {
		i := int(next.Add(1)) - 1
		if i >= count {
			return request{}, false
		}
		return of(i), true
	}
}

func (c *caller) reads() {
	c.rate("get", 4*benchPods, func(i int) request {
		return request{method: "GET", path: podsOfBench + "/" + podOfBench(i%benchPods)}
	})
	for _, l := range listsOfBench {
		var took []time.Duration
		var size int
		const times = 9
		c.costs(l.what, times, func() {
			for range times {
				start := time.Now()
				size = 0
				c.do(&answer{each: func(data []byte) { size += len(data) }}, "GET", podsOfBench, "", l.headers()...)
				took = append(took, time.Since(start))
			}
		})
		c.tell(float64(median(took).Microseconds())/1e3, l.what+"-ms")
		c.tell(float64(size), l.what+"-bytes")
		l.mustHave(c.b, c.call("GET", podsOfBench, "", l.headers()...), benchPods)
	}
	c.latency("")
}

// listing is a way to ask for a list.
type listing struct{ what, media, coding string }

// client-go asks for gzip, unless it is told not to.
var listsOfBench = []listing{
	{"list-JSON", jsonType, "identity"}, {"list-protobuf", protoType, "identity"},
	{"gzip-list-JSON", jsonType, "gzip"}, {"gzip-list-protobuf", protoType, "gzip"},
}

func (l listing) headers() []string { return []string{"accept", l.media, "accept-encoding", l.coding} }

// mustHave fails unless an answer is in this form and has so many pods.
func (l listing) mustHave(b *testing.B, body []byte, pods int) {
	b.Helper()
	if l.coding == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			b.Fatalf("%s: %v", l.what, err)
		}
		if body, err = io.ReadAll(z); err != nil {
			b.Fatalf("%s: %v", l.what, err)
		}
	}
	var list corev1.PodList
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &list); err != nil {
		b.Fatalf("%s: %v", l.what, err)
	}
	if len(list.Items) != pods {
		b.Fatalf("%s: %d pods, want %d", l.what, len(list.Items), pods)
	}
}

// whileWriting has the writers update other pods than the first one for as long as a thing is done.
func (c *caller) whileWriting(do func()) {
	var stop atomic.Bool
	var next atomic.Int64
	var writers sync.WaitGroup
	writers.Go(func() {
		client := c.dial()
		defer client.close()
		client.flood(benchWriters, func() (request, bool) {
			return updateOf(podOfBench(1+int(next.Add(1))%(benchPods-1)), 2), !stop.Load()
		})
	})
	do()
	stop.Store(true)
	writers.Wait()
}

// rate has benchWriters clients make so many requests, and tells how often a second, and at what cost.
func (c *caller) rate(what string, count int, of func(i int) request) {
	c.costs(what, count, func() {
		start := time.Now()
		c.client.flood(benchWriters, counted(count, of))
		c.tell(float64(count)/time.Since(start).Seconds(), what+"s/s")
	})
}

// costs tells what each of count operations costs the server's processors. Client and server share those of one machine: where
// they have enough of them, it is this that bounds the server.
func (c *caller) costs(what string, count int, do func()) {
	before := c.processorTime()
	do()
	c.tell(float64((c.processorTime()-before).Microseconds())/float64(count), what+"-processor-us")
}

func (c *caller) processorTime() (sum time.Duration) {
	for _, pid := range c.pids {
		sum += processorTime(c.b, pid)
	}
	return sum
}

// atOnce does a thing count times from several goroutines, and returns how often a second.
func atOnce(workers, count int, do func(i int)) float64 {
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range workers {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	wg.Wait()
	return float64(count) / time.Since(start).Seconds()
}

// latency tells the median time from a write's request until a watcher of the first pod has read its event.
func (c *caller) latency(when string) {
	const changes = 300
	pod := podOfBench(0)
	watchers, stop := c.watch(pod, benchWatchers)
	defer stop()
	var took []time.Duration
	c.costs(when+"change-seen-by-50", changes, func() {
		for i := range changes {
			start := time.Now()
			c.patchLabel(pod, i+2)
			took = append(took, watchers.since(start)...)
		}
	})
	c.tell(float64(median(took).Microseconds())/1e3, when+"event-p50-ms")
}

// resident is the memory of the server's processes in MB.
func (c *caller) resident() (sum float64) {
	for _, pid := range c.pids {
		sum += float64(procField(c.b, "/proc/"+pid+"/status", "VmRSS")) * 1024 / 1e6
	}
	return sum
}

// floorOfWrites puts as many bytes as a pod has into an etcd on the same disk.
func floorOfWrites(b *testing.B, n *node) {
	startEtcd(b, n)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:2379"}, DialTimeout: startTime,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialIn(ctx, n.netns, "tcp", address)
		})}})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	value := benchPod("web-00000", benchImage, 0)
	b.ReportMetric(atOnce(benchWriters, benchPods, func(i int) {
		if _, err := client.Put(context.Background(), fmt.Sprintf("/registry/pods/bench/web-%05d", i), value); err != nil {
			panic(err)
		}
	}), "etcd-puts/s")
}

// BenchmarkAPIScale fills a server with 100,000 pods: what each costs in memory, how long the next start takes, and what
// 1,000 watchers and a server-side apply cost.
func BenchmarkAPIScale(b *testing.B) {
	const objects, watchers = 100_000, 1000
	n := newNode(b, "--no-agent")
	n.launch()
	n.awaitLog("the API answers")
	c := newCaller(b, "skiff", n.restConfig(b), fmt.Sprint(n.server.Pid))
	before := c.resident()
	c.makeNamespace()
	name := func(i int) string { return fmt.Sprintf("web-%06d", i) }
	start := time.Now()
	c.client.flood(2*benchWriters, counted(objects, func(i int) request { return createOf(name(i)) }))
	b.ReportMetric(objects/time.Since(start).Seconds(), "creates/s")
	time.Sleep(restBeforeMemory)
	b.ReportMetric((c.resident()-before)*1e6/objects, "bytes/object")

	n.stop(syscall.SIGTERM)
	var starts []time.Duration
	for range 3 {
		start := time.Now()
		n.launch()
		soon(b, func() bool { return n.answers(b) })
		starts = append(starts, time.Since(start))
		if len(starts) < 3 {
			n.stop(syscall.SIGTERM)
		}
	}
	report(b, "start-with-100000-ms", starts)

	c = newCaller(b, "skiff", n.restConfig(b), fmt.Sprint(n.server.Pid))
	c.tell(c.resident(), "MB-resident-after-start")
	all, stop := c.watch(name(0), watchers)
	var told []time.Duration
	for i := range 20 {
		start := time.Now()
		c.patchLabel(name(0), i+1)
		told = append(told, all.since(start)...)
	}
	b.ReportMetric(float64(median(told).Microseconds())/1e3, "event-to-1000-watchers-p50-ms")
	stop()

	apply := func(i int) {
		c.call("PATCH", "/api/v1/namespaces/bench/configmaps/applied?fieldManager=bench", fmt.Sprintf(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"applied"},"data":{"n":"%d"}}`, i),
			"content-type", "application/apply-patch+yaml")
	}
	patch := func(i int) { c.patchLabel(name(1), i+1) }
	for _, one := range []struct {
		what string
		do   func(i int)
	}{{"apply-ms", apply}, {"merge-patch-ms", patch}} {
		var took []time.Duration
		for i := range 200 {
			start := time.Now()
			one.do(i)
			took = append(took, time.Since(start))
		}
		b.ReportMetric(float64(median(took).Microseconds())/1e3, one.what)
	}
	n.stop(syscall.SIGTERM)
}
