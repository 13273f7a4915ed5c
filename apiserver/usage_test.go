package apiserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// summaryJSON is a kubelet's answer: a node, a pod that is the API's, and one that another node has.
const summaryJSON = `{"node":{"nodeName":"n1","cpu":{"time":"2026-01-01T00:00:10Z","window":"10s","usageNanoCores":250000000},"memory":{"workingSetBytes":1048576}},
	"pods":[
	{"podRef":{"namespace":"default","name":"p","uid":"1"},"containers":[
		{"name":"c","cpu":{"time":"2026-01-01T00:00:10Z","window":"10s","usageNanoCores":1500000},"memory":{"workingSetBytes":2048}},
		{"name":"a","cpu":{"time":"2026-01-01T00:00:09Z","window":"9s","usageNanoCores":500000},"memory":{"workingSetBytes":1024}}]},
	{"podRef":{"namespace":"default","name":"fresh","uid":"2"},"containers":[{"name":"c","cpu":{"time":"2026-01-01T00:00:10Z"},"memory":{"workingSetBytes":1}}]},
	{"podRef":{"namespace":"default","name":"elsewhere","uid":"3"},"containers":[{"name":"c","cpu":{"usageNanoCores":1},"memory":{"workingSetBytes":1}}]}]}`

// TestUsage asks nodes when it is asked, and tells what they know: as metrics-server does.
func TestUsage(t *testing.T) {
	s := start(t)
	node := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.String(); got != "/stats/summary?only_cpu_and_memory=true" {
			http.Error(w, got, http.StatusNotFound)
			return
		}
		fmt.Fprint(w, summaryJSON)
	}))
	t.Cleanup(node.Close)
	s.config.NodeTransport = node.Client().Transport.(*http.Transport)
	addr := netip.MustParseAddrPort(node.Listener.Addr().String())
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1","labels":{"zone":"a"}},"status":{"addresses":[{"type":"InternalIP","address":"`+addr.Addr().String()+`"}],
		"daemonEndpoints":{"kubeletEndpoint":{"Port":`+fmt.Sprint(addr.Port())+`}}}}`).want(t, 201)
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"silent"}}`).want(t, 201)
	for pod, on := range map[string]string{"p": "n1", "fresh": "n1", "elsewhere": "silent"} {
		s.createPod(t, pod)
		s.bind(t, pod, on).want(t, 201)
	}
	const nodes, pods = "/apis/metrics.k8s.io/v1beta1/nodes", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"
	all := parse[metricsv1beta1.NodeMetricsList](t, s.do(t, "GET", nodes, "").want(t, 200))
	if len(all.Items) != 1 || all.Items[0].Name != "n1" || all.Items[0].Labels["zone"] != "a" || all.Items[0].Usage.Cpu().String() != "250m" ||
		all.Items[0].Usage.Memory().String() != "1Mi" || all.Items[0].Window.Seconds() != 10 {
		t.Errorf("nodes: %s", toJSON(t, all))
	}
	one := parse[metricsv1beta1.PodMetrics](t, s.do(t, "GET", pods+"/p", "").want(t, 200))
	if len(one.Containers) != 2 || one.Containers[0].Name != "a" || one.Containers[1].Usage.Cpu().String() != "1500u" || one.Window.Seconds() != 9 {
		t.Errorf("pod p: %s", toJSON(t, one))
	}
	list := parse[metricsv1beta1.PodMetricsList](t, s.do(t, "GET", "/apis/metrics.k8s.io/v1beta1/pods", "").want(t, 200))
	if len(list.Items) != 1 || list.Items[0].Name != "p" {
		t.Errorf("pods: %s", toJSON(t, list))
	}
	if list := parse[metricsv1beta1.PodMetricsList](t, s.do(t, "GET", pods+"?labelSelector=app%3Dother", "").want(t, 200)); len(list.Items) != 0 {
		t.Errorf("pods of another label: %s", toJSON(t, list))
	}
	s.do(t, "GET", pods+"/fresh", "").refused(t, 404, metav1.StatusReasonNotFound, `podmetrics.metrics.k8s.io "default/fresh" not found`)
	s.do(t, "GET", nodes+"/silent", "").refused(t, 404, metav1.StatusReasonNotFound, `nodemetrics.metrics.k8s.io "silent" not found`)
	table := s.do(t, "GET", pods, "", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").want(t, 200)
	if got := string(table.body); !strings.Contains(got, `"cells":["p","2m","3Ki","9s"]`) {
		t.Errorf("as a table: %s", got)
	}
}
