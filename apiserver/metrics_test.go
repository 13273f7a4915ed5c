package apiserver

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Metrics have Kubernetes' names and labels, and are for administrators alone.
func TestMetrics(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	s.do(t, "GET", configMapsPath+"/none", "").want(t, 404)
	s.do(t, "GET", configMapsPath+"?watch=1&timeoutSeconds=1", "").want(t, 200)
	s.do(t, "PATCH", configMapsPath+"/a", `{"data":{"a":"2"}}`, merge...).want(t, 200)
	s.do(t, "GET", "/readyz", "").want(t, 200)
	s.do(t, "GET", "/openapi/v3/apis/none/v1", "").want(t, 404)
	a := s.do(t, "GET", "/metrics", "").want(t, 200)
	if got := a.header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type is %q", got)
	}
	const about = `component="apiserver",group="",resource="configmaps",scope="%",subresource="",verb="#",version="v1"}`
	labels := func(scope, verb string) string { return strings.NewReplacer("%", scope, "#", verb).Replace(about) }
	ofPath := func(path string) string {
		return `component="apiserver",group="",resource="",scope="",subresource="` + path + `",verb="GET",version=""}`
	}
	for _, want := range []string{
		`apiserver_request_total{code="200",` + ofPath("/readyz") + " 1",
		`apiserver_request_total{code="404",` + ofPath("/openapi/v3/*") + " 1",
		`apiserver_request_total{code="201",` + labels("namespace", "POST") + " ",
		`apiserver_request_total{code="404",` + labels("resource", "GET") + " 1",
		`apiserver_request_total{code="200",` + labels("namespace", "WATCH") + " 1",
		`apiserver_request_duration_seconds_count{` + labels("resource", "PATCH") + " 1",
		`apiserver_longrunning_requests{` + labels("namespace", "WATCH") + " 0",
		`apiserver_current_inflight_requests{request_kind="mutating"} 0`,
		`apiserver_current_inflight_requests{request_kind="readOnly"} 0`,
		`apiserver_storage_objects{resource="configmaps"} `,
		`apiserver_storage_objects{resource="deployments.apps"} 0`,
		"go_goroutines ", "process_resident_memory_bytes ",
	} {
		if !strings.Contains(string(a.body), "\n"+want) {
			t.Errorf("no %s in\n%s", want, a.body)
		}
	}
	s.doAs(t, nodeUser, "GET", "/metrics", "").refused(t, 403, metav1.StatusReasonForbidden, `User "system:node:n1" cannot get path "/metrics"`)
}
