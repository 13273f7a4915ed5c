package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// cluster is an API with a proxy that watches it.
type cluster struct {
	world
	t      testing.TB
	client *fake.Clientset
}

func (w world) newCluster(t testing.TB) *cluster { return &cluster{w, t, fake.NewClientset()} }

// start runs a proxy until stop is called or the test ends, and waits until the kernel has all.
func (c *cluster) start(k kernel) (stop func()) {
	c.t.Helper()
	return c.startAs(c.config(), k)
}

func (c *cluster) startAs(config Config, k kernel) (stop func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	factory := informers.NewSharedInformerFactory(c.client, 0)
	p, err := newProxy(config, factory, k)
	must(c.t, err)
	factory.Start(ctx.Done())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	select {
	case <-p.Synced():
	case <-time.After(time.Minute):
		c.t.Fatal("proxy not synced within a minute")
	}
	stop = sync.OnceFunc(func() { cancel(); factory.Shutdown(); must(c.t, <-done) })
	c.t.Cleanup(stop)
	return stop
}

func (c *cluster) create(svc *corev1.Service, addrs ...string) {
	c.t.Helper()
	_, err := c.client.CoreV1().Services(svc.Namespace).Create(c.t.Context(), svc, metav1.CreateOptions{})
	must(c.t, err)
	_, err = c.client.DiscoveryV1().EndpointSlices(svc.Namespace).Create(c.t.Context(), c.slice(svc.Name, addrs...), metav1.CreateOptions{})
	must(c.t, err)
}

func (c *cluster) scale(service string, addrs ...string) {
	c.t.Helper()
	_, err := c.client.DiscoveryV1().EndpointSlices("default").Update(c.t.Context(), c.slice(service, addrs...), metav1.UpdateOptions{})
	must(c.t, err)
}

func TestStaleConnections(t *testing.T) { inEachWorld(t, testStaleConnections) }

func testStaleConnections(t *testing.T, w world) {
	w.newNode(t)
	one, two, client := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.12"), w.newPod(t, "10.42.0.20")
	one.serve(t, 8080)
	two.serve(t, 8080)
	c := w.newCluster(t)
	c.create(w.service("web", "10.43.0.80"), "10.42.0.11")
	c.start(&table{config: w.config()})

	datagrams, err := client.dial(t, "udp", "10.43.0.80:80")
	must(t, err)
	defer datagrams.Close()
	if r, err := exchange(datagrams); err != nil || r.from != one.name {
		t.Fatalf("first datagram: %v, %v; want %s", r, err, one.name)
	}
	stream, err := client.dial(t, "tcp", "10.43.0.80:80")
	must(t, err)
	defer stream.Close()
	if r, err := exchange(stream); err != nil || r.from != one.name {
		t.Fatalf("connection: %v, %v; want %s", r, err, one.name)
	}

	c.scale("web", "(10.42.0.11)", "10.42.0.12")
	eventually(t, "datagrams of the same socket go to the live endpoint", func() bool {
		r, err := exchangeFor(datagrams, inVain)
		return err == nil && r.from == two.name
	})
	must(t, stream.SetDeadline(time.Now().Add(patience))) // The datagrams may have used up that of the first exchange.
	if _, err := stream.Write([]byte("x")); err != nil {
		t.Errorf("connection to a terminating endpoint: %v, want it to live on", err)
	}
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("connection to a terminating endpoint: %v, want the end of what was sent", err)
	}

	c.scale("web", "10.42.0.12")
	must(t, stream.SetDeadline(time.Time{}))
	eventually(t, "the connection to the endpoint that is gone is reset", func() bool {
		_, err := stream.Write([]byte("x"))
		return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
	})

	c.scale("web")
	eventually(t, "datagrams are refused when no endpoint is left", func() bool {
		_, err := exchangeFor(datagrams, inVain)
		return refused(err)
	})
}

// TestDatagramsFindTheirWay: a socket that keeps sending reaches a node port that opens, and hears when it is closed again.
func TestDatagramsFindTheirWay(t *testing.T) { inEachWorld(t, testDatagramsFindTheirWay) }

func testDatagramsFindTheirWay(t *testing.T, w world) {
	node := w.newNode(t)
	one, outsider := w.newPod(t, "10.42.0.11"), w.newOutsider(t)
	one.serve(t, 8080)
	c := w.newCluster(t)
	c.start(&table{config: w.config()})
	// Something on the node takes the datagrams, and does not answer.
	deaf := &host{world: w, name: "deaf", ns: node.ns, addr: w.addr("192.0.2.1")}
	var socket net.PacketConn
	deaf.do(t, func() {
		var err error
		socket, err = net.ListenPacket("udp", w.family.as("192.0.2.1:30080"))
		must(t, err)
	})
	defer socket.Close()
	datagrams, err := outsider.dial(t, "udp", "192.0.2.1:30080")
	must(t, err)
	defer datagrams.Close()
	if r, err := exchangeFor(datagrams, inVain); err == nil {
		t.Fatalf("answer from %s, want none", r.from)
	}
	c.create(w.service("web", "10.43.0.80"), "10.42.0.11")
	eventually(t, "datagrams of the same socket reach the Service", func() bool {
		r, err := exchangeFor(datagrams, inVain)
		return err == nil && r.from == one.name
	})
	must(t, socket.Close())
	must(t, c.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}))
	eventually(t, "datagrams of the same socket are refused when the Service is gone", func() bool {
		_, err := exchangeFor(datagrams, inVain)
		return refused(err)
	})
}

func TestRestartAndDrift(t *testing.T) { inEachWorld(t, testRestartAndDrift) }

func testRestartAndDrift(t *testing.T, w world) {
	w.newNode(t)
	one, client := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.20")
	one.serve(t, 8080)
	c := w.newCluster(t)
	c.create(w.service("web", "10.43.0.80"), "10.42.0.11")
	c.create(w.service("old", "10.43.0.81"), "10.42.0.11")
	stop := c.start(&table{config: w.config()})

	failures := client.keepAsking(t, "10.43.0.80:80")
	stop()
	must(t, c.client.CoreV1().Services("default").Delete(t.Context(), "old", metav1.DeleteOptions{}))
	c.start(&table{config: w.config()})
	if n := failures(); n > 0 {
		t.Errorf("%d connections failed during the restart", n)
	}
	wantRefused(t, client, "tcp", "10.43.0.81:80")

	must(t, Purge(w.config().Table))
	eventually(t, "the table is back after somebody removed it", func() bool {
		_, err := client.askFor(t, "tcp", "10.43.0.80:80", inVain)
		return err == nil
	})

	other := &table{config: w.config()}
	t.Cleanup(other.close)
	have, err := other.load()
	must(t, err)
	damage := diff{}
	for k, v := range have {
		if k.in == endpoints {
			damage.remove = append(damage.remove, element{k, v})
		}
	}
	must(t, other.commit(damage))
	eventually(t, "the elements are back after somebody removed them", func() bool {
		_, err := client.askFor(t, "tcp", "10.43.0.80:80", inVain)
		return err == nil
	})
}

// watched is a table in the kernel, and how often its watch has spoken of it.
func watched(t *testing.T) (p *programmed, said *atomic.Int64) {
	p, said = oneFamily().newProgrammed(t), new(atomic.Int64)
	t.Cleanup(func() { must(t, Purge(testConfig().Table)) })
	stop, err := p.table.watch(func() { said.Add(1) })
	must(t, err)
	t.Cleanup(stop)
	return p, said
}

// TestOwnChangesAreNoDrift counts what the watch says of changes by the table's owner, by others, and of other tables.
func TestOwnChangesAreNoDrift(t *testing.T) {
	requireRoot(t)
	p, said := watched(t)
	p.set(newTestService("web", "10.43.0.80"), "10.42.0.11")
	elsewhere := testConfig()
	elsewhere.Table = "elsewhere"
	strange, other := &table{config: elsewhere}, &table{config: testConfig()}
	t.Cleanup(strange.close)
	t.Cleanup(other.close)
	must(t, strange.replace(nil))
	must(t, Purge(elsewhere.Table))
	p.set(newTestService("web", "10.43.0.80"))
	_, err := other.load()
	must(t, err)
	must(t, other.commit(diff{add: []element{{key: key{in: hairpin, addr: netip.MustParseAddr("10.42.0.99")}}}}))
	eventually(t, "the watch tells that somebody added an element", func() bool { return said.Load() > 0 })
	if n := said.Load(); n != 1 {
		t.Errorf("the watch spoke %d times, want once: for the element that somebody added", n)
	}
}

// TestLargeBatchesAreNotHeard: the watch does not listen while ten thousand elements of its table's own go to the kernel, and hears
// nevertheless that somebody else changed something meanwhile.
func TestLargeBatchesAreNotHeard(t *testing.T) {
	requireRoot(t)
	p, said := watched(t)
	var many []element
	for i := range uint32(10 * largeBatch) {
		many = append(many, element{key: key{in: anyone, slot: i}, value: value{number: i}})
	}
	must(t, p.table.replace(many))
	must(t, p.table.commit(diff{remove: many}))
	if n := said.Load(); n != 0 {
		t.Fatalf("the watch spoke %d times of changes by its own table", n)
	}
	elsewhere := testConfig()
	elsewhere.Table = "elsewhere"
	strange := &table{config: elsewhere}
	t.Cleanup(func() { strange.close(); must(t, Purge(elsewhere.Table)) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		var err error
		for ctx.Err() == nil && err == nil {
			err = strange.replace(nil)
		}
		ended <- err
	}()
	eventually(t, "the watch tells that something may have changed while it did not listen", func() bool {
		must(t, p.table.replace(many))
		return said.Load() > 0
	})
	cancel()
	must(t, <-ended)
}

// TestNoConnectionLost updates the endpoints over and over while clients connect.
func TestNoConnectionLost(t *testing.T) { inEachWorld(t, testNoConnectionLost) }

func testNoConnectionLost(t *testing.T, w world) {
	const updates = 10000
	w.newNode(t)
	client := w.newPod(t, "10.42.0.20")
	for i := range 3 {
		w.newPod(t, fmt.Sprintf("10.42.0.1%d", i)).serve(t, 8080)
	}
	p := w.newProgrammed(t)
	svc := w.service("web", "10.43.0.80")
	states := [][]string{{"10.42.0.10"}, {"10.42.0.10", "10.42.0.11", "10.42.0.12"}, {"10.42.0.12"}, {"10.42.0.11", "10.42.0.12"}}
	p.set(svc, states[0]...)
	failures := client.keepAsking(t, "10.43.0.80:80")
	for i := range updates {
		p.set(svc, states[i%len(states)]...)
	}
	if n := failures(); n > 0 {
		t.Errorf("%d connections failed during %d updates", n, updates)
	}
}

// keepAsking connects over and over until the returned function is called, which says how many connections failed.
func (h *host) keepAsking(t testing.TB, address string) (stop func() int64) {
	t.Helper()
	var failed, asked atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				var c net.Conn
				var err error
				h.do(t, func() { c, err = net.DialTimeout("tcp", h.family.as(address), patience) })
				if err == nil {
					_, err = exchange(c)
					_ = c.(*net.TCPConn).SetLinger(0) // A reset leaves no TIME_WAIT: ports would run out.
					c.Close()
				}
				if err != nil {
					t.Log(err)
					failed.Add(1)
				}
				asked.Add(1)
			}
		})
	}
	eventually(t, "the first connections", func() bool { return asked.Load() > 20 })
	stop = sync.OnceValue(func() int64 {
		cancel()
		wg.Wait()
		t.Logf("%d connections", asked.Load())
		return failed.Load()
	})
	t.Cleanup(func() { stop() })
	return stop
}

// TestFollowsEvents runs a whole proxy against a kernel in memory.
func TestFollowsEvents(t *testing.T) {
	c := oneFamily().newCluster(t)
	c.create(newTestService("a", "10.43.0.1"), "10.42.0.1")
	m := &shared{}
	c.start(m)
	c.create(newTestService("b", "10.43.0.2"), "10.42.0.2")
	c.scale("a", "10.42.0.1", "10.42.0.3")
	m.mu.Lock()
	m.elements = nil // Somebody removed the table.
	m.mu.Unlock()
	m.changed()
	must(t, c.client.CoreV1().Services("default").Delete(t.Context(), "b", metav1.DeleteOptions{}))
	for _, name := range []string{"stays", "goes"} {
		_, err := c.client.CoreV1().Pods("default").Create(t.Context(), podWithPort(name, 88), metav1.CreateOptions{})
		must(t, err)
	}
	must(t, c.client.CoreV1().Pods("default").Delete(t.Context(), "goes", metav1.DeleteOptions{}))

	want := NewRuleset(testConfig())
	want.SetPod("default/stays", podWithPort("stays", 88))
	want.Set("default/a", newTestService("a", "10.43.0.1"), []*discoveryv1.EndpointSlice{newTestSlice("a", "10.42.0.1", "10.42.0.3")})
	eventually(t, "the kernel holds Service a with two endpoints, nothing of b, and one host port", func() bool {
		return len(want.against(m.copy()).remove) == 0 && len(want.against(m.copy()).add) == 0
	})
}

func podWithPort(name string, port int32) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	pod.Spec = corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{
		Name: "c", Ports: []corev1.ContainerPort{{ContainerPort: 8080, HostPort: port, Protocol: corev1.ProtocolTCP}},
	}}}
	pod.Status.PodIP = "10.42.0.30"
	return pod
}

// TestFollowsZone has the node's label say in which zone it is.
func TestFollowsZone(t *testing.T) {
	c := oneFamily().newCluster(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	_, err := c.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	must(t, err)
	c.create(newTestService("a", "10.43.0.1"), "10.42.0.1", "10.42.0.2")
	slice := newTestSlice("a", "10.42.0.1", "10.42.0.2")
	for i, zone := range []string{"east", "west"} {
		slice.Endpoints[i].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
	}
	_, err = c.client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), slice, metav1.UpdateOptions{})
	must(t, err)
	m := &shared{}
	c.start(m)
	for zone, want := range map[string]uint32{"": 2, "east": 1, "north": 2} {
		node.Labels = map[string]string{corev1.LabelTopologyZone: zone}
		_, err = c.client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{})
		must(t, err)
		eventually(t, fmt.Sprintf("in zone %q there are %d endpoints", zone, want), func() bool {
			return m.copy()[frontend{netip.MustParseAddr("10.43.0.1"), tcp, 80}.key()].choice.count() == want
		})
	}
}

// shared is a memory for several goroutines.
type shared struct {
	mu sync.Mutex
	memory
	changed func()
}

func (s *shared) watch(changed func()) (stop func(), err error) {
	s.changed = changed
	return func() {}, nil
}

func (s *shared) load() (map[key]value, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.load()
}

func (s *shared) replace(all []element) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.replace(all)
}

func (s *shared) commit(d diff) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory.commit(d)
}

func (s *shared) copy() map[key]value {
	have, _ := s.load()
	return have
}

func TestConfig(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no node name":     func(c *Config) { c.NodeName = "" },
		"no table":         func(c *Config) { c.Table = "" },
		"no pod range":     func(c *Config) { c.ClusterCIDR = nil },
		"no service range": func(c *Config) { c.ServiceCIDR = nil },
	} {
		c := testConfig()
		change(&c)
		if _, err := New(c, informers.NewSharedInformerFactory(fake.NewClientset(), 0)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
