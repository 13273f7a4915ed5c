package rule

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxTime bounds the evaluation of all rules of an object by the clock, should the count of costs have missed something.
const maxTime = 10 * time.Second

// maxMessage bounds a message that an expression makes, as Kubernetes bounds it.
const maxMessage = 5 * 1024

// Check finds the rules that an object breaks. old is what it replaces, nil for a new object. A rule that does not speak of
// oldSelf is not asked about what has not changed.
func (r *Rules) Check(obj, old map[string]any) field.ErrorList {
	if r == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	w := &walk{ctx: ctx, budget: perObject}
	var before any
	if old != nil {
		before = old
	}
	w.check(r, nil, obj, before, old != nil && reflect.DeepEqual(obj, old))
	return w.errs
}

// CheckDefault finds the rules that a default breaks, which would be broken by whoever leaves the field out.
func (r *Rules) CheckDefault(path *field.Path, value any) field.ErrorList {
	if r == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	w := &walk{ctx: ctx, budget: perObject}
	w.check(r, path, value, nil, false)
	return w.errs
}

// walk is the way through one object.
type walk struct {
	ctx    context.Context
	budget int64 // What may still be spent.
	errs   field.ErrorList
}

// check looks at a value and all within it. same tells that nothing in it has changed.
func (w *walk) check(r *Rules, path *field.Path, x, old any, same bool) {
	if r == nil || x == nil || w.budget < 0 {
		return
	}
	same = same || old != nil && reflect.DeepEqual(x, old)
	if len(r.own) > 0 {
		w.checkOwn(r, path, x, old, same)
	}
	switch x := x.(type) {
	case map[string]any:
		before, _ := old.(map[string]any)
		for name, value := range x {
			if child := r.properties[name]; child != nil {
				w.check(child, path.Child(name), value, before[name], same)
			} else if r.values != nil {
				w.check(r.values, path.Key(name), value, before[name], same)
			}
		}
	case []any:
		if r.items == nil {
			return
		}
		before, _ := old.([]any)
		find := byKey(r.schema, before)
		for i, value := range x {
			w.check(r.items, path.Index(i), value, find(value), same)
		}
	}
}

// byKey finds the item that has the keys of another in a list that is a map. In other lists there is no telling.
func byKey(s *schema.Structural, items []any) func(any) any {
	if s.XListType == nil || *s.XListType != "map" || len(items) == 0 {
		return func(any) any { return nil }
	}
	list := unordered{s: s}
	known := make(map[string]any, len(items))
	for _, item := range items {
		known[list.key(item)] = item
	}
	return func(item any) any { return known[list.key(item)] }
}

// variables are what an expression sees.
func variables(self, old any) map[string]any {
	vars := map[string]any{"self": self}
	if old != nil {
		vars["oldSelf"] = old
	}
	return vars
}

func (w *walk) checkOwn(r *Rules, path *field.Path, x, old any, same bool) {
	self := valueOf(x, r.schema, r.isResource)
	var before any
	maybe := any(types.OptionalNone)
	if old != nil {
		before = valueOf(old, r.schema, r.isResource)
		maybe = types.OptionalOf(types.DefaultTypeAdapter.NativeToValue(before))
	}
	for _, c := range r.own {
		optional := c.OptionalOldSelf != nil && *c.OptionalOldSelf
		if c.usesOld && old == nil && !optional || !c.usesOld && same {
			continue
		}
		vars := variables(self, before)
		if optional {
			vars["oldSelf"] = maybe
		}
		w.run(c, path, r.schema, x, vars)
		if w.budget < 0 {
			return
		}
	}
}

// run asks one rule.
func (w *walk) run(c compiled, path *field.Path, s *schema.Structural, x any, vars map[string]any) {
	fail := func(format string, args ...any) {
		w.errs = append(w.errs, field.Invalid(path, s.Type, fmt.Sprintf(format, args...)))
	}
	result, err := w.eval(c.program, vars)
	switch {
	case w.budget < 0 && err != nil:
		fail("'%v': no further validation rules will be run due to call cost exceeds limit for rule: %v", err, c.text())
		return
	case w.budget < 0:
		fail("validation failed due to running out of cost budget, no further validation rules will be run")
		return
	case err != nil:
		fail("%v evaluating rule: %v", err, c.text())
		return
	case result == true:
		return
	}
	at := path
	if c.at != nil {
		at = at.Child(c.at.String())
	}
	w.errs = append(w.errs, c.broken(at, s, x, w.say(c, vars)))
}

// eval runs a program within the budget, which it lowers; a budget below zero is spent.
func (w *walk) eval(program cel.Program, vars map[string]any) (any, error) {
	value, details, err := program.ContextEval(w.ctx, vars)
	if details != nil && details.ActualCost() != nil {
		w.budget -= int64(min(*details.ActualCost(), perObject+1))
	}
	if err != nil {
		if strings.HasPrefix(err.Error(), "operation cancelled") || w.ctx.Err() != nil {
			w.budget = -1
		}
		return nil, err
	}
	return value.Value(), nil
}

// say is the message of a broken rule: what its expression says, if that says something, else what is written, else the rule.
func (w *walk) say(c compiled, vars map[string]any) string {
	if c.message != nil {
		text, err := w.eval(c.message, vars)
		if said, ok := text.(string); err == nil && ok {
			said = strings.TrimSpace(said)
			if said != "" && len(said) <= maxMessage && !strings.Contains(said, "\n") {
				return said
			}
		}
	}
	if c.Message != "" {
		return strings.TrimSpace(c.Message)
	}
	return "failed rule: " + c.text()
}

// text is what a rule is called in errors.
func (c compiled) text() string {
	if c.Message != "" {
		return strings.TrimSpace(c.Message)
	}
	return strings.TrimSpace(c.Rule)
}

func (c compiled) broken(at *field.Path, s *schema.Structural, x any, detail string) *field.Error {
	value := x
	if s.Type == "object" || s.Type == "array" {
		value = field.OmitValueType{}
	}
	if c.Reason == nil {
		return field.Invalid(at, value, detail)
	}
	switch *c.Reason {
	case apiextensionsv1.FieldValueForbidden:
		return field.Forbidden(at, detail)
	case apiextensionsv1.FieldValueRequired:
		return field.Required(at, detail)
	case apiextensionsv1.FieldValueDuplicate:
		return field.Duplicate(at, value)
	}
	return field.Invalid(at, value, detail)
}
