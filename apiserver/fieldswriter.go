package apiserver

import (
	"cmp"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// fieldsWriter writes down which fields a new object sets, in the form of managed fields (FieldsV1), in one walk over the Go
// value. To compare the object with an empty one says the same, but is a quarter of what a create costs. Where something is
// out of the ordinary the writer gives up.
// https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
type fieldsWriter struct {
	types  *schema.Schema
	text   []byte
	gaveUp bool
}

// object gives all of an object's fields, if it can. empty is the object that there is before one is created.
func (w *fieldsWriter) object(empty, v reflect.Value, ref schema.TypeRef, nobodys nobodys) (fields []byte, ok bool) {
	is, known := w.types.Resolve(ref)
	if !known || is.Map == nil {
		return nil, false
	}
	w.text = append(make([]byte, 0, usualFields), '{')
	w.members(empty, v, is.Map, nobodys)
	return append(w.text, '}'), !w.gaveUp && len(w.text) > len("{")
}

const usualFields = 2 << 10 // Bytes, at most, that most objects' take.

// members writes the fields of a struct, but for those that are nobody's. empty is the struct as an object begins with it: what it
// has on the wire, nobody has set. It is invalid where an object begins with none. any tells whether v has fields on the wire.
func (w *fieldsWriter) members(empty, v reflect.Value, of *schema.Map, nobodys nobodys) (any bool) {
	for _, f := range value.TypeReflectEntryOf(v.Type()).OrderedFields() {
		now := f.GetFrom(v)
		if f.CanOmit(now) {
			continue
		}
		any = true
		within, some := nobodys[f.JsonName]
		if some && within == nil {
			continue
		}
		var before reflect.Value
		if empty.IsValid() {
			if b := f.GetFrom(empty); !f.CanOmit(b) {
				before = b
			}
		}
		field, known := of.FindField(f.JsonName)
		w.gaveUp = w.gaveUp || !known
		w.element("f:", f.JsonName, before, now, field.Type, within)
	}
	return any
}

// element writes the name of a part, and within it what of the part is set; nothing, if nothing is.
func (w *fieldsWriter) element(sort, name string, empty, v reflect.Value, ref schema.TypeRef, nobodys nobodys) {
	start := len(w.text)
	if w.text[start-1] != '{' {
		w.text = append(w.text, ',')
	}
	w.text = append(append(append(append(w.text, '"'), sort...), name...), `":{`...)
	inside := len(w.text)
	switch itself := w.value(empty, v, ref, nobodys); {
	case itself && len(w.text) > inside:
		w.text = slices.Insert(w.text, inside, []byte(`".":{},`)...)
	case !itself && len(w.text) == inside:
		w.text = w.text[:start]
		return
	}
	w.text = append(w.text, '}')
}

// value writes what is set within v, and tells whether v is set itself: whether it is what an object begins without.
func (w *fieldsWriter) value(empty, v reflect.Value, ref schema.TypeRef, nobodys nobodys) (itself bool) {
	is, known := w.types.Resolve(ref)
	in := reflect.Indirect(v)
	switch {
	case w.gaveUp || !known || is.Map != nil && is.List != nil && !isNumberOrText(in): // The last is what may be anything.
		w.gaveUp = true
		return false
	case isLeaf(is, in):
		return w.leaf(empty, v)
	case is.List != nil && in.Kind() == reflect.Slice:
		w.items(in, is.List)
	case is.Map != nil && in.Kind() == reflect.Map:
		w.entries(in, is.Map)
	case is.Map != nil && in.Kind() == reflect.Struct && !hasOwnForm(in.Type()):
		within := empty
		if v.Kind() == reflect.Pointer {
			within = reflect.Value{} // An object begins without it, or with null.
		}
		if !w.members(within, in, is.Map, nobodys) {
			return w.leaf(empty, v)
		}
	default:
		w.gaveUp = true
	}
	return !empty.IsValid()
}

// isLeaf tells what nothing can be set within: scalars, what is atomic, what is null or empty.
func isLeaf(is schema.Atom, v reflect.Value) bool {
	switch {
	case is.Scalar != nil, !v.IsValid():
		return true
	case v.Kind() == reflect.Slice || v.Kind() == reflect.Map:
		if v.Len() == 0 {
			return true
		}
	}
	return is.List != nil && is.List.ElementRelationship == schema.Atomic || is.Map != nil && is.Map.ElementRelationship == schema.Atomic
}

// hasOwnForm tells the types that say themselves how they read on the wire, such as times.
func hasOwnForm(t reflect.Type) bool { return value.TypeReflectEntryOf(t).CanConvertToUnstructured() }

// isNumberOrText tells what may be either, such as a port: in the terms of the schema, that may be anything.
func isNumberOrText(v reflect.Value) bool {
	return v.IsValid() && v.Type() == reflect.TypeFor[intstr.IntOrString]()
}

// leaf tells whether v is something else than what an object begins with.
func (w *fieldsWriter) leaf(empty, v reflect.Value) bool {
	switch in := reflect.Indirect(v); {
	case !empty.IsValid():
		return true
	case v.IsZero():
		return false
	case in.Kind() == reflect.Struct: // Two that differ in Go may read the same.
		return !w.same(empty, v)
	}
	return true
}

// same tells whether two structs, or pointers to some, read the same on the wire.
func (w *fieldsWriter) same(a, b reflect.Value) bool {
	if a.Kind() != reflect.Pointer {
		a, b = a.Addr(), b.Addr()
	}
	was, err := value.NewValueReflect(a.Interface())
	is, otherErr := value.NewValueReflect(b.Interface())
	w.gaveUp = w.gaveUp || err != nil || otherErr != nil
	return !w.gaveUp && value.Equals(was, is)
}

// entries writes those of a map. An object begins without any.
func (w *fieldsWriter) entries(v reflect.Value, of *schema.Map) {
	if v.Type().Key().Kind() != reflect.String {
		w.gaveUp = true
		return
	}
	names := v.MapKeys()
	slices.SortFunc(names, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
	for _, name := range names {
		w.gaveUp = w.gaveUp || !isPlain(name.String())
		w.element("f:", name.String(), reflect.Value{}, v.MapIndex(name), of.ElementType, nil)
	}
}

// items writes those of a list, each called by its keys, or by its value where the list is a set. An object begins without any.
func (w *fieldsWriter) items(v reflect.Value, of *schema.List) {
	items := make([]listItem, v.Len())
	for i := range items {
		items[i] = listItem{w.keysOf(v.Index(i), of), v.Index(i)}
	}
	if w.gaveUp {
		return
	}
	slices.SortFunc(items, func(a, b listItem) int { return slices.CompareFunc(a.keys, b.keys, listKey.compare) })
	for i, it := range items {
		w.gaveUp = w.gaveUp || i > 0 && slices.Equal(it.keys, items[i-1].keys) // Twice the same is another story.
		sort := "k:"
		if len(of.Keys) == 0 {
			sort = "v:"
		}
		w.element(sort, nameOf(it.keys), reflect.Value{}, it.value, of.ElementType, nil)
	}
}

// listItem is an item of a list with what it is called by: its keys, in order, or itself, under no name.
type listItem struct {
	keys  []listKey
	value reflect.Value
}

type listKey struct {
	name  string
	value any // A string or an int64.
}

func (k listKey) compare(other listKey) int {
	a, number := k.value.(int64)
	b, otherNumber := other.value.(int64)
	switch {
	case k.name != other.name:
		return cmp.Compare(k.name, other.name)
	case number && otherNumber:
		return cmp.Compare(a, b)
	case number:
		return -1
	case otherNumber:
		return 1
	}
	return cmp.Compare(k.value.(string), other.value.(string))
}

// keysOf finds what an item is called by. A key that the item does not have counts with its default.
func (w *fieldsWriter) keysOf(item reflect.Value, of *schema.List) []listKey {
	if len(of.Keys) == 0 {
		return []listKey{{"", w.scalar(item)}}
	}
	is, _ := w.types.Resolve(of.ElementType)
	if item.Kind() != reflect.Struct || is.Map == nil {
		w.gaveUp = true
		return nil
	}
	keys := make([]listKey, 0, len(of.Keys))
	for _, name := range of.Keys {
		field, _ := is.Map.FindField(name)
		f := value.TypeReflectEntryOf(item.Type()).Fields()[name]
		if f == nil {
			w.gaveUp = true
			return nil
		}
		switch v := f.GetFrom(item); {
		case !f.CanOmit(v):
			keys = append(keys, listKey{name, w.scalar(reflect.Indirect(v))})
		case field.Default != nil:
			keys = append(keys, listKey{name, w.scalar(reflect.ValueOf(field.Default))})
		}
	}
	w.gaveUp = w.gaveUp || len(keys) == 0
	slices.SortFunc(keys, func(a, b listKey) int { return cmp.Compare(a.name, b.name) })
	return keys
}

// scalar is a key's value: a plain text or a whole number.
func (w *fieldsWriter) scalar(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.String && isPlain(v.String()):
		return v.String()
	case v.CanInt() && !hasOwnForm(v.Type()):
		return v.Int()
	}
	w.gaveUp = true
	return ""
}

// nameOf is what a list's item is called, as JSON within the text of a JSON key.
func nameOf(keys []listKey) string {
	var b []byte
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		if k.name != "" {
			b = append(append(append(b, `\"`...), k.name...), `\":`...)
		}
		switch v := k.value.(type) {
		case int64:
			b = strconv.AppendInt(b, v, 10)
		case string:
			b = append(append(append(b, `\"`...), v...), `\"`...)
		}
	}
	if keys[0].name == "" {
		return string(b)
	}
	return "{" + string(b) + "}"
}

// isPlain tells a text that reads in JSON as it is.
func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || strings.IndexByte(`"\<>&`, c) >= 0 {
			return false
		}
	}
	return true
}
