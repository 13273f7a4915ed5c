package custom

import (
	"encoding/json"
	"slices"
	"strings"

	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/api"
	"skiff/apiserver/openapi"
)

// describe gives a version's schema to the OpenAPI documents.
func (k *kind) describe(r *api.Resource) *openapi.Custom {
	return &openapi.Custom{Resource: r, Schema: func(v2 bool) (json.RawMessage, error) {
		out := k.described(v2)
		out.AddExtension("x-kubernetes-group-version-kind", []any{
			map[string]any{"group": r.Group, "version": r.Version, "kind": r.Kind},
		})
		if fields := k.selectablePaths(); fields != nil {
			out.AddExtension("x-kubernetes-selectable-fields", fields)
		}
		return json.Marshal(out)
	}}
}

// described is the schema with the fields that every object has. By OpenAPI v2, kubectl takes any property that is named to
// mean that there are no others; so of a kind that keeps unknown fields it says none.
func (k *kind) described(v2 bool) *spec.Schema {
	s := k.schema.DeepCopy().Unfold() // Of its own: objects are judged by the schema as it is.
	switch {
	case v2 && s.XPreserveUnknownFields:
		return &spec.Schema{SchemaProps: spec.SchemaProps{Type: spec.StringOrArray{"object"}}}
	case v2:
		s = openapiv2.ToStructuralOpenAPIV2(s)
	}
	out := s.ToKubeOpenAPI()
	addObjectFields(out, openapi.APIVersionText, openapi.KindText)
	addEmbedded(out, v2)
	return out
}

func addObjectFields(s *spec.Schema, apiVersion, kind string) {
	meta := spec.Schema{}
	meta.Description = openapi.MetadataText
	meta.AllOf = []spec.Schema{{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(openapi.ObjectMetaRef)}}}
	s.SetProperty("apiVersion", text(apiVersion))
	s.SetProperty("kind", text(kind))
	s.SetProperty("metadata", meta)
}

// addEmbedded gives the objects within an object (x-kubernetes-embedded-resource) the fields that every object has.
func addEmbedded(s *spec.Schema, v2 bool) {
	if s == nil {
		return
	}
	for name, property := range s.Properties {
		addEmbedded(&property, v2)
		s.Properties[name] = property
	}
	if s.Items != nil {
		addEmbedded(s.Items.Schema, v2)
	}
	if s.AdditionalProperties != nil {
		addEmbedded(s.AdditionalProperties.Schema, v2)
	}
	embedded, _ := s.Extensions.GetBool("x-kubernetes-embedded-resource")
	open, _ := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields")
	if !embedded || (v2 && open) {
		return
	}
	addObjectFields(s, openapi.EmbeddedAPIVersionText, openapi.EmbeddedKindText)
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// selectablePaths are the fields that clients may select by, as the documents name them.
func (k *kind) selectablePaths() []any {
	var paths []any
	for _, field := range k.version.SelectableFields {
		paths = append(paths, map[string]any{"fieldPath": strings.TrimPrefix(field.JSONPath, ".")})
	}
	return paths
}

func text(description string) spec.Schema {
	s := spec.Schema{}
	s.Type, s.Description = spec.StringOrArray{"string"}, description
	return s
}
