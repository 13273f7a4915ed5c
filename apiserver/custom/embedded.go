package custom

import (
	"encoding/json"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeschema "k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateEmbedded checks the objects that lie within an object, where the schema has x-kubernetes-embedded-resource.
func validateEmbedded(at *field.Path, x any, s *schema.Structural) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	switch x := x.(type) {
	case map[string]any:
		if s.XEmbeddedResource {
			errs = append(errs, validateResource(at, x)...)
		}
		for name, value := range x {
			if prop, ok := s.Properties[name]; ok {
				errs = append(errs, validateEmbedded(at.Child(name), value, &prop)...)
			} else if s.AdditionalProperties != nil {
				errs = append(errs, validateEmbedded(at.Key(name), value, s.AdditionalProperties.Structural)...)
			}
		}
	case []any:
		for i, value := range x {
			errs = append(errs, validateEmbedded(at.Index(i), value, s.Items)...)
		}
	}
	return errs
}

// validateResource wants a kind, and metadata that are some.
func validateResource(at *field.Path, obj map[string]any) field.ErrorList {
	var errs field.ErrorList
	text := func(name string, check func(value string) []string) {
		value, ok := obj[name]
		written, isText := value.(string)
		switch {
		case !ok:
			errs = append(errs, field.Required(at.Child(name), ""))
		case !isText:
			errs = append(errs, field.Invalid(at.Child(name), value, "must be a string"))
		case written == "":
			errs = append(errs, field.Invalid(at.Child(name), written, "must not be empty"))
		default:
			for _, message := range check(written) {
				errs = append(errs, field.Invalid(at.Child(name), written, message))
			}
		}
	}
	text("apiVersion", func(value string) []string {
		if _, err := runtimeschema.ParseGroupVersion(value); err != nil {
			return []string{err.Error()}
		}
		return nil
	})
	text("kind", func(value string) []string {
		if found := validation.IsDNS1035Label(strings.ToLower(value)); len(found) > 0 {
			return []string{"may have mixed case, but should otherwise match: " + strings.Join(found, ",")}
		}
		return nil
	})
	value, ok := obj["metadata"]
	if !ok {
		return errs
	}
	meta := metav1.ObjectMeta{}
	data, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(data, &meta)
	}
	if err != nil {
		return append(errs, field.Invalid(at.Child("metadata"), value, err.Error()))
	}
	if meta.Name == "" {
		meta.Name = "fakename" // It may have none, but the check wants one.
	}
	return append(errs, metavalidation.ValidateObjectMeta(&meta, meta.Namespace != "", path.ValidatePathSegmentName, at.Child("metadata"))...)
}
