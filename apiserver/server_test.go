package apiserver

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"skiff/store"
	"skiff/store/bolt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

var (
	administrator = User{Name: "admin", Groups: []string{administrators}}
	nodeUser      = User{Name: "system:node:n1", Groups: []string{nodes}}
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// running is a Server that runs on a store in a file of its own.
type running struct {
	*Server
	store store.Store
	stop  func() // Ends the server and closes its store; may be called twice.
}

// start starts a server with the namespaces of every cluster.
func start(t testing.TB) *running {
	t.Helper()
	return startOn(t, filepath.Join(t.TempDir(), "store"))
}

func startOn(t testing.TB, file string, opts ...bolt.Option) *running {
	t.Helper()
	db, err := bolt.Open(file, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return startWith(t, db, testConfig(t))
}

// startWith starts a server on a store, which it closes.
func startWith(t testing.TB, db store.Store, config Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s, err := New(ctx, db, config)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := db.Close(); err != nil && !errors.Is(err, store.ErrClosed) {
			t.Errorf("close the store: %v", err)
		}
	}
	t.Cleanup(stop)
	if err := s.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	return &running{s, db, stop}
}

func testConfig(t testing.TB) Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Version:       version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.0+skiff"},
		ServiceCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		NodePorts:     PortRange{30000, 32767},
		Advertise:     netip.MustParseAddrPort("192.0.2.1:6443"),
		ClusterDNS:    []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		Issuer:        "https://kubernetes.default.svc.cluster.local",
		AccountKey:    key,
		NodeTransport: &http.Transport{},
	}
}

// client is a client-go client that speaks to the server in memory.
func (s *running) client(t testing.TB, u User, media string) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(&rest.Config{
		Host: "http://memory", Transport: s.Transport(u), QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: media, AcceptContentTypes: media},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// web serves the API on a TLS socket with HTTP/2, to an administrator whatever his certificate.
func (s *running) web(t testing.TB) *httptest.Server {
	t.Helper()
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.ServeHTTP(w, r.WithContext(withUser(r.Context(), administrator)))
	}))
	web.EnableHTTP2 = true
	web.StartTLS()
	t.Cleanup(web.Close)
	return web
}

// answer is what a request came back with.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// do makes a request as an administrator. headers are pairs of name and value; a body is JSON where they don't say.
func (s *running) do(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	return s.doAs(t, administrator, method, path, body, headers...)
}

func (s *running) doAs(t testing.TB, u User, method, path, body string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://memory"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", typeJSON)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.Transport(u).RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, data}
}

// want fails the test unless the answer has the code.
func (a answer) want(t testing.TB, code int) answer {
	t.Helper()
	if a.code != code {
		t.Fatalf("code %d, want %d; the body is: %s", a.code, code, a.body)
	}
	return a
}

// refused fails the test unless the answer is a Status with the code, the reason, and a message that has all parts.
func (a answer) refused(t testing.TB, code int, reason metav1.StatusReason, parts ...string) {
	t.Helper()
	a.want(t, code)
	status := parse[metav1.Status](t, a)
	if status.Kind != "Status" || status.Status != metav1.StatusFailure || status.Code != int32(code) || status.Reason != reason {
		t.Errorf("Status is %s, want one with code %d and reason %q", a.body, code, reason)
	}
	for _, part := range parts {
		if !strings.Contains(status.Message, part) {
			t.Errorf("message is\n%s\nwant it to have\n%s", status.Message, part)
		}
	}
}

func parse[T any](t testing.TB, a answer) *T {
	t.Helper()
	v := new(T)
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v in: %s", err, a.body)
	}
	return v
}

func toJSON(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func toProto(t testing.TB, obj runtime.Object) string {
	t.Helper()
	var buf bytes.Buffer
	if err := protoSerializer.Encode(obj, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

const (
	configMapsPath = "/api/v1/namespaces/default/configmaps"
	podsPath       = "/api/v1/namespaces/default/pods"
	servicesPath   = "/api/v1/namespaces/default/services"
	deployments    = "/apis/apps/v1/namespaces/default/deployments"
)

func configMapJSON(name string) string {
	return `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"` + name + `"},"data":{"a":"1"}}`
}

func podJSON(name string) string {
	return `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"` + name + `","labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"nginx"}]}}`
}

func deploymentJSON(name string) string {
	return `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"` + name + `"},"spec":{"selector":{"matchLabels":{"app":"web"}},
		"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"nginx"}]}}}}`
}

func (s *running) createConfigMap(t testing.TB, name string) *corev1.ConfigMap {
	t.Helper()
	return parse[corev1.ConfigMap](t, s.do(t, "POST", configMapsPath, configMapJSON(name)).want(t, 201))
}

func (s *running) createPod(t testing.TB, name string) *corev1.Pod {
	t.Helper()
	return parse[corev1.Pod](t, s.do(t, "POST", podsPath, podJSON(name)).want(t, 201))
}

func (s *running) pod(t testing.TB, name string) *corev1.Pod {
	t.Helper()
	return parse[corev1.Pod](t, s.do(t, "GET", podsPath+"/"+name, "").want(t, 200))
}

func (s *running) bind(t testing.TB, pod, node string) answer {
	t.Helper()
	return s.do(t, "POST", podsPath+"/"+pod+"/binding", `{"kind":"Binding","apiVersion":"v1","metadata":{"name":"`+pod+`"},"target":{"kind":"Node","name":"`+node+`"}}`)
}

func sorted(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return out
}
