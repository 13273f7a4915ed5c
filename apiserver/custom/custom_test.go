package custom

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// definition is one with a version for each schema: v1, which is stored, v2 and so on.
func definition(t testing.TB, schemas ...string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "boats.sea.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "sea.example.com", Scope: apiextensionsv1.NamespaceScoped,
		Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "boats", Singular: "boat", Kind: "Boat", ListKind: "BoatList"},
	}}
	for i, text := range schemas {
		props := &apiextensionsv1.JSONSchemaProps{}
		if err := yaml.UnmarshalStrict([]byte(text), props); err != nil {
			t.Fatal(err)
		}
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{
			Name: "v" + string(rune('1'+i)), Served: true, Storage: i == 0, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props},
		})
	}
	return crd
}

// object reads an unstructured object as the API server does, with whole numbers whole.
func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	obj := &unstructured.Unstructured{}
	if err := obj.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return obj
}

func asText(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const head = "apiVersion: sea.example.com/v1\nkind: Boat\n"

// What an object looks like after its schema has seen it.
func TestPruneAndDefault(t *testing.T) {
	tests := []struct{ name, schema, obj, want, unknown string }{
		{"unknown", `{type: object, properties: {a: {type: string}}}`, `{a: x, b: y}`, `{"a":"x"}`, `["b"]`},
		{"nested", `{type: object, properties: {a: {type: array, items: {type: object, properties: {b: {type: string}}}}}}`, `{a: [{b: x, c: y}]}`, `{"a":[{"b":"x"}]}`, `["a[0].c"]`},
		{"map", `{type: object, properties: {a: {type: object, additionalProperties: {type: string}}}}`, `{a: {b: x}}`, `{"a":{"b":"x"}}`, `null`},
		{"preserved", `{type: object, x-kubernetes-preserve-unknown-fields: true}`, `{a: {b: 1}}`, `{"a":{"b":1}}`, `null`},
		{"preserved but for what is known", `{type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: object}}}`, `{a: {b: 1}, c: 1}`, `{"a":{},"c":1}`, `["a.b"]`},
		{"default", `{type: object, properties: {a: {type: integer, default: 1}, b: {type: object, default: {}, properties: {c: {type: string, default: x}}}}}`, `{}`, `{"a":1,"b":{"c":"x"}}`, `null`},
		{"default of items", `{type: object, properties: {a: {type: array, items: {type: object, properties: {b: {type: string, default: x}}}}}}`, `{a: [{}, {b: z}]}`, `{"a":[{"b":"x"},{"b":"z"}]}`, `null`},
		{"null with a default", `{type: object, properties: {a: {type: integer, default: 1}}}`, `{a: null}`, `{"a":1}`, `null`},
		{"null that may be", `{type: object, properties: {a: {type: integer, default: 1, nullable: true}}}`, `{a: null}`, `{"a":null}`, `null`},
		{"null that may not", `{type: object, properties: {a: {type: integer}}}`, `{a: null}`, `{}`, `null`},
		{"embedded", `{type: object, properties: {a: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}`,
			`{a: {apiVersion: v1, kind: Pod, metadata: {name: x, hat: 1}, spec: {b: 1}}}`, `{"a":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"b":1}}}`, `["a.metadata.hat"]`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			d, err := New(definition(t, tc.schema))
			if err != nil {
				t.Fatal(err)
			}
			obj := object(t, head+"x: 1")
			delete(obj.Object, "x")
			for name, value := range object(t, head+"x: "+tc.obj).Object["x"].(map[string]any) {
				obj.Object[name] = value
			}
			unknown, err := d.Stored.Prune(obj)
			if err != nil {
				t.Fatal(err)
			}
			d.Stored.Default(obj)
			delete(obj.Object, "apiVersion")
			delete(obj.Object, "kind")
			if diff := cmp.Diff(tc.want, asText(t, obj.Object)); diff != "" {
				t.Errorf("object (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.unknown, asText(t, unknown)); diff != "" {
				t.Errorf("unknown fields (-want +got):\n%s", diff)
			}
		})
	}
}

// What was wrong before and has not changed is let through; lists are taken as a whole.
func TestRatchet(t *testing.T) {
	const schema = `{type: object, properties: {spec: {type: object, required: [c], properties: {a: {type: string, maxLength: 1}, b: {type: array, items: {type: string, maxLength: 1}}, c: {type: string}}}}}`
	tests := []struct{ name, old, obj, want string }{
		{"as it was", `{a: xx, c: y}`, `{a: xx, c: z}`, ""},
		{"changed", `{a: xx, c: y}`, `{a: xxx, c: y}`, "spec.a"},
		{"new", `{c: y}`, `{a: xx, c: y}`, "spec.a"},
		{"list as it was", `{b: [xx], c: y}`, `{b: [xx], c: z}`, ""},
		{"list changed", `{b: [xx], c: y}`, `{b: [xx, z], c: y}`, "spec.b[0]"},
		{"missing as it was", `{a: x}`, `{a: x}`, ""},
		{"missing of what changed", `{a: x}`, `{a: z}`, "spec.c"},
	}
	d, err := New(definition(t, schema))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			errs := d.Stored.ValidateUpdate(object(t, head+"spec: "+tc.obj), object(t, head+"spec: "+tc.old))
			got := ""
			if len(errs) > 0 {
				got = errs[0].Field
			}
			if got != tc.want || len(errs) > 1 {
				t.Errorf("errors are %v, want one of %q", errs, tc.want)
			}
		})
	}
}

// A view shows what is stored in the form of another version, and stores what is written in that form.
func TestViewOfVersion(t *testing.T) {
	d, err := New(definition(t, `{type: object, properties: {spec: {type: object, properties: {a: {type: string}, b: {type: string, default: b}}}}}`,
		`{type: object, properties: {spec: {type: object, properties: {a: {type: string}, c: {type: string, default: c}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	v2 := d.Served[0]
	if v2.Version != "v2" || d.Served[1] != d.Stored || v2.View == nil {
		t.Fatalf("served are %s and %s, want v2 and the stored v1", v2.Version, d.Served[1].Version)
	}
	stored := object(t, head+"spec: {a: x, b: y}")
	before := asText(t, stored)
	if got := asText(t, v2.Show(stored)); got != `{"apiVersion":"sea.example.com/v2","kind":"Boat","spec":{"a":"x"}}` || asText(t, stored) != before {
		t.Errorf("shown %s of %s", got, asText(t, stored))
	}
	written, err := v2.Store(object(t, "apiVersion: sea.example.com/v2\nkind: Boat\nspec: {a: z}"))
	if err != nil || asText(t, written) != `{"apiVersion":"sea.example.com/v1","kind":"Boat","spec":{"a":"z","c":"c"}}` {
		t.Errorf("stored %s, error %v", asText(t, written), err)
	}
}

// Names that others of the group have are not accepted; those that a definition had stay its own.
func TestAccept(t *testing.T) {
	with := func(name, kind string, short ...string) *apiextensionsv1.CustomResourceDefinition {
		crd := definition(t)
		crd.Name = name + ".sea.example.com"
		crd.Spec.Names = apiextensionsv1.CustomResourceDefinitionNames{Plural: name, Singular: strings.ToLower(kind), Kind: kind, ListKind: kind + "List", ShortNames: short}
		return crd
	}
	now := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	first := with("boats", "Boat", "b")
	first.Status = Accept(first, nil, nil, now)
	tests := []struct {
		name string
		crd  *apiextensionsv1.CustomResourceDefinition
		want string // Reason of NamesAccepted, and whether it is established.
	}{
		{"free", with("ships", "Ship", "s"), "NoConflicts True"},
		{"kind", with("ships", "Boat"), "ListKindConflict False"},
		{"short name", with("ships", "Ship", "b"), "ShortNamesConflict False"},
		{"itself", first, "NoConflicts True"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			status := Accept(tc.crd, nil, []*apiextensionsv1.CustomResourceDefinition{first, tc.crd}, now)
			if got := status.Conditions[0].Reason + " " + string(status.Conditions[1].Status); got != tc.want {
				t.Errorf("%s, want %s: %s", got, tc.want, asText(t, status))
			}
		})
	}
}

// Rows come in the order in which discovery names versions.
func TestOrderOfVersions(t *testing.T) {
	crd := definition(t, `{type: object}`, `{type: object}`, `{type: object}`, `{type: object}`)
	for i, name := range []string{"v1beta1", "v2", "v1", "v10"} {
		crd.Spec.Versions[i].Name = name
	}
	d, err := New(crd)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range d.Served {
		got = append(got, r.Version)
	}
	if diff := cmp.Diff([]string{"v10", "v2", "v1", "v1beta1"}, got); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
}

// FuzzSchema holds that whatever is offered as a schema is accepted or refused, and that an accepted one judges whatever
// object without harm. `go test -fuzz FuzzSchema ./apiserver/custom` looks for one that is not.
func FuzzSchema(f *testing.F) {
	for _, schema := range []string{
		`{"type":"object"}`,
		`{"type":"object","properties":{"spec":{"type":"object","required":["a"],"properties":{"a":{"type":"integer","minimum":1,"default":2},"b":{"type":"string","pattern":"^a+$","format":"date-time"}}}}}`,
		`{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"a":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]}}}`,
		`{"type":"object","properties":{"l":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string"},"v":{"type":"number"}}}}}}`,
		`{"type":"object","properties":{"s":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},"e":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}}}`,
		`{"type":"object","x-kubernetes-validations":[{"rule":"self.a.size() > 1 && (!has(self.m) || self.m.all(k, k != ''))","messageExpression":"'a is ' + self.a","fieldPath":".a"}],"properties":{"a":{"type":"string","maxLength":9},"m":{"type":"object","additionalProperties":{"type":"string"}}}}`,
		`{"type":"object","not":{"required":["x"]},"allOf":[{"properties":{"a":{"enum":["x",1,null]}}}],"properties":{"a":{"type":"string","nullable":true}}}`,
		`{"$ref":"#/definitions/a","definitions":{"a":{"type":"null"}},"dependencies":{"a":["b"]},"patternProperties":{"a":{}}}`,
	} {
		f.Add([]byte(schema), []byte(`{"a":"x","spec":{"a":3},"l":[{"k":"1"},{"k":"1"}],"s":["a","a"],"e":{"kind":"P"},"m":{"":"x"}}`))
	}
	f.Fuzz(func(t *testing.T, schema, content []byte) {
		if len(schema) > 4<<10 || len(content) > 4<<10 {
			t.Skip()
		}
		props := &apiextensionsv1.JSONSchemaProps{}
		if json.Unmarshal(schema, props) != nil {
			t.Skip()
		}
		crd := definition(t)
		crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{
			Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: props},
			Subresources: &apiextensionsv1.CustomResourceSubresources{Scale: &apiextensionsv1.CustomResourceSubresourceScale{SpecReplicasPath: ".spec.a", StatusReplicasPath: ".status.a"}},
		}}
		if len(Check(crd, nil)) > 0 {
			return
		}
		d, err := New(crd)
		if err != nil {
			t.Fatalf("accepted, but: %v", err)
		}
		for _, v2 := range []bool{false, true} {
			if _, err := d.Described[0].Schema(v2); err != nil {
				t.Fatalf("accepted, but cannot be described: %v", err)
			}
		}
		obj := &unstructured.Unstructured{}
		if obj.UnmarshalJSON([]byte(`{"apiVersion":"sea.example.com/v1","kind":"Boat"}`)) != nil {
			t.Fatal("the test's object is none")
		}
		var more map[string]any
		if json.Unmarshal(content, &more) == nil {
			for name, value := range more {
				if name != "apiVersion" && name != "kind" {
					obj.Object[name] = value
				}
			}
		}
		if _, err := d.Stored.Prune(obj); err != nil {
			return
		}
		d.Stored.Default(obj)
		d.Stored.ValidateCreate(obj)
		d.Stored.ValidateUpdate(obj, obj.DeepCopy())
		d.Stored.Row(obj)
		if unknown, err := d.Stored.Prune(obj); err != nil || len(unknown) > 0 {
			t.Fatalf("pruned once, %v is unknown still; error %v", unknown, err)
		}
	})
}
