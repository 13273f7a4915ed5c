package custom

import (
	"encoding/json"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// described is what the OpenAPI documents say of a schema.
func described(t *testing.T, text string, v2 bool, fields ...string) spec.Schema {
	t.Helper()
	crd := definition(t, text)
	for _, path := range fields {
		crd.Spec.Versions[0].SelectableFields = append(crd.Spec.Versions[0].SelectableFields, apiextensionsv1.SelectableField{JSONPath: path})
	}
	d, err := New(crd)
	if err != nil {
		t.Fatal(err)
	}
	data, err := d.Described[0].Schema(v2)
	if err != nil {
		t.Fatal(err)
	}
	var s spec.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// A property that OpenAPI v2 names would keep kubectl from sending any other: a kind that takes all has none there.
func TestDescribedWithUnknownFields(t *testing.T) {
	open := "type: object\nx-kubernetes-preserve-unknown-fields: true\nproperties: {spec: {type: object}}"
	v2 := described(t, open, true)
	v2.Extensions = nil
	if got := asText(t, v2); got != `{"type":"object"}` {
		t.Errorf("by OpenAPI v2 it is %s", got)
	}
	v3 := described(t, open, false)
	if len(v3.Properties) != 4 || !v3.Type.Contains("object") {
		t.Errorf("by OpenAPI v3 it is %s", asText(t, v3))
	}
}

// An object within an object has what every object has.
func TestDescribedEmbeddedResource(t *testing.T) {
	within := "type: object\nproperties: {cargo: {type: array, items: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}}}"
	item := func(v2 bool) *spec.Schema {
		s := described(t, within, v2)
		return s.Properties["cargo"].Items.Schema
	}
	v3 := item(false)
	if len(v3.Properties) != 3 || strings.Join(v3.Required, " ") != "kind apiVersion" {
		t.Errorf("by OpenAPI v3 it is %s", asText(t, v3))
	}
	if v2 := item(true); len(v2.Properties) != 0 {
		t.Errorf("by OpenAPI v2 it is %s", asText(t, v2))
	}
}

// What the documents say of a number or a string is not what its values are judged by.
func TestDescribedLeavesTheSchema(t *testing.T) {
	either := schema.Structural{Extensions: schema.Extensions{XIntOrString: true}}
	k := &kind{schema: &schema.Structural{Generic: schema.Generic{Type: "object"}, Properties: map[string]schema.Structural{"a": either}}}
	if s := k.described(false); len(s.Properties["a"].AnyOf) != 2 {
		t.Errorf("it is described as %s", asText(t, s))
	}
	if v := k.schema.Properties["a"].ValueValidation; v != nil {
		t.Errorf("it is judged by %s", asText(t, v))
	}
}

// Clients find in the documents which fields they may select by.
func TestDescribedSelectableFields(t *testing.T) {
	s := described(t, "type: object\nproperties: {spec: {type: object, properties: {hull: {type: string}}}}", true, ".spec.hull")
	if got := asText(t, s.Extensions["x-kubernetes-selectable-fields"]); got != `[{"fieldPath":"spec.hull"}]` {
		t.Errorf("selectable fields are %s", got)
	}
}
