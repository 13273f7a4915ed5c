package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// pretend has all connections to pods and nodes end at two servers, one for HTTPS, whatever their address, and notes these.
type pretend struct {
	plain, secure string

	mu     sync.Mutex
	dialed []string
}

func (p *pretend) transport() *http.Transport {
	t := newPodTransport()
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		p.mu.Lock()
		p.dialed = append(p.dialed, address)
		p.mu.Unlock()
		end := p.plain
		if strings.HasSuffix(address, "443") || strings.HasSuffix(address, ":10250") {
			end = p.secure
		}
		return (&net.Dialer{}).DialContext(ctx, network, end)
	}
	t.DisableKeepAlives = true
	return t
}

func (p *pretend) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.dialed) == 0 {
		return ""
	}
	return p.dialed[len(p.dialed)-1]
}

// echo tells what it was asked; some paths do more.
func echo(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/page":
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, `<a href="/other">x</a>`)
	case "/moved":
		http.Redirect(w, r, "/there", http.StatusFound)
	case "/ws":
		up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		kind, message, err := c.ReadMessage()
		if err == nil {
			_ = c.WriteMessage(kind, append([]byte("echo "), message...))
		}
	default:
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Authorization", r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
	}
}

// proxied is a server with a pod "web" behind a Service "front", and the node "n1".
func proxied(t *testing.T) (*running, *pretend) {
	t.Helper()
	s := start(t)
	plain, secure := httptest.NewServer(http.HandlerFunc(echo)), httptest.NewTLSServer(http.HandlerFunc(echo))
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	p := &pretend{plain: plain.Listener.Addr().String(), secure: secure.Listener.Addr().String()}
	s.transport, s.config.NodeTransport = p.transport(), p.transport()
	s.do(t, "POST", podsPath, `{"metadata":{"name":"web","labels":{"app":"web"}},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"nginx","ports":[{"containerPort":8080}]}]}}`).want(t, 201)
	s.do(t, "PATCH", podsPath+"/web/status", `{"status":{"podIP":"192.0.2.7","podIPs":[{"ip":"192.0.2.7"}]}}`, merge...).want(t, 200)
	s.do(t, "POST", servicesPath, `{"metadata":{"name":"front"},"spec":{"selector":{"app":"web"},"ports":[{"name":"http","port":80,"targetPort":8080},{"name":"https","port":443,"targetPort":8443}]}}`).want(t, 201)
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"},"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":10250}}}}`).want(t, 201)
	return s, p
}

func (s *running) slice(t *testing.T, endpoint string) {
	t.Helper()
	path := "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
	s.do(t, "DELETE", path+"/front", "")
	s.do(t, "POST", path, `{"metadata":{"name":"front","labels":{"kubernetes.io/service-name":"front"}},"addressType":"IPv4","endpoints":[`+endpoint+`],
		"ports":[{"name":"http","port":8080},{"name":"https","port":8443}]}`).want(t, 201)
}

const readyEndpoint = `{"addresses":["192.0.2.7"],"conditions":{"ready":true},"targetRef":{"kind":"Pod","namespace":"default","name":"web"}}`

func TestProxy(t *testing.T) {
	s, p := proxied(t)
	s.slice(t, readyEndpoint)
	web := s.web(t)
	for _, tc := range []struct{ id, dialed string }{
		{podsPath + "/web", "192.0.2.7:8080"},
		{podsPath + "/web:9000", "192.0.2.7:9000"},
		{podsPath + "/http:web:9000", "192.0.2.7:9000"},
		{podsPath + "/https:web:9443", "192.0.2.7:9443"},
		{podsPath + "/https%3Aweb%3A9443", "192.0.2.7:9443"},
		{servicesPath + "/front:http", "192.0.2.7:8080"},
		{servicesPath + "/front:80", "192.0.2.7:8080"},
		{servicesPath + "/https:front:https", "192.0.2.7:8443"},
		{servicesPath + "/https:front:443", "192.0.2.7:8443"},
		{"/api/v1/nodes/n1", "192.0.2.1:10250"},
		{"/api/v1/nodes/n1:10250", "192.0.2.1:10250"},
		{"/api/v1/nodes/n1:9100", "192.0.2.1:9100"},
	} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			a := send(t, web.Client(), method, web.URL+tc.id+"/proxy/some/where/?q=1&q=2", strings.NewReader("body")).want(t, 202)
			if want := method + " /some/where/?q=1&q=2 body"; string(a.body) != want || p.last() != tc.dialed {
				t.Errorf("%s %s: %q from %s, want %q from %s", method, tc.id, a.body, p.last(), want, tc.dialed)
			}
		}
		send(t, web.Client(), "HEAD", web.URL+tc.id+"/proxy/", nil).want(t, 202)
		if a := send(t, web.Client(), "POST", web.URL+tc.id+"/proxy", nil).want(t, 202); string(a.body) != "POST / " {
			t.Errorf("%s without a path: %q", tc.id, a.body)
		}
	}
}

// An upload may last as long as the pod is ready to read it.
func TestProxyOfLongUpload(t *testing.T) {
	s, _ := proxied(t)
	web := s.web(t)
	s.limits.request = 1 // What is not taken back is over before the first byte is read.
	big := strings.Repeat("x", 1<<20)
	a := send(t, protocols(web)["HTTP/1.1"], "POST", web.URL+podsPath+"/web/proxy/upload", strings.NewReader(big)).want(t, 202)
	if want := "POST /upload " + big; string(a.body) != want {
		t.Errorf("the pod got %d bytes, want %d", len(a.body), len(want))
	}
}

func TestProxyRewrites(t *testing.T) {
	s, _ := proxied(t)
	at := podsPath + "/web/proxy"
	if a := s.do(t, "GET", at+"?q=1", "").want(t, 301); a.header.Get("Location") != at+"/?q=1" {
		t.Errorf("without a slash the client is sent to %q", a.header.Get("Location"))
	}
	if a := s.do(t, "GET", at+"/page", "").want(t, 200); !strings.Contains(string(a.body), at+`/other"`) {
		t.Errorf("a link is %s, want it to go through the proxy", a.body)
	}
	if a := s.do(t, "GET", at+"/moved", "").want(t, 302); !strings.HasSuffix(a.header.Get("Location"), at+"/there") {
		t.Errorf("a redirect goes to %q, want it to go through the proxy", a.header.Get("Location"))
	}
	a := s.do(t, "GET", at+"/x", "", "Authorization", "Basic c2VjcmV0").want(t, 202)
	if got := a.header.Get("X-Authorization"); got != "" {
		t.Errorf("the pod was shown who asks: %q", got)
	}
}

func TestProxyWebSocket(t *testing.T) {
	s, _ := proxied(t)
	s.slice(t, readyEndpoint)
	web := s.web(t)
	for _, id := range []string{podsPath + "/web", podsPath + "/https:web:9443", servicesPath + "/front:http"} {
		dialer := websocket.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		c, _, err := dialer.Dial("wss"+strings.TrimPrefix(web.URL, "https")+id+"/proxy/ws", nil)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if err := c.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		_, got, err := c.ReadMessage()
		if err != nil || string(got) != "echo hello" {
			t.Errorf("%s: %q, %v", id, got, err)
		}
		c.Close()
	}
}

// What cannot be reached, and what must not be.
func TestProxyRefuses(t *testing.T) {
	s, p := proxied(t)
	unavailable := func(path, message string) {
		t.Helper()
		s.do(t, "GET", path, "").refused(t, 503, metav1.StatusReasonServiceUnavailable, message)
	}
	unavailable(servicesPath+"/front:http/proxy/", `no endpoints available for service "front"`)
	unavailable(servicesPath+"/front:81/proxy/", `no service port 81 found for service "front"`)
	for _, endpoint := range []string{
		strings.Replace(readyEndpoint, "true", "false", 1),
		`{"addresses":["192.0.2.9"],"conditions":{"ready":true}}`,
		strings.Replace(readyEndpoint, "192.0.2.7", "192.0.2.9", 1),
		strings.Replace(readyEndpoint, `"namespace":"default"`, `"namespace":"kube-system"`, 1),
		strings.Replace(readyEndpoint, `"name":"web"`, `"name":"none"`, 1),
	} {
		s.slice(t, endpoint)
		unavailable(servicesPath+"/front:http/proxy/", `no endpoints available for service "front"`)
	}
	s.slice(t, readyEndpoint)
	unavailable(servicesPath+"/front:none/proxy/", `no endpoints available for service "front"`)
	unavailable(servicesPath+"/none/proxy/", `no endpoints available for service "none"`)
	s.do(t, "GET", servicesPath+"/none:80/proxy/", "").refused(t, 404, metav1.StatusReasonNotFound, `"none" not found`)
	for _, kind := range []string{podsPath, "/api/v1/nodes"} {
		s.do(t, "GET", kind+"/none/proxy/", "").refused(t, 404, metav1.StatusReasonNotFound, `"none" not found`)
		s.do(t, "GET", kind+"/ftp:none:1/proxy/", "").refused(t, 400, metav1.StatusReasonBadRequest, `request "ftp:none:1"`)
	}
	for _, ip := range []string{"127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1"} {
		s.do(t, "PATCH", podsPath+"/web/status", `{"status":{"podIP":"`+ip+`","podIPs":[{"ip":"`+ip+`"}]}}`, merge...).want(t, 200)
		s.do(t, "GET", podsPath+"/web/proxy/", "").refused(t, 400, metav1.StatusReasonBadRequest, "address not allowed")
	}
	if got := p.last(); got != "" {
		t.Errorf("something was dialed: %s", got)
	}
	for _, path := range []string{podsPath + "/web", servicesPath + "/front", "/api/v1/nodes/n1"} {
		for method := range proxyMethods {
			s.doAs(t, nodeUser, method, path+"/proxy/", "").want(t, 403)
		}
	}
}
