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
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
		"--bind-address", "127.0.0.1", "--port", fmt.Sprint(freePort(tb))))
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
