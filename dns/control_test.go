package dns

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"skiff/control"
)

func noObjects() informers.SharedInformerFactory {
	return informers.NewSharedInformerFactory(fake.NewClientset(), 0)
}

// onSocket asks a server about itself.
func onSocket(t *testing.T, socket, path string) *http.Response {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://dns"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

func textOf(t *testing.T, response *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDumpAndMetrics(t *testing.T) {
	_, port := startUpstream(t, "127.0.0.2", 0, answers("192.0.2.1"))
	socket := filepath.Join(t.TempDir(), "dns.sock")
	s, _ := forwardingWith(t, Config{Socket: socket}, port, "127.0.0.2")
	for range 2 {
		query(t, s, "udp", "example.com.", dns.TypeA, nil)
	}
	query(t, s, "udp", "nobody.default.svc.cluster.local.", dns.TypeA, nil)
	query(t, s, "tcp", "10-42-0-1.default.pod.cluster.local.", dns.TypeA, nil)
	query(t, s, "udp", "1.0.43.10.in-addr.arpa.", dns.TypePTR, nil)
	if _, err := control.Listen(socket, "dns server"); err == nil || err.Error() != "another dns server answers at "+socket {
		t.Errorf("the socket of a running server could be taken: %v", err)
	}
	dump := textOf(t, onSocket(t, socket, "/dump"))
	for _, want := range []string{
		"dns-version.cluster.local.\t28800\tIN\tTXT\t\"1.1.0\"\n", "; default.svc.cluster.local.\n",
		"out.default.svc.cluster.local.\t5\tIN\tCNAME\twww.example.com.\n",
		fmt.Sprintf("; server of . 127.0.0.2:%d healthy\n", port), "; kept example.com. A NOERROR for ",
	} {
		if !strings.Contains(dump, want) {
			t.Errorf("the dump lacks %q:\n%s", want, dump)
		}
	}
	metrics := textOf(t, onSocket(t, socket, "/metrics"))
	for _, want := range []string{
		`skiff_dns_requests_total{class="outside",rcode="NOERROR",source="upstream"} 1`,
		`skiff_dns_requests_total{class="outside",rcode="NOERROR",source="cache"} 1`,
		`skiff_dns_requests_total{class="service",rcode="NXDOMAIN",source="index"} 1`,
		`skiff_dns_requests_total{class="pod",rcode="NOERROR",source="index"} 1`,
		`skiff_dns_requests_total{class="reverse",rcode="NXDOMAIN",source="index"} 1`,
		"skiff_dns_cache_entries 1", fmt.Sprintf(`skiff_dns_forward_requests_total{rcode="NOERROR",to="127.0.0.2:%d"} 1`, port),
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s:\n%s", want, metrics)
		}
	}
}

func TestLogShowsTheAnswersToAPod(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "dns.sock")
	s, _ := startServer(t, Config{Socket: socket}, namespace("default"), service("default", "web", "10.43.0.80"))
	log := bufio.NewReader(onSocket(t, socket, "/log?client=127.0.0.77&every=2").Body)
	question := new(dns.Msg)
	question.SetQuestion("Web.default.svc.cluster.local.", dns.TypeA)
	packet, err := question.Pack()
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{"127.0.0.78", "127.0.0.77", "127.0.0.77", "127.0.0.77"} {
		conn := dialFrom(t, from, s.Addr())
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // The first and the third.
		line, err := log.ReadString('\n')
		if want := " 127.0.0.77 Web.default.svc.cluster.local. A NOERROR 1 answers, "; err != nil || !strings.Contains(line, want) {
			t.Errorf("the log says %q, %v; want %q", line, err, want)
		}
	}
	for path, want := range map[string]string{"/log?client=me": `client "me": not an address`, "/log?every=0": `every "0": not a number from 1`} {
		if got := strings.TrimSpace(textOf(t, onSocket(t, socket, path))); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// Who stops reading misses lines, and holds nobody up.
func TestASlowReaderOfTheLogIsNotWaitedFor(t *testing.T) {
	var log queryLog
	reader, stop, ok := log.read(nil, 1)
	if !ok {
		t.Fatal("the first reader is not let in")
	}
	dropped := 0
	for range logBuffer + 10 {
		dropped += log.show(pod, make([]byte, headerLen), fromIndex, 0)
	}
	if dropped != 10 || len(reader.lines) != logBuffer {
		t.Errorf("%d lines were dropped and %d wait, want 10 and %d", dropped, len(reader.lines), logBuffer)
	}
	stop()
	if log.readers.Load() != nil {
		t.Error("the fast path still pays for a reader who has gone")
	}
}

func runningPod(namespace, name, ip string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}}
}

func TestVerifiedPodsHaveNamesAsLongAsTheyRun(t *testing.T) {
	s, client := startServer(t, Config{Pods: PodsVerified}, namespace("default"), namespace("other"),
		runningPod("default", "a", "10.42.0.1"), runningPod("default", "b", "10.42.0.1"))
	ask := func(name string) int {
		return query(t, s, "udp", name+".pod.cluster.local.", dns.TypeA, nil).Rcode
	}
	for name, want := range map[string]int{
		"10-42-0-1.default": dns.RcodeSuccess, "10-42-0-1.other": dns.RcodeNameError, "10-42-0-2.default": dns.RcodeNameError,
		"default": dns.RcodeSuccess, "nowhere": dns.RcodeNameError,
	} {
		if got := ask(name); got != want {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[got], dns.RcodeToString[want])
		}
	}
	pods := client.CoreV1().Pods("default")
	if err := pods.Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ended := runningPod("default", "a", "10.42.0.1")
	if _, err := pods.Create(t.Context(), runningPod("default", "c", "10.42.0.3"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the new pod's name", func() bool { return ask("10-42-0-3.default") == dns.RcodeSuccess })
	if got := ask("10-42-0-1.default"); got != dns.RcodeSuccess {
		t.Errorf("one of two pods at an address has gone, and its name is %s", dns.RcodeToString[got])
	}
	ended.Status.Phase = corev1.PodSucceeded
	if _, err := pods.UpdateStatus(t.Context(), ended, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the ended pod's name to go", func() bool { return ask("10-42-0-1.default") == dns.RcodeNameError })
}

func TestDisabledPodsHaveNoNames(t *testing.T) {
	s, _ := startServer(t, Config{Pods: PodsDisabled}, namespace("default"))
	for _, name := range []string{"10-42-0-1.default.pod", "default.pod", "pod"} {
		check(t, query(t, s, "udp", name+".cluster.local.", dns.TypeA, nil), dns.RcodeNameError, 0)
	}
}

// With autopath, the first try of a pod's search path is answered with what the last would find.
func TestAutopath(t *testing.T) {
	const soa = "example.com. 300 IN SOA ns.example.com. host.example.com. 1 2 3 4 60"
	_, port := startUpstream(t, "127.0.0.2", 0, func(network string, reply *dns.Msg) {
		switch name := strings.ToLower(reply.Question[0].Name); {
		case name == "www.example.com." && reply.Question[0].Qtype == dns.TypeA:
			answers("192.0.2.1")(network, reply)
		case name == "intern.example.org.":
			answers("192.0.2.9")(network, reply)
		case name == "www.example.com.":
			record(dns.RcodeSuccess, "", soa)(network, reply)
		default:
			record(dns.RcodeNameError, "", soa)(network, reply)
		}
	})
	cfg := Config{Autopath: true, Resolv: filepath.Join(t.TempDir(), "resolv.conf")}
	writeResolv(t, cfg.Resolv, "127.0.0.2") // With "search example.org".
	s, _ := startServer(t, cfg, namespace("default"), namespace("other"), service("other", "db", "10.43.0.90"), runningPod("default", "a", "127.0.0.77"))
	s.forward.mu.Lock()
	s.forward.port = port
	s.forward.mu.Unlock()
	for _, tc := range []struct {
		from, name, want string
		rrtype           uint16
	}{
		{"127.0.0.77", "www.example.com.default.svc.cluster.local.", "NOERROR www.example.com.default.svc.cluster.local. CNAME www.example.com.; www.example.com. A 192.0.2.1", dns.TypeA},
		{"127.0.0.77", "www.example.com.default.svc.cluster.local.", "NOERROR www.example.com.default.svc.cluster.local. CNAME www.example.com.", dns.TypeAAAA},
		{"127.0.0.77", "db.other.default.svc.cluster.local.", "NOERROR db.other.default.svc.cluster.local. CNAME db.other.svc.cluster.local.; db.other.svc.cluster.local. A 10.43.0.90", dns.TypeA},
		{"127.0.0.77", "intern.default.svc.cluster.local.", "NOERROR intern.default.svc.cluster.local. CNAME intern.example.org.; intern.example.org. A 192.0.2.9", dns.TypeA},
		{"127.0.0.77", "none.example.com.default.svc.cluster.local.", "NXDOMAIN", dns.TypeA},
		{"127.0.0.77", "www.example.com.other.svc.cluster.local.", "NXDOMAIN", dns.TypeA}, // Not where this pod's search begins.
		{"127.0.0.77", "www.example.com.default.svc.cluster.local.", "NXDOMAIN", dns.TypeSRV},
		{"127.0.0.78", "www.example.com.default.svc.cluster.local.", "NXDOMAIN", dns.TypeA}, // Nobody's address.
	} {
		question := new(dns.Msg)
		question.SetQuestion(tc.name, tc.rrtype)
		conn := dialFrom(t, tc.from, s.Addr())
		reply, _, err := (&dns.Client{Timeout: patience}).ExchangeWithConn(question, &dns.Conn{Conn: conn})
		if err != nil {
			t.Fatal(err)
		}
		var records []string
		for _, rr := range reply.Answer {
			fields := strings.Fields(rr.String())
			records = append(records, fields[0]+" "+fields[3]+" "+fields[4])
		}
		got := strings.TrimSpace(dns.RcodeToString[reply.Rcode] + " " + strings.Join(records, "; "))
		if got != tc.want {
			t.Errorf("%s asks %s %s:\n got %s\nwant %s", tc.from, tc.name, dns.TypeToString[tc.rrtype], got, tc.want)
		}
	}
}

func TestMetricsForPrometheus(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().(*net.TCPAddr).AddrPort()
	free.Close()
	startServer(t, Config{Metrics: addr.Port()}, namespace("default"))
	response, err := http.Get("http://" + netip.AddrPortFrom(addr.Addr(), addr.Port()).String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text := textOf(t, response); !strings.Contains(text, "skiff_dns_names ") {
		t.Errorf("the metrics are %s", text)
	}
	other, err := http.Get("http://" + addr.String() + "/dump")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Body.Close()
	if other.StatusCode != http.StatusNotFound {
		t.Errorf("/dump is open to pods: %s", other.Status)
	}
}
