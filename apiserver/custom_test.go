package apiserver

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"skiff/api"
)

const (
	crdsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	boatsCRD = crdsPath + "/boats.sea.example.com"
	boats    = "/apis/sea.example.com/v1/namespaces/default/boats"
	boatsV2  = "/apis/sea.example.com/v2/namespaces/default/boats"
)

// boatSchema is what a boat is made of.
const boatSchema = `{"type":"object","properties":{
	"spec":{"type":"object","required":["length"],"properties":{
		"length":{"type":"integer","minimum":1},"sails":{"type":"integer","default":1},"name":{"type":"string","maxLength":8},
		"kind":{"type":"string","enum":["dinghy","yacht"]},
		"crew":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],
			"items":{"type":"object","required":["name"],"properties":{"name":{"type":"string"},"age":{"type":"integer"}}}}}},
	"status":{"type":"object","properties":{"sails":{"type":"integer"},"selector":{"type":"string"},"afloat":{"type":"boolean"}}}}}`

// boatVersion is a version of the definition; more are fields besides.
func boatVersion(name string, stored bool, schema string, more ...string) string {
	fields := append([]string{`"name":"` + name + `"`, `"served":true`, `"schema":{"openAPIV3Schema":` + schema + `}`}, more...)
	if stored {
		fields = append(fields, `"storage":true`)
	} else {
		fields = append(fields, `"storage":false`)
	}
	return "{" + strings.Join(fields, ",") + "}"
}

func boatCRD(versions ...string) string {
	return `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"boats.sea.example.com"},
		"spec":{"group":"sea.example.com","scope":"Namespaced","names":{"plural":"boats","kind":"Boat","shortNames":["bt"],"categories":["fleet"]},
		"versions":[` + strings.Join(versions, ",") + `]}}`
}

const (
	boatSubs    = `"subresources":{"status":{},"scale":{"specReplicasPath":".spec.sails","statusReplicasPath":".status.sails","labelSelectorPath":".status.selector"}}`
	boatColumns = `"additionalPrinterColumns":[{"name":"Length","type":"integer","jsonPath":".spec.length","description":"In metres."},
		{"name":"First","type":"string","jsonPath":".spec.crew[0].name","priority":1},{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}]`
)

// define creates a definition and waits until it is established.
func (s *running) define(t testing.TB, definition string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crd := parse[apiextensionsv1.CustomResourceDefinition](t, s.do(t, "POST", crdsPath, definition).want(t, 201))
	return s.definition(t, crd.Name, func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return api.IsDefinitionTrue(crd, apiextensionsv1.Established)
	})
}

// definition waits until a definition is as wanted.
func (s *running) definition(t testing.TB, name string, wanted func(*apiextensionsv1.CustomResourceDefinition) bool) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	var last *apiextensionsv1.CustomResourceDefinition
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		last = parse[apiextensionsv1.CustomResourceDefinition](t, s.do(t, "GET", crdsPath+"/"+name, "").want(t, 200))
		if wanted(last) {
			return last
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatalf("definition %s is still %s", name, toJSON(t, last.Status))
	return nil
}

func boat(name, spec string) string {
	return `{"kind":"Boat","apiVersion":"sea.example.com/v1","metadata":{"name":"` + name + `"},"spec":` + spec + `}`
}

func (s *running) boat(t testing.TB, name string) *unstructured.Unstructured {
	t.Helper()
	return parse[unstructured.Unstructured](t, s.do(t, "GET", boats+"/"+name, "").want(t, 200))
}

// A kind can be defined while the server runs; its objects then are objects like any others.
func TestCustomResource(t *testing.T) {
	s := start(t)
	s.do(t, "GET", boats, "").refused(t, 404, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	crd := s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatSubs, boatColumns)))
	if names := crd.Status.AcceptedNames; names.Singular != "boat" || names.ListKind != "BoatList" || !slices.Equal(crd.Status.StoredVersions, []string{"v1"}) {
		t.Errorf("status is %s", toJSON(t, crd.Status))
	}
	w := s.watch(t, boats)
	made := parse[unstructured.Unstructured](t, s.do(t, "POST", boats, boat("one", `{"length":5}`)).want(t, 201))
	if made.GetUID() == "" || made.GetGeneration() != 1 || made.GetNamespace() != "default" {
		t.Errorf("created %s", toJSON(t, made))
	}
	if sails, _, _ := unstructured.NestedInt64(made.Object, "spec", "sails"); sails != 1 {
		t.Errorf("sails is %d, want the default of 1", sails)
	}
	w.want("ADDED one")
	list := parse[unstructured.UnstructuredList](t, s.do(t, "GET", "/apis/sea.example.com/v1/boats", "").want(t, 200))
	if list.GetKind() != "BoatList" || len(list.Items) != 1 || list.Items[0].GetKind() != "Boat" {
		t.Errorf("listed %s", toJSON(t, list))
	}
	put := s.boat(t, "one")
	_ = unstructured.SetNestedField(put.Object, "Ada", "spec", "name")
	again := parse[unstructured.Unstructured](t, s.do(t, "PUT", boats+"/one", toJSON(t, put)).want(t, 200))
	if again.GetGeneration() != 2 {
		t.Errorf("generation is %d, want 2", again.GetGeneration())
	}
	w.want("MODIFIED one")
	s.do(t, "PUT", boats+"/one", toJSON(t, made)).refused(t, 409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on boats.sea.example.com "one": the object has been modified`)
	s.do(t, "PATCH", boats+"/one", `{"spec":{"length":7}}`, merge...).want(t, 200)
	w.want("MODIFIED one")
	s.do(t, "PATCH", boats+"/one", `[{"op":"replace","path":"/spec/length","value":8}]`, "Content-Type", "application/json-patch+json").want(t, 200)
	w.want("MODIFIED one")
	s.do(t, "PATCH", boats+"/one", `{}`, "Content-Type", "application/strategic-merge-patch+json").refused(t, 415, metav1.StatusReasonUnsupportedMediaType, "application/merge-patch+json")
	s.do(t, "DELETE", boats+"/one", "").want(t, 200)
	w.want("DELETED one")
}

// A definition goes after its objects have gone, and with it routes, discovery and the watches.
func TestDefinitionDeleted(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.do(t, "POST", boats, boat("plain", `{"length":5}`)).want(t, 201)
	s.do(t, "POST", boats, strings.Replace(boat("held", `{"length":5}`), `"name"`, `"finalizers":["example.com/held"],"name"`, 1)).want(t, 201)
	w := s.watch(t, boats)
	w.want("ADDED held")
	w.want("ADDED plain")
	s.do(t, "DELETE", boatsCRD, "").want(t, 200)
	s.definition(t, "boats.sea.example.com", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return crd.DeletionTimestamp != nil && api.IsDefinitionTrue(crd, apiextensionsv1.Terminating)
	})
	w.want("MODIFIED held") // Marked, and held by its finalizer.
	w.want("DELETED plain")
	s.do(t, "POST", boats, boat("late", `{"length":5}`)).refused(t, 405, metav1.StatusReasonMethodNotAllowed, "create not allowed while custom resource definition is terminating")
	s.do(t, "PATCH", boats+"/held", `{"metadata":{"finalizers":null}}`, merge...).want(t, 200)
	w.want("DELETED held")
	w.ended()
	deadline := time.Now().Add(patience)
	for s.do(t, "GET", boatsCRD, "").code != 404 {
		if time.Now().After(deadline) {
			t.Fatal("the definition is still there")
		}
		time.Sleep(time.Millisecond)
	}
	s.do(t, "GET", boats, "").refused(t, 404, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	s.do(t, "GET", "/apis/sea.example.com", "").want(t, 404)
	s.do(t, "GET", "/openapi/v3/apis/sea.example.com/v1", "").want(t, 404)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema))) // The name is free again.
	if list := parse[unstructured.UnstructuredList](t, s.do(t, "GET", boats, "").want(t, 200)); len(list.Items) != 0 {
		t.Errorf("a new definition has the old one's objects: %s", toJSON(t, list))
	}
}

// After a restart definitions and objects are there as before.
func TestCustomResourcesSurviveRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatSubs)))
	s.do(t, "POST", boats, boat("one", `{"length":5,"crew":[{"name":"a","age":40}]}`)).want(t, 201)
	before := toJSON(t, s.boat(t, "one"))
	s.stop()
	s = startAgain(t, file)
	if after := toJSON(t, s.boat(t, "one")); after != before {
		t.Errorf("after the restart:\n%s\nbefore:\n%s", after, before)
	}
	s.do(t, "POST", boats, boat("two", `{"length":5}`)).want(t, 201)
}

// Server-side apply knows custom resources by their schema: lists with keys are merged by them.
func TestApplyCustomResource(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatSubs)))
	crew := func(name, age string) string {
		return boat("one", `{"length":5,"crew":[{"name":"`+name+`","age":`+age+`}]}`)
	}
	s.apply(t, boats+"/one", "me", "", crew("ada", "36")).want(t, 201)
	both := parse[unstructured.Unstructured](t, s.apply(t, boats+"/one", "you", "", crew("bob", "40")).want(t, 200))
	if list, _, _ := unstructured.NestedSlice(both.Object, "spec", "crew"); len(list) != 2 {
		t.Errorf("the crew is %v, want those of both", list)
	}
	s.apply(t, boats+"/one", "you", "", crew("ada", "37")).refused(t, 409, metav1.StatusReasonConflict,
		`Apply failed with 1 conflict: conflict with "me": .spec.crew[name="ada"].age`)
	s.apply(t, boats+"/one", "you", "", boat("one", `{"mast":1}`)).refused(t, 500, metav1.StatusReasonUnknown, ".spec.mast: field not declared in schema")
	s.apply(t, boats+"/one", "me", "", boat("one", `{"length":5,"sails":1}`)).want(t, 200)
	s.do(t, "PATCH", boats+"/one/scale?fieldManager=scaler", `{"spec":{"replicas":3}}`, merge...).want(t, 200)
	s.apply(t, boats+"/one", "me", "", boat("one", `{"length":5,"sails":2}`)).refused(t, 409, metav1.StatusReasonConflict, ".spec.sails")
}

// What another server of the same store wrote too late does not stop this one.
func TestObjectAfterItsDefinition(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.do(t, "DELETE", boatsCRD, "").want(t, 200)
	deadline := time.Now().Add(patience)
	for s.do(t, "GET", boatsCRD, "").code != 404 {
		if time.Now().After(deadline) {
			t.Fatal("the definition is still there")
		}
		time.Sleep(time.Millisecond)
	}
	rev, err := s.store.Put(t.Context(), "boats.sea.example.com/default/late", []byte(boat("late", `{"length":5}`)), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Delete(t.Context(), "boats.sea.example.com/default/late", rev); err != nil {
		t.Fatal(err)
	}
	s.createConfigMap(t, "goes-on")
}

// A watch that was let in before its kind went, and begins after that, ends at once.
func TestWatchOfAKindThatHasGone(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	sh := s.cache.custom.all()["boats.sea.example.com"].shelf
	s.do(t, "DELETE", boatsCRD, "").want(t, 200)
	s.waitGone(t, boatsCRD)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, o := range []watchOptions{{timeout: forever}, {state: true, timeout: forever}, {rev: s.cache.revision(), timeout: forever}} {
		if err := s.Server.stream(ctx, sh, selectAll(sh.resource), o, sinkFunc(func(event, bool) error { return nil })); err != nil || ctx.Err() != nil {
			t.Errorf("the watch %+v ended with %v, after the test's patience: %v", o, err, ctx.Err())
		}
	}
}

// Another kind than the path's is an error of that field, another version one of the document.
func TestCustomResourceOfAnotherKind(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, `{"type":"object","x-kubernetes-preserve-unknown-fields":true}`)))
	other := func(from, to string) answer {
		return s.do(t, "POST", boats, strings.Replace(boat("a", "{}"), from, to, 1))
	}
	other(`"Boat"`, `"Ship"`).refused(t, 422, metav1.StatusReasonInvalid, `kind: Invalid value: "Ship": must be Boat`)
	other(`/v1"`, `/v2"`).refused(t, 400, metav1.StatusReasonBadRequest, "the API version in the data (", "/v2) does not match the expected API version (", "/v1)")
	s.do(t, "POST", boats, `{"metadata":{"name":"a"},"spec":{}}`).
		refused(t, 400, metav1.StatusReasonBadRequest, "the object provided is unrecognized (must be of type Boat)", `({"metadata":{"name":"a"},"spec ...)`)
}
