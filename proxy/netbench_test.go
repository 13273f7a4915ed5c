package proxy

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What follows measures packets, between namespaces of its own. Every figure has its floor in the same run, round by round in turn:
// what counts is the median of the rounds' ratios. A rate is that of a second of processor time, of clients and servers together and
// of what the kernel does for them, as a machine that is busy with something else has fewer of these seconds, not shorter ones.

const (
	netRounds = 15
	netTime   = 200 * time.Millisecond // Of one measurement.
	netHands  = 2                      // Clients, and as many servers.
)

// A way is something to measure: a rate, the more the better.
type way struct {
	name    string
	prepare func()
	rate    func() float64
}

// compare reports the median rate of each way, and how it stands to the first one.
func compareWays(b *testing.B, unit string, ways []way) {
	b.Helper()
	rates, ratios := make([][]float64, len(ways)), make([][]float64, len(ways))
	for range netRounds {
		for i, w := range ways {
			if w.prepare != nil {
				w.prepare()
			}
			rates[i] = append(rates[i], w.rate())
		}
		for i := range ways {
			last := len(rates[i]) - 1
			ratios[i] = append(ratios[i], rates[i][last]/rates[0][last])
		}
	}
	for i, w := range ways {
		b.ReportMetric(medianOf(rates[i]), w.name+"-"+unit)
		if i > 0 {
			b.ReportMetric(medianOf(ratios[i]), w.name+"-to-"+ways[0].name)
		}
	}
	b.ReportMetric(0, "ns/op")
}

func medianOf(all []float64) float64 {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// BenchmarkConnections makes new connections to a pod: straight, to its Service, and to its Service among 10,000.
func BenchmarkConnections(b *testing.B) {
	oneFamily().newNode(b)
	pod, client := oneFamily().newPod(b, "10.42.0.11"), oneFamily().newPod(b, "10.42.0.20")
	pod.greet(b, 8080)
	p := oneFamily().newProgrammed(b)
	p.set(newTestService("web", "10.43.255.80"), "10.42.0.11")
	compareWays(b, "conn/cpu-s", []way{
		{"direct", func() { p.setMany(b, false) }, func() float64 { return client.connects(b, "10.42.0.11:8080") }},
		{"service", nil, func() float64 { return client.connects(b, "10.43.255.80:80") }},
		{"10000services", func() { p.setMany(b, true) }, func() float64 { return client.connects(b, "10.43.255.80:80") }},
	})
}

// setMany adds 10,000 Services, or takes them away.
func (p *programmed) setMany(b *testing.B, there bool) {
	b.Helper()
	for _, s := range p.benchServices() {
		if name := "default/" + s.svc.Name; there {
			p.rules.Set(name, s.svc, s.slices)
		} else {
			p.rules.Set(name, nil, nil)
		}
	}
	must(b, p.table.commit(p.rules.news()))
	p.rules.told()
}

// BenchmarkThroughput sends over one connection, straight and to a Service among 10,000.
func BenchmarkThroughput(b *testing.B) {
	oneFamily().newNode(b)
	pod, client := oneFamily().newPod(b, "10.42.0.11"), oneFamily().newPod(b, "10.42.0.20")
	pod.swallow(b, 8080)
	p := oneFamily().newProgrammed(b)
	p.set(newTestService("web", "10.43.255.80"), "10.42.0.11")
	p.setMany(b, true)
	compareWays(b, "Gbit/cpu-s", []way{
		{"direct", nil, func() float64 { return client.sends(b, "10.42.0.11:8080") }},
		{"10000services", nil, func() float64 { return client.sends(b, "10.43.255.80:80") }},
	})
}

// BenchmarkPolicies makes new connections to a pod that lets everybody in, one peer, and 10,000 pods and as many blocks.
func BenchmarkPolicies(b *testing.B) {
	oneFamily().newNode(b)
	pod, client := oneFamily().newPod(b, "10.42.0.11"), oneFamily().newPod(b, "10.42.0.20")
	pod.greet(b, 8080)
	p := oneFamily().newProgrammed(b)
	pods := map[string]*corev1.Pod{"default/pod": peerPod("node", "10.42.0.11", "pod"), "default/client": peerPod("node", "10.42.0.20", "peer")}
	for i := range 10000 {
		pods[fmt.Sprintf("default/p%d", i)] = peerPod("other", netip.AddrFrom4([4]byte{10, 44, byte(i >> 8), byte(i)}).String(), "peer")
	}
	set := func(policy *networkingv1.NetworkPolicy, others bool) func() {
		return func() {
			for name, pod := range pods {
				if pod.Spec.NodeName == "other" && !others {
					pod = nil
				}
				p.rules.SetPod(name, pod)
			}
			p.rules.SetPolicy("default/p", policy)
			p.rules.enforce()
			must(b, p.table.commit(p.rules.news()))
			p.rules.told()
		}
	}
	ask := func() float64 { return client.connects(b, "10.42.0.11:8080") }
	compareWays(b, "conn/cpu-s", []way{
		{"free", set(nil, false), ask},
		{"1peer", set(peersOnly(0), false), ask},
		{"10000peers", set(peersOnly(10000), true), ask},
	})
}

func peerPod(node, addr, label string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Labels: map[string]string{"app": label}}}
	pod.Spec.NodeName, pod.Status.PodIP = node, addr
	return pod
}

// peersOnly lets in the pods with the label peer, and n blocks.
func peersOnly(n int) *networkingv1.NetworkPolicy {
	peers := []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "peer"}}}}
	for i := range n {
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, byte(i >> 8), byte(i), 0}), 25)
		peers = append(peers, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: block.String()}})
	}
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": "pod"}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: peers}}
	return p
}

// BenchmarkMemory is what 10,000 Services take in the proxy, and what the objects themselves do, which a proxy alone has, too.
func BenchmarkMemory(b *testing.B) {
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return float64(m.HeapInuse)
	}
	for _, w := range worlds() {
		b.Run(fmt.Sprintf("%dfamilies", len(w.families)), func(b *testing.B) {
			before := heap()
			all := w.benchServices()
			objects := heap() - before
			r := w.fill(all)
			r.told()
			b.ReportMetric((heap()-before-objects)/1e6, "MB")
			b.ReportMetric(objects/1e6, "objects-MB")
			b.ReportMetric(0, "ns/op")
			runtime.KeepAlive(all)
			runtime.KeepAlive(r)
		})
	}
}

// What connects and answers here does so by system calls alone, on threads that stay where they are: what is measured is the
// kernel's work.

// on runs f on a thread in the namespace of h, until the benchmark ends or f does.
func (h *host) on(b *testing.B, f func()) {
	go func() {
		runtime.LockOSThread() // For good: the thread ends with f.
		if err := netns.Set(h.ns); err != nil {
			b.Error(err)
			return
		}
		f()
	}()
}

// listenRaw returns a listening socket in the namespace of h.
func (h *host) listenRaw(b *testing.B, port int) (fd int) {
	b.Helper()
	h.do(b, func() {
		var err error
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(b, err)
		must(b, unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: h.addr.As4()}))
		must(b, unix.Listen(fd, 4096))
	})
	b.Cleanup(func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR); _ = unix.Close(fd) })
	return fd
}

// greet sends a byte to whoever connects.
func (h *host) greet(b *testing.B, port int) {
	fd := h.listenRaw(b, port)
	for range netHands {
		h.on(b, func() {
			for {
				c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err != nil {
					return
				}
				_, _ = unix.Write(c, []byte{1})
				_ = unix.Close(c)
			}
		})
	}
}

// swallow reads what comes.
func (h *host) swallow(b *testing.B, port int) {
	fd := h.listenRaw(b, port)
	h.on(b, func() {
		buf := make([]byte, 1<<20)
		for {
			c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			for n := 1; n > 0; {
				n, _ = unix.Read(c, buf)
			}
			_ = unix.Close(c)
		}
	})
}

// connects returns how many connections h makes in a second.
func (h *host) connects(b *testing.B, address string) float64 {
	b.Helper()
	var made atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	start, cpu := time.Now(), processorTime(b)
	for range netHands {
		wg.Add(1)
		h.on(b, func() {
			defer wg.Done()
			for time.Since(start) < netTime {
				if err := greeted(netip.MustParseAddrPort(address)); err != nil {
					failed.Store(&err)
					return
				}
				made.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		b.Fatalf("connect to %s: %v", address, *err)
	}
	return float64(made.Load()) / (processorTime(b) - cpu)
}

// processorTime returns the seconds of it that this process has had.
func processorTime(b *testing.B) float64 {
	var usage unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}

func greeted(to netip.AddrPort) error {
	fd, err := dialRaw(to)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Read(fd, make([]byte, 1))
	return err
}

// dialRaw returns a connected socket that leaves nothing behind when it is closed: ports would run out.
func dialRaw(to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// sends returns how many billion bits h sends in a second over one connection.
func (h *host) sends(b *testing.B, address string) float64 {
	b.Helper()
	done := make(chan float64, 1)
	h.on(b, func() {
		defer close(done)
		fd, err := dialRaw(netip.MustParseAddrPort(address))
		if err != nil {
			b.Error(err)
			return
		}
		defer unix.Close(fd)
		buf, sent := make([]byte, 1<<18), 0
		start, cpu := time.Now(), processorTime(b)
		for time.Since(start) < netTime {
			n, err := unix.Write(fd, buf)
			if err != nil {
				b.Error(err)
				return
			}
			sent += n
		}
		done <- float64(sent) * 8 / 1e9 / (processorTime(b) - cpu)
	})
	return <-done
}
