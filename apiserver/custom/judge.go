package custom

import (
	"encoding/json"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	openapierrors "k8s.io/kube-openapi/pkg/validation/errors"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"

	"skiff/apiserver/custom/rule"
)

// judge finds what is wrong with a kind's objects.
type judge struct {
	schema *schema.Structural
	scale  *apiextensionsv1.CustomResourceSubresourceScale
	values *validate.SchemaValidator // Of the whole object.
	status *validate.SchemaValidator // Of its status; nil where the schema says nothing of one.
	rules  *rule.Rules
	wrong  field.ErrorList // Rules that cannot be asked. The definition was refused for such, unless another version of skiff took it.
}

func newJudge(s *schema.Structural, subs *apiextensionsv1.CustomResourceSubresources) *judge {
	whole := valueSchema(s)
	j := &judge{schema: s, values: newValues(whole)}
	if status, ok := whole.Properties["status"]; ok {
		j.status = newValues(&status)
	}
	j.rules, j.wrong = rule.Compile(nil, s)
	if subs != nil {
		j.scale = subs.Scale
	}
	return j
}

func newValues(s *spec.Schema) *validate.SchemaValidator {
	return validate.NewSchemaValidator(s, nil, "", strfmt.Default)
}

func (k *kind) validateCreate(obj runtime.Object) field.ErrorList {
	j, content := k.judge(), tree(obj)
	errs := valueErrors(nil, j.values, content)
	errs = append(errs, j.common(content, nil, false)...)
	return append(errs, j.asked(content, nil, errs)...)
}

// validateUpdate leaves alone what was wrong before and has not changed: a schema may have become stricter since.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-ratcheting
func (k *kind) validateUpdate(obj, old runtime.Object) field.ErrorList {
	j, content, before := k.judge(), tree(obj), tree(old)
	errs := ratchet(valueErrors(nil, j.values, content), content, before)
	errs = append(errs, j.common(content, before, false)...)
	return append(errs, j.asked(content, before, errs)...)
}

// validateStatus is for a change of nothing but the status.
func (k *kind) validateStatus(obj, old runtime.Object) field.ErrorList {
	j, content, before := k.judge(), tree(obj), tree(old)
	var errs field.ErrorList
	if status, ok := content["status"]; ok && j.status != nil {
		errs = ratchet(valueErrors(field.NewPath("status"), j.status, status), content, before)
	}
	errs = append(errs, j.common(content, before, true)...)
	return append(errs, j.asked(content, before, errs)...)
}

// unanswerable are errors after which rules would speak of what is not there, or is something else than the schema says.
var unanswerable = []field.ErrorType{
	field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid,
}

// asked is what the rules find, if those who looked before have left something that they can be asked about.
func (j *judge) asked(content, before map[string]any, found field.ErrorList) field.ErrorList {
	switch {
	case len(j.wrong) > 0:
		return j.wrong
	case j.rules == nil:
		return nil
	case slices.ContainsFunc(found, func(err *field.Error) bool { return slices.Contains(unanswerable, err.Type) }):
		return field.ErrorList{field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation")}
	}
	return j.rules.Check(content, before)
}

// common is what is checked besides the values themselves.
func (j *judge) common(content, before map[string]any, ofStatus bool) field.ErrorList {
	var errs field.ErrorList
	if j.scale != nil {
		errs = append(errs, validateScale(j.scale, content, ofStatus)...)
	}
	if !ofStatus {
		errs = append(errs, validateEmbedded(nil, content, j.schema)...)
	}
	if before == nil || len(listtype.ValidateListSetsAndMaps(nil, j.schema, before)) == 0 {
		errs = append(errs, listtype.ValidateListSetsAndMaps(nil, j.schema, content)...)
	}
	return errs
}

// valueSchema is the schema as the validator of values wants it: without formats that Kubernetes does not know, and with a
// type for what may be a number or a string.
func valueSchema(s *schema.Structural) *spec.Schema {
	out := s.ToKubeOpenAPI()
	walk(out, func(s *spec.Schema) {
		if either, _ := s.Extensions.GetBool("x-kubernetes-int-or-string"); either {
			s.Type = spec.StringOrArray{"integer", "string"}
		}
		if s.Format != "" && !knownFormat(s) {
			s.Format = ""
		}
	})
	return out
}

// walk calls visit for a schema and all within it.
func walk(s *spec.Schema, visit func(*spec.Schema)) {
	if s == nil {
		return
	}
	visit(s)
	if s.Items != nil {
		walk(s.Items.Schema, visit)
	}
	for name, prop := range s.Properties {
		walk(&prop, visit)
		s.Properties[name] = prop
	}
	if s.AdditionalProperties != nil {
		walk(s.AdditionalProperties.Schema, visit)
	}
	for _, list := range [][]spec.Schema{s.AllOf, s.AnyOf, s.OneOf} {
		for i := range list {
			walk(&list[i], visit)
		}
	}
	walk(s.Not, visit)
}

// textFormats are the formats of strings that are checked.
var textFormats = []string{
	"bsonobjectid", "uri", "email", "hostname", "ipv4", "ipv6", "cidr", "mac", "uuid", "uuid3", "uuid4", "uuid5", "isbn", "isbn10", "isbn13",
	"creditcard", "ssn", "hexcolor", "rgbcolor", "byte", "password", "date", "duration", "datetime", "k8sshortname", "k8slongname",
}

func knownFormat(s *spec.Schema) bool {
	kind := ""
	if len(s.Type) == 1 {
		kind = s.Type[0]
	}
	switch kind {
	case "", "string":
		return slices.Contains(textFormats, strings.ReplaceAll(s.Format, "-", ""))
	case "integer":
		return s.Format == "int32" || s.Format == "int64"
	case "number":
		return s.Format == "float" || s.Format == "double"
	}
	return false
}

// valueErrors says in Kubernetes' words what the validator finds.
func valueErrors(path *field.Path, v *validate.SchemaValidator, value any) field.ErrorList {
	result := v.Validate(value)
	if result.IsValid() {
		return nil
	}
	var errs field.ErrorList
	for _, err := range result.Errors {
		found, ok := err.(*openapierrors.Validation)
		if !ok {
			errs = append(errs, field.Invalid(path, "", err.Error()))
			continue
		}
		at := path
		if found.Name != "" && found.Name != "." {
			at = at.Child(strings.TrimPrefix(found.Name, "."))
		}
		errs = append(errs, valueError(at, found))
	}
	return errs
}

func valueError(at *field.Path, err *openapierrors.Validation) *field.Error {
	bound := func(v any) int {
		if n, ok := v.(int64); ok {
			return int(n)
		}
		return -1
	}
	value := err.Value
	if value == nil {
		value = ""
	}
	switch err.Code() {
	case openapierrors.RequiredFailCode:
		return field.Required(at, "")
	case openapierrors.EnumFailCode:
		return field.NotSupported(at, err.Value, enumTexts(err.Values))
	case openapierrors.TooLongFailCode:
		return field.TooLong(at, "", bound(err.Valid))
	case openapierrors.MaxItemsFailCode, openapierrors.TooManyPropertiesCode:
		return field.TooMany(at, bound(err.Value), bound(err.Valid))
	case openapierrors.InvalidTypeCode:
		return field.TypeInvalid(at, value, err.Error())
	}
	return field.Invalid(at, value, err.Error())
}

func enumTexts(values []any) []string {
	var texts []string
	for _, v := range values {
		text, ok := v.(string)
		if !ok {
			data, _ := json.Marshal(v)
			text = string(data)
		}
		texts = append(texts, text)
	}
	return texts
}
