package rule

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Rules are the rules of a schema and of all within it, ready to run. nil is none.
type Rules struct {
	schema     *schema.Structural
	isResource bool
	own        []compiled
	items      *Rules
	values     *Rules            // Of a map.
	properties map[string]*Rules // Of an object.
}

// compiled is one rule.
type compiled struct {
	apiextensionsv1.ValidationRule
	program cel.Program
	message cel.Program // Of the messageExpression; nil where there is none.
	usesOld bool
	at      *field.Path // Where in the value the error is; nil for the value itself.
}

// Compile makes the rules of a custom resource's schema ready. The errors are those of rules that are wrong.
func Compile(path *field.Path, s *schema.Structural) (*Rules, field.ErrorList) {
	return compile(path, s, true, nil)
}

// CompileValue is Compile for the schema of a value within an object.
func CompileValue(s *schema.Structural) *Rules {
	r, _ := compile(nil, s, false, nil)
	return r
}

// compile returns nil for a schema without rules. oldless is the list in which an item cannot be told which one it was before.
func compile(path *field.Path, s *schema.Structural, isResource bool, oldless *field.Path) (*Rules, field.ErrorList) {
	if s == nil {
		return nil, nil
	}
	r := &Rules{schema: s, isResource: isResource || s.XEmbeddedResource, properties: map[string]*Rules{}}
	own, errs := r.compileOwn(path, oldless)
	r.own = own
	below := oldless
	if s.Type == "array" && (s.XListType == nil || *s.XListType != "map") && below == nil {
		below = path
	}
	var more field.ErrorList
	r.items, more = compile(path.Child("items"), s.Items, false, below)
	errs = append(errs, more...)
	if s.AdditionalProperties != nil {
		r.values, more = compile(path.Child("additionalProperties"), s.AdditionalProperties.Structural, false, oldless)
		errs = append(errs, more...)
	}
	for name, prop := range s.Properties {
		child, more := compile(path.Child("properties").Key(name), &prop, false, oldless)
		errs = append(errs, more...)
		if child != nil {
			r.properties[name] = child
		}
	}
	if len(r.own) == 0 && r.items == nil && r.values == nil && len(r.properties) == 0 {
		return nil, errs
	}
	return r, errs
}

func (r *Rules) compileOwn(path, oldless *field.Path) ([]compiled, field.ErrorList) {
	var all []compiled
	var errs field.ErrorList
	envs := map[bool]func() (*cel.Env, error){} // By whether oldSelf is optional. Rules of one value share theirs.
	for _, optional := range []bool{false, true} {
		envs[optional] = sync.OnceValues(func() (*cel.Env, error) { return declare(r.schema, r.isResource, optional) })
	}
	for i, v := range r.schema.XValidations {
		at := path.Child("x-kubernetes-validations").Index(i)
		if wrong := checkTexts(at, v); len(wrong) > 0 {
			errs = append(errs, wrong...)
			continue
		}
		c, err := r.compileRule(at, v, envs[v.OptionalOldSelf != nil && *v.OptionalOldSelf])
		switch {
		case err != nil:
			errs = append(errs, err)
			continue
		case c.usesOld && oldless != nil:
			errs = append(errs, field.Invalid(at.Child("rule"), v.Rule, fmt.Sprintf("oldSelf cannot be used on the uncorrelatable portion of the schema within %v", oldless)))
		case !c.usesOld && v.OptionalOldSelf != nil:
			errs = append(errs, field.Invalid(at.Child("optionalOldSelf"), *v.OptionalOldSelf, "may not be set if oldSelf is not used in rule"))
		}
		all = append(all, c)
	}
	return all, errs
}

func (r *Rules) compileRule(at *field.Path, v apiextensionsv1.ValidationRule, declared func() (*cel.Env, error)) (compiled, *field.Error) {
	c := compiled{ValidationRule: v}
	env, err := declared()
	if err != nil {
		return c, field.Invalid(at.Child("rule"), v.Rule, err.Error())
	}
	ast, program, message := expression(env, v.Rule, cel.BoolType, "cel expression must evaluate to a bool")
	if message != "" {
		return c, field.Invalid(at.Child("rule"), v.Rule, message)
	}
	c.program = program
	for _, use := range ast.NativeRep().ReferenceMap() {
		c.usesOld = c.usesOld || use.Name == "oldSelf"
	}
	if v.MessageExpression != "" {
		_, program, message = expression(env, v.MessageExpression, cel.StringType, "must evaluate to a string")
		if message != "" {
			return c, field.Invalid(at.Child("messageExpression"), v.MessageExpression, "messageExpression "+message)
		}
		c.message = program
	}
	if v.FieldPath != "" {
		if c.at, err = fieldPath(r.schema, v.FieldPath); err != nil {
			return c, field.Invalid(at.Child("fieldPath"), v.FieldPath, "must be a valid path")
		}
	}
	return c, nil
}

// maxExpression bounds an expression's length, and with it how deep the compiler goes.
const maxExpression = 64 << 10

// expression compiles one; the message says what is wrong with it, "" for nothing.
func expression(env *cel.Env, text string, want *cel.Type, otherwise string) (*cel.Ast, cel.Program, string) {
	if len(text) > maxExpression {
		return nil, nil, fmt.Sprintf("must be no longer than %d bytes", maxExpression)
	}
	ast, issues := env.Compile(text)
	if issues != nil && issues.Err() != nil {
		return nil, nil, "compilation failed: " + issues.String()
	}
	if ast.OutputType() != want {
		return nil, nil, otherwise
	}
	program, err := env.Program(ast, bounds()...)
	if err != nil {
		return nil, nil, "program instantiation failed: " + err.Error()
	}
	return ast, program, ""
}

var reasons = []apiextensionsv1.FieldValueErrorReason{
	apiextensionsv1.FieldValueDuplicate, apiextensionsv1.FieldValueForbidden, apiextensionsv1.FieldValueInvalid, apiextensionsv1.FieldValueRequired,
}

// checkTexts checks what is in a rule besides CEL.
func checkTexts(at *field.Path, v apiextensionsv1.ValidationRule) field.ErrorList {
	var errs field.ErrorList
	invalid := func(name, value, message string) { errs = append(errs, field.Invalid(at.Child(name), value, message)) }
	blank := func(text string) bool { return text != "" && strings.TrimSpace(text) == "" }
	lines := func(text string) bool { return strings.ContainsAny(strings.TrimSpace(text), "\r\n") }
	switch {
	case strings.TrimSpace(v.Rule) == "":
		errs = append(errs, field.Required(at.Child("rule"), "rule is not specified"))
	case blank(v.Message):
		invalid("message", v.Message, "must be non-empty if specified")
	case lines(v.Message):
		invalid("message", v.Message, "must not contain line breaks")
	case lines(v.Rule) && v.Message == "":
		errs = append(errs, field.Required(at.Child("message"), "message must be specified if rule contains line breaks"))
	}
	if blank(v.MessageExpression) {
		errs = append(errs, field.Required(at.Child("messageExpression"), "messageExpression must be non-empty if specified"))
	}
	if v.Reason != nil && !slices.Contains(reasons, *v.Reason) {
		errs = append(errs, field.NotSupported(at.Child("reason"), *v.Reason, reasons))
	}
	if blank(v.FieldPath) {
		invalid("fieldPath", v.FieldPath, "must be non-empty if specified")
	}
	if strings.ContainsAny(v.FieldPath, "\r\n") {
		invalid("fieldPath", v.FieldPath, "must not contain line breaks")
	}
	return errs
}

// step is one of a field path: ".name" or "['name']".
var step = regexp.MustCompile(`^(?:\.([^.\[\]]+)|\['((?:[^'\\]|\\.)*)'\])`)

// fieldPath reads the path of a field within a value of the schema.
func fieldPath(s *schema.Structural, text string) (*field.Path, error) {
	var path *field.Path
	for text != "" {
		m := step.FindStringSubmatch(text)
		if m == nil || s == nil {
			return nil, fmt.Errorf("%q leads nowhere", text)
		}
		name := m[1] + strings.ReplaceAll(m[2], `\'`, `'`)
		if prop, ok := s.Properties[name]; ok {
			path, s = path.Child(name), &prop
		} else if s.AdditionalProperties != nil && s.AdditionalProperties.Structural != nil {
			path, s = path.Key(name), s.AdditionalProperties.Structural
		} else {
			return nil, fmt.Errorf("does not refer to a valid field")
		}
		text = text[len(m[0]):]
	}
	return path, nil
}
