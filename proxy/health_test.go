package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

func TestHealthCheckPort(t *testing.T) {
	l, err := net.Listen("tcp4", ":0")
	must(t, err)
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	h := &healthChecks{}
	t.Cleanup(h.close)
	h.healthy.Store(true)
	if err := h.set("default/web", health{port, 1}); err == nil {
		t.Errorf("port %d is taken, but there is no error", port)
	}
	must(t, l.Close())

	for _, tc := range []struct {
		ready   int
		healthy bool
		code    int
	}{{2, true, 200}, {0, true, 503}, {1, true, 200}, {1, false, 503}} {
		must(t, h.set("default/web", health{port, tc.ready}))
		h.healthy.Store(tc.healthy)
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port))
		must(t, err)
		body, err := io.ReadAll(answer.Body)
		must(t, err)
		answer.Body.Close()
		var got any
		must(t, json.Unmarshal(body, &got))
		want := map[string]any{
			"service":        map[string]any{"namespace": "default", "name": "web"},
			"localEndpoints": float64(tc.ready), "serviceProxyHealthy": tc.healthy,
		}
		if diff := cmp.Diff(want, got); diff != "" || answer.StatusCode != tc.code {
			t.Errorf("%+v: code %d, body (-want +got):\n%s", tc, answer.StatusCode, diff)
		}
		if w := answer.Header.Get("X-Load-Balancing-Endpoint-Weight"); w != fmt.Sprint(tc.ready) {
			t.Errorf("%+v: weight %q", tc, w)
		}
	}

	must(t, h.set("default/web", health{}))
	if _, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port)); err == nil {
		t.Error("the port still answers after the Service has none")
	}
}

// TestHealthOfService counts pods, not ports, and only ready ones of this node.
func TestHealthOfService(t *testing.T) {
	svc := newTestService("web", "10.43.0.80")
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	svc.Spec.HealthCheckNodePort = 30999
	slice := newTestSlice("web", "10.42.0.1", "10.42.0.2", "-10.42.0.3", "(10.42.0.4)", "10.42.1.1")
	slice.Endpoints[4].NodeName = new("other")
	for policy, want := range map[corev1.ServiceExternalTrafficPolicy]health{
		corev1.ServiceExternalTrafficPolicyLocal:   {30999, 2},
		corev1.ServiceExternalTrafficPolicyCluster: {},
	} {
		svc.Spec.ExternalTrafficPolicy = policy
		r := NewRuleset(testConfig())
		r.Set("default/web", svc, []*discoveryv1.EndpointSlice{slice})
		if got := r.health("default/web"); got != want {
			t.Errorf("policy %s: %+v, want %+v", policy, got, want)
		}
	}
}
