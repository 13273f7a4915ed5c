package custom

import (
	"encoding/json"
	"fmt"
	"sort"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
)

// structural reads a version's schema. https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
func structural(v *apiextensionsv1.CustomResourceDefinitionVersion) (*schema.Structural, error) {
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return nil, fmt.Errorf("version %s has no schema", v.Name)
	}
	return structuralOf(v.Schema.OpenAPIV3Schema)
}

func structuralOf(props *apiextensionsv1.JSONSchemaProps) (*schema.Structural, error) {
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(props, &internal, nil); err != nil {
		return nil, err
	}
	return schema.NewStructural(&internal)
}

// prune takes off what the schema does not have, and what does not belong in metadata. It returns the paths of that.
func (k *kind) prune(obj runtime.Object) ([]string, error) {
	content := tree(obj)
	unknown, err := tidyMetadata(content, k.schema, nil, true)
	if err != nil {
		return nil, err
	}
	unknown = append(unknown, pruning.PruneWithOptions(content, k.schema, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})...)
	sort.Strings(unknown)
	return unknown, nil
}

// tidyMetadata makes the metadata of the object, and of those that lie within it, what the Go type of metadata has room for.
func tidyMetadata(x any, s *schema.Structural, path *field.Path, isResource bool) (unknown []string, err error) {
	if s == nil {
		return nil, nil
	}
	switch x := x.(type) {
	case map[string]any:
		if isResource {
			unknown, err = tidyResource(x, path)
			if err != nil {
				return nil, err
			}
		}
		for name, value := range x {
			next, at := (*schema.Structural)(nil), path.Child(name)
			if prop, ok := s.Properties[name]; ok {
				next = &prop
			} else if s.AdditionalProperties != nil {
				next, at = s.AdditionalProperties.Structural, path.Key(name)
			}
			more, err := tidyMetadata(value, next, at, next != nil && next.XEmbeddedResource)
			if err != nil {
				return nil, err
			}
			unknown = append(unknown, more...)
		}
	case []any:
		for i, value := range x {
			more, err := tidyMetadata(value, s.Items, path.Index(i), s.Items != nil && s.Items.XEmbeddedResource)
			if err != nil {
				return nil, err
			}
			unknown = append(unknown, more...)
		}
	}
	return unknown, nil
}

func tidyResource(obj map[string]any, path *field.Path) (unknown []string, err error) {
	for _, name := range []string{"apiVersion", "kind"} {
		if value, ok := obj[name]; ok {
			if _, isText := value.(string); !isText {
				return nil, field.Invalid(path.Child(name), value, "must be a string")
			}
		}
	}
	value, ok := obj["metadata"]
	if !ok {
		return nil, nil
	}
	at := path.Child("metadata")
	data, err := json.Marshal(value)
	if err != nil {
		return nil, field.Invalid(at, value, err.Error())
	}
	var meta metav1.ObjectMeta
	strict, err := kjson.UnmarshalStrict(data, &meta)
	if err != nil {
		return nil, field.Invalid(at, value, err.Error())
	}
	for _, err := range strict {
		if f, ok := err.(kjson.FieldError); ok {
			unknown = append(unknown, at.String()+"."+f.FieldPath())
		}
	}
	tidy, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&meta)
	if err != nil {
		return nil, field.Invalid(at, value, err.Error())
	}
	if meta.CreationTimestamp.IsZero() {
		delete(tidy, "creationTimestamp")
	}
	obj["metadata"] = tidy
	return unknown, nil
}

// setDefaults fills in the schema's defaults, after it has taken off each null that neither may be one nor has a default.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#defaulting-and-nullable
func setDefaults(x any, s *schema.Structural) {
	if s == nil {
		return
	}
	switch x := x.(type) {
	case map[string]any:
		for name, prop := range s.Properties {
			if value, ok := x[name]; prop.Default.Object != nil && (!ok || value == nil && !prop.Nullable) {
				x[name] = runtime.DeepCopyJSONValue(prop.Default.Object)
			}
		}
		for name, value := range x {
			prop := propertyOf(s, name)
			switch {
			case value != nil:
				setDefaults(value, prop)
			case prop == nil || prop.Nullable:
			case prop.Default.Object == nil:
				delete(x, name)
			default:
				x[name] = runtime.DeepCopyJSONValue(prop.Default.Object)
			}
		}
	case []any:
		for i, value := range x {
			if value == nil && s.Items != nil && !s.Items.Nullable && s.Items.Default.Object != nil {
				x[i] = runtime.DeepCopyJSONValue(s.Items.Default.Object)
			}
			setDefaults(x[i], s.Items)
		}
	}
}

// propertyOf is the schema of what has this name in an object; nil where there is none.
func propertyOf(s *schema.Structural, name string) *schema.Structural {
	if s == nil {
		return nil
	}
	if prop, ok := s.Properties[name]; ok {
		return &prop
	}
	if s.AdditionalProperties != nil {
		return s.AdditionalProperties.Structural
	}
	return nil
}
