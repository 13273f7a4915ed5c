package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Who says how long a request may last is heard, and refused where it is no time at all.
func TestRequestTimeout(t *testing.T) {
	s := start(t)
	for _, path := range []string{"/version", "/api/v1/namespaces", "/apis"} {
		s.do(t, "GET", path+"?timeout=invalid", "").refused(t, 400, metav1.StatusReasonBadRequest,
			`invalid timeout specified in the request URL - time: invalid duration "invalid"`)
		for _, some := range []string{"3m", "0s", "30s", ""} {
			s.do(t, "GET", path+"?timeout="+some, "").want(t, 200)
		}
	}
	s.do(t, "GET", "/api/v1/namespaces?watch=true&timeout=invalid&timeoutSeconds=1", "").want(t, 200)
}

// A request ends when its client has stopped waiting for it; a watch goes on for as long as that asks.
func TestRequestDeadline(t *testing.T) {
	for query, most := range map[string]time.Duration{"timeout=10s": 10 * time.Second, "timeout=0s": mostTime, "timeout=1h": mostTime, "watch=true&timeout=10s": 0, "": 0} {
		seen := false
		endInTime(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			end, bounded := r.Context().Deadline()
			if seen = true; bounded != (most > 0) || bounded && time.Until(end) > most {
				t.Errorf("%q: bounded is %v, until %v; want %v at most", query, bounded, end, most)
			}
		})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/api/v1/pods?"+query, nil))
		if !seen {
			t.Errorf("%q: not served", query)
		}
	}
}
