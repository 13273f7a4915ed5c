package custom

import (
	"encoding/json"

	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"skiff/api"
	"skiff/apiserver/openapi"
)

// describe gives a version's schema to the OpenAPI documents.
func (k *kind) describe(r *api.Resource) *openapi.Custom {
	return &openapi.Custom{Resource: r, Schema: func(v2 bool) (json.RawMessage, error) {
		s := k.schema.Unfold()
		if v2 {
			s = openapiv2.ToStructuralOpenAPIV2(s)
		}
		out := s.ToKubeOpenAPI()
		if out.Properties == nil {
			out.Properties = map[string]spec.Schema{}
		}
		out.Properties["apiVersion"] = text(openapi.APIVersionText)
		out.Properties["kind"] = text(openapi.KindText)
		meta := spec.Schema{}
		meta.Description = openapi.MetadataText
		meta.AllOf = []spec.Schema{{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(openapi.ObjectMetaRef)}}}
		out.Properties["metadata"] = meta
		out.AddExtension("x-kubernetes-group-version-kind", []any{
			map[string]any{"group": r.Group, "version": r.Version, "kind": r.Kind},
		})
		return json.Marshal(out)
	}}
}

func text(description string) spec.Schema {
	s := spec.Schema{}
	s.Type, s.Description = spec.StringOrArray{"string"}, description
	return s
}
