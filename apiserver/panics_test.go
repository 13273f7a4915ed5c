package apiserver

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// One broken request does not end the server.
func TestPanicIsAnswered(t *testing.T) {
	s := start(t)
	s.shelf("pods").resource.Row = func(obj runtime.Object) []any { panic("broken") }
	s.createPod(t, "p")
	s.do(t, "GET", podsPath, "", "Accept", acceptTable).refused(t, 500, metav1.StatusReasonInternalError, "the server panicked; its log says where")
	s.do(t, "GET", podsPath, "").want(t, 200)
	if _, err := s.client(t, administrator, typeProto).CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

// An answer in whose middle the server panics is not taken for all of it: it breaks off, in memory, in HTTP/1 and in HTTP/2.
func TestPanicBreaksOffWhatHasBegun(t *testing.T) {
	s := start(t)
	s.shelf("pods").resource.Row = func(obj runtime.Object) []any { panic("broken") }
	s.createPod(t, "p")
	web := s.web(t)
	old := web.Client().Transport.(*http.Transport).Clone()
	old.ForceAttemptHTTP2, old.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
	t.Cleanup(old.CloseIdleConnections)
	for name, client := range map[string]struct {
		http.RoundTripper
		host string
	}{
		"memory": {s.Transport(administrator), "http://memory"}, "HTTP/2": {web.Client().Transport, web.URL}, "HTTP/1": {old, web.URL},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "GET", client.host+podsPath+"?watch=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", acceptTable)
		resp, err := client.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || err == nil || ctx.Err() != nil || len(body) > 0 {
			t.Errorf("%s: a watch that panicked answers %d %q, error %v", name, resp.StatusCode, body, err)
		}
	}
	s.do(t, "GET", podsPath, "").want(t, 200)
}

// What a request has others do for it does not end the server either.
func TestPanicBesideARequest(t *testing.T) {
	s := start(t)
	s.config.NodeTransport = &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { panic("broken") }}
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"},"status":{"addresses":[{"type":"InternalIP","address":"127.0.0.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":1}}}}`).want(t, 201)
	if got := s.summaries(context.Background(), []string{"n1"}); len(got) != 0 {
		t.Errorf("a question that panicked brought %v", got)
	}
}
