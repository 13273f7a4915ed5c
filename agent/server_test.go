package agent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	clientfake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"skiff/agent"
	"skiff/agent/fake"
)

// authority signs the certificates of a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

func (a *authority) issue(subject pkix.Name, usage x509.ExtKeyUsage) (certPEM, keyPEM []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: subject, NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})
}

// client is what a client with a certificate of this subject connects with.
func (a *authority) client(host string, subject pkix.Name) *rest.Config {
	c := &rest.Config{Host: host}
	c.CAData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	if subject.CommonName != "" {
		c.CertData, c.KeyData = a.issue(subject, x509.ExtKeyUsageClientAuth)
	}
	return c
}

var apiServer = pkix.Name{CommonName: "system:skiff-apiserver"}

// running is a whole agent with its server, in real time, and one pod "web" that runs.
type running struct {
	t       *testing.T
	url     string
	ca      *authority
	runtime *fake.Runtime
	network *fake.Network
}

func newRunning(t *testing.T, others ...runtime.Object) *running {
	t.Helper()
	r := &running{t: t, ca: newAuthority(t), runtime: fake.NewRuntime("nginx"), network: fake.NewNetwork()}
	certPEM, keyPEM := r.ca.issue(pkix.Name{CommonName: nodeName}, x509.ExtKeyUsageServerAuth)
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(r.ca.cert)
	c := config(t)
	c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
	client := clientfake.NewClientset(append(others, newPod("web"))...)
	factory := informers.NewSharedInformerFactory(client, 0)
	a, err := agent.New(c, client, factory, r.runtime, r.network)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("Run has not returned a minute after its context ended")
		}
		factory.Shutdown()
	})
	r.url = "https://" + a.Addr().String()
	r.eventually("the pod runs", func() bool {
		list, err := r.runtime.Containers(ctx)
		return err == nil && len(list) > 0
	})
	return r
}

func (r *running) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			r.t.Fatalf("not within a minute: %s", what)
		case <-tick.C:
		}
	}
}

func (r *running) get(subject pkix.Name, path string) (int, string) {
	r.t.Helper()
	client, err := rest.HTTPClientFor(r.ca.client(r.url, subject))
	if err != nil {
		r.t.Fatal(err)
	}
	response, err := client.Get(r.url + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestWhoIsLetIn(t *testing.T) {
	r := newRunning(t)
	for _, tc := range []struct {
		name    string
		subject pkix.Name
		path    string
		want    int
	}{
		{"health needs no certificate", pkix.Name{}, "/healthz", 200},
		{"nothing else without a certificate", pkix.Name{}, "/containerLogs/default/web/app", 401},
		{"the API server", apiServer, "/containerLogs/default/web/app", 200},
		{"the pods that are here", apiServer, "/pods", 200},
		{"the pods that run", apiServer, "/runningpods", 200},
		{"the pods that run are not for everybody", pkix.Name{CommonName: "jane"}, "/runningpods/", 403},
		{"not for everybody", pkix.Name{CommonName: "jane"}, "/pods", 403},
		{"an administrator", pkix.Name{CommonName: "me", Organization: []string{"system:masters"}}, "/containerLogs/default/web/app", 200},
		{"another node", pkix.Name{CommonName: "system:node:b", Organization: []string{"system:nodes"}}, "/containerLogs/default/web/app", 403},
		{"a user", pkix.Name{CommonName: "jane"}, "/exec/default/web/app?command=sh&stdout=true", 403},
		{"no such pod", apiServer, "/containerLogs/default/nope/app", 404},
		{"no such container", apiServer, "/containerLogs/default/web/nope", 404},
		{"no previous container", apiServer, "/containerLogs/default/web/app?previous=true", 400},
		{"a bad option", apiServer, "/containerLogs/default/web/app?tailLines=x", 422},
		{"no such path", apiServer, "/run/default/web/app", 404},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, body := r.get(tc.subject, tc.path); got != tc.want {
				t.Errorf("GET %s: status %d (%s), want %d", tc.path, got, body, tc.want)
			}
		})
	}
}

func TestPodsOfNode(t *testing.T) {
	r := newRunning(t)
	r.eventually("the pod runs in the list of pods", func() bool {
		_, body := r.get(apiServer, "/pods/")
		var list v1.PodList
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			t.Fatal(err)
		}
		return list.Kind == "PodList" && len(list.Items) == 1 && list.Items[0].Name == "web" && list.Items[0].Status.Phase == v1.PodRunning
	})
}

// What runs is told by the runtime: whatever the API says, and with no more than the runtime knows.
func TestRunningPods(t *testing.T) {
	r := newRunning(t)
	want := v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []v1.Pod{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web"},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "app", Image: "nginx"}}},
	}}}
	status, body := r.get(apiServer, "/runningpods/")
	var got v1.PodList
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatalf("status %d, %s: %v", status, body, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the pods that run (-want +got):\n%s", diff)
	}
}

func TestFollowLogs(t *testing.T) {
	r := newRunning(t)
	say := func(line string) {
		if err := r.runtime.Say("uid-web-app-0", "stdout", line); err != nil {
			t.Fatal(err)
		}
	}
	say("one")
	client, err := rest.HTTPClientFor(r.ca.client(r.url, apiServer))
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Get(r.url + "/containerLogs/default/web/app?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	buffer := make([]byte, 100)
	for _, line := range []string{"one", "two", "three"} {
		if line != "one" {
			say(line)
		}
		n, err := io.ReadAtLeast(response.Body, buffer, len(line)+1)
		if err != nil || string(buffer[:n]) != line+"\n" {
			t.Fatalf("read %q (%v), want %q", buffer[:n], err, line+"\n")
		}
	}
	if err := r.runtime.Exit("uid-web-app-0", 0); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(response.Body); err != nil || len(rest) != 0 {
		t.Errorf("after the container's end: %q (%v), want the end", rest, err)
	}
}

// The container before the one that runs is the previous one; while its restart waits, it is the one that has ended.
func TestPreviousLogs(t *testing.T) {
	r := newRunning(t)
	want := func(log string) {
		t.Helper()
		r.eventually("the previous log is "+log, func() bool {
			_, body := r.get(apiServer, "/containerLogs/default/web/app?previous=true")
			return body == log
		})
	}
	for attempt, line := range []string{"one", "two"} {
		id := fmt.Sprintf("uid-web-app-%d", attempt)
		r.eventually(id+" runs", func() bool { return r.runtime.Say(id, "stdout", line) == nil })
		if err := r.runtime.Exit(id, 1); err != nil {
			t.Fatal(err)
		}
		want(line + "\n") // The first restart is at once, the second waits.
	}
}

// executors makes the three that clients have.
func (r *running) executors(path string, query url.Values) map[string]remotecommand.Executor {
	r.t.Helper()
	c := r.ca.client(r.url, apiServer)
	target, err := url.Parse(r.url + path + "?" + query.Encode())
	if err != nil {
		r.t.Fatal(err)
	}
	overSPDY, err := remotecommand.NewSPDYExecutor(c, http.MethodPost, target)
	if err != nil {
		r.t.Fatal(err)
	}
	overWebSocket, err := remotecommand.NewWebSocketExecutor(c, http.MethodGet, target.String())
	if err != nil {
		r.t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"SPDY": overSPDY, "WebSocket": overWebSocket}
}

func TestExec(t *testing.T) {
	r := newRunning(t)
	r.runtime.Install("cat", func(_ context.Context, _ []string, s agent.Streams) int {
		n, err := io.Copy(s.Stdout, s.Stdin)
		if err != nil {
			return 1
		}
		fmt.Fprintf(s.Stderr, "%d bytes", n)
		return 0
	})
	r.runtime.Install("exit", func(_ context.Context, args []string, _ agent.Streams) int {
		var code int
		_, _ = fmt.Sscan(args[0], &code)
		return code
	})
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	for name, executor := range r.executors("/exec/default/web/app", url.Values{"command": {"cat"}, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}}) {
		t.Run(name+" streams", func(t *testing.T) {
			var out, errOut bytes.Buffer
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(big), Stdout: &out, Stderr: &errOut})
			if err != nil || out.String() != big || errOut.String() != fmt.Sprintf("%d bytes", len(big)) {
				t.Errorf("got %d bytes of stdout, stderr %q, error %v; want %d bytes", out.Len(), errOut.String(), err, len(big))
			}
		})
	}
	for name, executor := range r.executors("/exec/default/web/app", url.Values{"command": {"exit", "7"}, "stdout": {"true"}}) {
		t.Run(name+" exit status", func(t *testing.T) {
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
			var exit utilexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 7 {
				t.Errorf("error %v, want exit code 7", err)
			}
		})
	}
	for name, executor := range r.executors("/exec/default/web/app", url.Values{"command": {"nope"}, "stdout": {"true"}}) {
		t.Run(name+" missing command", func(t *testing.T) {
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
			if err == nil || !strings.Contains(err.Error(), `exec: "nope": executable file not found in $PATH`) {
				t.Errorf("error %v, want that the executable is not found", err)
			}
		})
	}
}

// sizeQueue gives two sizes.
type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	size, ok := <-q
	if !ok {
		return nil
	}
	return &size
}

func TestExecTerminal(t *testing.T) {
	r := newRunning(t)
	r.runtime.Install("top", func(_ context.Context, _ []string, s agent.Streams) int {
		if !s.TTY || s.Stderr != nil {
			return 1
		}
		for range 2 {
			size := <-s.Resize
			fmt.Fprintf(s.Stdout, "%dx%d ", size.Width, size.Height)
		}
		return 0
	})
	query := url.Values{"command": {"top"}, "stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}, "tty": {"true"}}
	for name, executor := range r.executors("/exec/default/web/app", query) {
		t.Run(name, func(t *testing.T) {
			sizes := make(sizeQueue, 2)
			sizes <- remotecommand.TerminalSize{Width: 80, Height: 24}
			sizes <- remotecommand.TerminalSize{Width: 132, Height: 50}
			stdin, hold := io.Pipe()
			defer hold.Close()
			var out bytes.Buffer
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Tty: true, TerminalSizeQueue: sizes})
			close(sizes)
			if err != nil || out.String() != "80x24 132x50 " {
				t.Errorf("output %q, error %v; want both sizes", out.String(), err)
			}
		})
	}
}

func TestExecEndsWhenClientGoes(t *testing.T) {
	r := newRunning(t)
	began, ended := make(chan struct{}), make(chan struct{})
	r.runtime.Install("sleep", func(ctx context.Context, _ []string, _ agent.Streams) int {
		began <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return 137
	})
	for name, executor := range r.executors("/exec/default/web/app", url.Values{"command": {"sleep"}, "stdout": {"true"}}) {
		t.Run(name, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			go func() { _ = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard}) }()
			for _, step := range []chan struct{}{began, ended} {
				select {
				case <-step:
					leave()
				case <-time.After(time.Minute):
					t.Fatal("the command did not begin, or it outlived its client")
				}
			}
			leave()
		})
	}
}

func TestAttach(t *testing.T) {
	r := newRunning(t)
	for name, executor := range r.executors("/attach/default/web/app", url.Values{"stdout": {"true"}, "stdin": {"true"}}) {
		t.Run(name, func(t *testing.T) {
			ctx, leave := context.WithTimeout(t.Context(), time.Minute)
			defer leave()
			out, in := io.Pipe()
			ended := make(chan struct{})
			go func() {
				_ = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: in})
				in.Close()
				close(ended)
			}()
			buffer := make([]byte, 6)
			if _, err := io.ReadFull(out, buffer); err != nil || string(buffer) != "hello\n" {
				t.Errorf("read %q (%v), want hello", buffer, err)
			}
			leave()
			out.Close()
			<-ended
		})
	}
}

func TestPortForward(t *testing.T) {
	r := newRunning(t)
	r.network.Serve("uid-web", 80, func(conn net.Conn) {
		defer conn.Close()
		buffer := make([]byte, 5)
		if _, err := io.ReadFull(conn, buffer); err == nil {
			fmt.Fprintf(conn, "got %s", buffer)
		}
	})
	c := r.ca.client(r.url, apiServer)
	target, err := url.Parse(r.url + "/portForward/default/web")
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(c)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(target, c)
	if err != nil {
		t.Fatal(err)
	}
	overSPDY := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, target)
	t.Run("SPDY", func(t *testing.T) {
		ready, stop := make(chan struct{}), make(chan struct{})
		f, err := portforward.New(overSPDY, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
		checkForward(t, f, err, ready, stop)
	})
	t.Run("WebSocket", func(t *testing.T) {
		ready, stop := make(chan struct{}), make(chan struct{})
		f, err := portforward.New(tunnel, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
		checkForward(t, f, err, ready, stop)
	})
}

func checkForward(t *testing.T, f *portforward.PortForwarder, err error, ready, stop chan struct{}) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	defer func() {
		close(stop)
		<-done
	}()
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("forward: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("not ready within a minute")
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "hello")
		answer, err := io.ReadAll(conn)
		if err != nil || string(answer) != "got hello" {
			t.Errorf("answer %q (%v), want %q", answer, err, "got hello")
		}
	}
}

// TestMetricsAreServed reads what Prometheus and metrics-server read. Pods of the fake runtime have no cgroup; the node has one.
func TestMetricsAreServed(t *testing.T) {
	r := newRunning(t)
	for path, want := range map[string]string{
		"/metrics":          `kubelet_running_containers{container_state="running"} 1`,
		"/metrics/resource": "node_memory_working_set_bytes ",
		"/metrics/cadvisor": `container_cpu_usage_seconds_total{container="",cpu="total",id="/"`,
		"/stats/summary?only_cpu_and_memory=true": `"nodeName":"` + nodeName + `"`,
	} {
		if code, body := r.get(apiServer, path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d, lacks %s:\n%s", path, code, want, body)
		}
		if code, _ := r.get(pkix.Name{}, path); code != 401 {
			t.Errorf("%s without a certificate: %d, want 401", path, code)
		}
	}
}

// What is known of a claim's volume is what dashboards show and alerts watch.
func TestVolumesAreMeasured(t *testing.T) {
	claim, pv := boundClaim("data", v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: t.TempDir()}})
	r := newRunning(t, claim, pv, newPod("one", ofClaim("data")), newPod("two", ofClaim("data")))
	const labels = `{namespace="default",persistentvolumeclaim="data"} `
	code, body := 0, ""
	r.eventually("both pods are counted", func() bool {
		code, body = r.get(apiServer, "/metrics")
		return strings.Contains(body, "\nkubelet_running_pods 3\n")
	})
	for _, name := range []string{"capacity_bytes", "available_bytes", "used_bytes", "inodes", "inodes_free", "inodes_used"} {
		if n := strings.Count(body, "\nkubelet_volume_stats_"+name+labels); code != 200 || n != 1 {
			t.Errorf("/metrics: %d, has kubelet_volume_stats_%s%s %d times", code, name, labels, n)
		}
	}
}
