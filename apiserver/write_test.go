package apiserver

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

var (
	merge     = []string{"Content-Type", "application/merge-patch+json"}
	strategic = []string{"Content-Type", "application/strategic-merge-patch+json"}
	jsonPatch = []string{"Content-Type", "application/json-patch+json"}
)

func TestCreate(t *testing.T) {
	s := start(t)
	c := s.createConfigMap(t, "a")
	if c.UID == "" || c.ResourceVersion == "" || c.CreationTimestamp.IsZero() || c.Namespace != "default" || c.Kind != "ConfigMap" || c.APIVersion != "v1" {
		t.Errorf("created: %+v; want uid, revision, time, namespace and kind set", c.ObjectMeta)
	}
	s.do(t, "POST", configMapsPath, configMapJSON("a")).refused(t, 409, metav1.StatusReasonAlreadyExists, `configmaps "a" already exists`)
	s.do(t, "GET", configMapsPath+"/b", "").refused(t, 404, metav1.StatusReasonNotFound, `configmaps "b" not found`)
	s.do(t, "POST", "/api/v1/namespaces/nowhere/configmaps", configMapJSON("a")).refused(t, 404, metav1.StatusReasonNotFound, `namespaces "nowhere" not found`)
	post := func(body string) answer { return s.do(t, "POST", configMapsPath, body) }
	post(`{"metadata":{"name":"Not_A_Name"}}`).refused(t, 422, metav1.StatusReasonInvalid, `ConfigMap "Not_A_Name" is invalid: metadata.name: Invalid value: "Not_A_Name"`)
	post(`{"metadata":{}}`).refused(t, 422, metav1.StatusReasonInvalid, "metadata.name: Required value: name or generateName is required")
	post(`{"metadata":{"name":"x","namespace":"kube-system"}}`).refused(t, 400, metav1.StatusReasonBadRequest, "the namespace of the provided object does not match the namespace sent on the request")
	post(`{"metadata":{"name":"x","resourceVersion":"5"}}`).refused(t, 400, metav1.StatusReasonBadRequest, "resourceVersion should not be set on objects to be created")
	post(podJSON("x")).refused(t, 400, metav1.StatusReasonBadRequest, `Pod in version "v1" cannot be handled as a ConfigMap`)
	forged := parse[corev1.Pod](t, s.do(t, "POST", podsPath, `{"metadata":{"name":"f","uid":"mine","generation":7,"deletionTimestamp":"2020-01-01T00:00:00Z"},"spec":{"containers":[{"name":"c","image":"i"}]},"status":{"phase":"Running"}}`).want(t, 201))
	if forged.UID == "mine" || forged.Generation != 1 || forged.DeletionTimestamp != nil || forged.Status.Phase != corev1.PodPending {
		t.Errorf("the client said what only the server may say: %+v %s", forged.ObjectMeta, forged.Status.Phase)
	}
}

func TestGenerateName(t *testing.T) {
	s := start(t)
	long := strings.Repeat("a", 100)
	for base, length := range map[string]int{"web-": 9, long: 63} {
		c := parse[corev1.ConfigMap](t, s.do(t, "POST", configMapsPath, `{"metadata":{"generateName":"`+base+`"}}`).want(t, 201))
		if len(c.Name) != length || !strings.HasPrefix(c.Name, base[:length-5]) {
			t.Errorf("generateName %q gives %q, want %d characters", base, c.Name, length)
		}
	}
}

// Names that are taken are passed over, eight of them.
func TestGeneratedNameThatIsTaken(t *testing.T) {
	s := start(t)
	post := func() answer { return s.do(t, "POST", configMapsPath, `{"metadata":{"generateName":"a-"}}`) }
	const seed = 1
	rand.Seed(seed)
	var names []string
	for range generatedTries {
		names = append(names, "a-"+rand.String(generatedSuffix))
	}
	for _, name := range names[:generatedTries-1] {
		s.createConfigMap(t, name)
	}
	rand.Seed(seed)
	if c := parse[corev1.ConfigMap](t, post().want(t, 201)); c.Name != names[generatedTries-1] {
		t.Errorf("the name is %s, want %s", c.Name, names[generatedTries-1])
	}
	rand.Seed(seed)
	post().refused(t, 409, metav1.StatusReasonAlreadyExists, "the server was not able to generate a unique name for the object")
	post().want(t, 201)
}

func TestBodiesThatAreNone(t *testing.T) {
	s := start(t)
	post := func(body string, headers ...string) answer { return s.do(t, "POST", configMapsPath, body, headers...) }
	post("").refused(t, 400, metav1.StatusReasonBadRequest)
	post("{").refused(t, 400, metav1.StatusReasonBadRequest, "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({)")
	post("").refused(t, 400, metav1.StatusReasonBadRequest, "(<empty>)")
	post("["+strings.Repeat("x", 40)).refused(t, 400, metav1.StatusReasonBadRequest, "(5b"+strings.Repeat("78", 29)+" ...)")
	post(`{"kind":"Nope","apiVersion":"v1"}`).refused(t, 400, metav1.StatusReasonBadRequest, `Nope in version "v1" cannot be handled as a ConfigMap: no kind "Nope" is registered for version "v1"`)
	post(`[]`).refused(t, 400, metav1.StatusReasonBadRequest)
	post(`{"kind":"Nothing","apiVersion":"v1"}`).refused(t, 400, metav1.StatusReasonBadRequest, `no kind "Nothing" is registered`)
	post(`{"data":5}`).refused(t, 400, metav1.StatusReasonBadRequest, "cannot unmarshal")
	post("k8s\x00garbage", "Content-Type", typeProto).refused(t, 400, metav1.StatusReasonBadRequest)
	post("a: [", "Content-Type", typeYAML).refused(t, 400, metav1.StatusReasonBadRequest)
	post("{}", "Content-Type", "text/plain").refused(t, 415, metav1.StatusReasonUnsupportedMediaType, "application/json")
	post(`{"data":{"a":"`+strings.Repeat("x", maxBody)+`"}}`).refused(t, 413, metav1.StatusReasonRequestEntityTooLarge, "limit is 3145728")
	s.do(t, "DELETE", configMapsPath+"/kube-root", `{`).refused(t, 400, metav1.StatusReasonBadRequest)
	s.do(t, "DELETE", configMapsPath+"/kube-root", configMapJSON("x")).refused(t, 400, metav1.StatusReasonBadRequest, `no kind "ConfigMap" is registered for version "v1"`)
	s.do(t, "DELETE", configMapsPath+"/kube-root", `{}`, "Content-Type", "text/plain").refused(t, 415, metav1.StatusReasonUnsupportedMediaType, "application/json")
	if list := s.list(t, ""); len(list.Items) != 0 {
		t.Errorf("something was stored all the same: %v", names(list))
	}
}

func TestYAMLAndProtobufBodies(t *testing.T) {
	s := start(t)
	y := s.do(t, "POST", configMapsPath, "kind: ConfigMap\napiVersion: v1\nmetadata: {name: why}\ndata: {a: \"1\"}\n", "Content-Type", typeYAML, "Accept", typeYAML).want(t, 201)
	if !strings.Contains(string(y.body), "name: why") || y.header.Get("Content-Type") != typeYAML {
		t.Errorf("answer as %s: %s; want YAML", y.header.Get("Content-Type"), y.body)
	}
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Data: map[string]string{"a": "1"}}
	obj.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	p := s.do(t, "POST", configMapsPath, toProto(t, obj), "Content-Type", typeProto, "Accept", typeProto).want(t, 201)
	got, _, err := protoSerializer.Decode(p.body, nil, nil)
	if err != nil || got.(*corev1.ConfigMap).Data["a"] != "1" || got.(*corev1.ConfigMap).UID == "" {
		t.Errorf("answer is %v, error %v; want the ConfigMap in protobuf", got, err)
	}
}

func TestUpdate(t *testing.T) {
	s := start(t)
	c := s.createConfigMap(t, "a")
	put := func(body string) answer { return s.do(t, "PUT", configMapsPath+"/a", body) }

	same := parse[corev1.ConfigMap](t, put(toJSON(t, c)).want(t, 200))
	if same.ResourceVersion != c.ResourceVersion {
		t.Errorf("an update that changes nothing raised the revision from %s to %s", c.ResourceVersion, same.ResourceVersion)
	}
	c.Data["a"] = "2"
	next := parse[corev1.ConfigMap](t, put(toJSON(t, c)).want(t, 200))
	if next.ResourceVersion == c.ResourceVersion || next.Data["a"] != "2" || next.UID != c.UID {
		t.Errorf("after the update: %+v", next)
	}
	put(toJSON(t, c)).refused(t, 409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`)
	c.ResourceVersion = ""
	c.Data["a"] = "3"
	if got := parse[corev1.ConfigMap](t, put(toJSON(t, c)).want(t, 200)); got.Data["a"] != "3" {
		t.Errorf("an update without a revision: %v, want a=3", got.Data)
	}
	c.UID = "another"
	put(toJSON(t, c)).refused(t, 409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: another")
	put(configMapJSON("b")).refused(t, 400, metav1.StatusReasonBadRequest, "the name of the object (b) does not match the name on the URL (a)")
	s.do(t, "PUT", configMapsPath+"/none", configMapJSON("none")).refused(t, 404, metav1.StatusReasonNotFound)
}

func TestGenerationCountsWishes(t *testing.T) {
	s := start(t)
	s.do(t, "POST", deployments, deploymentJSON("web")).want(t, 201)
	d := func(path, patch string, want int64) {
		t.Helper()
		a := s.do(t, "PATCH", deployments+"/web"+path, patch, merge...).want(t, 200)
		if path == "/scale" {
			a = s.do(t, "GET", deployments+"/web", "")
		}
		if got := parse[appsv1.Deployment](t, a).Generation; got != want {
			t.Errorf("after PATCH %s %s the generation is %d, want %d", path, patch, got, want)
		}
	}
	d("", `{"metadata":{"labels":{"a":"b"}}}`, 1)
	d("/status", `{"status":{"replicas":1}}`, 1)
	d("", `{"spec":{"replicas":2}}`, 2)
	d("/scale", `{"spec":{"replicas":3}}`, 3)
	d("", `{"metadata":{"annotations":{"a":"b"}}}`, 4) // Handed down to the ReplicaSets.

	s.createPod(t, "p")
	s.bind(t, "p", "n1").want(t, 201)
	if g := s.pod(t, "p").Generation; g != 1 {
		t.Errorf("a bound pod has generation %d, want 1", g)
	}
	s.do(t, "DELETE", podsPath+"/p", "").want(t, 200)
	s.do(t, "DELETE", podsPath+"/p", "").want(t, 200)
	if g := s.pod(t, "p").Generation; g != 2 {
		t.Errorf("a pod that was deleted twice and is still going has generation %d, want 2", g)
	}

	slices := "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
	s.do(t, "POST", slices, `{"metadata":{"name":"e"},"addressType":"IPv4","endpoints":[]}`).want(t, 201)
	for _, tc := range []struct {
		patch string
		want  int64
	}{
		{`{"metadata":{"annotations":{"a":"b"}}}`, 1},
		{`{"endpoints":[{"addresses":["10.42.0.5"]}]}`, 2},
		{`{"metadata":{"labels":{"a":"b"}}}`, 3},
	} {
		e := parse[discoveryv1.EndpointSlice](t, s.do(t, "PATCH", slices+"/e", tc.patch, merge...).want(t, 200))
		if e.Generation != tc.want {
			t.Errorf("EndpointSlice after %s: generation %d, want %d", tc.patch, e.Generation, tc.want)
		}
	}
}

// The object and its status are written apart: neither can change the other.
func TestStatusIsApart(t *testing.T) {
	s := start(t)
	s.do(t, "POST", deployments, deploymentJSON("web")).want(t, 201)
	d := parse[appsv1.Deployment](t, s.do(t, "PATCH", deployments+"/web", `{"spec":{"replicas":2},"status":{"replicas":9}}`, merge...).want(t, 200))
	if *d.Spec.Replicas != 2 || d.Status.Replicas != 0 {
		t.Errorf("PATCH of the object: replicas %d, status %d; want 2 and 0", *d.Spec.Replicas, d.Status.Replicas)
	}
	d.Status.Replicas = 2
	*d.Spec.Replicas = 7
	d = parse[appsv1.Deployment](t, s.do(t, "PUT", deployments+"/web/status", toJSON(t, d)).want(t, 200))
	if *d.Spec.Replicas != 2 || d.Status.Replicas != 2 {
		t.Errorf("PUT of the status: replicas %d, status %d; want 2 and 2", *d.Spec.Replicas, d.Status.Replicas)
	}
	got := parse[appsv1.Deployment](t, s.do(t, "GET", deployments+"/web/status", "").want(t, 200))
	if got.Status.Replicas != 2 {
		t.Errorf("GET of the status: %d, want 2", got.Status.Replicas)
	}
}

// What of an object's metadata is written with its status differs from kind to kind. Of a custom resource nothing is: whoever
// may write its status may not label it.
func TestMetadataWithStatus(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatSubs)))
	const attachments = "/apis/storage.k8s.io/v1/volumeattachments"
	s.createPod(t, "p")
	s.do(t, "POST", deployments, deploymentJSON("d")).want(t, 201)
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n"},"spec":{"unschedulable":true}}`).want(t, 201)
	s.do(t, "POST", attachments, `{"metadata":{"name":"a"},"spec":{"attacher":"a.b","nodeName":"n","source":{"persistentVolumeName":"v"}}}`).want(t, 201)
	s.do(t, "POST", boats, boat("b", `{"length":5}`)).want(t, 201)
	for path, want := range map[string]string{
		podsPath + "/p":    `labels annotations finalizers`,
		deployments + "/d": `annotations finalizers ownerReferences`,
		"/api/v1/nodes/n":  `labels annotations finalizers ownerReferences`,
		attachments + "/a": ``,
		boats + "/b":       ``,
	} {
		a := s.do(t, "PATCH", path+"/status?fieldManager=status", `{"metadata":{"labels":{"x":"y"},"annotations":{"x":"y"},"finalizers":["x.y/z"],
			"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"y"}]}}`, merge...).want(t, 200)
		m := parse[metav1.PartialObjectMetadata](t, a)
		var got []string
		for part, is := range map[string]bool{
			"labels": m.Labels["x"] == "y", "annotations": m.Annotations["x"] == "y",
			"finalizers": len(m.Finalizers) > 0, "ownerReferences": len(m.OwnerReferences) > 0,
		} {
			if is {
				got = append(got, part)
			}
		}
		if owned := strings.Contains(owners(m.ObjectMeta), "status Update "); owned != (want != "") {
			t.Errorf("%s: want what was written, and nothing else, owned:\n%s", path, owners(m.ObjectMeta))
		}
		if diff := cmp.Diff(strings.Join(sorted(strings.Fields(want)), " "), strings.Join(sorted(got), " ")); diff != "" {
			t.Errorf("%s: written with the status (-want +got):\n%s", path, diff)
		}
	}
}

// Only a DELETE begins a deletion.
func TestDeletionTimestampIsImmutable(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}}`, merge...).
		refused(t, 422, metav1.StatusReasonInvalid, `metadata.deletionTimestamp: Invalid value: "2026-01-01T00:00:00Z": field is immutable`)
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"deletionGracePeriodSeconds":1}}`, merge...).
		refused(t, 422, metav1.StatusReasonInvalid, `metadata.deletionGracePeriodSeconds: Invalid value: 1: field is immutable`)
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"finalizers":["a.b/c"]}}`, merge...).want(t, 200)
	going := parse[corev1.ConfigMap](t, s.do(t, "DELETE", configMapsPath+"/a", "").want(t, 200))
	still := parse[corev1.ConfigMap](t, s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"deletionTimestamp":null,"labels":{"a":"b"}}}`, merge...).want(t, 200))
	if !still.DeletionTimestamp.Equal(going.DeletionTimestamp) {
		t.Errorf("deleted at %v, then at %v", going.DeletionTimestamp, still.DeletionTimestamp)
	}
}

func TestDryRun(t *testing.T) {
	s := start(t)
	before := s.createConfigMap(t, "a")
	s.do(t, "POST", configMapsPath+"?dryRun=All", configMapJSON("b")).want(t, 201)
	s.do(t, "POST", configMapsPath+"?dryRun=All", configMapJSON("a")).refused(t, 409, metav1.StatusReasonAlreadyExists)
	p := parse[corev1.ConfigMap](t, s.do(t, "PATCH", configMapsPath+"/a?dryRun=All", `{"data":{"a":"2"}}`, merge...).want(t, 200))
	if p.Data["a"] != "2" {
		t.Errorf("the dry run shows %v, want what would be", p.Data)
	}
	s.do(t, "DELETE", configMapsPath+"/a?dryRun=All", "").want(t, 200)
	svc := parse[corev1.Service](t, s.do(t, "POST", servicesPath+"?dryRun=All", serviceJSON("s", "")).want(t, 201))
	if svc.Spec.ClusterIP == "" {
		t.Error("a Service's dry run shows no address")
	}
	s.do(t, "POST", configMapsPath+"?dryRun=Some", configMapJSON("c")).refused(t, 422, metav1.StatusReasonInvalid, `CreateOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Some"]: supported values: "All"`)
	if diff := cmp.Diff([]string{"a"}, names(s.list(t, ""))); diff != "" {
		t.Errorf("after dry runs only (-want +got):\n%s", diff)
	}
	after := parse[corev1.ConfigMap](t, s.do(t, "GET", configMapsPath+"/a", "").want(t, 200))
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("a dry run changed the object (-before +after):\n%s", diff)
	}
}

func TestFieldValidation(t *testing.T) {
	s := start(t)
	bad := func(name string) string {
		return `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"` + name + `"},"data":{"a":"1"},"data":{"a":"2"},"nope":1}`
	}
	strict := s.do(t, "POST", configMapsPath+"?fieldValidation=Strict", bad("s"))
	strict.refused(t, 400, metav1.StatusReasonBadRequest, `ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error`, `unknown field "nope"`, `duplicate field "data"`)
	for _, level := range []string{"", "Warn"} {
		a := s.do(t, "POST", configMapsPath+"?fieldValidation="+level, bad("w"+strings.ToLower(level))).want(t, 201)
		if diff := cmp.Diff([]string{`299 - "duplicate field \"data\""`, `299 - "unknown field \"nope\""`}, sorted(a.header["Warning"])); diff != "" {
			t.Errorf("%q: warnings (-want +got):\n%s", level, diff)
		}
	}
	if a := s.do(t, "POST", configMapsPath+"?fieldValidation=Ignore", bad("i")).want(t, 201); len(a.header["Warning"]) != 0 {
		t.Errorf("Ignore warns: %v", a.header["Warning"])
	}
	s.do(t, "POST", configMapsPath+"?fieldValidation=Maybe", bad("m")).refused(t, 422, metav1.StatusReasonInvalid, `CreateOptions.meta.k8s.io "" is invalid: fieldValidation: Unsupported value: "Maybe": supported values: "", "Ignore", "Strict", "Warn"`)
	s.do(t, "PATCH", configMapsPath+"/i?fieldValidation=Strict", `{"nope":1}`, merge...).
		refused(t, 422, metav1.StatusReasonInvalid, ` "" is invalid: patch: Invalid value: "{\"apiVersion\"`, `: strict decoding error: unknown field "nope"`)
}

// What is odd about a patch is told of, though the object does not show it.
func TestOddPatches(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	for _, tc := range []struct {
		body string
		kind []string
		want []string
	}{
		{`{"data":{"x":"1","x":"2"}}`, merge, []string{`duplicate field "data.x"`}},
		{`{"data":{"x":"1","x":"2"},"nope":1}`, strategic, []string{`duplicate field "data.x"`, `unknown field "nope"`}},
		{`[{"op":"add","path":"/data/z","value":"1","value":"2","extra":1}]`, jsonPatch, []string{`json patch duplicate field "[0].value"`, `json patch unknown field "[0].extra"`}},
		{`[{"op":"add","path":"/data/z","value":"1"}]`, jsonPatch, nil},
	} {
		patch := func(level string) answer {
			return s.do(t, "PATCH", configMapsPath+"/a?dryRun=All&fieldValidation="+level, tc.body, tc.kind...)
		}
		var warnings []string
		for _, text := range tc.want {
			warnings = append(warnings, fmt.Sprintf("299 - %q", text))
		}
		if diff := cmp.Diff(warnings, patch("Warn").want(t, 200).header["Warning"]); diff != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", tc.body, diff)
		}
		if len(tc.want) > 0 {
			patch("Strict").refused(t, 422, metav1.StatusReasonInvalid, "strict decoding error: "+strings.Join(tc.want, ", "))
		}
		if got := patch("Ignore").want(t, 200).header["Warning"]; got != nil {
			t.Errorf("%s: who does not want to know is warned: %v", tc.body, got)
		}
	}
}

// What is odd is told of, also where something else is wrong.
func TestWarningsBesideAnError(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	want := []string{`299 - "unknown field \"nope\""`}
	for name, a := range map[string]answer{
		"POST":  s.do(t, "POST", configMapsPath, `{"metadata":{"name":"b"},"data":{"a b":"c"},"nope":1}`),
		"PUT":   s.do(t, "PUT", configMapsPath+"/a", `{"metadata":{"name":"a"},"data":{"a b":"c"},"nope":1}`),
		"PATCH": s.do(t, "PATCH", configMapsPath+"/a", `{"data":{"a b":"c"},"nope":1}`, merge...),
	} {
		a.refused(t, 422, metav1.StatusReasonInvalid, "data[a b]")
		if diff := cmp.Diff(want, a.header["Warning"]); diff != "" {
			t.Errorf("%s: warnings (-want +got):\n%s", name, diff)
		}
	}
	renamed := s.do(t, "PUT", configMapsPath+"/a", `{"metadata":{"name":"b"},"nope":1}`)
	renamed.refused(t, 400, metav1.StatusReasonBadRequest, "does not match the name on the URL")
	if diff := cmp.Diff(want, renamed.header["Warning"]); diff != "" {
		t.Errorf("of an object of another name: warnings (-want +got):\n%s", diff)
	}
	twice := s.do(t, "POST", configMapsPath, "metadata: {name: c}\nkind: ConfigMap\napiVersion: v1\ndata: {a: b, a: c}\n", "Content-Type", typeYAML).want(t, 201)
	if diff := cmp.Diff([]string{`299 - "line 4: key \"a\" already set in map"`}, twice.header["Warning"]); diff != "" {
		t.Errorf("warnings of YAML (-want +got):\n%s", diff)
	}
}

func TestPatches(t *testing.T) {
	s := start(t)
	s.do(t, "POST", deployments, deploymentJSON("web")).want(t, 201)
	patch := func(body string, kind []string) answer { return s.do(t, "PATCH", deployments+"/web", body, kind...) }

	d := parse[appsv1.Deployment](t, patch(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"nginx:2"},{"name":"d","image":"x"}]}}}}`, strategic).want(t, 200))
	if c := d.Spec.Template.Spec.Containers; len(c) != 2 || c[0].Name != "c" || c[0].Image != "nginx:2" || c[0].TerminationMessagePath == "" {
		t.Errorf("strategic merge: containers are %+v, want c changed and d added", c)
	}
	d = parse[appsv1.Deployment](t, patch(`{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"d"}]}}}}`, strategic).want(t, 200))
	if c := d.Spec.Template.Spec.Containers; len(c) != 1 {
		t.Errorf("strategic merge: containers are %+v, want d deleted", c)
	}
	d = parse[appsv1.Deployment](t, patch(`[{"op":"test","path":"/spec/replicas","value":1},{"op":"replace","path":"/spec/replicas","value":4}]`, jsonPatch).want(t, 200))
	if *d.Spec.Replicas != 4 {
		t.Errorf("JSON patch: %d replicas, want 4", *d.Spec.Replicas)
	}
	d = parse[appsv1.Deployment](t, patch(`{"metadata":{"annotations":{"a":"b"}},"spec":{"replicas":null}}`, merge).want(t, 200))
	if *d.Spec.Replicas != 1 || d.Annotations["a"] != "b" {
		t.Errorf("merge patch: %d replicas, annotations %v; want the default, and a=b", *d.Spec.Replicas, d.Annotations)
	}
	if again := parse[appsv1.Deployment](t, patch(`{"metadata":{"annotations":{"a":"b"}}}`, merge).want(t, 200)); again.ResourceVersion != d.ResourceVersion {
		t.Error("a patch that changes nothing raised the revision")
	}

	misfits := func(body, why string) {
		t.Helper()
		a := patch(body, jsonPatch)
		a.refused(t, 422, metav1.StatusReasonInvalid, "the server rejected our request due to an error in our request")
		if causes := parse[metav1.Status](t, a).Details.Causes; len(causes) != 1 || !strings.Contains(causes[0].Message, why) {
			t.Errorf("the causes are %+v, want one with %q", causes, why)
		}
	}
	misfits(`[{"op":"test","path":"/spec/replicas","value":99}]`, "testing value /spec/replicas failed")
	misfits(`[{"op":"remove","path":"/nope"}]`, "/nope")
	patch(`{"op":"test"}`, jsonPatch).refused(t, 400, metav1.StatusReasonBadRequest)
	patch(`{`, merge).refused(t, 400, metav1.StatusReasonBadRequest)
	patch(`{`, strategic).refused(t, 400, metav1.StatusReasonBadRequest)
	patch(`{"spec":{"replicas":"many"}}`, merge).refused(t, 422, metav1.StatusReasonInvalid, ` "" is invalid: patch: Invalid value: "{`, "json: cannot unmarshal string")
	patch(`{"spec":{"replicas":"many"}}`, strategic).refused(t, 422, metav1.StatusReasonInvalid, ` "" is invalid: patch: Invalid value: "map[spec:map[replicas:many]]": unrecognized type: int32`)
	for _, op := range []string{"replace", "test"} {
		misfits(`[{"op":"`+op+`","path":""}]`, "has no value")
	}
	patch(`{"spec":{"replicas":-1}}`, merge).refused(t, 422, metav1.StatusReasonInvalid, "spec.replicas: Invalid value: -1")
	patch(`{"spec":{"selector":{"matchLabels":{"app":"other"}}}}`, merge).refused(t, 422, metav1.StatusReasonInvalid, "spec.selector")
	patch(`{"metadata":{"name":"other"}}`, merge).refused(t, 400, metav1.StatusReasonBadRequest, "does not match the name on the URL")
	patch(`{"metadata":{"resourceVersion":"1"}}`, merge).refused(t, 409, metav1.StatusReasonConflict)
	patch(`{"metadata":{"resourceVersion":"new"}}`, merge).refused(t, 500, metav1.StatusReasonUnknown, `strconv.ParseUint: parsing "new": invalid syntax`)
	for _, body := range []string{`[]`, ` [{}]`, `"a"`, `1`} {
		patch(body, merge).refused(t, 400, metav1.StatusReasonBadRequest, "error decoding patch: json: cannot unmarshal")
		patch(body, strategic).refused(t, 400, metav1.StatusReasonBadRequest, "json: cannot unmarshal")
	}
	for _, kind := range [][]string{merge, jsonPatch, strategic} {
		patch(`[{"op"`, kind).refused(t, 400, metav1.StatusReasonBadRequest, "invalid JSON patch")
		s.do(t, "PATCH", deployments+"/none", "", kind...).refused(t, 400, metav1.StatusReasonBadRequest, "invalid JSON patch")
	}
	patch(`{"kind":"Pod","apiVersion":"v1"}`, merge).refused(t, 422, metav1.StatusReasonInvalid, "patch")
	patch(`{"kind":"Pod","apiVersion":"v1","spec":{"paused":true}}`, strategic).want(t, 200) // Its path says what it is.
	if d = parse[appsv1.Deployment](t, s.do(t, "GET", deployments+"/web", "")); d.Kind != "Deployment" || !d.Spec.Paused {
		t.Errorf("after a strategic merge patch that names another kind: a %s, paused %v", d.Kind, d.Spec.Paused)
	}
	patch(`{}`, []string{"Content-Type", "application/json"}).refused(t, 415, metav1.StatusReasonUnsupportedMediaType, "application/merge-patch+json")
	patch(`{}`, []string{"Content-Type", "application/apply-patch+yaml"}).refused(t, 422, metav1.StatusReasonInvalid, "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch")
	patch("["+strings.Repeat(`{"op":"test","path":"/kind","value":"Deployment"},`, maxPatchOperations)+`{"op":"test","path":"/kind","value":"Deployment"}]`, jsonPatch).
		refused(t, 413, metav1.StatusReasonRequestEntityTooLarge, "10001")
	bomb := `[{"op":"add","path":"/metadata/annotations/x","value":"` + strings.Repeat("x", 20000) + `"}` + strings.Repeat(`,{"op":"copy","from":"/metadata","path":"/metadata/annotations/y"}`, 60) + `]`
	misfits(bomb, "accumulated")
	s.do(t, "PATCH", deployments+"/none", `{}`, merge...).refused(t, 404, metav1.StatusReasonNotFound)
}

func TestDeleteWithPreconditions(t *testing.T) {
	s := start(t)
	c := s.createConfigMap(t, "a")
	del := func(body string) answer { return s.do(t, "DELETE", configMapsPath+"/a", body) }
	del(`{"preconditions":{"uid":"another"}}`).refused(t, 409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on ConfigMap "a": the UID in the precondition (another) does not match the UID in record (`+string(c.UID)+"). The object might have been deleted and then recreated")
	del(`{"preconditions":{"resourceVersion":"1"}}`).refused(t, 409, metav1.StatusReasonConflict, "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ("+c.ResourceVersion+"). The object might have been modified")
	del(`{"propagationPolicy":"Sideways","dryRun":["Some"]}`).refused(t, 422, metav1.StatusReasonInvalid,
		`DeleteOptions.meta.k8s.io "" is invalid: [propagationPolicy: Unsupported value: "Sideways": supported values: "Foreground", "Background", "Orphan", "nil", dryRun: Unsupported value: ["Some"]: supported values: "All"]`)
	s.do(t, "DELETE", configMapsPath+"/a?uid=another", "").refused(t, 409, metav1.StatusReasonConflict, "the UID in the precondition (another)")
	s.do(t, "DELETE", configMapsPath+"/a?gracePeriodSeconds=long", "").refused(t, 400, metav1.StatusReasonBadRequest, "invalid syntax")
	a := del(`{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"`+string(c.UID)+`"}}`).want(t, 200)
	status := parse[metav1.Status](t, a)
	if status.Status != metav1.StatusSuccess || status.Details.Name != "a" || status.Details.UID != c.UID {
		t.Errorf("answer is %s, want Success with the name and the uid", a.body)
	}
	del("").refused(t, 404, metav1.StatusReasonNotFound)
}

// Who deletes an object of some kinds sees it once more.
func TestDeletedObjectIsShown(t *testing.T) {
	s := start(t)
	const accounts = "/api/v1/namespaces/default/serviceaccounts"
	for _, query := range []string{"?dryRun=All", ""} {
		s.do(t, "POST", accounts, `{"metadata":{"name":"a"}}`)
		account := parse[corev1.ServiceAccount](t, s.do(t, "DELETE", accounts+"/a"+query, "").want(t, 200))
		if account.Kind != "ServiceAccount" || account.Name != "a" || account.DeletionTimestamp != nil {
			t.Errorf("DELETE%s shows %+v", query, account)
		}
	}
	s.do(t, "GET", accounts+"/a", "").refused(t, 404, metav1.StatusReasonNotFound)
	s.createPod(t, "a")
	pod := parse[corev1.Pod](t, s.do(t, "DELETE", podsPath+"/a?gracePeriodSeconds=0", "").want(t, 200))
	if pod.Kind != "Pod" || pod.DeletionTimestamp == nil || *pod.DeletionGracePeriodSeconds != 0 {
		t.Errorf("DELETE of a pod shows %+v", pod.ObjectMeta)
	}
}

// Clients of custom resources call the options after the group of what they delete.
func TestDeleteOptionsOfAnyGroup(t *testing.T) {
	s := start(t)
	for _, version := range []string{"v1", "meta.k8s.io/v1", "apps/v1", "sea.example.com/v1alpha1"} {
		s.createConfigMap(t, "a")
		options := func(uid string) string {
			return `{"kind":"DeleteOptions","apiVersion":"` + version + `","preconditions":{"uid":"` + uid + `"}}`
		}
		s.do(t, "DELETE", configMapsPath+"/a", options("another")).refused(t, 409, metav1.StatusReasonConflict)
		s.do(t, "DELETE", configMapsPath, options("another")).refused(t, 409, metav1.StatusReasonConflict)
		s.do(t, "DELETE", configMapsPath+"/a", `{"kind":"DeleteOptions","apiVersion":"`+version+`"}`).want(t, 200)
	}
}

// An object with a finalizer goes when the last finalizer does, and not before.
func TestFinalizers(t *testing.T) {
	s := start(t)
	s.do(t, "POST", configMapsPath, `{"metadata":{"name":"a","finalizers":["skiff.test/hold"]}}`).want(t, 201)
	going := parse[corev1.ConfigMap](t, s.do(t, "DELETE", configMapsPath+"/a", "").want(t, 200))
	if going.DeletionTimestamp == nil {
		t.Fatal("no deletionTimestamp after DELETE")
	}
	again := parse[corev1.ConfigMap](t, s.do(t, "DELETE", configMapsPath+"/a", "").want(t, 200))
	if again.ResourceVersion != going.ResourceVersion {
		t.Error("a second DELETE wrote the object again")
	}
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"finalizers":["skiff.test/hold","skiff.test/more"]}}`, merge...).
		refused(t, 422, metav1.StatusReasonInvalid, "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted")
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"finalizers":null}}`, merge...).want(t, 200)
	s.do(t, "GET", configMapsPath+"/a", "").want(t, 404)
}

// A finalizer says whose it is, so that others leave it; of some kinds that was never asked.
func TestFinalizersSayWhoseTheyAre(t *testing.T) {
	s := start(t)
	const why = `metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`
	s.do(t, "POST", configMapsPath, `{"metadata":{"name":"a","finalizers":["mine"]}}`).refused(t, 422, metav1.StatusReasonInvalid, why)
	s.do(t, "POST", configMapsPath, `{"metadata":{"name":"a","finalizers":["foregroundDeletion","a.example/mine"]}}`).want(t, 201)
	s.do(t, "PATCH", configMapsPath+"/a", `{"metadata":{"finalizers":["mine"]}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid, why)
	s.do(t, "POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases", `{"metadata":{"name":"a","finalizers":["mine"]}}`).want(t, 201)
}

func TestPropagationPolicies(t *testing.T) {
	s := start(t)
	for policy, finalizer := range map[string]string{"Foreground": metav1.FinalizerDeleteDependents, "Orphan": metav1.FinalizerOrphanDependents} {
		name := strings.ToLower(policy)
		s.do(t, "POST", deployments, deploymentJSON(name)).want(t, 201)
		s.do(t, "DELETE", deployments+"/"+name, `{"propagationPolicy":"`+policy+`"}`).want(t, 200)
		s.do(t, "DELETE", deployments+"/"+name, "").want(t, 200) // Who names no policy changes none.
		d := parse[appsv1.Deployment](t, s.do(t, "GET", deployments+"/"+name, "").want(t, 200))
		if len(d.Finalizers) != 1 || d.Finalizers[0] != finalizer || d.DeletionTimestamp == nil {
			t.Errorf("%s: finalizers %v, deletion %v; want %s and a time", policy, d.Finalizers, d.DeletionTimestamp, finalizer)
		}
		s.do(t, "DELETE", deployments+"/"+name+"?propagationPolicy=Background", "").want(t, 200)
		s.do(t, "GET", deployments+"/"+name, "").want(t, 404)
	}
	s.do(t, "POST", deployments, deploymentJSON("old")).want(t, 201)
	s.do(t, "DELETE", deployments+"/old", `{"orphanDependents":true}`).want(t, 200)
	if d := parse[appsv1.Deployment](t, s.do(t, "GET", deployments+"/old", "").want(t, 200)); len(d.Finalizers) != 1 {
		t.Errorf("orphanDependents: finalizers %v", d.Finalizers)
	}
}

// Some kinds are older than the policies, and their dependents stay where who deletes one names none.
func TestPropagationOfOldKinds(t *testing.T) {
	s := start(t)
	controllers, jobs := "/api/v1/namespaces/default/replicationcontrollers", "/apis/batch/v1/namespaces/default/jobs"
	template := `"template":{"metadata":{"labels":{"app":"a"}},"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"nginx"}]}}`
	s.do(t, "POST", controllers, `{"metadata":{"name":"a"},"spec":{"selector":{"app":"a"},`+strings.Replace(template, "Never", "Always", 1)+`}}`).want(t, 201)
	s.do(t, "POST", jobs, `{"metadata":{"name":"a"},"spec":{`+template+`}}`).want(t, 201)
	for _, all := range []string{controllers, jobs} {
		one := all + "/a"
		a := s.do(t, "DELETE", one, "").want(t, 200)
		if warned := strings.Contains(strings.Join(a.header["Warning"], " "), "child pods are preserved by default when jobs are deleted"); warned != (all == jobs) {
			t.Errorf("%s: warnings are %v", all, a.header["Warning"])
		}
		got := parse[metav1.PartialObjectMetadata](t, s.do(t, "GET", one, "").want(t, 200))
		if len(got.Finalizers) != 1 || got.Finalizers[0] != metav1.FinalizerOrphanDependents {
			t.Errorf("%s: finalizers are %v", all, got.Finalizers)
		}
		s.do(t, "DELETE", one, `{"propagationPolicy":"Foreground"}`).want(t, 200)
		s.do(t, "DELETE", one, "").want(t, 200)
		got = parse[metav1.PartialObjectMetadata](t, s.do(t, "GET", one, "").want(t, 200))
		if len(got.Finalizers) != 1 || got.Finalizers[0] != metav1.FinalizerDeleteDependents {
			t.Errorf("%s: after a policy, finalizers are %v", all, got.Finalizers)
		}
		if a := s.do(t, "DELETE", one+"?propagationPolicy=Background", "").want(t, 200); len(a.header["Warning"]) != 0 {
			t.Errorf("%s: warnings are %v", all, a.header["Warning"])
		}
		s.do(t, "GET", one, "").want(t, 404)
	}
}

// Nothing waits for what an Event owns, so that it goes under every policy.
func TestPropagationOfEvents(t *testing.T) {
	s := start(t)
	all := "/api/v1/namespaces/default/events"
	for _, policy := range []string{"Foreground", "Orphan"} {
		s.do(t, "POST", all, `{"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},"reason":"Seen"}`).want(t, 201)
		s.do(t, "DELETE", all+"/e?propagationPolicy="+policy, "").want(t, 200)
		s.do(t, "GET", all+"/e", "").want(t, 404)
	}
}

// A pod on a node is given time to end; a later request may shorten it, none may lengthen it.
func TestGracefulPodDeletion(t *testing.T) {
	s := start(t)
	s.createPod(t, "free")
	s.do(t, "DELETE", podsPath+"/free", "").want(t, 200)
	s.do(t, "GET", podsPath+"/free", "").want(t, 404)

	s.createPod(t, "p")
	s.bind(t, "p", "n1").want(t, 201)
	grace := func(query string, want int64) {
		t.Helper()
		s.do(t, "DELETE", podsPath+"/p"+query, "").want(t, 200)
		p := s.pod(t, "p")
		if p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != want {
			t.Errorf("DELETE %s: grace period %v, want %d", query, p.DeletionGracePeriodSeconds, want)
		}
	}
	grace("?gracePeriodSeconds=60", 60)
	first := s.pod(t, "p")
	grace("", 60) // The default of 30 is not something that the client asked for.
	grace("?gracePeriodSeconds=90", 60)
	grace("?gracePeriodSeconds=5", 5)
	if at := s.pod(t, "p").DeletionTimestamp; !at.Time.Equal(first.DeletionTimestamp.Add(-55e9)) {
		t.Errorf("deletionTimestamp is %s, want 55s before %s", at, first.DeletionTimestamp)
	}
	grace("?gracePeriodSeconds=-7", 1)
	s.do(t, "PATCH", podsPath+"/p/status", `{"status":{"phase":"Running"}}`, merge...).want(t, 200) // Does not end it early.
	s.do(t, "DELETE", podsPath+"/p?gracePeriodSeconds=0", "").want(t, 200)
	s.do(t, "GET", podsPath+"/p", "").want(t, 404)
	s.do(t, "DELETE", podsPath+"/p?gracePeriodSeconds=soon", "").refused(t, 400, metav1.StatusReasonBadRequest, `parsing "soon": invalid syntax`)
}

func TestDeleteCollection(t *testing.T) {
	s := start(t)
	for i := range 5 {
		s.createPod(t, fmt.Sprintf("p%d", i))
	}
	s.do(t, "PATCH", podsPath+"/p0", `{"metadata":{"labels":{"keep":"me"}}}`, merge...).want(t, 200)
	s.bind(t, "p1", "n1").want(t, 201)
	a := s.do(t, "DELETE", podsPath+"?labelSelector=%21keep", `{"dryRun":["All"]}`).want(t, 200)
	if n := len(parse[corev1.PodList](t, a).Items); n != 4 {
		t.Errorf("the dry run's answer lists %d pods, want 4", n)
	}
	s.do(t, "DELETE", podsPath+"?labelSelector=%21keep", "").want(t, 200)
	list := parse[corev1.PodList](t, s.do(t, "GET", podsPath, ""))
	if len(list.Items) != 2 || list.Items[0].Name != "p0" || list.Items[1].DeletionTimestamp == nil {
		t.Errorf("%d pods are left, want p0, and p1 on its way out", len(list.Items))
	}
	s.do(t, "DELETE", "/api/v1/namespaces", "").want(t, 405)
}

func TestNamespaceLifecycle(t *testing.T) {
	s := start(t)
	ns := parse[corev1.Namespace](t, s.do(t, "POST", "/api/v1/namespaces", `{"metadata":{"name":"team"}}`).want(t, 201))
	if ns.Status.Phase != corev1.NamespaceActive || len(ns.Spec.Finalizers) != 1 || ns.Labels[corev1.LabelMetadataName] != "team" {
		t.Errorf("a new namespace: %+v, want it Active, with the finalizer and the label", ns)
	}
	going := parse[corev1.Namespace](t, s.do(t, "DELETE", "/api/v1/namespaces/team", "").want(t, 200))
	if going.Status.Phase != corev1.NamespaceTerminating || going.DeletionTimestamp == nil {
		t.Errorf("after DELETE: %s, %v; want Terminating with a time", going.Status.Phase, going.DeletionTimestamp)
	}
	a := s.do(t, "POST", "/api/v1/namespaces/team/configmaps", configMapJSON("a"))
	a.refused(t, 403, metav1.StatusReasonForbidden, `configmaps "a" is forbidden: unable to create new content in namespace team because it is being terminated`)
	if c := parse[metav1.Status](t, a).Details.Causes; len(c) != 1 || c[0].Type != corev1.NamespaceTerminatingCause {
		t.Errorf("causes are %v, want the one that controllers look for", c)
	}
	s.do(t, "PUT", "/api/v1/namespaces/team", `{"metadata":{"name":"team"},"spec":{"finalizers":[]}}`).want(t, 200)
	s.do(t, "GET", "/api/v1/namespaces/team", "").want(t, 200) // Only finalize takes the finalizer away.
	going.Spec.Finalizers = nil
	going.ResourceVersion = ""
	s.do(t, "PUT", "/api/v1/namespaces/team/finalize", toJSON(t, going)).want(t, 200)
	s.do(t, "GET", "/api/v1/namespaces/team", "").want(t, 404)
	s.do(t, "DELETE", "/api/v1/namespaces/default", "").refused(t, 403, metav1.StatusReasonForbidden, "this namespace may not be deleted")
}

// Of many who create the same object one succeeds; of many who update the same revision one does.
func TestRaces(t *testing.T) {
	s := start(t)
	count := func(f func(i int) int, want int) (n int) {
		var all sync.WaitGroup
		var mu sync.Mutex
		for i := range 20 {
			all.Go(func() {
				if f(i) == want {
					mu.Lock()
					n++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		return n
	}
	if n := count(func(int) int { return s.do(t, "POST", configMapsPath, configMapJSON("a")).code }, 201); n != 1 {
		t.Errorf("%d of 20 created the object, want 1", n)
	}
	c := parse[corev1.ConfigMap](t, s.do(t, "GET", configMapsPath+"/a", ""))
	n := count(func(i int) int {
		next := c.DeepCopy()
		next.Data["a"] = fmt.Sprint("writer ", i)
		return s.do(t, "PUT", configMapsPath+"/a", toJSON(t, next)).code
	}, 200)
	if n != 1 {
		t.Errorf("%d of 20 updated revision %s, want 1", n, c.ResourceVersion)
	}
	if n := count(func(int) int { return s.do(t, "DELETE", configMapsPath+"/a", "").code }, 200); n != 1 {
		t.Errorf("%d of 20 deleted the object, want 1", n)
	}
}

// TestIdleKindWarns promises that nobody takes a kind that is only stored for one that is acted on.
func TestIdleKindWarns(t *testing.T) {
	s := start(t)
	class := `{"kind":"VolumeAttributesClass","apiVersion":"storage.k8s.io/v1","metadata":{"name":"fast"},"driverName":"d","parameters":{"a":"b"}}`
	got := s.do(t, "POST", "/apis/storage.k8s.io/v1/volumeattributesclasses", class).want(t, 201).header["Warning"]
	want := []string{`299 - "skiff stores this VolumeAttributesClass, but nothing acts on it yet"`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if got := s.do(t, "POST", configMapsPath, configMapJSON("a")).want(t, 201).header["Warning"]; len(got) != 0 {
		t.Errorf("a ConfigMap warns: %v", got)
	}
}

// A pod that asks for what no node can do is stored, and so is what makes such pods; who writes it is told which field it is.
func TestUnservedFieldsWarn(t *testing.T) {
	s := start(t)
	const containers, odd = `"containers":[{"name":"app","image":"nginx"}]`, `"os":{"name":"windows"},`
	pod := func(name, more string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{` + more + containers + `}}`
	}
	deployment := `{"metadata":{"name":"a"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{` + odd + containers + `}}}}`
	const text = `: skiff cannot do this yet, and starts no pod that asks for it"`
	for _, tc := range []struct{ method, path, body, want string }{
		{"POST", podsPath, pod("plain", ""), ""},
		{"POST", podsPath, pod("odd", odd), `299 - "spec.os.name` + text},
		{"POST", deployments, deployment, `299 - "spec.template.spec.os.name` + text},
		{"PUT", deployments + "/a", deployment, `299 - "spec.template.spec.os.name` + text},
	} {
		got := strings.Join(s.do(t, tc.method, tc.path, tc.body).header["Warning"], "\n")
		if got != tc.want {
			t.Errorf("%s %s: %s\n got %q\nwant %q", tc.method, tc.path, tc.body, got, tc.want)
		}
	}
}

// Some kinds, those of definitions among them, are not replaced by who does not say what he replaces.
func TestUnconditionalUpdate(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatSubs)))
	s.do(t, "PUT", boats+"/one", boat("one", `{"length":3}`)).want(t, 404)
	s.do(t, "POST", boats, boat("one", `{"length":3}`)).want(t, 201)
	const text = `metadata.resourceVersion: Invalid value: 0: must be specified for an update`
	for _, path := range []string{boats + "/one", boats + "/one/status"} {
		s.do(t, "PUT", path, boat("one", `{"length":4}`)).refused(t, 422, metav1.StatusReasonInvalid, `boats.sea.example.com "one" is invalid: `+text)
	}
	s.do(t, "PUT", boatsCRD, boatCRD(boatVersion("v1", true, boatSchema))).refused(t, 422, metav1.StatusReasonInvalid, text)
	s.do(t, "PATCH", boats+"/one", `{"spec":{"length":5}}`, merge...).want(t, 200)
	for _, tc := range []struct{ path, body string }{
		{"/apis/coordination.k8s.io/v1/namespaces/default/leases", `{"metadata":{"name":"a"}}`},
		{"/apis/node.k8s.io/v1/runtimeclasses", `{"metadata":{"name":"a"},"handler":"h"}`},
		{"/apis/policy/v1/namespaces/default/poddisruptionbudgets", `{"metadata":{"name":"a"}}`},
		{"/apis/storage.k8s.io/v1/csidrivers", `{"metadata":{"name":"a"}}`},
		{"/apis/storage.k8s.io/v1/csinodes", `{"metadata":{"name":"a"},"spec":{"drivers":[]}}`},
		{"/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities", `{"metadata":{"name":"a"},"storageClassName":"c"}`},
		{"/apis/storage.k8s.io/v1/volumeattachments", `{"metadata":{"name":"a"},"spec":{"attacher":"a","nodeName":"n","source":{"persistentVolumeName":"v"}}}`},
	} {
		made := s.do(t, "POST", tc.path, tc.body).want(t, 201)
		s.do(t, "PUT", tc.path+"/a", tc.body).refused(t, 422, metav1.StatusReasonInvalid, text)
		s.do(t, "PUT", tc.path+"/a", string(made.body)).want(t, 200)
	}
}

// An object that was stored before a rule came stays what it is, and all else of it can change.
func TestOldErrorsAreNoErrorsOfAChange(t *testing.T) {
	s := start(t)
	r := s.shelf("pods").resource
	old := s.createPod(t, "p")
	old.Spec.Containers[0].Image = " i" // Refused today.
	if errs := r.Validate(old); len(errs) != 1 {
		t.Fatalf("the stored pod has the errors %v, want one", errs)
	}
	next := old.DeepCopy()
	next.Labels, next.Finalizers = map[string]string{"a": "b"}, nil
	if errs := validateUpdate(r, next, old, ""); len(errs) > 0 {
		t.Errorf("its labels cannot be changed: %v", errs)
	}
	next.Spec.Containers[0].Image = " j"
	next.Generation++ // As is counted by then.
	if errs := validateUpdate(r, next, old, ""); len(errs) != 1 || errs[0].Field != "spec.containers[0].image" {
		t.Errorf("another image that is none gives %v, want one error", errs)
	}
}

func TestLimitRangeWithoutName(t *testing.T) {
	s := start(t)
	a := s.do(t, "POST", "/api/v1/namespaces/default/limitranges", `{"spec":{"limits":[]}}`).want(t, 201)
	name := parse[corev1.LimitRange](t, a).Name
	s.do(t, "GET", "/api/v1/namespaces/default/limitranges/"+name, "").want(t, 200)
}

// A deletion of what cannot be read is one of nothing else, and heeds no finalizer there: here all can be read.
func TestUnsafeDeletion(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	const option = "ignoreStoreReadErrorWithClusterBreakingPotential"
	s.do(t, "DELETE", configMapsPath+"/a?"+option+"=true", "").refused(t, 409, metav1.StatusReasonConflict, "unsafe deletion is not allowed because the object is decodable from storage")
	s.do(t, "DELETE", configMapsPath+"/a", `{"`+option+`":true}`).want(t, 409)
	s.do(t, "DELETE", configMapsPath+"?"+option+"=true", "").refused(t, 422, metav1.StatusReasonInvalid, option+": Invalid value: true: is not allowed with DELETECOLLECTION, try again after removing the option")
	s.do(t, "DELETE", configMapsPath+"/a", `{"`+option+`":false}`).want(t, 200)
}

// A document ends with a line, so that it does so in a terminal, too.
func TestDocumentsEndWithLine(t *testing.T) {
	s := start(t)
	s.createConfigMap(t, "a")
	for _, path := range []string{configMapsPath + "/a", configMapsPath, "/api", "/api/v1", configMapsPath + "/b"} {
		if body := s.do(t, "GET", path, "").body; !bytes.HasSuffix(body, []byte("}\n")) || bytes.HasSuffix(body, []byte("\n\n")) {
			t.Errorf("GET %s ends with %q", path, body[max(0, len(body)-5):])
		}
	}
}

// Of some kinds a PUT creates what is not there, as its writers rely on.
func TestPutCreates(t *testing.T) {
	s := start(t)
	const role = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/a"
	put := func(metadata string) answer {
		return s.do(t, "PUT", role+"?fieldManager=putter", `{"metadata":{"name":"a"`+metadata+`},"rules":[]}`)
	}
	put(`,"uid":"b"`).refused(t, 409, metav1.StatusReasonConflict, "Precondition failed: UID in precondition: b, UID in object meta: ")
	s.do(t, "PUT", role+"?dryRun=All", `{"metadata":{"name":"a"}}`).want(t, 201)
	s.do(t, "GET", role, "").refused(t, 404, metav1.StatusReasonNotFound)
	created := parse[rbacv1.Role](t, put(`,"resourceVersion":"5"`).want(t, 201)) // Of one that was there once.
	wantOwners(t, created.ObjectMeta, `putter Update rbac.authorization.k8s.io/v1 {"f:rules":{}}`)
	put(`,"labels":{"a":"b"}`).want(t, 200)

	lease := "/apis/coordination.k8s.io/v1/namespaces/default/leases/a"
	s.do(t, "PUT", lease, `{"metadata":{"name":"a"}}`).want(t, 201)
	s.do(t, "PUT", lease, `{"metadata":{"name":"a"}}`).refused(t, 422, metav1.StatusReasonInvalid, "must be specified for an update")
	s.do(t, "PUT", configMapsPath+"/a", `{"metadata":{"name":"a"}}`).refused(t, 404, metav1.StatusReasonNotFound)
}
