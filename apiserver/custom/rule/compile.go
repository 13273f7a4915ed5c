package rule

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
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
	return compile(s, place{path: path, isResource: true, often: bounded(1)})
}

// CompileValue is Compile for the schema of a value within an object.
func CompileValue(s *schema.Structural) *Rules {
	r, _ := compile(s, place{often: bounded(1)})
	return r
}

// Check finds what is wrong with the rules of a custom resource's schema, what they could cost at worst included.
func Check(path *field.Path, s *schema.Structural) field.ErrorList {
	b := &bill{}
	_, errs := compile(s, place{path: path, isResource: true, often: bounded(1), bill: b})
	return append(errs, b.errors(path)...)
}

// place is where a schema stands in that of the object.
type place struct {
	path       *field.Path
	isResource bool
	oldless    *field.Path // The list in which an item cannot be told which one it was before.
	often      *uint64     // How many values of the schema an object may have; nil where the schemas around it set no bound.
	bill       *bill       // nil where nobody asks what the rules could cost.
}

func bounded(n uint64) *uint64 { return &n }

// child is the place of a schema within this one. limit is how many such values there may be in one of this.
func (p place) child(path *field.Path, limit *uint64) place {
	p.path, p.isResource = path, false
	if p.often != nil && limit != nil {
		p.often = bounded(times(*p.often, *limit))
	} else {
		p.often = nil
	}
	return p
}

func limitOf(n *int64) *uint64 {
	if n == nil {
		return nil
	}
	return bounded(uint64(max(*n, 0)))
}

// compile returns nil for a schema without rules.
func compile(s *schema.Structural, at place) (*Rules, field.ErrorList) {
	if s == nil {
		return nil, nil
	}
	r := &Rules{schema: s, isResource: at.isResource || s.XEmbeddedResource, properties: map[string]*Rules{}}
	own, errs := r.compileOwn(at)
	r.own = own
	var more field.ErrorList
	items := at.child(at.path.Child("items"), limitOf(limitsOf(s).MaxItems))
	if s.Type == "array" && (s.XListType == nil || *s.XListType != "map") && items.oldless == nil {
		items.oldless = at.path
	}
	r.items, more = compile(s.Items, items)
	errs = append(errs, more...)
	if s.AdditionalProperties != nil {
		values := at.child(at.path.Child("additionalProperties"), limitOf(limitsOf(s).MaxProperties))
		r.values, more = compile(s.AdditionalProperties.Structural, values)
		errs = append(errs, more...)
	}
	for name, prop := range s.Properties {
		child, more := compile(&prop, at.child(at.path.Child("properties").Key(name), bounded(1)))
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

func (r *Rules) compileOwn(place place) ([]compiled, field.ErrorList) {
	var all []compiled
	var errs field.ErrorList
	envs := map[bool]func() (*cel.Env, error){} // By whether oldSelf is optional. Rules of one value share theirs.
	for _, optional := range []bool{false, true} {
		envs[optional] = sync.OnceValues(func() (*cel.Env, error) { return declare(r.schema, r.isResource, optional) })
	}
	for i, v := range r.schema.XValidations {
		at := place.path.Child("x-kubernetes-validations").Index(i)
		if wrong := checkTexts(at, v); len(wrong) > 0 {
			errs = append(errs, wrong...)
			continue
		}
		env, err := envs[v.OptionalOldSelf != nil && *v.OptionalOldSelf]()
		if err != nil {
			errs = append(errs, field.Invalid(at.Child("rule"), v.Rule, err.Error()))
			continue
		}
		c, wrong := r.compileRule(place, at, v, env)
		errs = append(errs, wrong...)
		switch {
		case c.usesOld && place.oldless != nil:
			errs = append(errs, field.Invalid(at.Child("rule"), v.Rule, fmt.Sprintf("oldSelf cannot be used on the uncorrelatable portion of the schema within %v", place.oldless)))
		case !c.usesOld && v.OptionalOldSelf != nil:
			errs = append(errs, field.Invalid(at.Child("optionalOldSelf"), *v.OptionalOldSelf, "may not be set if oldSelf is not used in rule"))
		}
		if len(wrong) == 0 {
			all = append(all, c)
		}
	}
	return all, errs
}

func (r *Rules) compileRule(place place, at *field.Path, v apiextensionsv1.ValidationRule, env *cel.Env) (c compiled, errs field.ErrorList) {
	c = compiled{ValidationRule: v}
	ast, program, message := expression(env, v.Rule, cel.BoolType, "cel expression must evaluate to a bool")
	if message != "" {
		return c, field.ErrorList{field.Invalid(at.Child("rule"), internal(v), message)}
	}
	c.program = program
	for _, use := range ast.NativeRep().ReferenceMap() {
		c.usesOld = c.usesOld || use.Name == "oldSelf"
	}
	if place.bill != nil {
		errs = append(errs, r.charge(place, at.Child("rule"), "estimated rule cost", env, ast)...)
	}
	if v.MessageExpression != "" {
		ast, program, message = expression(env, v.MessageExpression, cel.StringType, "must evaluate to a string")
		if message != "" {
			return c, append(errs, field.Invalid(at.Child("messageExpression"), internal(v), "messageExpression "+message))
		}
		c.message = program
		if place.bill != nil {
			place.often = bounded(1) // As in Kubernetes.
			errs = append(errs, r.charge(place, at.Child("messageExpression"), "estimated messageExpression cost", env, ast)...)
		}
	}
	if v.FieldPath != "" {
		var err error
		if c.at, err = fieldPath(r.schema, v.FieldPath); err != nil {
			errs = append(errs, field.Invalid(at.Child("fieldPath"), v.FieldPath, "must be a valid path"))
		}
	}
	return c, errs
}

// internal is a rule in the form in which Kubernetes shows it where it does not compile.
func internal(v apiextensionsv1.ValidationRule) apiextensions.ValidationRule {
	return apiextensions.ValidationRule{
		Rule: v.Rule, Message: v.Message, MessageExpression: v.MessageExpression,
		Reason: (*apiextensions.FieldValueErrorReason)(v.Reason), FieldPath: v.FieldPath, OptionalOldSelf: v.OptionalOldSelf,
	}
}

// charge puts on the bill what an expression could cost in one object.
func (r *Rules) charge(place place, at *field.Path, what string, env *cel.Env, ast *cel.Ast) field.ErrorList {
	self := shapeOf(r.schema, r.isResource)
	cost, err := atWorst(env, ast, self)
	if err != nil {
		return field.ErrorList{field.InternalError(at, fmt.Errorf("cost estimation failed: %w", err))}
	}
	often := self.often()
	if place.often != nil {
		often = *place.often
	}
	if err := place.bill.add(at, what, times(cost, often)); err != nil {
		return field.ErrorList{err}
	}
	return nil
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
