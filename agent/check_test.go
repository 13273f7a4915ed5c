package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// portOf is where a test's server listens.
func portOf(t *testing.T, address string) int {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(address, "http://"), "https://"))
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func TestProbeByHTTP(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/bad", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	mux.HandleFunc("/here", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/bad", http.StatusFound) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://192.0.2.1/")
		w.WriteHeader(http.StatusFound)
	})
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/headers", func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "shop.example" || r.Header.Get("X-Key") != "1" || r.Header.Get("User-Agent") != "kube-probe/1.37" || r.URL.RawQuery != "q=1" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	plain, secure := httptest.NewServer(mux), httptest.NewTLSServer(mux)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	modern := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusUpgradeRequired)
		}
	}))
	modern.Config.Protocols = new(http.Protocols)
	modern.Config.Protocols.SetUnencryptedHTTP2(true)
	modern.Start()
	t.Cleanup(modern.Close)
	http2 := v1.HTTPProtocolHTTP2
	named := &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(portOf(t, plain.URL))}}}
	headers := []v1.HTTPHeader{{Name: "Host", Value: "shop.example"}, {Name: "X-Key", Value: "1"}}
	for _, tc := range []struct {
		name    string
		get     v1.HTTPGetAction
		want    verdict
		message string
	}{
		{"well", v1.HTTPGetAction{Path: "/ok"}, passed, ""},
		{"not well", v1.HTTPGetAction{Path: "/bad"}, failed, "HTTP probe failed with statuscode: 503"},
		{"redirected to a page that is not well", v1.HTTPGetAction{Path: "/here"}, failed, "HTTP probe failed with statuscode: 503"},
		{"redirected elsewhere", v1.HTTPGetAction{Path: "/away"}, warned, "Probe terminated redirects"},
		{"too slow", v1.HTTPGetAction{Path: "/slow"}, failed, "context deadline exceeded"},
		{"with headers and a query", v1.HTTPGetAction{Path: "/headers?q=1", HTTPHeaders: headers}, passed, ""},
		{"with TLS, unverified", v1.HTTPGetAction{Path: "/ok", Scheme: v1.URISchemeHTTPS, Port: intstr.FromInt(portOf(t, secure.URL))}, passed, ""},
		{"of HTTP/2 alone", v1.HTTPGetAction{Path: "/", Protocol: &http2, Port: intstr.FromInt(portOf(t, modern.URL))}, passed, ""},
		{"by the port's name", v1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web")}, passed, ""},
		{"by a name that is none", v1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("nope")}, errored, "port nope not found"},
		{"another host", v1.HTTPGetAction{Path: "/ok", Host: "127.0.0.2"}, failed, "127.0.0.2"},
		{"nobody listens", v1.HTTPGetAction{Path: "/ok", Port: intstr.FromInt(1)}, failed, "connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.get.Port == (intstr.IntOrString{}) {
				tc.get.Port = intstr.FromInt(portOf(t, plain.URL))
			}
			probe := patient(v1.ProbeHandler{HTTPGet: &tc.get})
			if tc.get.Path == "/slow" {
				probe.TimeoutSeconds = 1
			}
			got, message := newChecker(nil).probe(t.Context(), target{ip: loopback, container: named}, probe)
			if got != tc.want || !strings.Contains(message, tc.message) {
				t.Errorf("verdict %d %q, want %d %q", got, message, tc.want, tc.message)
			}
		})
	}
}

func loopback() string { return "127.0.0.1" }

// patient is a probe that waits for as long as a busy machine may need.
func patient(how v1.ProbeHandler) *v1.Probe { return &v1.Probe{ProbeHandler: how, TimeoutSeconds: 60} }

// A pod whose first address is one of IPv6 is probed there.
func TestProbeByIPv6(t *testing.T) {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("needs IPv6: %v", err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	rpc, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	health := grpc.NewServer()
	healthpb.RegisterHealthServer(health, grpchealth.NewServer())
	go func() { _ = health.Serve(rpc) }()
	t.Cleanup(health.Stop)
	port := intstr.FromInt(portOf(t, listener.Addr().String()))
	at := target{ip: func() string { return "::1" }, container: &v1.Container{}}
	for name, tc := range map[string]struct {
		probe v1.ProbeHandler
		want  verdict
		why   string
	}{
		"HTTP": {v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: port}}, failed, "statuscode: 404"},
		"TCP":  {v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: port}}, passed, ""},
		"gRPC": {v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: int32(portOf(t, rpc.Addr().String()))}}, passed, ""},
	} {
		if got, message := newChecker(nil).probe(t.Context(), at, patient(tc.probe)); got != tc.want || !strings.Contains(message, tc.why) {
			t.Errorf("%s: verdict %d %q, want %d %q", name, got, message, tc.want, tc.why)
		}
	}
}

func TestProbeByTCP(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	probe := patient(v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(portOf(t, listener.Addr().String()))}})
	at := target{ip: loopback, container: &v1.Container{}}
	if got, message := newChecker(nil).probe(t.Context(), at, probe); got != passed {
		t.Errorf("verdict %d %q of an open port", got, message)
	}
	listener.Close()
	if got, message := newChecker(nil).probe(t.Context(), at, probe); got != failed || !strings.Contains(message, "connection refused") {
		t.Errorf("verdict %d %q of a closed port", got, message)
	}
}

func TestProbeByGRPC(t *testing.T) {
	listen := func(register func(*grpc.Server), options ...grpc.ServerOption) int32 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer(options...)
		register(server)
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(server.Stop)
		return int32(portOf(t, listener.Addr().String()))
	}
	port := listen(func(s *grpc.Server) {
		health := grpchealth.NewServer()
		health.SetServingStatus("shop", healthpb.HealthCheckResponse_NOT_SERVING)
		healthpb.RegisterHealthServer(s, health)
	})
	bare := listen(func(*grpc.Server) {})
	https := httptest.NewUnstartedServer(nil)
	https.StartTLS() // For its certificate.
	t.Cleanup(https.Close)
	secure := listen(func(s *grpc.Server) { healthpb.RegisterHealthServer(s, grpchealth.NewServer()) },
		grpc.Creds(credentials.NewTLS(https.TLS)))
	shop, nobody, tls := "shop", "nobody", v1.GRPCProbeModeTLS
	for _, tc := range []struct {
		action  v1.GRPCAction
		want    verdict
		message string
	}{
		{v1.GRPCAction{Port: port}, passed, ""},
		{v1.GRPCAction{Port: port, Service: &shop}, failed, `service unhealthy (responded with "NOT_SERVING")`},
		{v1.GRPCAction{Port: port, Service: &nobody}, failed, "unknown service"},
		{v1.GRPCAction{Port: bare}, failed, "does not implement the grpc health protocol"},
		{v1.GRPCAction{Port: 1}, failed, "connection refused"},
		{v1.GRPCAction{Port: secure, Mode: &tls}, passed, ""},
		{v1.GRPCAction{Port: secure}, failed, "failed to connect"},
	} {
		got, message := newChecker(nil).probe(t.Context(), target{ip: loopback, container: &v1.Container{}}, patient(v1.ProbeHandler{GRPC: &tc.action}))
		if got != tc.want || !strings.Contains(message, tc.message) {
			t.Errorf("port %d: verdict %d %q, want %d %q", tc.action.Port, got, message, tc.want, tc.message)
		}
	}
}

// A hook is told, whatever it answers.
func TestHookByHTTP(t *testing.T) {
	asked := make(chan *url.URL, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(server.Close)
	at := target{ip: loopback, container: &v1.Container{}}
	get := &v1.HTTPGetAction{Path: "/bye", Port: intstr.FromInt(portOf(t, server.URL))}
	if err := newChecker(nil).hook(t.Context(), at, &v1.LifecycleHandler{HTTPGet: get}); err != nil {
		t.Errorf("hook: %v", err)
	}
	if got := (<-asked).Path; got != "/bye" {
		t.Errorf("asked for %q, want /bye", got)
	}
	get.Scheme = v1.URISchemeHTTPS // As it was when the scheme of a hook was not looked at.
	if err := newChecker(nil).hook(t.Context(), at, &v1.LifecycleHandler{HTTPGet: get}); err != nil {
		t.Errorf("hook that says HTTPS of a server of HTTP: %v", err)
	}
	get.Port = intstr.FromInt(1)
	if err := newChecker(nil).hook(t.Context(), at, &v1.LifecycleHandler{HTTPGet: get}); err == nil {
		t.Error("no error of a hook that reached nobody")
	}
}

func TestHeadIsBounded(t *testing.T) {
	var h head
	for range 3 {
		if n, err := fmt.Fprint(&h, strings.Repeat("x", maxProbeOutput-1)); n != maxProbeOutput-1 || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	if got := len(h.String()); got != maxProbeOutput {
		t.Errorf("%d bytes kept, want %d", got, maxProbeOutput)
	}
}

// A server that listens a moment after its container's start is ready then, not a period later, and nobody hears a complaint.
func TestEagerReadiness(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	late := time.AfterFunc(200*time.Millisecond, func() {
		if again, err := net.Listen("tcp", address); err == nil {
			t.Cleanup(func() { again.Close() })
		}
	})
	defer late.Stop()
	ctx, stop := context.WithCancel(t.Context())
	changed := make(chan string, 1)
	p := newProbes(newChecker(nil), func(uid string) { changed <- uid }, func(_ *v1.Pod, _, _, reason, message string) { t.Errorf("event %s: %s", reason, message) })
	p.begin(ctx)
	defer p.wait()
	defer stop()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "uid"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app", ReadinessProbe: &v1.Probe{
		ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(portOf(t, address))}}, PeriodSeconds: 60,
	}}}}}
	s := seen{pod: pod, containers: []Container{{ID: "id", Name: "app", State: Running, Started: time.Now()}}}
	if nowhere := func() string { return "" }; len(p.follow(s, nowhere)) > 0 {
		t.Error("a container is probed whose pod's address is not known yet")
	}
	if p.follow(s, loopback)["id"].ready {
		t.Error("ready before the first probe")
	}
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Fatal("not ready a minute after the server listens")
	}
	if !p.follow(s, loopback)["id"].ready {
		t.Error("something changed, but the container is not ready")
	}
}
