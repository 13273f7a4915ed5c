package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// The server under dnsperf, in the same run as what no server can surpass: sockets that send each packet back. Client and
// server share the machine in all cases. A CoreDNS can take part, see coredns_test.go.

const (
	perfServices = 10_000
	perfRounds   = 5
)

// BenchmarkQueries measures how many questions are answered in a second.
func BenchmarkQueries(b *testing.B) {
	dnsperf, err := exec.LookPath("dnsperf")
	if err != nil {
		b.Skip("needs dnsperf: scripts/dnsperf.sh")
	}
	servers := append(perfTargets(b), coreDNSTargets(b)...)
	for _, kind := range []struct {
		name string
		line func(i int) string
	}{
		{"A", func(i int) string { return fmt.Sprintf("svc-%d.default.svc.cluster.local A", i) }},
		{"AAAA", func(i int) string { return fmt.Sprintf("svc-%d.default.svc.cluster.local AAAA", i) }},
		{"NXDOMAIN", func(i int) string { return fmt.Sprintf("no-%d.default.svc.cluster.local A", i) }},
		{"SRV", func(i int) string { return fmt.Sprintf("_http._tcp.svc-%d.default.svc.cluster.local SRV", i) }},
		{"outside", func(i int) string { return fmt.Sprintf("host-%d.example.com A", i%1000) }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			file := filepath.Join(b.TempDir(), "questions")
			var text strings.Builder
			for i := range perfServices {
				fmt.Fprintln(&text, kind.line(i))
			}
			if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
				b.Fatal(err)
			}
			rates, costs := map[string][]float64{}, map[string][]float64{}
			for range perfRounds { // In turns, so that whatever else the machine does strikes all alike.
				for _, server := range servers {
					before := processorTime(b, server.pid)
					rate, answers := runDnsperf(b, dnsperf, server.addr, file)
					rates[server.name] = append(rates[server.name], rate)
					costs[server.name] = append(costs[server.name], (processorTime(b, server.pid)-before).Seconds()*1e6/answers)
				}
			}
			for _, server := range servers {
				b.ReportMetric(median(rates[server.name]), server.name+"-queries/s")
				b.ReportMetric(median(costs[server.name]), server.name+"-cpu-us/query")
			}
			for _, server := range servers {
				if server.name != "skiff" {
					b.ReportMetric(median(ratios(rates["skiff"], rates[server.name])), "of-"+server.name)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkLatency measures how long one answer takes at a rate that leaves the machine idle most of the time.
func BenchmarkLatency(b *testing.B) {
	servers := perfTargets(b)
	half, nearly := map[string][]float64{}, map[string][]float64{}
	for range perfRounds {
		for _, server := range servers {
			took := askAtRate(b, server.addr, 4000, 2*time.Second)
			slices.Sort(took)
			half[server.name] = append(half[server.name], float64(took[len(took)/2].Microseconds()))
			nearly[server.name] = append(nearly[server.name], float64(took[len(took)*99/100].Microseconds()))
		}
	}
	for _, server := range servers {
		b.ReportMetric(median(half[server.name]), server.name+"-p50-us")
		b.ReportMetric(median(nearly[server.name]), server.name+"-p99-us")
	}
	b.ReportMetric(median(ratios(nearly["skiff"], nearly["echo"])), "p99-of-echo")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkChanges changes the addresses of 10,000 headless Services with two endpoints each, which is 100,000 records,
// while questions are asked and answered.
func BenchmarkChanges(b *testing.B) {
	s := perfServer(b)
	put := func(round int) (records int) {
		for i := range perfServices {
			svc, slice := headlessPair(i, round)
			set := serviceRecords(s.domain, svc, []*discoveryv1.EndpointSlice{slice})
			for _, rrs := range set {
				records += len(rrs)
			}
			s.index.put("default/"+svc.Name, set)
		}
		return records
	}
	put(0)
	var answered atomic.Int64
	ctx, stop := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			reply := query(b, s, "udp", "svc-7.default.svc.cluster.local.", dns.TypeA, nil)
			if len(reply.Answer) != 2 {
				b.Errorf("meanwhile: %v", reply)
				return
			}
			answered.Add(1)
		}
	})
	start := time.Now()
	records := put(1)
	took := time.Since(start)
	stop()
	asking.Wait()
	b.ReportMetric(float64(records), "records")
	b.ReportMetric(took.Seconds(), "seconds")
	b.ReportMetric(float64(answered.Load()), "answered-meanwhile")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkVisible measures from the moment at which the informer tells of a changed Service until it is answered with.
func BenchmarkVisible(b *testing.B) {
	quietLog(b)
	client := fake.NewClientset(namespace("default"), service("default", "web", "10.43.0.1"))
	factory := informers.NewSharedInformerFactory(client, 0)
	told := make(chan time.Time, 1)
	_, err := factory.Core().V1().Services().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(any, any) { told <- time.Now() },
	})
	if err != nil {
		b.Fatal(err)
	}
	s := newServer(b, Config{}, factory)
	run(b, s, factory)
	wire, _ := wireName("web.default.svc.cluster.local.")
	var took []float64
	for i := range 200 {
		ip := netip.AddrFrom4([4]byte{10, 43, 1, byte(i)})
		if _, err := client.CoreV1().Services("default").Update(b.Context(), service("default", "web", ip.String()), metav1.UpdateOptions{}); err != nil {
			b.Fatal(err)
		}
		start := <-told
		for s.index.find([]byte(wire)).of(wire, dns.TypeA)[0].(*dns.A).A.String() != ip.String() {
			goruntime.Gosched()
		}
		took = append(took, float64(time.Since(start).Microseconds()))
	}
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2], "p50-us")
	b.ReportMetric(took[len(took)*99/100], "p99-us")
	b.ReportMetric(0, "ns/op")
}

// Ten thousand Services with two endpoints each, with a name and a port for everything, take at most 20 MB.
func TestTenThousandServicesAreSmall(t *testing.T) {
	x := newTestIndex(t, apexRecords("cluster.local.", []string{"42.10.in-addr.arpa."}, []netip.Addr{netip.MustParseAddr("10.43.0.10")}, 1, PodsInsecure))
	before := heap()
	for i := range perfServices {
		svc, slice := headlessPair(i, 0)
		x.put("default/"+svc.Name, serviceRecords("cluster.local.", svc, []*discoveryv1.EndpointSlice{slice}))
	}
	used := heap() - before
	t.Logf("%d names in %.1f MB", x.size(), float64(used)/1e6)
	if used > 20e6 {
		t.Errorf("%d names take %.1f MB, want at most 20", x.size(), float64(used)/1e6)
	}
}

// heap is what is in use.
func heap() int64 {
	var m goruntime.MemStats
	goruntime.GC()
	goruntime.GC()
	goruntime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func headlessPair(i, round int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	name, number := "http", int32(8080)
	svc := service("default", fmt.Sprintf("svc-%d", i), "None")
	slice := &discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &number}}}
	for j := range 2 {
		ip := netip.AddrFrom4([4]byte{10, 42, byte((2*i + j + round*perfServices) >> 8), byte(2*i + j)})
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip.String()}})
	}
	return svc, slice
}

// target is a server to measure.
type target struct {
	name string
	addr netip.AddrPort
	pid  int // Of its process.
}

func perfTargets(b *testing.B) []target {
	b.Helper()
	return []target{{"echo", startPerfEcho(b), os.Getpid()}, {"skiff", perfServer(b).Addr(), os.Getpid()}}
}

// coreDNSTargets are two, if there is a CoreDNS: as kubeadm sets it up, and with a cache for all names.
func coreDNSTargets(b *testing.B) []target {
	b.Helper()
	binary := os.Getenv("SKIFF_COREDNS")
	if binary == "" {
		return nil
	}
	var objects []runtime.Object
	for i := range perfServices {
		svc, slice := perfService(i)
		objects = append(objects, svc, slice)
	}
	kubeconfig, _ := startControlPlane(b, objects...)
	_, upstream := startUpstream(b, "127.0.0.2", 0, answers("192.0.2.1"))
	var targets []target
	for _, kind := range []struct{ name, cache string }{{"coredns", cacheOutside}, {"coredns-caching-all", cacheAll}} {
		addr, pid := startCoreDNS(b, binary, kubeconfig, kind.cache, upstream, fmt.Sprintf("svc-%d.default.svc.cluster.local.", perfServices-1))
		targets = append(targets, target{kind.name, addr, pid})
	}
	return targets
}

// perfService is one of 10,000 Services, and its two endpoints.
func perfService(i int) (*corev1.Service, *discoveryv1.EndpointSlice) {
	svc := service("default", fmt.Sprintf("svc-%d", i), fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250))
	svc.Spec.Ports[0].Name = "http"
	name, number, protocol := "http", int32(8080), corev1.ProtocolTCP
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: svc.Name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &number, Protocol: &protocol}},
	}
	for j := range 2 {
		ip := netip.AddrFrom4([4]byte{10, 42, byte((2*i + j) >> 8), byte(2*i + j)})
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip.String()}})
	}
	return svc, slice
}

// perfServer is a server with 10,000 Services, and a resolver behind it that knows every name.
func perfServer(b *testing.B) *Server {
	b.Helper()
	quietLog(b)
	_, port := startUpstream(b, "127.0.0.2", 0, answers("192.0.2.1"))
	s, _ := forwarding(b, port, "127.0.0.2")
	for i := range perfServices {
		svc, slice := perfService(i)
		s.index.put("default/"+svc.Name, serviceRecords(s.domain, svc, []*discoveryv1.EndpointSlice{slice}))
	}
	return s
}

// startPerfEcho answers with the question itself, on as many sockets as the server has.
func startPerfEcho(b *testing.B) netip.AddrPort {
	b.Helper()
	address := netip.MustParseAddr("127.0.0.1")
	sockets, err := listen([]netip.Addr{address}, 0)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	b.Cleanup(func() { sockets.Close(); wg.Wait() })
	for _, conn := range sockets.udp {
		wg.Go(func() {
			buf := make([]byte, maxRequest)
			for {
				n, from, err := conn.ReadFromUDPAddrPort(buf)
				if err != nil {
					return
				}
				buf[2] |= flagResponse
				if _, err := conn.WriteToUDPAddrPort(buf[:n], from); err != nil {
					return
				}
			}
		})
	}
	return netip.AddrPortFrom(address, sockets.port())
}

// processorTime is what a process has used so far. It tells what an answer costs also where others use the machine.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	const ofProcess = 2 // CPUCLOCK_SCHED: see clock_getcpuclockid(3).
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|ofProcess), &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Nano())
}

var perfRate = regexp.MustCompile(`Queries completed: +([0-9]+)(?s:.*)Queries per second: +([0-9.]+)`)

// runDnsperf returns how many questions were answered in a second, and in all.
func runDnsperf(b *testing.B, dnsperf string, addr netip.AddrPort, file string) (rate, answers float64) {
	b.Helper()
	out, err := exec.Command(dnsperf, "-s", addr.Addr().String(), "-p", strconv.Itoa(int(addr.Port())), "-d", file,
		"-l", "2", "-c", "8", "-q", "200", "-T", "1", "-t", "2").CombinedOutput()
	match := perfRate.FindSubmatch(out)
	if err != nil || match == nil {
		b.Fatalf("dnsperf: %v\n%s", err, out)
	}
	if _, err := fmt.Sscan(string(match[1])+" "+string(match[2]), &answers, &rate); err != nil {
		b.Fatal(err)
	}
	return rate, answers
}

// askAtRate asks so many questions in a second, from 8 sockets, each at its time, and returns how long each answer took.
func askAtRate(b *testing.B, addr netip.AddrPort, rate int, duration time.Duration) []time.Duration {
	b.Helper()
	const clients = 8
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			conn, err := net.Dial("udp", addr.String())
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			gap := time.Second * clients / time.Duration(rate)
			next := time.Now().Add(gap * time.Duration(client) / clients)
			var took []time.Duration
			buf := make([]byte, maxRequest)
			for end := time.Now().Add(duration); time.Now().Before(end); next = next.Add(gap) {
				time.Sleep(time.Until(next))
				question := new(dns.Msg)
				question.SetQuestion(fmt.Sprintf("svc-%d.default.svc.cluster.local.", len(took)), dns.TypeA)
				packet, err := question.Pack()
				if err != nil {
					b.Error(err)
					return
				}
				start := time.Now()
				_ = conn.SetDeadline(start.Add(patience))
				if _, err := conn.Write(packet); err != nil {
					b.Error(err)
					return
				}
				if _, err := conn.Read(buf); err != nil || binary.BigEndian.Uint16(buf) != question.Id {
					b.Errorf("answer %x: %v", buf[:2], err)
					return
				}
				took = append(took, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	if len(all) == 0 {
		b.Fatal("no answer")
	}
	return all
}

// ratios compares what was measured in the same round: the machine was as busy then.
func ratios(a, b []float64) []float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return r
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
