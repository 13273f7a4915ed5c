package rule

import (
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
)

// schemaTypes are the CEL types of objects within a schema, by name. An object's type knows its fields.
type schemaTypes struct {
	types.Provider // Of CEL's own types.
	objects        map[string]map[string]*types.FieldType
}

// FindStructType finds the type of an object.
func (t schemaTypes) FindStructType(name string) (*types.Type, bool) {
	if _, ok := t.objects[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return t.Provider.FindStructType(name)
}

// FindStructFieldNames names the fields of an object.
func (t schemaTypes) FindStructFieldNames(name string) ([]string, bool) {
	fields, ok := t.objects[name]
	if !ok {
		return t.Provider.FindStructFieldNames(name)
	}
	var names []string
	for field := range fields {
		names = append(names, field)
	}
	return names, true
}

// FindStructFieldType finds the type of an object's field.
func (t schemaTypes) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	fields, ok := t.objects[name]
	if !ok {
		return t.Provider.FindStructFieldType(name, field)
	}
	f, ok := fields[field]
	return f, ok
}

// typeOf is the CEL type of values of a schema; nil where the schema does not say what they are, so that no rule can
// speak of them. It notes the types of objects.
func (t schemaTypes) typeOf(name string, s *schema.Structural, isResource bool) *types.Type {
	switch {
	case s == nil:
		return nil
	case s.XIntOrString:
		return types.DynType
	}
	switch s.Type {
	case "array":
		if item := t.typeOf(name+".@item", s.Items, s.Items != nil && s.Items.XEmbeddedResource); item != nil {
			return cel.ListType(item)
		}
		return nil
	case "object":
		if more := s.AdditionalProperties; more != nil && more.Structural != nil {
			if value := t.typeOf(name+".@value", more.Structural, more.Structural.XEmbeddedResource); value != nil {
				return cel.MapType(cel.StringType, value)
			}
			return nil
		}
		return t.objectType(name, s, isResource || s.XEmbeddedResource)
	case "string":
		return textType(s)
	case "boolean":
		return cel.BoolType
	case "integer":
		return cel.IntType
	case "number":
		return cel.DoubleType
	}
	return nil
}

func (t schemaTypes) objectType(name string, s *schema.Structural, isResource bool) *types.Type {
	fields := map[string]*types.FieldType{}
	for field, prop := range properties(s, isResource) {
		if kind := t.typeOf(name+"."+field, &prop, prop.XEmbeddedResource); kind != nil {
			if escaped, ok := escape(field); ok {
				fields[escaped] = &types.FieldType{Type: kind}
			}
		}
	}
	t.objects[name] = fields
	return types.NewObjectType(name)
}

// properties are an object's fields. A resource has a kind and a name, whatever its schema says.
func properties(s *schema.Structural, isResource bool) map[string]schema.Structural {
	if !isResource {
		return s.Properties
	}
	text := schema.Structural{Generic: schema.Generic{Type: "string"}}
	said := s.Properties["metadata"].Properties
	all := map[string]schema.Structural{
		"apiVersion": text, "kind": text,
		"metadata": {Generic: schema.Generic{Type: "object"}, Properties: map[string]schema.Structural{
			"name": nameField(longestName, said["name"]), "generateName": nameField(longestBeginning, said["generateName"]),
		}},
	}
	for name, prop := range s.Properties {
		if _, own := all[name]; !own {
			all[name] = prop
		}
	}
	return all
}

// textType is the type of a string of some format.
func textType(s *schema.Structural) *types.Type {
	switch format(s) {
	case "byte":
		return cel.BytesType
	case "duration":
		return cel.DurationType
	case "date", "date-time":
		return cel.TimestampType
	}
	return cel.StringType
}

func format(s *schema.Structural) string {
	if s.ValueValidation == nil {
		return ""
	}
	return s.ValueValidation.Format
}

// reserved words of CEL cannot be the name of a field as they are.
var reserved = map[string]bool{
	"true": true, "false": true, "null": true, "in": true, "as": true, "break": true, "const": true, "continue": true, "else": true, "for": true,
	"function": true, "if": true, "import": true, "let": true, "loop": true, "package": true, "namespace": true, "return": true, "var": true,
	"void": true, "while": true,
}

// escape is how a rule writes the name of a field; ok is false for one that no rule can write.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#escaping
func escape(name string) (escaped string, ok bool) {
	if reserved[name] {
		return "__" + name + "__", true
	}
	if name == "" || name[0] >= '0' && name[0] <= '9' {
		return "", false
	}
	var out strings.Builder
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case strings.HasPrefix(name[i:], "__"):
			out.WriteString("__underscores__")
			i++
		case c == '.':
			out.WriteString("__dot__")
		case c == '-':
			out.WriteString("__dash__")
		case c == '/':
			out.WriteString("__slash__")
		case c == '_', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
			out.WriteByte(c)
		default:
			return "", false
		}
	}
	return out.String(), true
}

// declare makes an environment in which self and oldSelf are of the schema's type.
func declare(s *schema.Structural, isResource, optionalOld bool) (*cel.Env, error) {
	env, err := base()
	if err != nil {
		return nil, err
	}
	known := schemaTypes{env.CELTypeProvider(), map[string]map[string]*types.FieldType{}}
	self := known.typeOf("@self", s, isResource) // No rule can write this name: "self.spec" is a field there, and no type.
	if self == nil {
		return nil, fmt.Errorf("the schema does not say of what type the value is")
	}
	old := self
	if optionalOld {
		old = cel.OptionalType(self)
	}
	return env.Extend(cel.CustomTypeProvider(known), cel.Variable("self", self), cel.Variable("oldSelf", old))
}
