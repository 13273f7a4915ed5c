package dns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// A CoreDNS beside the server: its binary is named by the environment variable SKIFF_COREDNS. It knows the same cluster, from
// an API server of skiff's, and its Corefile is the one that kubeadm of Kubernetes v1.37 writes, but for addresses and ports.

const corefile = `.:%d {
    bind 127.0.0.1
    errors
    health 127.0.0.1:0 {
        lameduck 5s
    }
    ready 127.0.0.1:0
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig %s
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    prometheus 127.0.0.1:0
    forward . 127.0.0.2:%d {
        max_concurrent 1000
    }
    cache 30 {
        %s
    }
    loop
    reload
    loadbalance
}
`

// What a Corefile says of the cache: kubeadm's keeps nothing of the cluster's zone since v1.33, k3s' and older ones do.
const (
	cacheOutside = "disable success cluster.local\n        disable denial cluster.local"
	cacheAll     = "success 9984\n        denial 9984" // The defaults.
)

// startCoreDNS runs a CoreDNS until the test ends. It returns when that knows a name.
func startCoreDNS(tb testing.TB, binary, kubeconfig, cache string, upstream uint16, known string) (addr netip.AddrPort, pid int) {
	tb.Helper()
	addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(tb))
	file := filepath.Join(tb.TempDir(), "Corefile")
	if err := os.WriteFile(file, fmt.Appendf(nil, corefile, addr.Port(), kubeconfig, upstream, cache), 0o644); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(binary, "-conf", file)
	start(tb, cmd)
	waitFor(tb, "CoreDNS", func() bool {
		question := new(dns.Msg)
		question.SetQuestion(known, dns.TypeA)
		reply, _, err := new(dns.Client).Exchange(question, addr.String())
		return err == nil && len(reply.Answer) > 0
	})
	return addr, cmd.Process.Pid
}

// startControlPlane runs skiff's API server and controllers until the test ends, with objects in it.
func startControlPlane(tb testing.TB, objects ...runtime.Object) (kubeconfig string, client kubernetes.Interface) {
	tb.Helper()
	binary := filepath.Join("..", "bin", "skiff")
	if _, err := os.Stat(binary); err != nil {
		tb.Skipf("needs skiff: make build: %v", err)
	}
	dir := tb.TempDir()
	kubeconfig = filepath.Join(dir, "data", "admin.kubeconfig")
	start(tb, exec.Command(binary, "server", "--no-agent", "--data-dir", filepath.Join(dir, "data"), "--run-dir", filepath.Join(dir, "run"),
		"--cluster-cidr", "10.42.0.0/16,fd00:42::/56", "--service-cidr", "10.43.0.0/16,fd00:43::/112", "--bind-address", "127.0.0.1", "--port", fmt.Sprint(freePort(tb))))
	var config *rest.Config
	waitFor(tb, "the API server", func() (up bool) {
		var err error
		if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			return false
		}
		config.QPS, config.ContentType = -1, runtime.ContentTypeProtobuf
		if client, err = kubernetes.NewForConfig(config); err != nil {
			return false
		}
		_, err = client.CoreV1().Namespaces().Get(context.Background(), "default", metav1.GetOptions{})
		return err == nil
	})
	var writers sync.WaitGroup
	const side = 16
	for writer := range side {
		writers.Go(func() {
			for i := writer; i < len(objects); i += side {
				if err := create(tb.Context(), client, objects[i]); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	return kubeconfig, client
}

// start runs cmd until the test ends. What it said is shown if the test has failed.
func start(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if strings.Contains(cmd.Path, "coredns") {
			_ = cmd.Process.Kill() // It would wait for those who may not know yet that it ends.
		}
		_ = cmd.Wait()
		if tb.Failed() {
			tb.Logf("%s:\n%s", cmd.Path, &out)
		}
	})
}

func freePort(tb testing.TB) uint16 {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close() // It is free then, and nobody else on this machine is likely to take it.
	return listener.Addr().(*net.TCPAddr).AddrPort().Port()
}

func create(ctx context.Context, client kubernetes.Interface, obj runtime.Object) (err error) {
	switch obj := obj.(type) {
	case *corev1.Service:
		_, err = client.CoreV1().Services(obj.Namespace).Create(ctx, obj, metav1.CreateOptions{})
	case *discoveryv1.EndpointSlice:
		_, err = client.DiscoveryV1().EndpointSlices(obj.Namespace).Create(ctx, obj, metav1.CreateOptions{})
	default:
		err = fmt.Errorf("%T: not foreseen", obj)
	}
	return err
}

// Both servers say the same to what resolvers ask: whether there is such a name, and what is at it. Left out is how long an
// answer holds, the weights of ports, and the text of SOA records. To types that nobody asks of a name, CoreDNS says that there
// is no such name (svc.cluster.local TXT), or asks others (addresses of reverse names); and at a Service's name it has SRV
// records, at a port's addresses.
func TestSameAsCoreDNS(t *testing.T) {
	binary := os.Getenv("SKIFF_COREDNS")
	if binary == "" {
		t.Skip("needs a CoreDNS: SKIFF_COREDNS names its binary")
	}
	kubeconfig, client := startControlPlane(t, clusterObjects(t)...)
	_, upstream := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.1"))
	coreDNS, _ := startCoreDNS(t, binary, kubeconfig, cacheOutside, upstream, "web.default.svc.cluster.local.")
	cfg := Config{Resolv: filepath.Join(t.TempDir(), "resolv.conf")}
	writeResolv(t, cfg.Resolv, "127.0.0.2")
	factory := informers.NewSharedInformerFactory(client, 0)
	s := newServer(t, cfg, factory)
	s.forward.port = upstream
	run(t, s, factory)
	for _, name := range clusterNames() {
		for _, rrtype := range typesOf(name) {
			question := new(dns.Msg)
			question.SetQuestion(name, rrtype)
			question.SetEdns0(maxUDPSize, false)
			theirs, _, err := (&dns.Client{Timeout: patience}).Exchange(question, coreDNS.String())
			if err != nil {
				t.Fatal(err)
			}
			ours := query(t, s, "udp", name, rrtype, withEDNS)
			if diff := cmp.Diff(gist(theirs), gist(ours)); diff != "" {
				t.Errorf("%s %s (-CoreDNS +skiff):\n%s", name, dns.TypeToString[rrtype], diff)
			}
		}
	}
}

// clusterObjects are Services of every kind.
func clusterObjects(t *testing.T) []runtime.Object {
	t.Helper()
	services, endpointSlices := parseObjects(t, clusterIPService+"---\n"+headlessService+`---
kind: Service
metadata: {name: empty, namespace: default}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
kind: Service
metadata: {name: early, namespace: default}
spec: {clusterIP: None, publishNotReadyAddresses: true, ports: [{name: http, port: 80}]}
---
kind: EndpointSlice
metadata: {name: early-a, namespace: default, labels: {kubernetes.io/service-name: early}}
addressType: IPv4
ports: [{name: http, protocol: TCP, port: 8080}]
endpoints: [{addresses: [10.42.1.1], hostname: early-0, conditions: {ready: true, serving: false}}]
---
kind: Service
metadata: {name: out, namespace: default}
spec: {type: ExternalName, externalName: www.example.com}
---
kind: Service
metadata: {name: in, namespace: default}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
`)
	var objects []runtime.Object
	for _, svc := range services {
		if len(svc.Spec.ClusterIPs) == 2 {
			both := corev1.IPFamilyPolicyRequireDualStack
			svc.Spec.IPFamilyPolicy = &both
		}
		objects = append(objects, svc)
		for _, slice := range endpointSlices[svc.Namespace+"/"+svc.Name] {
			objects = append(objects, slice)
		}
	}
	return objects
}

// clusterNames are names that exist, and such as nearly do.
func clusterNames() []string {
	var names []string
	for _, name := range []string{
		"web.default.svc", "WeB.default.SVC", "plain.default.svc", "_http._tcp.web.default.svc", "_dns._udp.web.default.svc", "_dns._tcp.web.default.svc",
		"pets.default.svc", "pet-0.pets.default.svc", "10-42-0-8.pets.default.svc", "fd00-42--8.pets.default.svc", "pet-9.pets.default.svc",
		"_http._tcp.pets.default.svc", "empty.default.svc", "_http._tcp.empty.default.svc", "early.default.svc", "early-0.early.default.svc", "_http._tcp.early.default.svc",
		"out.default.svc", "in.default.svc", "nobody.default.svc", "x.web.default.svc", "web.nowhere.svc", "*.default.svc", "any.default.svc",
		"default.svc", "nowhere.svc", "svc", "pod", "default.pod", "10-42-0-3.default.pod", "fd00-42--3.default.pod", "10-42-0-300.default.pod", "web.default.pod",
		"10-42-0-3.nowhere.pod", "nowhere.pod", "dns-version", "other", "kubernetes.default.svc", "kube-dns.kube-system.svc", "_metrics._tcp.kube-dns.kube-system.svc",
	} {
		names = append(names, name+".cluster.local.")
	}
	for _, ip := range []string{"10.43.0.1", "10.43.0.80", "fd00:43::80", "10.42.0.7", "10.42.0.8", "fd00:42::7", "10.42.1.1", "10.43.0.10", "fd00:43::a"} {
		names = append(names, reverseName(netip.MustParseAddr(ip)))
	}
	return append(names, "cluster.local.", "www.example.com.")
}

// typesOf are those that a name is asked for.
func typesOf(name string) []uint16 {
	switch {
	case strings.HasPrefix(name, "_"):
		return []uint16{dns.TypeSRV}
	case isReverse(name):
		return []uint16{dns.TypePTR}
	case strings.HasPrefix(name, "dns-version."):
		return []uint16{dns.TypeTXT}
	}
	return []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeCNAME}
}

// gist is what a client makes use of.
func gist(reply *dns.Msg) []string {
	lines := []string{}
	for _, rr := range reply.Answer {
		rr.Header().Ttl = 0
		if srv, ok := rr.(*dns.SRV); ok {
			srv.Weight = 0
		}
		lines = append(lines, rr.String())
	}
	slices.Sort(lines)
	for _, rr := range reply.Ns {
		if rr.Header().Rrtype == dns.TypeSOA {
			lines = append(lines, "authority of "+rr.Header().Name)
		}
	}
	return append(lines, dns.RcodeToString[reply.Rcode], fmt.Sprintf("authoritative %v, truncated %v", reply.Authoritative, reply.Truncated))
}
