package custom

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api"
	"skiff/apiserver/custom/rule"
)

// maxDepth bounds how deep schemas may nest: everything that is done with one walks down it. Kubernetes' deepest published
// schemas have some thirty levels.
const maxDepth = 100

// Check finds what is wrong with the schemas of a definition's versions. Those that are in old too, the definition that it
// replaces, were found good then, and are not looked at again; old is nil for a new definition.
func Check(crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	var errs field.ErrorList
	for i := range crd.Spec.Versions {
		if old == nil || !hasVersion(old, &crd.Spec.Versions[i]) {
			errs = append(errs, checkVersion(crd.Spec.Versions, i)...)
		}
	}
	return errs
}

func hasVersion(old *apiextensionsv1.CustomResourceDefinition, v *apiextensionsv1.CustomResourceDefinitionVersion) bool {
	return slices.ContainsFunc(old.Spec.Versions, func(have apiextensionsv1.CustomResourceDefinitionVersion) bool {
		return have.Name == v.Name && equality.Semantic.DeepEqual(have.Schema, v.Schema) &&
			equality.Semantic.DeepEqual(have.Subresources, v.Subresources) && equality.Semantic.DeepEqual(have.SelectableFields, v.SelectableFields)
	})
}

func checkVersion(versions []apiextensionsv1.CustomResourceDefinitionVersion, i int) field.ErrorList {
	v := &versions[i]
	if v.Schema == nil || v.Schema.OpenAPIV3Schema == nil {
		return field.ErrorList{field.Required(field.NewPath("spec", "versions").Index(i).Child("schema", "openAPIV3Schema"), "")}
	}
	at, again := api.VersionPath(versions, i, "schema")
	s, errs := checkSchema(at.Child("openAPIV3Schema"), v)
	switch {
	case again && len(errs) > 0:
		return nil
	case len(errs) > 0:
		return errs
	}
	at, again = api.VersionPath(versions, i, "selectableFields")
	if again {
		return nil
	}
	return checkSelectable(at, v.SelectableFields, s)
}

// checkSchema also returns what it has checked, where nothing is wrong with it.
func checkSchema(path *field.Path, v *apiextensionsv1.CustomResourceDefinitionVersion) (*schema.Structural, field.ErrorList) {
	root := v.Schema.OpenAPIV3Schema
	if depth(root) > maxDepth {
		return nil, field.ErrorList{field.Invalid(path, "", fmt.Sprintf("must not nest deeper than %d levels", maxDepth))}
	}
	var errs field.ErrorList
	if v.Subresources != nil && v.Subresources.Status != nil {
		errs = append(errs, checkRoot(path, root)...)
	}
	if root.Nullable {
		errs = append(errs, field.Forbidden(path.Child("nullable"), "nullable cannot be true at the root"))
	}
	errs = append(errs, checkProps(path, root, place{root: true, defaults: true})...)
	s, err := structuralOf(root)
	if err != nil {
		if len(errs) == 0 {
			errs = append(errs, field.Invalid(path, "", err.Error()))
		}
		return nil, errs
	}
	errs = append(errs, schema.ValidateStructural(path, s)...)
	if len(errs) > 0 {
		return nil, errs
	}
	errs = append(errs, rule.Check(path, s)...)
	return s, append(errs, checkDefaults(path, s)...)
}

// depth is how deep schemas lie in one another.
func depth(s *apiextensionsv1.JSONSchemaProps) int {
	deepest := 0
	for child := range children(s) {
		deepest = max(deepest, depth(child.props))
	}
	return deepest + 1
}

// rootFields are the fields that the schema of an object with a status may have, so that the status' part can be used alone.
var rootFields = []string{"Description", "Type", "Format", "Title", "Maximum", "ExclusiveMaximum", "Minimum", "ExclusiveMinimum", "MaxLength", "MinLength", "Pattern", "MaxItems", "MinItems", "UniqueItems", "MultipleOf", "Required", "Items", "Properties", "ExternalDocs", "Example", "XPreserveUnknownFields", "XValidations"}

func checkRoot(path *field.Path, root *apiextensionsv1.JSONSchemaProps) field.ErrorList {
	if root.Type != "object" {
		return field.ErrorList{field.Invalid(path.Child("type"), root.Type, `only "object" is allowed as the type at the root of the schema if the status subresource is enabled`)}
	}
	v := reflect.ValueOf(root).Elem()
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; !v.Field(i).IsZero() && !slices.Contains(rootFields, name) {
			return field.ErrorList{field.Invalid(path, name, fmt.Sprintf("only %v fields are allowed at the root of the schema if the status subresource is enabled", rootFields))}
		}
	}
	return nil
}

// checkDefaults wants defaults that are valid themselves.
func checkDefaults(path *field.Path, s *schema.Structural) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if value := s.Default.Object; value != nil {
		errs = append(errs, checkDefault(path.Child("default"), value, s)...)
	}
	errs = append(errs, checkDefaults(path.Child("items"), s.Items)...)
	for name, prop := range s.Properties {
		errs = append(errs, checkDefaults(path.Child("properties").Key(name), &prop)...)
	}
	if s.AdditionalProperties != nil {
		errs = append(errs, checkDefaults(path.Child("additionalProperties"), s.AdditionalProperties.Structural)...)
	}
	return errs
}

func checkDefault(at *field.Path, value any, s *schema.Structural) field.ErrorList {
	pruned := runtime.DeepCopyJSONValue(value)
	pruning.Prune(pruned, s, s.XEmbeddedResource)
	var errs field.ErrorList
	if !reflect.DeepEqual(pruned, value) {
		errs = append(errs, field.Invalid(at, value, "must not have unknown fields"))
	}
	if _, err := tidyMetadata(pruned, s, at, s.XEmbeddedResource); err != nil {
		return append(errs, field.Invalid(at, value, err.Error()))
	}
	errs = append(errs, validateEmbedded(at, value, s)...)
	errs = append(errs, valueErrors(at, newValues(valueSchema(s)), value)...)
	if len(errs) > 0 {
		return errs
	}
	return rule.CompileValue(s).CheckDefault(at, value)
}

// maxSelectable bounds the selectable fields of a version, as Kubernetes bounds them.
const maxSelectable = 8

func checkSelectable(path *field.Path, selectables []apiextensionsv1.SelectableField, s *schema.Structural) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, f := range selectables {
		at := path.Index(i).Child("jsonPath")
		if f.JSONPath == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		found, err := schemaAt(s, f.JSONPath)
		if err != nil {
			errs = append(errs, field.Invalid(at, f.JSONPath, fmt.Sprintf("is an invalid path: %v", err)))
			continue
		}
		if steps(f.JSONPath)[0] == "metadata" {
			errs = append(errs, field.Invalid(at, f.JSONPath, "must not point to fields in metadata"))
		}
		switch found.Type {
		case "string", "boolean", "integer":
		default:
			errs = append(errs, field.Invalid(at, f.JSONPath, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."))
		}
		if seen[f.JSONPath] {
			errs = append(errs, field.Duplicate(at, f.JSONPath))
		}
		seen[f.JSONPath] = true
	}
	if len(seen) > maxSelectable {
		errs = append(errs, field.TooMany(path, len(seen), maxSelectable))
	}
	return errs
}

// schemaAt is the schema that a path of plain names leads to.
func schemaAt(s *schema.Structural, path string) (*schema.Structural, error) {
	if !strings.HasPrefix(path, ".") {
		return nil, fmt.Errorf("expected [ or . but got: %s", path)
	}
	for _, name := range steps(path) {
		if strings.ContainsAny(name, "[]") {
			return nil, fmt.Errorf("array notation is not allowed")
		}
		if s = propertyOf(s, name); s == nil {
			return nil, fmt.Errorf("does not refer to a valid field")
		}
	}
	return s, nil
}
