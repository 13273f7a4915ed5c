package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	explain "k8s.io/kubectl/pkg/explain/v2"
	kubectl "k8s.io/kubectl/pkg/util/openapi"

	"skiff/api"
)

// newServer serves the documents of the whole table, on the paths on which the API server does.
func newServer(t testing.TB) (*Documents, *httptest.Server) {
	t.Helper()
	docs, err := New(api.Table())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			err := h(w, r)
			var status apierrors.APIStatus
			switch {
			case errors.As(err, &status):
				http.Error(w, err.Error(), int(status.Status().Code))
			case err != nil:
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	handle("GET /openapi/v2", docs.V2)
	handle("GET /openapi/v3", docs.Index)
	handle("GET /openapi/v3/", docs.GroupVersion)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return docs, srv
}

func newDiscovery(t testing.TB) *discovery.DiscoveryClient {
	t.Helper()
	_, srv := newServer(t)
	client, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Every document is whole: it parses in both forms, each reference leads somewhere, and no operation's id is used twice.
func TestGroupVersionDocuments(t *testing.T) {
	docs, _ := newServer(t)
	for key, doc := range docs.v3 {
		c, err := doc.json()
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		var parsed spec3.OpenAPI
		if err := json.Unmarshal(c.data, &parsed); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		for _, ref := range regexp.MustCompile(`"\$ref":"([^"]*)"`).FindAllSubmatch(c.data, -1) {
			name := strings.TrimPrefix(string(ref[1]), refPrefix)
			if parsed.Components.Schemas[name] == nil {
				t.Errorf("%s: reference to %s, which is not in the document", key, ref[1])
			}
		}
		ids := map[string]string{}
		for path, item := range parsed.Paths.Paths {
			for method, op := range map[string]*spec3.Operation{
				"get": item.Get, "post": item.Post, "put": item.Put, "patch": item.Patch, "delete": item.Delete,
			} {
				if op == nil {
					continue
				}
				where := method + " " + path
				if ids[op.OperationId] != "" {
					t.Errorf("%s: operation %s is both %s and %s", key, op.OperationId, ids[op.OperationId], where)
				}
				ids[op.OperationId] = where
			}
		}
		if p, err := doc.proto(); err != nil || len(p.data) == 0 {
			t.Errorf("%s as protobuf: %d bytes, error %v", key, len(p.data), err)
		}
	}
}

// What is forgotten is built again, and is the same, also for those who have the documents of more kinds.
func TestForget(t *testing.T) {
	docs, _ := newServer(t)
	more, err := docs.With(nil)
	if err != nil {
		t.Fatal(err)
	}
	const key = "apis/apps/v1"
	before, err := docs.v3[key].json()
	if err != nil {
		t.Fatal(err)
	}
	docs.Forget()
	for _, d := range []*Documents{docs, more} {
		again, err := d.v3[key].json()
		if err != nil {
			t.Fatal(err)
		}
		if again.hash != before.hash || !bytes.Equal(again.data, before.data) {
			t.Errorf("%s was forgotten, and is another now", key)
		}
		if &again.data[0] == &before.data[0] {
			t.Errorf("%s was kept", key)
		}
	}
}

func TestOperations(t *testing.T) {
	deployments := &api.Resource{
		Group: "apps", Version: "v1", Name: "deployments", Kind: "Deployment", Namespaced: true,
		Verbs: []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
		Subs: []api.Sub{
			{Name: "status", Kind: "Deployment", Verbs: []string{"get", "patch", "update"}},
			{Name: "scale", Kind: "Scale", Group: "autoscaling", Verbs: []string{"patch"}},
		},
	}
	pods := &api.Resource{
		Version: "v1", Name: "pods", Kind: "Pod", Namespaced: true,
		Subs: []api.Sub{
			{Name: "log", Kind: "Pod", Verbs: []string{"get"}},
			{Name: "exec", Kind: "PodExecOptions", Verbs: []string{"create", "get"}},
			{Name: "eviction", Kind: "Eviction", Group: "policy", Verbs: []string{"create"}},
		},
	}
	roles := &api.Resource{
		Group: "rbac.authorization.k8s.io", Version: "v1", Name: "clusterroles", Kind: "ClusterRole", Verbs: []string{"list", "patch"},
	}
	tests := []struct {
		row  *api.Resource
		want []string // method path id action kind tag
	}{
		{deployments, []string{
			"post /apis/apps/v1/namespaces/{namespace}/deployments createAppsV1NamespacedDeployment post apps/v1, Kind=Deployment apps_v1",
			"delete /apis/apps/v1/namespaces/{namespace}/deployments/{name} deleteAppsV1NamespacedDeployment delete apps/v1, Kind=Deployment apps_v1",
			"delete /apis/apps/v1/namespaces/{namespace}/deployments deleteAppsV1CollectionNamespacedDeployment deletecollection apps/v1, Kind=Deployment apps_v1",
			"get /apis/apps/v1/namespaces/{namespace}/deployments/{name} readAppsV1NamespacedDeployment get apps/v1, Kind=Deployment apps_v1",
			"get /apis/apps/v1/namespaces/{namespace}/deployments listAppsV1NamespacedDeployment list apps/v1, Kind=Deployment apps_v1",
			"get /apis/apps/v1/deployments listAppsV1DeploymentForAllNamespaces list apps/v1, Kind=Deployment apps_v1",
			"patch /apis/apps/v1/namespaces/{namespace}/deployments/{name} patchAppsV1NamespacedDeployment patch apps/v1, Kind=Deployment apps_v1",
			"put /apis/apps/v1/namespaces/{namespace}/deployments/{name} replaceAppsV1NamespacedDeployment put apps/v1, Kind=Deployment apps_v1",
			"get /apis/apps/v1/namespaces/{namespace}/deployments/{name}/status readAppsV1NamespacedDeploymentStatus get apps/v1, Kind=Deployment apps_v1",
			"patch /apis/apps/v1/namespaces/{namespace}/deployments/{name}/status patchAppsV1NamespacedDeploymentStatus patch apps/v1, Kind=Deployment apps_v1",
			"put /apis/apps/v1/namespaces/{namespace}/deployments/{name}/status replaceAppsV1NamespacedDeploymentStatus put apps/v1, Kind=Deployment apps_v1",
			"patch /apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale patchAppsV1NamespacedDeploymentScale patch autoscaling/v1, Kind=Scale apps_v1",
		}},
		{pods, []string{
			"get /api/v1/namespaces/{namespace}/pods/{name}/log readCoreV1NamespacedPodLog get /v1, Kind=Pod core_v1",
			"post /api/v1/namespaces/{namespace}/pods/{name}/exec connectCoreV1PostNamespacedPodExec connect /v1, Kind=PodExecOptions core_v1",
			"get /api/v1/namespaces/{namespace}/pods/{name}/exec connectCoreV1GetNamespacedPodExec connect /v1, Kind=PodExecOptions core_v1",
			"post /api/v1/namespaces/{namespace}/pods/{name}/eviction createCoreV1NamespacedPodEviction post policy/v1, Kind=Eviction core_v1",
		}},
		{roles, []string{
			"get /apis/rbac.authorization.k8s.io/v1/clusterroles listRbacAuthorizationV1ClusterRole list rbac.authorization.k8s.io/v1, Kind=ClusterRole rbacAuthorization_v1",
			"patch /apis/rbac.authorization.k8s.io/v1/clusterroles/{name} patchRbacAuthorizationV1ClusterRole patch rbac.authorization.k8s.io/v1, Kind=ClusterRole rbacAuthorization_v1",
		}},
	}
	for _, tc := range tests {
		t.Run(tc.row.Name, func(t *testing.T) {
			ops, err := operations(tc.row)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, op := range ops {
				got = append(got, strings.Join([]string{op.method, op.path, op.id, op.action, op.kind.String(), op.tag}, " "))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("operations (-want +got):\n%s", diff)
			}
		})
	}
}

// A row that the documents cannot describe is refused at start, not at the first request.
func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name string
		row  api.Resource
		want string
	}{
		{"kind", api.Resource{Version: "v1", Name: "boats", Kind: "Boat"}, `describe boats: no kind "Boat" is registered`},
		{"verb", api.Resource{Version: "v1", Name: "pods", Kind: "Pod", Verbs: []string{"sail"}}, `describe pods: unknown verb "sail"`},
		{"subresource", api.Resource{Version: "v1", Name: "pods", Kind: "Pod", Subs: []api.Sub{{Name: "sail", Kind: "Boat"}}},
			`describe pods: subresource sail: no kind "Boat" is registered`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := New([]*api.Resource{&tc.row}); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("New: error %v, want %s...", err, tc.want)
			}
		})
	}
}

// kubectl asks the server to validate fields where the PATCH operation of the kind has the parameter.
func TestKubectlFindsFieldValidation(t *testing.T) {
	verifier := resource.NewQueryParamVerifierV3(nil, newDiscovery(t).OpenAPIV3(), resource.QueryParamFieldValidation)
	for _, r := range api.Table() {
		if !slices.Contains(r.Verbs, "patch") {
			continue
		}
		if err := verifier.HasSupport(r.GroupVersionKind()); err != nil {
			t.Errorf("%s: %v", r.GroupVersionKind(), err)
		}
	}
}

func TestPatchOperation(t *testing.T) {
	doc, err := openapi3.NewRoot(newDiscovery(t).OpenAPIV3()).GVSpec(appsv1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	patch := doc.Paths.Paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"].Patch
	var params []string
	for _, p := range patch.Parameters {
		params = append(params, p.In+" "+p.Name+" "+p.Schema.Type[0])
	}
	want := []string{"path name string", "path namespace string",
		"query dryRun string", "query fieldManager string", "query fieldValidation string", "query force boolean", "query pretty string"}
	if diff := cmp.Diff(want, params); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
	if patch.RequestBody.Content["application/strategic-merge-patch+json"] == nil {
		t.Errorf("no strategic merge patch among %v", patch.RequestBody.Content)
	}
	var gvk map[string]string
	if err := patch.Extensions.GetObject("x-kubernetes-group-version-kind", &gvk); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"group": "apps", "version": "v1", "kind": "Deployment"}, gvk); diff != "" {
		t.Errorf("kind (-want +got):\n%s", diff)
	}
}

// Clients are generated from what the documents say of operations: what comes back, what must be sent, and where it goes.
func TestGeneratedClientsKnowOperations(t *testing.T) {
	root := openapi3.NewRoot(newDiscovery(t).OpenAPIV3())
	doc, err := root.GVSpec(corev1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	paths := doc.Paths.Paths
	const pods, configMaps = "/api/v1/namespaces/{namespace}/pods", "/api/v1/namespaces/{namespace}/configmaps"
	answer := func(op *spec3.Operation, code int) string {
		ref := op.Responses.StatusCodeResponses[code].Content["application/json"].Schema.Ref
		return strings.TrimPrefix(ref.String(), refPrefix)
	}
	kinds := func(op *spec3.Operation) map[string]string {
		of := map[string]string{}
		for _, p := range op.Parameters {
			of[p.Name] = p.Schema.Type[0]
		}
		return of
	}
	for _, code := range []int{200, 201, 202} {
		if got := answer(paths[configMaps].Post, code); got != "io.k8s.api.core.v1.ConfigMap" {
			t.Errorf("POST answers %d with %s", code, got)
		}
	}
	if post, del := paths[configMaps].Post.RequestBody, paths[configMaps+"/{name}"].Delete.RequestBody; !post.Required || del.Required {
		t.Errorf("the body of POST is required: %t, that of DELETE: %t", post.Required, del.Required)
	}
	for path, want := range map[string]string{pods: "io.k8s.api.core.v1.Pod", configMaps: status} {
		if got := answer(paths[path+"/{name}"].Delete, 200); got != want {
			t.Errorf("DELETE of %s answers with %s, want %s", path, got, want)
		}
	}
	if got := kinds(paths[configMaps].Delete); got["watch"] != "" || got["labelSelector"] != "string" {
		t.Errorf("parameters of the deletion of a collection are %v", got)
	}
	if got := kinds(paths[pods+"/{name}/portforward"].Get); got["ports"] != "integer" || got["pretty"] != "" {
		t.Errorf("parameters of portforward are %v", got)
	}
	if proxy := paths[pods+"/{name}/proxy/{path}"]; proxy.Head == nil || proxy.Options == nil {
		t.Errorf("not every method is proxied: %v", proxy)
	}
	if doc.Components.SecuritySchemes["BearerToken"] == nil {
		t.Error("nothing tells how a token is sent")
	}
	doc, err = root.GVSpec(schema.GroupVersion{Group: "authorization.k8s.io", Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	if doc.Components.Schemas[watchEvent] != nil {
		t.Error("there is a definition of events where nothing is watched")
	}
}

func TestOperationsAreDescribed(t *testing.T) {
	described := map[string]string{}
	for _, r := range api.Table() {
		ops, err := operations(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range ops {
			if op.description == "" {
				t.Errorf("%s is not described", op.id)
			}
			described[op.id] = op.description
		}
	}
	for id, want := range map[string]string{
		"listCoreV1PodForAllNamespaces":                       "list or watch objects of kind Pod",
		"listCoreV1ComponentStatus":                           "list objects of kind ComponentStatus",
		"readCoreV1NamespacedPodLog":                          "read log of the specified Pod",
		"createNetworkingV1NamespacedIngress":                 "create an Ingress",
		"createCoreV1NamespacedEndpoints":                     "create Endpoints",
		"createCoreV1NamespacedPodEviction":                   "create eviction of a Pod",
		"replaceAppsV1NamespacedDeploymentScale":              "replace scale of the specified Deployment",
		"patchAppsV1NamespacedDeployment":                     "partially update the specified Deployment",
		"deleteCoreV1CollectionNamespacedPod":                 "delete collection of Pod",
		"connectCoreV1HeadNodeProxyWithPath":                  "connect HEAD requests to proxy of Node",
		"connectCoreV1PostNamespacedPodExec":                  "connect POST requests to exec of Pod",
		"createAuthenticationV1SelfSubjectReview":             "create a SelfSubjectReview",
		"createCoreV1NamespacedServiceAccountToken":           "create token of a ServiceAccount",
		"patchCertificatesV1CertificateSigningRequest":        "partially update the specified CertificateSigningRequest",
		"readCertificatesV1CertificateSigningRequestApproval": "read approval of the specified CertificateSigningRequest",
	} {
		if described[id] != want {
			t.Errorf("%s is %q, want %q", id, described[id], want)
		}
	}
}

// `kubectl apply` computes its patch from the document: lists of containers are joined by name.
func TestKubectlPatches(t *testing.T) {
	doc, err := openapi3.NewRoot(newDiscovery(t).OpenAPIV3()).GVSpec(appsv1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	meta := strategicpatch.PatchMetaFromOpenAPIV3{
		SchemaList: doc.Components.Schemas, Schema: doc.Components.Schemas["io.k8s.api.apps.v1.Deployment"],
	}
	deployment := func(image string) []byte {
		return []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"` + image + `"}]}}}}`)
	}
	current := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"a"},{"name":"injected","image":"c"}]}}}}`)
	got, err := strategicpatch.CreateThreeWayMergePatch(deployment("a"), deployment("b"), current, meta, true)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"web"}],"containers":[{"image":"b","name":"web"}]}}}}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("patch (-want +got):\n%s", diff)
	}
}

func TestKubectlExplains(t *testing.T) {
	client := newDiscovery(t).OpenAPIV3()
	deployments := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	services := schema.GroupVersionResource{Version: "v1", Resource: "services"}
	tests := []struct {
		name      string
		of        schema.GroupVersionResource
		path      []string
		recursive bool
		want      []string
	}{
		{"kind", deployments, nil, false, []string{"GROUP:      apps", "KIND:       Deployment", "VERSION:    v1",
			"  spec\t<DeploymentSpec> -required-\n    Specification of the desired behavior of the Deployment."}},
		{"recursive", deployments, []string{"spec", "template"}, true, []string{"FIELD: template <PodTemplateSpec>",
			"    containers\t<[]Container> -required-\n      args\t<[]string>", "enum: Always, IfNotPresent, Never"}},
		{"enum", services, []string{"spec", "type"}, false, []string{"FIELD: type <string>", "ENUM:\n    ClusterIP\n    ExternalName\n    LoadBalancer\n    NodePort\n"}},
		{"number or string", services, []string{"spec", "ports", "targetPort"}, false, []string{"FIELD: targetPort <IntOrString>"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			if err := explain.PrintModelDescription(tc.path, &out, client, tc.of, tc.recursive, 0, "plaintext"); err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("explain lacks %q; it prints:\n%.3000s", want, out.String())
				}
			}
		})
	}
}

// The v2 document is what older clients and Helm know kinds from. client-go fetches it as protobuf.
func TestV2(t *testing.T) {
	doc, err := newDiscovery(t).OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	known, err := kubectl.NewOpenAPIData(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range api.Table() {
		if known.LookupResource(r.GroupVersionKind()) == nil {
			t.Errorf("no definition of %s", r.GroupVersionKind())
		}
	}
	deployment := appsv1.SchemeGroupVersion.WithKind("Deployment")
	if got := known.GetConsumes(deployment, "PATCH"); !slices.Contains(got, "application/strategic-merge-patch+json") {
		t.Errorf("a deployment's PATCH takes %q, no strategic merge patch", got)
	}
	meta := strategicpatch.PatchMetaFromOpenAPI{Schema: known.LookupResource(deployment)}
	if _, _, err := meta.LookupPatchMetadataForStruct("spec"); err != nil {
		t.Error(err)
	}
}

// What OpenAPI v2 has no words for, it says as Kubernetes does.
func TestDefinitionV2(t *testing.T) {
	tests := []struct{ name, v3, want string }{
		{"reference", `{"properties":{"a":{"allOf":[{"$ref":"#/components/schemas/b"}],"default":{},"description":"an a"}}}`,
			`{"properties":{"a":{"description":"an a","$ref":"#/definitions/b"}}}`},
		{"default", `{"properties":{"default":{"type":"string","default":"x"}}}`, `{"properties":{"default":{"type":"string"}}}`},
		{"number or string", `{"format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]}`,
			`{"type":"string","format":"int-or-string"}`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			converted, err := definitionV2(json.RawMessage(tc.v3))
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(converted)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Errorf("v2 (-want +got):\n%s", diff)
			}
		})
	}
}

// A client may keep a document for as long as its hash is in the index.
func TestCaching(t *testing.T) {
	_, srv := newServer(t)
	get := func(url string, header ...string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req) // Follows no redirects.
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, body := get(srv.URL + "/openapi/v3")
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal([]byte(body), &index); err != nil {
		t.Fatalf("index %s: %v", body, err)
	}
	for _, key := range []string{"api/v1", "apis/apps/v1", "version"} {
		if want := "/openapi/v3/" + key + "?hash="; !strings.HasPrefix(index.Paths[key].ServerRelativeURL, want) {
			t.Errorf("index has %q for %s, want %s...", index.Paths[key].ServerRelativeURL, key, want)
		}
	}
	if got := resp.Header.Get("Cache-Control"); got != "" {
		t.Errorf("the index may be kept: Cache-Control %q", got)
	}
	hashed := srv.URL + index.Paths["apis/apps/v1"].ServerRelativeURL
	plain := srv.URL + "/openapi/v3/apis/apps/v1"

	resp, _ = get(hashed)
	etag := resp.Header.Get("Etag")
	_, hash, _ := strings.Cut(hashed, "hash=")
	if got, want := etag, `"`+hash+`"`; got != want {
		t.Errorf("Etag %s, want %s", got, want)
	}
	tests := []struct {
		name, url string
		header    []string
		code      int
		want      map[string]string
	}{
		{"with hash", hashed, nil, 200, map[string]string{"Cache-Control": "public, immutable", "Content-Type": "application/json", "Vary": "Accept"}},
		{"without hash", plain, nil, 200, map[string]string{"Cache-Control": "", "Etag": etag}},
		{"any type", plain, []string{"Accept", "*/*"}, 200, map[string]string{"Content-Type": "application/json"}},
		{"old hash", plain + "?hash=OLD", nil, 301, map[string]string{"Location": strings.TrimPrefix(hashed, srv.URL), "Cache-Control": ""}},
		{"known", plain, []string{"If-None-Match", etag}, 304, nil},
		{"protobuf", hashed, []string{"Accept", typeProtoV3}, 200, map[string]string{"Content-Type": typeProtoV3, "Etag": etag}},
		{"protobuf, old name", hashed, []string{"Accept", typeProtoV3Old}, 200, map[string]string{"Content-Type": typeProtoV3}},
		{"no such type", plain, []string{"Accept", "text/html"}, 406, nil},
		{"no such group", srv.URL + "/openapi/v3/apis/boats/v1", nil, 404, nil},
		{"v2", srv.URL + "/openapi/v2", nil, 200, map[string]string{"Content-Type": "application/json"}},
		{"v2 protobuf", srv.URL + "/openapi/v2", []string{"Accept", typeProtoV2Old}, 200, map[string]string{"Content-Type": typeProtoV2}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			resp, body := get(tc.url, tc.header...)
			if resp.StatusCode != tc.code {
				t.Fatalf("status %d, want %d; body %.300s", resp.StatusCode, tc.code, body)
			}
			for name, want := range tc.want {
				if got := resp.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// Field ownership is computed from the same definitions.
func TestDefinitionsMakeATypeConverter(t *testing.T) {
	docs, _ := newServer(t)
	raw, err := docs.Definitions()
	if err != nil {
		t.Fatal(err)
	}
	defs := map[string]*spec.Schema{}
	for name, def := range raw {
		defs[name] = &spec.Schema{}
		if err := json.Unmarshal(def, defs[name]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	converter, err := managedfields.NewTypeConverter(defs, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range api.Table() {
		obj := r.New()
		obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
		if _, err := converter.ObjectToTyped(obj); err != nil {
			t.Errorf("%s: %v", r.GroupVersionKind(), err)
		}
	}
}

// The definitions are of the same release as the Go types. If not: go generate ./apiserver/openapi.
func TestDefinitionsFollowTheTypes(t *testing.T) {
	defs, err := unpack()
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]interface{ SwaggerDoc() map[string]string }{
		"io.k8s.api.core.v1.PodSpec":          corev1.PodSpec{},
		"io.k8s.api.core.v1.Container":        corev1.Container{},
		"io.k8s.api.core.v1.NodeStatus":       corev1.NodeStatus{},
		"io.k8s.api.core.v1.ServiceSpec":      corev1.ServiceSpec{},
		"io.k8s.api.apps.v1.DeploymentStatus": appsv1.DeploymentStatus{},
		metaPrefix + "ObjectMeta":             metav1.ObjectMeta{},
	}
	for name, typ := range types {
		var def struct{ Properties map[string]any }
		if err := json.Unmarshal(defs[name], &def); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for field := range typ.SwaggerDoc() {
			if field != "" && def.Properties[field] == nil {
				t.Errorf("the definition of %s lacks %s: run go generate ./apiserver/openapi", name, field)
			}
		}
	}
	version := regexp.MustCompile(`(?m)^\s+k8s\.io/api (\S+)`)
	var versions []string
	for _, file := range []string{"../../go.mod", "generate/go.mod"} {
		mod, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, string(version.FindSubmatch(mod)[1]))
	}
	if versions[0] != versions[1] {
		t.Errorf("go.mod has k8s.io/api %s, generate/go.mod %s: make them one and run go generate ./apiserver/openapi", versions[0], versions[1])
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		if _, err := New(api.Table()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnpack(b *testing.B) {
	for b.Loop() {
		if _, err := unpack(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGroupVersion(b *testing.B) {
	docs, err := New(api.Table())
	if err != nil {
		b.Fatal(err)
	}
	var apps []operation
	for _, r := range api.Table() {
		if r.Group == "apps" {
			ops, err := operations(r)
			if err != nil {
				b.Fatal(err)
			}
			apps = append(apps, ops...)
		}
	}
	for b.Loop() {
		doc, err := docs.definitions.buildV3(apps, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(doc)))
	}
}

// What the server is is described too, though it is no object.
func TestVersionIsDescribed(t *testing.T) {
	d, err := New(api.Table())
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string]*document{"version": d.v3["version"], "v2": d.v2} {
		c, err := doc.json()
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Paths      map[string]map[string]map[string]any
			Components struct{ Schemas map[string]any }
		}
		if err := json.Unmarshal(c.data, &got); err != nil {
			t.Fatal(err)
		}
		get := got.Paths["/version/"]["get"]
		if _, ofKind := get["x-kubernetes-group-version-kind"]; get["operationId"] != "getCodeVersion" || ofKind {
			t.Errorf("%s: GET /version/ is %v", name, get)
		}
		if name == "version" && (len(got.Paths) != 1 || got.Components.Schemas[codeVersion.answer] == nil) {
			t.Errorf("%s has %d paths, and %v of what is answered; want one, and the schema", name, len(got.Paths), got.Components.Schemas[codeVersion.answer])
		}
		if _, err := doc.proto(); err != nil {
			t.Errorf("%s as protobuf: %v", name, err)
		}
	}
}
