package custom

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ratchet leaves out the errors about values that are what they were before. What an error in a list is about is the whole
// list: which item was which before, its place does not say.
func ratchet(errs field.ErrorList, now, before map[string]any) field.ErrorList {
	var kept field.ErrorList
	for _, err := range errs {
		if a, b, ok := valuesAt(err, now, before); !ok || !reflect.DeepEqual(a, b) {
			kept = append(kept, err)
		}
	}
	return kept
}

// valuesAt finds what an error is about in both objects. A field that is missing is its parent's fault.
func valuesAt(err *field.Error, now, before map[string]any) (a, b any, ok bool) {
	names := strings.Split(err.Field, ".")
	if err.Type == field.ErrorTypeRequired {
		names = names[:len(names)-1]
	}
	a, b = now, before
	for _, name := range names {
		name, index, isItem := strings.Cut(name, "[")
		x, isMap := a.(map[string]any)
		y, wasMap := b.(map[string]any)
		if !isMap || !wasMap {
			return nil, nil, false
		}
		var is, was bool
		a, is = x[name]
		b, was = y[name]
		if !is || !was {
			return nil, nil, false
		}
		if isItem && index != "" {
			return a, b, true
		}
	}
	return a, b, len(names) > 0
}
