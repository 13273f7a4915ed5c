package rule

import (
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
)

// valueOf is an object's value as CEL knows it: with its fields' names escaped, numbers and formatted strings of the schema's
// types, and lists that compare as the schema says.
func valueOf(x any, s *schema.Structural, isResource bool) any {
	if s == nil || s.XIntOrString {
		return x
	}
	switch x := x.(type) {
	case map[string]any:
		return objectOf(x, s, isResource || s.XEmbeddedResource)
	case []any:
		list := make([]any, len(x))
		for i, item := range x {
			list[i] = valueOf(item, s.Items, false)
		}
		if s.XListType != nil && *s.XListType != "atomic" {
			return unordered{types.DefaultTypeAdapter.NativeToValue(list).(traits.Lister), x, s}
		}
		return list
	case string:
		return textOf(x, s)
	case int64:
		if s.Type == "number" {
			return float64(x)
		}
	}
	return x
}

func objectOf(x map[string]any, s *schema.Structural, isResource bool) map[string]any {
	out := make(map[string]any, len(x))
	if s.AdditionalProperties != nil && s.AdditionalProperties.Structural != nil {
		for name, value := range x {
			out[name] = valueOf(value, s.AdditionalProperties.Structural, false)
		}
		return out
	}
	for name, prop := range properties(s, isResource) {
		if value, ok := x[name]; ok {
			if escaped, ok := escape(name); ok {
				out[escaped] = valueOf(value, &prop, false)
			}
		}
	}
	return out
}

// textOf is a string of a format; one that is not of it is an error where a rule uses it.
func textOf(x string, s *schema.Structural) any {
	var value any
	var err error
	switch format(s) {
	case "byte":
		value, err = base64.StdEncoding.DecodeString(x)
	case "duration":
		value, err = strfmt.ParseDuration(x)
	case "date":
		value, err = time.Parse(strfmt.RFC3339FullDate, x)
	case "date-time":
		var at strfmt.DateTime
		at, err = strfmt.ParseDateTime(x)
		value = time.Time(at)
	default:
		return x
	}
	if err != nil {
		return types.WrapErr(err)
	}
	return value
}

// unordered is a list that is a set, or a map by some keys of its items: it equals another of the same items in any order, and
// what is added to it takes the place of what has the same key.
type unordered struct {
	traits.Lister
	items []any
	s     *schema.Structural
}

// key is what an item of the list is known by.
func (u unordered) key(item any) string {
	if *u.s.XListType == "map" {
		object, _ := item.(map[string]any)
		keys := make([]any, len(u.s.XListMapKeys))
		for i, name := range u.s.XListMapKeys {
			keys[i] = object[name]
		}
		item = keys
	}
	data, _ := json.Marshal(item) // It came from JSON.
	return string(data)
}

// Equal compares without regard to order.
func (u unordered) Equal(other ref.Val) ref.Val {
	o, ok := other.(unordered)
	if !ok {
		return u.Lister.Equal(other)
	}
	if len(u.items) != len(o.items) {
		return types.False
	}
	places := map[string]int{}
	for i, item := range u.items {
		places[u.key(item)] = i
	}
	for i, item := range o.items {
		mine, ok := places[u.key(item)]
		if !ok || u.Get(types.Int(mine)).Equal(o.Get(types.Int(i))) != types.True {
			return types.False
		}
	}
	return types.True
}

// Add joins two lists; an item of the second takes the place of the first's that has the same key.
func (u unordered) Add(other ref.Val) ref.Val {
	o, ok := other.(unordered)
	if !ok {
		return u.Lister.Add(other)
	}
	items := append([]any(nil), u.items...)
	places := map[string]int{}
	for i, item := range items {
		places[u.key(item)] = i
	}
	for _, item := range o.items {
		if i, ok := places[u.key(item)]; ok {
			items[i] = item
			continue
		}
		places[u.key(item)] = len(items)
		items = append(items, item)
	}
	return types.DefaultTypeAdapter.NativeToValue(valueOf(items, u.s, false))
}
