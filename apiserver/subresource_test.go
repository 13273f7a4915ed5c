package apiserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestBinding(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	s.bind(t, "p", "n1").want(t, 201)
	p := s.pod(t, "p")
	if c := p.Status.Conditions; p.Spec.NodeName != "n1" || len(c) != 1 || c[0].Type != corev1.PodScheduled || c[0].Status != corev1.ConditionTrue {
		t.Errorf("the bound pod is on %q with conditions %v, want n1 and PodScheduled", p.Spec.NodeName, c)
	}
	s.bind(t, "p", "n2").refused(t, 409, metav1.StatusReasonConflict, `pod p is already assigned to node "n1"`)
	s.bind(t, "none", "n1").refused(t, 404, metav1.StatusReasonNotFound)
	s.createPod(t, "q")
	s.do(t, "POST", podsPath+"/q/binding", `{"target":{"name":"n1"}}`).
		refused(t, 400, metav1.StatusReasonBadRequest, "name in URL does not match name in Binding object")
	s.bind(t, "q", "").refused(t, 422, metav1.StatusReasonInvalid, "target.name: Required value")
	binding := func(pod, more string) answer {
		return s.do(t, "POST", podsPath+"/"+pod+"/binding", `{"kind":"Binding","apiVersion":"v1","metadata":{"name":"`+pod+`"`+more+`},"target":{"name":"n1"}}`)
	}
	binding("q", `,"uid":"another"`).refused(t, 409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: another")
	binding("q", `,"annotations":{"kubernetes.io/config.mirror":"x"}`).refused(t, 422, metav1.StatusReasonInvalid, "may not add mirror pod annotation")
	for _, path := range []string{"/q", "/q/status"} {
		s.do(t, "PATCH", podsPath+path, `{"metadata":{"annotations":{"kubernetes.io/config.mirror":"x"}}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid, "may not add mirror pod annotation")
	}
	gated := strings.Replace(podJSON("g"), `"containers"`, `"schedulingGates":[{"name":"skiff.test/wait"}],"containers"`, 1)
	s.do(t, "POST", podsPath, gated).want(t, 201)
	binding("g", "").refused(t, 409, metav1.StatusReasonConflict, "pod g has non-empty .spec.schedulingGates")
	s.do(t, "PATCH", podsPath+"/q", `{"spec":{"nodeName":"n1"}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid, "pod updates may not change fields other than")
}

// A binding may say which version of the pod it means, and what the pod is to bear; the pod learns where its node is.
func TestBindingFinePrint(t *testing.T) {
	s := start(t)
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1","labels":{"topology.kubernetes.io/zone":"z1","topology.kubernetes.io/region":"r1","other":"x"}}}`).want(t, 201)
	binding := func(more, node string) answer {
		return s.do(t, "POST", podsPath+"/p/binding", `{"kind":"Binding","apiVersion":"v1","metadata":{"name":"p"`+more+`},"target":{"name":"`+node+`"}}`)
	}
	s.createPod(t, "p")
	binding(`,"resourceVersion":"1"`, "n1").refused(t, 409, metav1.StatusReasonConflict, "Precondition failed: ResourceVersion in precondition: 1")
	s.do(t, "POST", podsPath+"/p/binding?dryRun=All", `{"kind":"Binding","apiVersion":"v1","metadata":{"name":"p"},"target":{"name":"n1"}}`).want(t, 201)
	if p := s.pod(t, "p"); p.Spec.NodeName != "" {
		t.Errorf("a dry run bound the pod to %s", p.Spec.NodeName)
	}
	binding(`,"resourceVersion":"`+s.pod(t, "p").ResourceVersion+`","uid":"`+string(s.pod(t, "p").UID)+`","annotations":{"why":"first"},"labels":{"app":"other","by":"me"}`, "n1").want(t, 201)
	p := s.pod(t, "p")
	want := map[string]string{"app": "web", "by": "me", "topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1"}
	if diff := cmp.Diff(want, p.Labels); diff != "" || p.Annotations["why"] != "first" || p.Generation != 1 {
		t.Errorf("annotations %v, generation %d, labels (-want +got):\n%s", p.Annotations, p.Generation, diff)
	}
	s.do(t, "DELETE", podsPath+"/p?gracePeriodSeconds=0", "").want(t, 200)
	s.createPod(t, "p")
	binding("", "unknown").want(t, 201) // Kubernetes too leaves it to whoever binds that there is such a node.
}

func TestScale(t *testing.T) {
	s := start(t)
	sets := "/apis/apps/v1/namespaces/default/replicasets"
	s.do(t, "POST", deployments, deploymentJSON("web")).want(t, 201)
	s.do(t, "POST", sets, strings.Replace(deploymentJSON("web"), "Deployment", "ReplicaSet", 1)).want(t, 201)
	for _, path := range []string{deployments + "/web", sets + "/web"} {
		scale := parse[autoscalingv1.Scale](t, s.do(t, "GET", path+"/scale", "").want(t, 200))
		if scale.Kind != "Scale" || scale.APIVersion != "autoscaling/v1" || scale.Spec.Replicas != 1 || scale.Status.Selector != "app=web" {
			t.Errorf("%s: scale is %+v", path, scale)
		}
		s.do(t, "PATCH", path+"/scale", `{"spec":{"replicas":3}}`, merge...).want(t, 200)
		s.do(t, "PUT", path+"/scale", toJSON(t, scale)).refused(t, 409, metav1.StatusReasonConflict)
		scale.ResourceVersion = ""
		scale.Spec.Replicas = 0
		s.do(t, "PUT", path+"/scale", toJSON(t, scale)).want(t, 200)
		if got := parse[appsv1.Deployment](t, s.do(t, "GET", path, "")); *got.Spec.Replicas != 0 {
			t.Errorf("%s: %d replicas after scaling to 0", path, *got.Spec.Replicas)
		}
		s.do(t, "PATCH", path+"/scale", `{"spec":{"replicas":-1}}`, merge...).
			refused(t, 422, metav1.StatusReasonInvalid, "spec.replicas: Invalid value: -1: must be greater than or equal to 0")
		s.do(t, "PATCH", path+"/scale?dryRun=All", `{"spec":{"replicas":9}}`, merge...).want(t, 200)
		if got := parse[autoscalingv1.Scale](t, s.do(t, "GET", path+"/scale", "")); got.Spec.Replicas != 0 {
			t.Errorf("%s: a dry run scaled to %d", path, got.Spec.Replicas)
		}
		table := parse[metav1.Table](t, s.do(t, "GET", path+"/scale", "", "Accept", typeJSON+asTable).want(t, 200))
		if row := table.Rows[0].Cells; len(table.ColumnDefinitions) != 4 || row[0] != "web" || row[1] != 0.0 || row[2] != 0.0 {
			t.Errorf("%s: its scale is printed as %v", path, row)
		}
	}
	s.do(t, "GET", deployments+"/none/scale", "").refused(t, 404, metav1.StatusReasonNotFound, `deployments.apps "none" not found`)
	s.do(t, "PUT", deployments+"/web/scale", `{"metadata":{"name":"other"}}`).refused(t, 400, metav1.StatusReasonBadRequest)
}

// What a client hears where a log or a terminal can't be had.
func TestLogAndExecThatCannotBe(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	log := func(query string) answer { return s.do(t, "GET", podsPath+"/p/log"+query, "") }
	if a := log("").want(t, 204); len(a.body) > 0 {
		t.Errorf("the log of a pod without a node: %s", a.body)
	}
	log("?container=x").refused(t, 400, metav1.StatusReasonBadRequest, "container x is not valid for pod p")
	s.do(t, "GET", podsPath+"/none/log", "").refused(t, 404, metav1.StatusReasonNotFound, `pods "none" not found`)
	s.do(t, "POST", podsPath+"/p/exec?container=x", "").refused(t, 400, metav1.StatusReasonBadRequest, "container x is not valid for pod p")
	s.do(t, "GET", podsPath+"/p/portforward", "").refused(t, 400, metav1.StatusReasonBadRequest, "does not have a host assigned")
	for query, want := range map[string]string{
		"?tailLines=-1":   "tailLines: Invalid value: -1: must be greater than or equal to 0",
		"?limitBytes=0":   "limitBytes: Invalid value: 0: must be greater than 0",
		"?sinceSeconds=0": "sinceSeconds: Invalid value: 0: must be greater than 0",
		"?stream=both":    `stream: Unsupported value: "both": supported values: "All", "Stderr", "Stdout"`,
		"?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z": "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified",
	} {
		log(query).refused(t, 422, metav1.StatusReasonInvalid, `PodLogOptions "p" is invalid: `, want)
	}
	log("?tailLines=x").refused(t, 400, metav1.StatusReasonBadRequest, `strconv.ParseInt: parsing "x": invalid syntax`)
	log("?sinceTime=x").refused(t, 400, metav1.StatusReasonBadRequest, `cannot parse "x"`)
	s.do(t, "POST", podsPath, `{"metadata":{"name":"two"},"spec":{"initContainers":[{"name":"i","image":"i"}],"containers":[{"name":"a","image":"i"},{"name":"b","image":"i"}]}}`).want(t, 201)
	s.do(t, "GET", podsPath+"/two/log", "").refused(t, 400, metav1.StatusReasonBadRequest, "a container name must be specified for pod two, choose one of: [i a b]")
	s.do(t, "POST", podsPath, `{"metadata":{"name":"one"},"spec":{"initContainers":[{"name":"i","image":"i"}],"containers":[{"name":"a","image":"i"}]}}`).want(t, 201)
	s.do(t, "GET", podsPath+"/one/log", "").want(t, 204)

	s.bind(t, "p", "n1").want(t, 201)
	log("").refused(t, 404, metav1.StatusReasonNotFound, `nodes "n1" not found`)
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"}}`).want(t, 201)
	log("").refused(t, 503, metav1.StatusReasonServiceUnavailable, "node n1 has not told yet where its agent listens")
}

// The server passes on what the node's agent says, answers and refusals.
func TestLogFromNode(t *testing.T) {
	s := start(t)
	node := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("previous") == "true" {
			http.Error(w, `previous terminated container "c" in pod "p" not found`, http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%s %s", r.URL.Path, r.URL.RawQuery)
	}))
	t.Cleanup(node.Close)
	s.config.NodeTransport = node.Client().Transport.(*http.Transport)
	addr := netip.MustParseAddrPort(node.Listener.Addr().String())
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n1"},"status":{"addresses":[{"type":"InternalIP","address":"`+addr.Addr().String()+`"}],
		"daemonEndpoints":{"kubeletEndpoint":{"Port":`+fmt.Sprint(addr.Port())+`}}}}`).want(t, 201)
	s.createPod(t, "p")
	s.bind(t, "p", "n1").want(t, 201)
	a := s.do(t, "GET", podsPath+"/p/log?tailLines=5", "").want(t, 200)
	if want := "/containerLogs/default/p/c tailLines=5"; string(a.body) != want || a.header.Get("Content-Type") != "text/plain" {
		t.Errorf("the log is %q as %s, want %q as text/plain", a.body, a.header.Get("Content-Type"), want)
	}
	s.do(t, "GET", podsPath+"/p/log?previous=true", "").refused(t, 400, metav1.StatusReasonBadRequest, `previous terminated container "c" in pod "p" not found`)
	node.Close()
	s.do(t, "GET", podsPath+"/p/log", "").refused(t, 503, metav1.StatusReasonServiceUnavailable)
}

// Which quality of service a pod has is said once; who writes its status without saying so leaves it.
func TestQualityOfServiceStays(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	s.do(t, "PATCH", podsPath+"/p/status", `{"status":{"qosClass":"Guaranteed"}}`, merge...).
		refused(t, 422, metav1.StatusReasonInvalid, `status.qosClass: Invalid value: "Guaranteed": field is immutable`)
	s.do(t, "PUT", podsPath+"/p/status", `{"metadata":{"name":"p"},"status":{"phase":"Running"}}`).want(t, 200)
	if got := s.pod(t, "p").Status; got.QOSClass != corev1.PodQOSBestEffort || got.Phase != corev1.PodRunning {
		t.Errorf("the status is %+v, want a running pod of BestEffort", got)
	}
}

// A CSINode has a status, of which all that there is today is behind a gate.
func TestStatusOfCSINode(t *testing.T) {
	s := start(t)
	const path = "/apis/storage.k8s.io/v1/csinodes"
	s.do(t, "POST", path, `{"metadata":{"name":"n1"},"spec":{"drivers":[]}}`).want(t, 201)
	a := s.do(t, "PATCH", path+"/n1/status", `{"metadata":{"labels":{"a":"b"}},"spec":{"drivers":[{"name":"d.example","nodeID":"1"}]},"status":{"storageHealth":[{"name":"x"}]}}`, merge...).want(t, 200)
	got := parse[storagev1.CSINode](t, a)
	if len(got.Spec.Drivers) != 0 || len(got.Labels) != 0 || len(got.Status.StorageHealth) != 0 {
		t.Errorf("a write of the status made %+v", got)
	}
	s.do(t, "GET", path+"/n1/status", "").want(t, 200)
}
