package apiserver

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"skiff/api"
)

// What a schema does not allow is refused in Kubernetes' words.
func TestCustomResourceValidation(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, strings.Replace(boatSchema, `"required":["length"],`,
		`"required":["length"],"x-kubernetes-validations":[{"rule":"!has(self.crew) || self.crew.size() <= self.length","message":"too many on board"}],`, 1), boatSubs)))
	for spec, want := range map[string]string{
		`{}`:                                `Boat.sea.example.com "b" is invalid: [spec.length: Required value, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]`,
		`{"length":0}`:                      `spec.length: Invalid value: 0: spec.length in body should be greater than or equal to 1`,
		`{"length":"x"}`:                    `spec.length: Invalid value: "string": spec.length in body must be of type integer: "string"`,
		`{"length":1,"kind":"barge"}`:       `spec.kind: Unsupported value: "barge": supported values: "dinghy", "yacht"`,
		`{"length":1,"name":"muchtoolong"}`: `spec.name: Too long: may not be more than 8 bytes`,
		`{"length":9,"crew":[{"name":"a"},{"name":"a"}]}`: `spec.crew[1]: Duplicate value: {"name":"a"}`,
		`{"length":1,"crew":[{"name":"a"},{"name":"b"}]}`: `spec: Invalid value: too many on board`,
		`{"length":1,"sails":-1}`:                         `.spec.sails: Invalid value: -1: should be a non-negative integer`,
	} {
		s.do(t, "POST", boats, boat("b", spec)).refused(t, 422, metav1.StatusReasonInvalid, want)
	}
	s.do(t, "POST", boats, boat("Bad_Name", `{"length":1}`)).refused(t, 422, metav1.StatusReasonInvalid, "metadata.name: Invalid value")
	s.do(t, "POST", boats, `{"kind":"Ship","apiVersion":"sea.example.com/v1","metadata":{"name":"b"}}`).refused(t, 422, metav1.StatusReasonInvalid, `Ship.sea.example.com "b" is invalid: kind: Invalid value: "Ship": must be Boat`)
	s.do(t, "POST", boats, `{"apiVersion":"sea.example.com/v1","metadata":{"name":"b"}}`).refused(t, 400, metav1.StatusReasonBadRequest, "Object 'Kind' is missing")
	s.do(t, "POST", boats, `[]`).refused(t, 400, metav1.StatusReasonBadRequest)
	s.do(t, "POST", boats, `null`).refused(t, 400, metav1.StatusReasonBadRequest)
	s.do(t, "POST", boats, `{"kind":"Boat","apiVersion":"sea.example.com/v1","metadata":{"name":"b","labels":5}}`).refused(t, 400, metav1.StatusReasonBadRequest, "metadata: Invalid value")
	s.do(t, "POST", boats, "k8s\x00x", "Content-Type", typeProto).refused(t, 415, metav1.StatusReasonUnsupportedMediaType, typeJSON)
	s.do(t, "POST", boats, "kind: Boat\napiVersion: sea.example.com/v1\nmetadata: {name: yaml}\nspec: {length: 3}", "Content-Type", typeYAML).want(t, 201)
	s.do(t, "GET", boats+"/yaml", "", "Accept", typeProto).want(t, 406)
	s.do(t, "GET", boats+"/yaml", "", "Accept", typeProto+","+typeJSON).want(t, 200)
}

// A field that the schema does not have is dropped, and its writer told of it as he wants to be.
func TestCustomResourceUnknownFields(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	body := func(name string) string {
		return `{"kind":"Boat","apiVersion":"sea.example.com/v1","metadata":{"name":"` + name + `","mast":1},"spec":{"length":5,"mast":1,"length":5,"crew":[{"name":"a","hat":1}]}}`
	}
	s.do(t, "POST", boats+"?fieldValidation=Strict", body("b")).refused(t, 400, metav1.StatusReasonBadRequest,
		`Boat in version "v1" cannot be handled as a Boat: strict decoding error: duplicate field "spec.length", unknown field "metadata.mast", unknown field "spec.crew[0].hat", unknown field "spec.mast"`)
	a := s.do(t, "POST", boats+"?fieldValidation=Warn", body("b")).want(t, 201)
	if got := a.header.Values("Warning"); len(got) != 4 || got[3] != `299 - "unknown field \"spec.mast\""` {
		t.Errorf("warnings are %q", got)
	}
	if strings.Contains(string(a.body), "mast") || strings.Contains(string(a.body), "hat") {
		t.Errorf("unknown fields are kept: %s", a.body)
	}
	a = s.do(t, "POST", boats+"?fieldValidation=Ignore", body("c")).want(t, 201)
	if got := a.header.Values("Warning"); len(got) != 0 {
		t.Errorf("warnings are %q, want none", got)
	}
}

// The status is written by itself, and counts for no generation.
func TestCustomResourceStatus(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatSubs)))
	made := parse[unstructured.Unstructured](t, s.do(t, "POST", boats, strings.Replace(boat("b", `{"length":5}`), `"spec"`, `"status":{"afloat":true},"spec"`, 1)).want(t, 201))
	if _, ok := made.Object["status"]; ok {
		t.Errorf("a new object has its writer's status: %s", toJSON(t, made))
	}
	set := parse[unstructured.Unstructured](t, s.do(t, "PATCH", boats+"/b/status", `{"status":{"afloat":true},"spec":{"length":9}}`, merge...).want(t, 200))
	length, _, _ := unstructured.NestedInt64(set.Object, "spec", "length")
	afloat, _, _ := unstructured.NestedBool(set.Object, "status", "afloat")
	if length != 5 || !afloat || set.GetGeneration() != 1 {
		t.Errorf("after a patch of the status: %s", toJSON(t, set))
	}
	kept := parse[unstructured.Unstructured](t, s.do(t, "PATCH", boats+"/b", `{"status":{"afloat":false},"spec":{"length":6}}`, merge...).want(t, 200))
	if afloat, _, _ := unstructured.NestedBool(kept.Object, "status", "afloat"); !afloat || kept.GetGeneration() != 2 {
		t.Errorf("after a patch of the object: %s", toJSON(t, kept))
	}
	s.do(t, "PATCH", boats+"/b/status", `{"status":{"afloat":"yes"}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid,
		`status.afloat: Invalid value: "string": afloat in body must be of type boolean: "string"`)
}

// Its replicas are where the definition says.
func TestCustomResourceScale(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatSubs)))
	s.do(t, "POST", boats, boat("b", `{"length":5,"sails":2}`)).want(t, 201)
	s.do(t, "PATCH", boats+"/b/status", `{"status":{"sails":1,"selector":"a=b"}}`, merge...).want(t, 200)
	scale := parse[autoscalingv1.Scale](t, s.do(t, "GET", boats+"/b/scale", "").want(t, 200))
	if scale.Spec.Replicas != 2 || scale.Status.Replicas != 1 || scale.Status.Selector != "a=b" {
		t.Errorf("scale is %+v", scale)
	}
	s.do(t, "PATCH", boats+"/b/scale", `{"spec":{"replicas":4}}`, merge...).want(t, 200)
	if sails, _, _ := unstructured.NestedInt64(s.boat(t, "b").Object, "spec", "sails"); sails != 4 {
		t.Errorf("sails is %d, want 4", sails)
	}
	s.do(t, "PATCH", boats+"/b/scale", `{"spec":{"replicas":-1}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid, "must be greater than or equal to 0")
}

// kubectl prints the columns of the definition, or else name and age.
func TestCustomResourceTable(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatColumns)))
	s.do(t, "POST", boats, boat("b", `{"length":5,"crew":[{"name":"ada"}]}`)).want(t, 201)
	s.do(t, "POST", boats, boat("empty", `{"length":6}`)).want(t, 201)
	table := parse[metav1.Table](t, s.do(t, "GET", boats, "", "Accept", acceptTable).want(t, 200))
	var names []string
	for _, c := range table.ColumnDefinitions {
		names = append(names, c.Name)
	}
	if !slices.Equal(names, []string{"Name", "Length", "First", "Age"}) || table.ColumnDefinitions[2].Priority != 1 || table.ColumnDefinitions[1].Description != "In metres." {
		t.Errorf("columns are %+v", table.ColumnDefinitions)
	}
	if got := toJSON(t, table.Rows[0].Cells[:3]); got != `["b",5,"ada"]` {
		t.Errorf("cells are %s", got)
	}
	if got := toJSON(t, table.Rows[1].Cells[:3]); got != `["empty",6,null]` {
		t.Errorf("cells are %s", got)
	}
	var partial metav1.PartialObjectMetadata
	if err := json.Unmarshal(table.Rows[0].Object.Raw, &partial); err != nil || partial.Name != "b" || partial.UID == "" {
		t.Errorf("metadata is %s", table.Rows[0].Object.Raw)
	}
}

// A field that the definition names may be selected by; others may not.
func TestCustomResourceFieldSelector(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, `"selectableFields":[{"jsonPath":".spec.kind"}]`)))
	s.do(t, "POST", boats, boat("a", `{"length":5,"kind":"yacht"}`)).want(t, 201)
	s.do(t, "POST", boats, boat("b", `{"length":5}`)).want(t, 201)
	list := parse[unstructured.UnstructuredList](t, s.do(t, "GET", boats+"?fieldSelector=spec.kind%3Dyacht", "").want(t, 200))
	if len(list.Items) != 1 || list.Items[0].GetName() != "a" {
		t.Errorf("selected %s", toJSON(t, list))
	}
	s.do(t, "GET", boats+"?fieldSelector=spec.length%3D5", "").refused(t, 400, metav1.StatusReasonBadRequest, "field label not supported: spec.length")
}

// Each served version shows the same objects, in its own name and by its own schema.
func TestCustomResourceVersions(t *testing.T) {
	s := start(t)
	other := strings.Replace(boatSchema, `"name":{"type":"string","maxLength":8},`, "", 1)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, `"deprecated":true`), boatVersion("v2", false, other), boatVersion("v1beta1", false, boatSchema, `"deprecated":true,"deprecationWarning":"old boat"`)))
	w1, w2 := s.watch(t, boats), s.watch(t, boatsV2)
	a := s.do(t, "POST", boats, boat("b", `{"length":5,"name":"ada"}`)).want(t, 201)
	if got := a.header.Values("Warning"); !slices.Equal(got, []string{`299 - "sea.example.com/v1 Boat is deprecated; use sea.example.com/v2 Boat"`}) {
		t.Errorf("warnings are %q", got)
	}
	w1.want("ADDED b")
	w2.want("ADDED b")
	shown := parse[unstructured.Unstructured](t, s.do(t, "GET", boatsV2+"/b", "").want(t, 200))
	if _, ok, _ := unstructured.NestedString(shown.Object, "spec", "name"); ok || shown.GetAPIVersion() != "sea.example.com/v2" {
		t.Errorf("in v2: %s", toJSON(t, shown))
	}
	s.do(t, "PATCH", boatsV2+"/b", `{"spec":{"length":6}}`, merge...).want(t, 200)
	w1.want("MODIFIED b")
	w2.want("MODIFIED b")
	now := s.boat(t, "b")
	if length, _, _ := unstructured.NestedInt64(now.Object, "spec", "length"); length != 6 || now.GetAPIVersion() != "sea.example.com/v1" {
		t.Errorf("in v1: %s", toJSON(t, now))
	}
	old := s.do(t, "GET", strings.Replace(boats, "/v1/", "/v1beta1/", 1), "").want(t, 200)
	if got := old.header.Get("Warning"); got != `299 - "old boat"` {
		t.Errorf("warning is %q", got)
	}
	group := parse[metav1.APIGroup](t, s.do(t, "GET", "/apis/sea.example.com", "").want(t, 200))
	if len(group.Versions) != 3 || group.PreferredVersion.Version != "v2" || group.Versions[2].Version != "v1beta1" {
		t.Errorf("the group has %+v", group)
	}
	// Another version may be the one that is stored from now on; what is stored in the first stays readable.
	crd := parse[apiextensionsv1.CustomResourceDefinition](t, s.do(t, "GET", boatsCRD, "").want(t, 200))
	crd.Spec.Versions[0].Storage, crd.Spec.Versions[1].Storage = false, true
	changed := parse[apiextensionsv1.CustomResourceDefinition](t, s.do(t, "PUT", boatsCRD, toJSON(t, crd)).want(t, 200))
	if !slices.Equal(changed.Status.StoredVersions, []string{"v1", "v2"}) {
		t.Errorf("stored versions are %v", changed.Status.StoredVersions)
	}
	s.do(t, "GET", boatsV2+"/b", "").want(t, 200)
	s.do(t, "PATCH", boats+"/b", `{"spec":{"length":7}}`, merge...).want(t, 200)
	changed.Spec.Versions = changed.Spec.Versions[1:]
	s.do(t, "PUT", boatsCRD, toJSON(t, changed)).refused(t, 422, metav1.StatusReasonInvalid, "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions")
}

// When the schema changes, objects are what it says from then on, and whoever watches begins anew.
func TestDefinitionChanged(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	s.do(t, "POST", boats, boat("b", `{"length":5,"name":"muchlong"}`)).want(t, 201)
	w := s.watch(t, boats)
	w.want("ADDED b")
	s.do(t, "PATCH", boatsCRD, `[{"op":"replace","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/name/maxLength","value":3},
		{"op":"add","path":"/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/flag","value":{"type":"string","default":"white"}}]`, "Content-Type", "application/json-patch+json").want(t, 200)
	w.ended()
	if flag, _, _ := unstructured.NestedString(s.boat(t, "b").Object, "spec", "flag"); flag != "white" {
		t.Errorf("the flag is %q, want the new default", flag)
	}
	s.do(t, "PATCH", boats+"/b", `{"spec":{"length":6}}`, merge...).want(t, 200) // The name is too long now, but it is as it was.
	s.do(t, "PATCH", boats+"/b", `{"spec":{"name":"other"}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid, "spec.name: Too long")
	s.do(t, "PATCH", boatsCRD, `{"metadata":{"labels":{"a":"b"}}}`, merge...).want(t, 200)
	s.do(t, "PATCH", boatsCRD, `{"spec":{"scope":"Cluster"}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid, "spec.scope: Invalid value: \"Cluster\": field is immutable")
	s.do(t, "PATCH", boatsCRD, `{"spec":{"names":{"plural":"ships"}}}`, merge...).refused(t, 422, metav1.StatusReasonInvalid, "field is immutable")
}

// Two definitions cannot go by one name; the second gets it when the first goes.
func TestDefinitionNamesConflict(t *testing.T) {
	s := start(t)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema)))
	ships := strings.NewReplacer(`"boats.sea`, `"ships.sea`, `"plural":"boats"`, `"plural":"ships","singular":"ship"`).Replace(boatCRD(boatVersion("v1", true, boatSchema)))
	s.do(t, "POST", crdsPath, ships).want(t, 201)
	crd := s.definition(t, "ships.sea.example.com", func(crd *apiextensionsv1.CustomResourceDefinition) bool { return len(crd.Status.Conditions) == 2 })
	names, established := crd.Status.Conditions[0], crd.Status.Conditions[1]
	if names.Type != apiextensionsv1.NamesAccepted || names.Status != "False" || names.Reason != "ListKindConflict" || names.Message != `"BoatList" is already in use` ||
		established.Status != "False" || established.Reason != "NotAccepted" {
		t.Errorf("conditions are %s", toJSON(t, crd.Status.Conditions))
	}
	s.do(t, "GET", "/apis/sea.example.com/v1/ships", "").want(t, 404)
	s.do(t, "DELETE", boatsCRD, "").want(t, 200)
	s.definition(t, "ships.sea.example.com", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return api.IsDefinitionTrue(crd, apiextensionsv1.Established)
	})
	s.do(t, "GET", "/apis/sea.example.com/v1/ships", "").want(t, 200)
}

// A definition that is wrong is refused, by its field.
func TestDefinitionValidation(t *testing.T) {
	s := start(t)
	good := boatCRD(boatVersion("v1", true, boatSchema))
	for name, c := range map[string]struct{ old, new, want string }{
		"name":              {`"name":"boats.sea.example.com"`, `"name":"boats.example.com"`, `metadata.name: Invalid value: "boats.example.com": must be spec.names.plural+"."+spec.group`},
		"group":             {`"group":"sea.example.com"`, `"group":"sea"`, `spec.group: Invalid value: "sea": should be a domain with at least one dot`},
		"scope":             {`"scope":"Namespaced"`, `"scope":"Local"`, `spec.scope: Unsupported value: "Local": supported values: "Cluster", "Namespaced"`},
		"kind":              {`"kind":"Boat"`, `"kind":"Bo_at"`, `spec.names.kind: Invalid value: "Bo_at": may have mixed case`},
		"storage":           {`"storage":true`, `"storage":false`, `must have exactly one version marked as storage version`},
		"version":           {`"name":"v1"`, `"name":"V1"`, `spec.versions[0].name: Invalid value: "V1"`},
		"webhook":           {`"scope"`, `"conversion":{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1"]}},"scope"`, `spec.conversion.strategy: Invalid value: "Webhook": skiff has no conversion webhooks yet`},
		"preserve":          {`"scope"`, `"preserveUnknownFields":true,"scope"`, `spec.preserveUnknownFields: Invalid value: true`},
		"no schema":         {`"schema":`, `"deprecationWarning":"x","served":true}],"x":[{"schema":`, `spec.versions[0].schema.openAPIV3Schema: Required value`},
		"no type":           {`"length":{"type":"integer",`, `"length":{`, `spec.validation.openAPIV3Schema.properties[spec].properties[length].type: Required value: must not be empty for specified object fields`},
		"type":              {`"length":{"type":"integer"`, `"length":{"type":"float"`, `.properties[length].type: Unsupported value: "float": supported values: "array", "boolean", "integer", "number", "object", "string"`},
		"default":           {`"default":1`, `"default":"one"`, `.properties[sails].default: Invalid value: "string":  in body must be of type integer`},
		"unique":            {`"crew":{`, `"crew":{"uniqueItems":true,`, `uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic`},
		"map keys":          {`"x-kubernetes-list-map-keys":["name"]`, `"x-kubernetes-list-map-keys":["rank"]`, `x-kubernetes-list-map-keys: Invalid value: ["rank"]: entries must all be names of item properties`},
		"rule":              {`"required":["length"],"properties"`, `"x-kubernetes-validations":[{"rule":"self.mast"}],"properties"`, `x-kubernetes-validations[0].rule: Invalid value: {"Rule":"self.mast","Message":"","MessageExpression":"","Reason":null,"FieldPath":"","OptionalOldSelf":null}: compilation failed`},
		"rule of a default": {`"sails":{"type":"integer",`, `"sails":{"type":"integer","x-kubernetes-validations":[{"rule":"self > 1"}],`, `.properties[sails].default: Invalid value: 1: failed rule: self > 1`},
		"column":            {`"served":true`, `"served":true,"additionalPrinterColumns":[{"name":"x","type":"text","jsonPath":"spec"}]`, `spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string`},
		"scale":             {`"served":true`, `"served":true,"subresources":{"scale":{"specReplicasPath":".sails","statusReplicasPath":".status.sails"}}`, `spec.subresources.scale.specReplicasPath: Invalid value: ".sails": should be a json path under .spec`},
		"selectable":        {`"served":true`, `"served":true,"selectableFields":[{"jsonPath":".spec.mast"}]`, `spec.selectableFields[0].jsonPath: Invalid value: ".spec.mast": is an invalid path: does not refer to a valid field`},
		"protected":         {`sea.example.com`, `sea.k8s.io`, `metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation`},
		"root status":       {`{"type":"object","properties":{`, `{"type":"object","nullable":true,"properties":{`, `nullable cannot be true at the root`},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.ReplaceAll(good, c.old, c.new)
			if name == "root status" {
				bad = strings.Replace(good, c.old, c.new, 1)
			}
			if bad == good {
				t.Fatal("the test changes nothing")
			}
			s.do(t, "POST", crdsPath, bad).refused(t, 422, metav1.StatusReasonInvalid, c.want)
		})
	}
}

// Clients find a new kind where they find others: in discovery, with a new hash, and in the OpenAPI documents.
func TestCustomResourceDiscovered(t *testing.T) {
	s := start(t)
	before := s.do(t, "GET", "/apis", "", "Accept", acceptAggregated).want(t, 200).header.Get("Etag")
	s.do(t, "GET", "/apis", "", "Accept", acceptAggregated, "If-None-Match", before).want(t, 304)
	s.define(t, boatCRD(boatVersion("v1", true, boatSchema, boatSubs)))
	a := s.do(t, "GET", "/apis", "", "Accept", acceptAggregated, "If-None-Match", before).want(t, 200)
	found := false
	for _, g := range parse[apidiscovery.APIGroupDiscoveryList](t, a).Items {
		if g.Name == "sea.example.com" {
			r := g.Versions[0].Resources[0]
			found = r.Resource == "boats" && r.SingularResource == "boat" && slices.Equal(r.ShortNames, []string{"bt"}) && slices.Equal(r.Categories, []string{"fleet"}) && len(r.Subresources) == 2
		}
	}
	if !found {
		t.Errorf("aggregated discovery lacks boats: %s", a.body)
	}
	list := parse[metav1.APIResourceList](t, s.do(t, "GET", "/apis/sea.example.com/v1", "").want(t, 200))
	if len(list.APIResources) != 3 || list.APIResources[2].Name != "boats/scale" || list.APIResources[2].Group != "autoscaling" {
		t.Errorf("resources are %s", toJSON(t, list))
	}
	index := parse[struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}](t, s.do(t, "GET", "/openapi/v3", "").want(t, 200))
	url := index.Paths["apis/sea.example.com/v1"].ServerRelativeURL
	doc := string(s.do(t, "GET", url, "").want(t, 200).body)
	for _, want := range []string{`"com.example.sea.v1.Boat"`, `"com.example.sea.v1.BoatList"`, `"x-kubernetes-list-map-keys":["name"]`, `"application/merge-patch+json"`, `"io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"`} {
		if !strings.Contains(doc, want) {
			t.Errorf("the document lacks %s", want)
		}
	}
	if strings.Contains(doc, "strategic-merge-patch") {
		t.Error("the document offers a strategic merge patch")
	}
	if v2 := string(s.do(t, "GET", "/openapi/v2", "").want(t, 200).body); !strings.Contains(v2, `"com.example.sea.v1.Boat"`) {
		t.Error("the OpenAPI v2 document lacks boats")
	}
	s.do(t, "GET", "/openapi/v2", "", "Accept", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf").want(t, 200)
	s.do(t, "GET", url, "", "Accept", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf").want(t, 200)
}

// A kind of the whole cluster has no namespaces in its paths.
func TestCustomResourceOfCluster(t *testing.T) {
	s := start(t)
	s.define(t, strings.Replace(boatCRD(boatVersion("v1", true, boatSchema)), `"Namespaced"`, `"Cluster"`, 1))
	s.do(t, "POST", "/apis/sea.example.com/v1/boats", boat("b", `{"length":5}`)).want(t, 201)
	s.do(t, "GET", "/apis/sea.example.com/v1/boats/b", "").want(t, 200)
	s.do(t, "GET", boats, "").want(t, 404)
}
