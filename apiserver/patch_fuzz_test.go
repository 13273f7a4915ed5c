package apiserver

import (
	"fmt"
	"net/http"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// maxGrown bounds what any patch, of whatever size a request may have, makes of a small object.
const maxGrown = 2 * maxBody

// FuzzPatch sends patches of all types to an object and its parts. Whatever is sent, the server does not fail; and what it takes
// is an object that the server takes again.
func FuzzPatch(f *testing.F) {
	kinds := []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType}
	for i, body := range []string{
		`[{"op":"copy","from":"/spec","path":"/metadata/annotations"},{"op":"test","path":"/spec/replicas","value":1}]`,
		`[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"d","image":"x"}},{"op":"move","from":"/spec/replicas","path":"/spec/paused"}]`,
		`[{"op":"remove","path":"/metadata/managedFields/0"},{"op":"replace","path":"/metadata/managedFields/0/operation","value":"x"}]`,
		`{"metadata":{"managedFields":[{}],"labels":{"a":null,"b":"1"},"finalizers":["a.b/c"]},"spec":{"replicas":-1}}`,
		`{"metadata":{"managedFields":[{"manager":"m","operation":"Apply","apiVersion":"apps/v1beta1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"k:{}":{},"v:1":{},"i:9":{}}}}]}}`,
		`{"spec":{"template":{"spec":{"containers":[{"$patch":"delete","name":"c"},{"name":"d","image":"y"}],"$setElementOrder/containers":[{"name":"d"}]}}}}`,
		`{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"},"$patch":"replace"},"$deleteFromPrimitiveList/a":[1]}`,
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, labels: {a: b}}\nspec: {replicas: 2, template: {spec: {containers: [{name: c, env: [{name: x}, {name: x}]}]}}}",
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nstatus: {replicas: 1, conditions: [{type: Available, status: \"True\"}, {type: Available}]}",
		"a: &a [x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
		`{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":3}}`,
		`null`, `[]`, `{}`, `"`, ``, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":null}`,
	} {
		f.Add(byte(i), byte(i/4), byte(i), []byte(body))
	}
	s := start(f)
	path := deployments + "/web"
	s.apply(f, path, "one", "", deploymentJSON("web")).want(f, 201)
	s.do(f, "PATCH", path+"/status?fieldManager=two", `{"status":{"conditions":[{"type":"Available","status":"False"}],"replicas":2}}`, strategic...).want(f, 200)
	f.Fuzz(func(t *testing.T, kind, sub, level byte, body []byte) {
		part := []string{"", "", "/status", "/scale"}[sub%4]
		query := "?dryRun=All&fieldManager=three&fieldValidation=" + []string{"Strict", "Warn", "Ignore"}[level%3]
		media := kinds[kind%4]
		if media == types.ApplyYAMLPatchType && level >= 128 {
			query += "&force=true"
		}
		a := s.do(t, "PATCH", path+part+query, string(body), "Content-Type", string(media))
		switch {
		case isFailure(t, string(media), a):
			t.Fatalf("%s: %d: %s", media, a.code, a.body)
		case len(a.body) > maxGrown:
			t.Fatalf("%s: %d bytes became %d", media, len(body), len(a.body))
		case a.code == http.StatusOK:
			takenAgain(t, s, path+part, a)
		}
	})
}

// takenAgain holds that the answer to a patch is what a client may send.
func takenAgain(t *testing.T, s *running, path string, a answer) {
	t.Helper()
	again := s.do(t, "PUT", path+"?dryRun=All&fieldManager=three", string(a.body))
	again.want(t, 200)
	want, got := withoutFields(t, a), withoutFields(t, again)
	if got != want {
		t.Fatalf("sent again, an object becomes\n%s\nit was\n%s", got, want)
	}
}

// withoutFields is an answer's object but for its managed fields, whose times differ.
func withoutFields(t *testing.T, a answer) string {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(a.body); err != nil {
		t.Fatal(err)
	}
	u.SetManagedFields(nil)
	return fmt.Sprint(u.Object)
}
