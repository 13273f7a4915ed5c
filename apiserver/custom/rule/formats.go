package rule

import (
	"net/url"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	metavalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
)

// namedFormat is a form that a text may have. https://kubernetes.io/docs/reference/using-api/cel/#kubernetes-format-library
type namedFormat struct {
	name  string
	check func(string) []string // What is wrong with a text.
	size  uint64                // Of the pattern that a text is compared with, or of one that would take as long.
}

var formatType = types.NewObjectType("kubernetes.NamedFormat")

func formatValue(f namedFormat) ref.Val {
	return opaque[namedFormat]{f, formatType, func(a, b namedFormat) bool { return a.name == b.name }}
}

// formats are all that there are, by the names of their functions.
func formats() map[string]namedFormat {
	name := func(check metavalidation.ValidateNameFunc, prefix bool) func(string) []string {
		return func(text string) []string { return check(text, prefix) }
	}
	known := func(format, otherwise string) func(string) []string {
		return func(text string) []string {
			if strfmt.Default.Validates(format, text) {
				return nil
			}
			return []string{otherwise}
		}
	}
	uri := func(text string) []string {
		if _, err := url.ParseRequestURI(text); err != nil {
			return []string{err.Error()}
		}
		return nil
	}
	const label, subdomain, long = 30, 60, 1000
	return map[string]namedFormat{
		"dns1123Label":           {"DNS1123Label", name(metavalidation.NameIsDNSLabel, false), label},
		"dns1123Subdomain":       {"DNS1123Subdomain", name(metavalidation.NameIsDNSSubdomain, false), subdomain},
		"dns1035Label":           {"DNS1035Label", name(metavalidation.NameIsDNS1035Label, false), label},
		"dns1123LabelPrefix":     {"DNS1123LabelPrefix", name(metavalidation.NameIsDNSLabel, true), label},
		"dns1123SubdomainPrefix": {"DNS1123SubdomainPrefix", name(metavalidation.NameIsDNSSubdomain, true), subdomain},
		"dns1035LabelPrefix":     {"DNS1035LabelPrefix", name(metavalidation.NameIsDNS1035Label, true), label},
		"qualifiedName":          {"QualifiedName", validation.IsQualifiedName, subdomain},
		"labelValue":             {"LabelValue", validation.IsValidLabelValue, 40},
		"uri":                    {"URI", uri, long},
		"uuid":                   {"uuid", known("uuid", "does not match the UUID format"), uint64(len(strfmt.UUIDPattern))},
		"byte":                   {"byte", known("byte", "invalid base64"), 84},
		"date":                   {"date", known("date", "invalid date"), uint64(len(strfmt.DateTimePattern))},
		"datetime":               {"datetime", known("datetime", "invalid datetime"), uint64(len(strfmt.DateTimePattern))},
	}
}

func formatFunctions() []cel.EnvOption {
	all := formats()
	wrong := cel.OptionalType(cel.ListType(cel.StringType))
	functions := []cel.EnvOption{
		cel.Function("format.named", cel.Overload("format-named", []*cel.Type{cel.StringType}, cel.OptionalType(formatType), unary(func(name string) ref.Val {
			if f, ok := all[name]; ok {
				return types.OptionalOf(formatValue(f))
			}
			return types.OptionalNone
		}))),
		cel.Function("validate", cel.MemberOverload("format-validate", []*cel.Type{formatType, cel.StringType}, wrong, binary(func(f namedFormat, text string) ref.Val {
			if found := f.check(text); len(found) > 0 {
				return types.OptionalOf(types.NewStringList(types.DefaultTypeAdapter, found))
			}
			return types.OptionalNone
		}))),
	}
	for name, f := range all {
		id := "format." + name
		functions = append(functions, cel.Function(id, cel.Overload(id, nil, formatType, cel.FunctionBinding(func(...ref.Val) ref.Val { return formatValue(f) }))))
	}
	return functions
}
