package custom

import (
	"fmt"
	"iter"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// place is where in a schema another lies.
type place struct {
	root     bool   // At the top.
	meta     bool   // In the kind and the metadata of a resource.
	defaults bool   // Where there may be defaults.
	why      string // If not: why not.
}

// child is a schema within another, as its path names it.
type child struct {
	field, key string // "properties", "spec".
	index      int    // In a list; -1 where it is not in one.
	props      *apiextensionsv1.JSONSchemaProps
}

func (c child) path(at *field.Path) *field.Path {
	at = at.Child(c.field)
	if c.key != "" {
		at = at.Key(c.key)
	}
	if c.index >= 0 {
		at = at.Index(c.index)
	}
	return at
}

// children are the schemas directly within one.
func children(s *apiextensionsv1.JSONSchemaProps) iter.Seq[child] {
	return func(yield func(child) bool) {
		for _, list := range []struct {
			field string
			items []apiextensionsv1.JSONSchemaProps
		}{{"allOf", s.AllOf}, {"oneOf", s.OneOf}, {"anyOf", s.AnyOf}} {
			for i := range list.items {
				if !yield(child{list.field, "", i, &list.items[i]}) {
					return
				}
			}
		}
		for _, named := range []struct {
			field string
			items map[string]apiextensionsv1.JSONSchemaProps
		}{{"properties", s.Properties}, {"patternProperties", s.PatternProperties}, {"definitions", s.Definitions}} {
			for name, props := range named.items {
				if !yield(child{named.field, name, -1, &props}) {
					return
				}
			}
		}
		var single []child
		single = append(single, child{"not", "", -1, s.Not})
		if s.Items != nil {
			single = append(single, child{"items", "", -1, s.Items.Schema})
			for i := range s.Items.JSONSchemas {
				single = append(single, child{"items", "", i, &s.Items.JSONSchemas[i]})
			}
		}
		if s.AdditionalProperties != nil {
			single = append(single, child{"additionalProperties", "", -1, s.AdditionalProperties.Schema})
		}
		if s.AdditionalItems != nil {
			single = append(single, child{"additionalItems", "", -1, s.AdditionalItems.Schema})
		}
		for name, d := range s.Dependencies {
			single = append(single, child{"dependencies", name, -1, d.Schema})
		}
		for _, c := range single {
			if c.props != nil && !yield(c) {
				return
			}
		}
	}
}

// in is the place of a schema within one at p.
func (p place) in(parent *apiextensionsv1.JSONSchemaProps, c child) place {
	next := place{meta: p.meta, defaults: p.defaults, why: p.why}
	isMeta := c.key == "metadata" || c.key == "kind" || c.key == "apiVersion"
	switch {
	case c.field == "properties" && isMeta && p.root:
		next.meta, next.defaults, next.why = true, false, "in top-level "+c.key
	case c.field == "properties" && isMeta && parent.XEmbeddedResource:
		next.meta = true
	case c.field == "additionalProperties" && p.meta:
		next.defaults, next.why = false, "inside additionalProperties applying to object metadata"
	}
	return next
}

// checkProps finds what no schema may have, in one and all within it.
func checkProps(path *field.Path, s *apiextensionsv1.JSONSchemaProps, p place) field.ErrorList {
	errs := checkSupported(path, s, p)
	errs = append(errs, checkListAndMap(path, s)...)
	if s.AdditionalProperties != nil && len(s.Properties) > 0 && (!s.AdditionalProperties.Allows || s.AdditionalProperties.Schema != nil) {
		errs = append(errs, field.Forbidden(path.Child("additionalProperties"), "additionalProperties and properties are mutual exclusive"))
	}
	for c := range children(s) {
		errs = append(errs, checkProps(c.path(path), c.props, p.in(s, c))...)
	}
	return errs
}

var schemaTypes = []string{"array", "boolean", "integer", "number", "object", "string"}

func checkSupported(path *field.Path, s *apiextensionsv1.JSONSchemaProps, p place) field.ErrorList {
	var errs field.ErrorList
	forbid := func(name, message string, is bool) {
		if is {
			errs = append(errs, field.Forbidden(path.Child(name), message))
		}
	}
	if s.Type != "" && !slices.Contains(schemaTypes, s.Type) {
		errs = append(errs, field.NotSupported(path.Child("type"), s.Type, schemaTypes))
	}
	if s.Default != nil && !p.defaults {
		errs = append(errs, field.Forbidden(path.Child("default"), fmt.Sprintf("must not be set %s", p.why)))
	}
	forbid("id", "id is not supported", s.ID != "")
	forbid("additionalItems", "additionalItems is not supported", s.AdditionalItems != nil)
	forbid("patternProperties", "patternProperties is not supported", len(s.PatternProperties) > 0)
	forbid("definitions", "definitions is not supported", len(s.Definitions) > 0)
	forbid("dependencies", "dependencies is not supported", s.Dependencies != nil)
	forbid("$ref", "$ref is not supported", s.Ref != nil)
	forbid("type", "type cannot be set to null, use nullable as an alternative", s.Type == "null")
	forbid("items", "items must be a schema object and not an array", s.Items != nil && len(s.Items.JSONSchemas) > 0)
	forbid("x-kubernetes-embedded-resource", "must not be used inside of resource meta", p.meta && s.XEmbeddedResource)
	forbid("uniqueItems", "uniqueItems cannot be set to true since the runtime complexity becomes quadratic", s.UniqueItems)
	if keep := s.XPreserveUnknownFields; keep != nil && !*keep {
		errs = append(errs, field.Invalid(path.Child("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"))
	}
	return errs
}

// checkListAndMap checks what is said of how lists and maps are merged.
func checkListAndMap(path *field.Path, s *apiextensionsv1.JSONSchemaProps) field.ErrorList {
	errs := checkMerge(path, s.XMapType, s.Type, "object", "x-kubernetes-map-type", "atomic", "granular")
	errs = append(errs, checkMerge(path, s.XListType, s.Type, "array", "x-kubernetes-list-type", "atomic", "set", "map")...)
	isMap := s.XListType != nil && *s.XListType == "map"
	switch at := path.Child("x-kubernetes-list-type"); {
	case len(s.XListMapKeys) == 0 || isMap:
	case s.XListType == nil:
		errs = append(errs, field.Required(at, "must be map if x-kubernetes-list-map-keys is non-empty"))
	default:
		errs = append(errs, field.Invalid(at, *s.XListType, "must be map if x-kubernetes-list-map-keys is non-empty"))
	}
	var items *apiextensionsv1.JSONSchemaProps
	if s.Items != nil {
		items = s.Items.Schema
	}
	if isMap {
		errs = append(errs, checkListMap(path, s, items)...)
	}
	if s.XListType != nil && *s.XListType == "set" && items != nil {
		errs = append(errs, checkSetItems(path.Child("items"), items)...)
	}
	if s.XListType != nil && *s.XListType != "atomic" && items != nil && items.Nullable {
		errs = append(errs, field.Forbidden(path.Child("items", "nullable"), "cannot be nullable when x-kubernetes-list-type is "+*s.XListType))
	}
	return errs
}

func checkMerge(path *field.Path, how *string, kind, want, extension string, values ...string) field.ErrorList {
	if how == nil {
		return nil
	}
	var errs field.ErrorList
	message := fmt.Sprintf("must be %s if %s is specified", want, extension)
	switch {
	case kind == "":
		errs = append(errs, field.Required(path.Child("type"), message))
	case kind != want:
		errs = append(errs, field.Invalid(path.Child("type"), kind, message))
	}
	if !slices.Contains(values, *how) {
		errs = append(errs, field.NotSupported(path.Child(extension), *how, values))
	}
	return errs
}

func checkSetItems(path *field.Path, items *apiextensionsv1.JSONSchemaProps) field.ErrorList {
	const message = "must be atomic as item of a list with x-kubernetes-list-type=set"
	switch {
	case items.Type == "array" && items.XListType != nil && *items.XListType != "atomic":
		return field.ErrorList{field.Invalid(path.Child("x-kubernetes-list-type"), *items.XListType, message)}
	case items.Type == "object" && (items.XMapType == nil || *items.XMapType != "atomic"):
		return field.ErrorList{field.Invalid(path.Child("x-kubernetes-map-type"), items.XMapType, message)}
	}
	return nil
}

// checkListMap wants the keys of a list that is a map to be plain values that every item has.
func checkListMap(path *field.Path, s, items *apiextensionsv1.JSONSchemaProps) field.ErrorList {
	keys := path.Child("x-kubernetes-list-map-keys")
	var errs field.ErrorList
	if len(s.XListMapKeys) == 0 {
		errs = append(errs, field.Required(keys, "must not be empty if x-kubernetes-list-type is map"))
	}
	switch {
	case items == nil:
		return append(errs, field.Required(path.Child("items"), "must have a schema if x-kubernetes-list-type is map"))
	case items.Type != "object":
		return append(errs, field.Invalid(path.Child("items", "type"), items.Type, "must be object if parent array's x-kubernetes-list-type is map"))
	}
	for i, key := range s.XListMapKeys {
		at := path.Child("items", "properties").Key(key)
		prop, ok := items.Properties[key]
		switch {
		case !ok:
			errs = append(errs, field.Invalid(keys, s.XListMapKeys, "entries must all be names of item properties"))
		case prop.Type == "array" || prop.Type == "object":
			errs = append(errs, field.Invalid(at.Child("type"), prop.Type, "must be a scalar type if parent array's x-kubernetes-list-type is map"))
		}
		if slices.Contains(s.XListMapKeys[:i], key) {
			errs = append(errs, field.Invalid(keys, s.XListMapKeys, "must not contain duplicate entries"))
		}
		if ok && prop.Default == nil && !slices.Contains(items.Required, key) {
			errs = append(errs, field.Required(at.Child("default"), "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"))
		}
		if prop.Nullable {
			errs = append(errs, field.Forbidden(at.Child("nullable"), "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"))
		}
	}
	return errs
}
