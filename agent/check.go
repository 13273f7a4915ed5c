package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Bounds of what is read of an answer.
const (
	maxProbeOutput = 10 << 10 // Of a command, or of an HTTP body.
	maxEventOutput = 900      // Of that, what an Event repeats: its message has at most 1024 characters.
	maxRedirects   = 10
)

// What servers know probes and hooks by, in the form of the kubelet's.
const (
	probeAgent = "kube-probe/1.37"
	hookAgent  = "kube-lifecycle/1.37"
)

// verdict is the outcome of one probe.
type verdict int

const (
	passed  verdict = iota
	warned          // Passed, but there is something to tell.
	failed          // The container answered, or not in time: it is not well.
	errored         // It could not be asked: that says nothing about it.
)

// target is the container that is probed, or whose hook is run.
type target struct {
	id        string
	ip        func() string // The pod's.
	container *v1.Container
}

// checker asks containers, by the four ways of a probe and the two of a hook.
type checker struct {
	runtime Runtime
	client  *http.Client
	http2   *http.Client // For those who speak HTTP/2 alone, without TLS.
	pretend bool         // Ask nobody by network.
}

func newChecker(runtime Runtime) *checker {
	// A port that was probed must not stay in TIME_WAIT for a minute: there are many probes.
	linger := func(_, _ string, conn syscall.RawConn) error {
		return conn.Control(func(fd uintptr) {
			_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
		})
	}
	speaking := func(protocols *http.Protocols) *http.Client {
		return &http.Client{
			Transport: &http.Transport{
				DialContext:        (&net.Dialer{Control: linger}).DialContext,
				TLSClientConfig:    unverified(),
				Protocols:          protocols,
				DisableKeepAlives:  true,
				DisableCompression: true,
			},
			CheckRedirect: sameHost,
		}
	}
	http2 := new(http.Protocols)
	http2.SetUnencryptedHTTP2(true)
	return &checker{runtime: runtime, client: speaking(nil), http2: speaking(http2)}
}

// unverified is TLS as probes and hooks use it. By the API: "certificates are not verified".
func unverified() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// sameHost follows redirects as long as they stay with the container.
func sameHost(next *http.Request, via []*http.Request) error {
	switch {
	case next.URL.Hostname() != via[0].URL.Hostname():
		return http.ErrUseLastResponse
	case len(via) >= maxRedirects:
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	}
	return nil
}

// probe carries out one probe, within its timeout.
func (k *checker) probe(ctx context.Context, t target, p *v1.Probe) (verdict, string) {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil:
		return k.probeExec(ctx, t, p.Exec.Command, timeout)
	case k.pretend:
		return passed, ""
	case p.HTTPGet != nil:
		return k.probeHTTP(ctx, t, p.HTTPGet)
	case p.TCPSocket != nil:
		return probeTCP(ctx, t, p.TCPSocket)
	case p.GRPC != nil:
		return probeGRPC(ctx, t, p.GRPC, timeout)
	}
	return errored, "missing probe handler"
}

func (k *checker) probeExec(ctx context.Context, t target, command []string, timeout time.Duration) (verdict, string) {
	static := map[string]string{} // Only what the pod itself spells out: as in Kubernetes.
	for _, e := range t.container.Env {
		if e.ValueFrom == nil {
			static[e.Name] = expand(e.Value, static)
		}
	}
	code, output, err := k.exec(ctx, t, expandAll(command, static))
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return failed, fmt.Sprintf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout)
	case err != nil:
		return errored, err.Error()
	case code != 0:
		return failed, output
	}
	return passed, ""
}

// exec runs a command in the container. What it says is cut at maxProbeOutput.
func (k *checker) exec(ctx context.Context, t target, command []string) (code int, output string, err error) {
	said := &head{}
	code, err = k.runtime.Exec(ctx, t.id, ExecConfig{Streams: Streams{Stdout: said, Stderr: said}, Command: command})
	return code, said.String(), err
}

func (k *checker) probeHTTP(ctx context.Context, t target, get *v1.HTTPGetAction) (verdict, string) {
	request, err := httpRequest(ctx, t, get, probeAgent)
	if err != nil {
		return errored, err.Error()
	}
	client := k.client
	if get.Protocol != nil && *get.Protocol == v1.HTTPProtocolHTTP2 {
		client = k.http2
	}
	response, err := client.Do(request)
	if err != nil {
		return failed, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxProbeOutput))
	switch code := response.StatusCode; {
	case err != nil:
		return failed, err.Error()
	case code < http.StatusOK || code >= http.StatusBadRequest:
		return failed, fmt.Sprintf("HTTP probe failed with statuscode: %d", code)
	case code >= http.StatusMultipleChoices: // To another host: not followed.
		return warned, fmt.Sprintf("Probe terminated redirects, Response body: %s", body)
	}
	return passed, ""
}

// httpRequest is what a container is asked by HTTP.
func httpRequest(ctx context.Context, t target, get *v1.HTTPGetAction, agent string) (*http.Request, error) {
	address, err := addressOf(t, get.Host, get.Port)
	if err != nil {
		return nil, err
	}
	where, err := url.Parse(get.Path)
	if err != nil {
		where = &url.URL{Path: get.Path} // Something that is no URL is a path all the same.
	}
	where.Scheme, where.Host = "http", address
	if get.Scheme != "" {
		where.Scheme = strings.ToLower(string(get.Scheme))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	for _, h := range get.HTTPHeaders {
		request.Header.Add(h.Name, h.Value)
	}
	request.Host = request.Header.Get("Host") // "" means the URL's.
	for name, value := range map[string]string{"User-Agent": agent, "Accept": "*/*"} {
		if _, said := request.Header[name]; !said {
			request.Header.Set(name, value)
		}
	}
	return request, nil
}

// addressOf is host, or else the pod, with the port, which may be the name of one of the container's.
func addressOf(t target, host string, port intstr.IntOrString) (string, error) {
	if host == "" {
		host = t.ip()
	}
	if host == "" { // The dialer would take the node itself for it.
		return "", errors.New("the pod's address is not known")
	}
	number := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range t.container.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if number < 1 || number > 65535 {
		return "", fmt.Errorf("port %s not found", port.String())
	}
	return net.JoinHostPort(host, strconv.Itoa(number)), nil
}

func probeTCP(ctx context.Context, t target, socket *v1.TCPSocketAction) (verdict, string) {
	address, err := addressOf(t, socket.Host, socket.Port)
	if err != nil {
		return errored, err.Error()
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return failed, err.Error()
	}
	conn.Close()
	return passed, ""
}

func probeGRPC(ctx context.Context, t target, action *v1.GRPCAction, timeout time.Duration) (verdict, string) {
	address := net.JoinHostPort(t.ip(), strconv.Itoa(int(action.Port)))
	transport := insecure.NewCredentials()
	if action.Mode != nil && *action.Mode == v1.GRPCProbeModeTLS {
		transport = credentials.NewTLS(unverified())
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithUserAgent(probeAgent),
		grpc.WithTransportCredentials(transport), grpc.WithNoProxy())
	if err != nil {
		return errored, err.Error()
	}
	defer conn.Close()
	service := ""
	if action.Service != nil {
		service = *action.Service
	}
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	switch code := status.Code(err); {
	case code == codes.Unimplemented:
		return failed, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
	case code == codes.DeadlineExceeded:
		return failed, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)
	case code == codes.Unavailable:
		return failed, fmt.Sprintf("error: failed to connect service %q: %s", address, status.Convert(err).Message())
	case err != nil:
		return failed, fmt.Sprintf("error: health rpc failed: %v", err)
	case answer.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return failed, fmt.Sprintf("service unhealthy (responded with %q)", answer.GetStatus().String())
	}
	return passed, ""
}

// head keeps the beginning of what is written to it, by several writers.
type head struct {
	mu   sync.Mutex
	kept []byte
}

func (h *head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept = append(h.kept, p[:min(len(p), maxProbeOutput-len(h.kept))]...)
	return len(p), nil
}

func (h *head) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return string(h.kept)
}
