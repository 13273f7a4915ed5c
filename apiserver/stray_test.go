package apiserver

import (
	"path/filepath"
	"strings"
	"testing"

	"skiff/api"
	"skiff/apiserver/custom"
	"skiff/store/bolt"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// waitGone waits until a path is 404.
func (s *running) waitGone(t testing.TB, path string) {
	t.Helper()
	eventually(t, path+" is gone", func() bool { return s.do(t, "GET", path, "").code == 404 })
}

// Whatever the store holds, the server starts, and goes on when such keys come while it runs.
func TestStrayKeysDoNotStopTheServer(t *testing.T) {
	crd := func(name, spec string) *apiextensionsv1.CustomResourceDefinition {
		c := parse[apiextensionsv1.CustomResourceDefinition](t, answer{body: []byte(`{"metadata":{"name":"` + name + `","uid":"u"},"spec":` + spec + `,
			"status":{"conditions":[{"type":"NamesAccepted","status":"True"},{"type":"Established","status":"True"}],"storedVersions":["v1"]}}`)})
		return c
	}
	stored := func(obj runtime.Object) []byte {
		data, err := marshalStored(obj)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	names := func(plural, kind string) string {
		return `"scope":"Namespaced","names":{"plural":"` + plural + `","singular":"x","kind":"` + kind + `","listKind":"` + kind + `List"}`
	}
	good := `"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]`
	keys := map[string][]byte{
		"nothing":                           nil,
		"/":                                 []byte("x"),
		"gadgets/default/one":               []byte("x"),
		"gadgets.example.com/default/one":   []byte(`{"kind":"Gadget"}`),
		"configmaps/default/torn":           []byte("\xff\xff\xff"),
		"configmaps/default/other-name":     stored(parse[corev1.ConfigMap](t, answer{body: []byte(configMapJSON("a"))})),
		"configmaps/":                       nil,
		definitions + "/torn.example.com":   []byte("\xff\xff\xff"),
		definitions + "/a.example.com":      stored(crd("a.example.com", `{"group":"example.com",`+names("a", "A")+`}`)),
		definitions + "/b.example.com":      stored(crd("b.example.com", `{"group":"example.com",`+names("b", "B")+`,"versions":[{"name":"v1","served":true,"storage":true}]}`)),
		definitions + "/c.example.com":      stored(crd("c.example.com", `{"group":"example.com",`+names("d", "C")+`,`+good+`}`)),
		definitions + "/deployments.apps":   stored(crd("deployments.apps", `{"group":"apps",`+names("deployments", "Deployment")+`,`+good+`}`)),
		definitions + "/toys.example.com":   stored(crd("toys.example.com", `{"group":"example.com",`+names("toys", "Toy")+`,`+good+`}`)),
		"toys.example.com/default/torn":     []byte("{"),
		"toys.example.com/default/nameless": []byte(`{"kind":"Toy","apiVersion":"example.com/v1","metadata":{"name":1}}`),
		"toys.example.com/default/good":     []byte(`{"kind":"Toy","apiVersion":"example.com/v1","metadata":{"name":"good","namespace":"default"}}`),
	}
	goesOn := func(s *running) {
		t.Helper()
		s.do(t, "GET", "/readyz", "").want(t, 200)
		s.do(t, "GET", configMapsPath, "").want(t, 200)
		s.do(t, "GET", deployments, "").want(t, 200)
		list := parse[unstructured.UnstructuredList](t, s.do(t, "GET", "/apis/example.com/v1/toys", "").want(t, 200))
		if len(list.Items) != 1 || list.Items[0].GetName() != "good" {
			t.Errorf("toys are %s, want the good one", toJSON(t, list))
		}
	}
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	for key, value := range keys {
		if _, err := s.store.Put(t.Context(), key, value, 0); err != nil {
			t.Fatal(err)
		}
	}
	s.createConfigMap(t, "goes-on")
	goesOn(s)
	s.stop()
	s = startAgain(t, file)
	goesOn(s)
}

// Objects whose definition was let go before them are there again with it, as in Kubernetes. Writes that were under way do no harm.
func TestObjectsOutliveTheirDefinition(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	for _, name := range []string{"one", "two"} {
		s.do(t, "POST", boats, strings.Replace(boat(name, `{"length":3}`), `"name"`, `"finalizers":["example.com/held"],"name"`, 1)).want(t, 201)
	}
	old := s.cache.custom.all()["boats.sea.example.com"].shelf
	s.do(t, "DELETE", boatsCRD, "").want(t, 200)
	eventually(t, "the boats are marked", func() bool {
		return s.boat(t, "one").GetDeletionTimestamp() != nil && s.boat(t, "two").GetDeletionTimestamp() != nil
	})
	s.do(t, "PATCH", boatsCRD, `{"metadata":{"finalizers":null}}`, merge...).want(t, 200)
	s.waitGone(t, boatsCRD)
	s.do(t, "GET", boats, "").want(t, 404)
	if _, err := s.modify(t.Context(), old, "default/two", "", false, func(old runtime.Object) (runtime.Object, error) {
		next := old.DeepCopyObject()
		metaOf(next).SetLabels(map[string]string{"under": "way"})
		return next, nil
	}); err != nil {
		t.Fatal(err)
	}
	labelled := func(s *running, when string) {
		t.Helper()
		if s.boat(t, "one").GetLabels() != nil || s.boat(t, "two").GetLabels()["under"] != "way" {
			t.Errorf("%s the boats are not as they were written last", when)
		}
	}
	s.stop()
	s = startAgain(t, file)
	s.createConfigMap(t, "goes-on")
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	labelled(s, "after a restart")
	s.do(t, "DELETE", boatsCRD, "").want(t, 200)
	s.do(t, "PATCH", boatsCRD, `{"metadata":{"finalizers":null}}`, merge...).want(t, 200)
	s.waitGone(t, boatsCRD)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	labelled(s, "without a restart")
	s.stop()
	labelled(startAgain(t, file), "after all that")
}

// A definition whose conditions somebody has emptied keeps its objects, also when the server starts before it is accepted again.
func TestDefinitionWithoutConditionsKeepsItsObjects(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.do(t, "POST", boats, boat("one", `{"length":3}`)).want(t, 201)
	s.stop()
	db, err := bolt.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := db.Get(t.Context(), definitions+"/boats.sea.example.com")
	if err != nil {
		t.Fatal(err)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := crd.Unmarshal(kv.Value); err != nil {
		t.Fatal(err)
	}
	crd.Status.Conditions = nil
	data, err := marshalStored(crd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Put(t.Context(), kv.Key, data, kv.Rev); err != nil {
		t.Fatal(err)
	}
	s = startWith(t, db, testConfig(t))
	s.definition(t, "boats.sea.example.com", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return api.IsDefinitionTrue(crd, apiextensionsv1.Established)
	})
	s.boat(t, "one")
}

// The scope of a kind can change while its definition has no conditions. Objects of the other scope wait until it is theirs again.
func TestScopeOfAKindChanges(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.do(t, "POST", boats, boat("one", `{"length":3}`)).want(t, 201)
	scope := func(to string) {
		t.Helper()
		crd := s.cache.shelf(s.shelf(definitions).resource).get("boats.sea.example.com").obj.DeepCopyObject().(*apiextensionsv1.CustomResourceDefinition)
		crd.Spec.Scope = apiextensionsv1.ResourceScope(to)
		rev, err := parseRevision(crd.ResourceVersion)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.cache.put(t.Context(), s.shelf(definitions), crd.Name, crd, rev); err != nil {
			t.Fatal(err)
		}
	}
	scope("Cluster")
	const all = "/apis/sea.example.com/v1/boats"
	if list := parse[unstructured.UnstructuredList](t, s.do(t, "GET", all, "").want(t, 200)); len(list.Items) != 0 {
		t.Errorf("a kind of the cluster has objects of namespaces: %s", toJSON(t, list))
	}
	s.do(t, "POST", all, boat("two", `{"length":3}`)).want(t, 201)
	scope("Namespaced")
	s.boat(t, "one")
	if list := parse[unstructured.UnstructuredList](t, s.do(t, "GET", all, "").want(t, 200)); len(list.Items) != 1 {
		t.Errorf("want the one boat that has a namespace, got %s", toJSON(t, list))
	}
}

// An object that does not bear the schema that its kind has got since stays as it is, until it is written again.
func TestSchemaThatAStoredObjectDoesNotBear(t *testing.T) {
	file := filepath.Join(t.TempDir(), "store")
	s := startOn(t, file)
	schema := func(more string) string {
		return `{"type":"object","properties":{"spec":{"type":"object","properties":{"template":{"type":"object","x-kubernetes-preserve-unknown-fields":true` + more + `}}}}}`
	}
	s.define(t, boatCRD(boatVersion("v1", true, schema(""))))
	s.do(t, "POST", boats, boat("one", `{"template":{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":1}}}}`)).want(t, 201)
	s.do(t, "PATCH", boatsCRD, `[{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/template/x-kubernetes-embedded-resource","value":true}]`,
		"Content-Type", "application/json-patch+json").want(t, 200)
	for range 2 {
		if n, _, _ := unstructured.NestedInt64(s.boat(t, "one").Object, "spec", "template", "metadata", "labels", "a"); n != 1 {
			t.Errorf("the boat is %s, want it as it was", toJSON(t, s.boat(t, "one")))
		}
		if code := s.do(t, "PATCH", boats+"/one", `{"metadata":{"labels":{"b":"c"}}}`, merge...).code; code != 400 && code != 422 {
			t.Errorf("a change that leaves the boat as it must not be gets %d", code)
		}
		s.stop()
		s = startOn(t, file)
	}
	s.do(t, "PATCH", boats+"/one", `{"spec":{"template":{"metadata":{"labels":{"a":"1"}}}}}`, merge...).want(t, 200)
	s.do(t, "DELETE", boats+"/one", "").want(t, 200)
}

// A definition cannot take a name that the server's own table has.
func TestDefinitionOfAnOwnName(t *testing.T) {
	s := start(t)
	for _, name := range []string{"networkpolicies.networking.k8s.io", "events.events.k8s.io"} {
		plural, group, _ := strings.Cut(name, ".")
		s.do(t, "POST", crdsPath, `{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1","metadata":{"name":"`+name+`","annotations":{"api-approved.kubernetes.io":"unapproved, test"}},
			"spec":{"group":"`+group+`","scope":"Namespaced","names":{"plural":"`+plural+`","kind":"Own"},
			"versions":[{"name":"v9","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`).want(t, 201)
		crd := s.definition(t, name, func(crd *apiextensionsv1.CustomResourceDefinition) bool { return len(crd.Status.Conditions) > 0 })
		if c := crd.Status.Conditions[0]; c.Type != apiextensionsv1.NamesAccepted || c.Status != apiextensionsv1.ConditionFalse || c.Reason != "PluralConflict" {
			t.Errorf("the first condition is %s, want that the plural is taken", toJSON(t, c))
		}
		s.do(t, "PATCH", crdsPath+"/"+name+"/status", `{"status":{"conditions":[{"type":"Established","status":"True"}]}}`, merge...).want(t, 200)
		path := "/apis/" + group + "/v9/namespaces/default/" + plural
		s.do(t, "POST", path, `{"kind":"Own","apiVersion":"`+group+`/v9","metadata":{"name":"one"}}`).want(t, 404)
		s.do(t, "DELETE", crdsPath+"/"+name, "").want(t, 200)
		s.waitGone(t, crdsPath+"/"+name)
	}
	s.do(t, "GET", "/apis/networking.k8s.io/v1/networkpolicies", "").want(t, 200)
}

// A definition that is made anew keeps its objects, whatever is still heard of the one before.
func TestRemadeDefinitionIsNotEmptied(t *testing.T) {
	s := start(t)
	before := s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.do(t, "DELETE", boatsCRD, "").want(t, 200)
	s.waitGone(t, boatsCRD)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.do(t, "POST", boats, boat("one", `{"length":3}`)).want(t, 201)
	custom.Terminate(before, before.CreationTimestamp)
	before.DeletionTimestamp = &before.CreationTimestamp
	e := emptying{server: s.Server, under: map[types.UID]bool{}}
	e.begin(t.Context(), before)
	e.all.Wait()
	s.boat(t, "one")
	s.do(t, "POST", boats, boat("two", `{"length":3}`)).want(t, 201)
}
