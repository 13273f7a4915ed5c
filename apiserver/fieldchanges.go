package apiserver

import (
	"maps"
	"reflect"
	"slices"

	"skiff/api"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// fieldChanges finds which fields differ between two versions of an object, in one walk over the Go values. The comparison of
// server-side apply finds the same in ten times as long. Where more has changed than texts, numbers, truth values, lists that
// are one value, and entries of maps of texts, the walk gives up.
type fieldChanges struct {
	types  *schema.Schema
	path   fieldpath.Path
	found  typed.Comparison
	gaveUp bool
}

func newFieldChanges(types *schema.Schema) *fieldChanges {
	return &fieldChanges{types: types, found: typed.Comparison{Added: fieldpath.NewSet(), Modified: fieldpath.NewSet(), Removed: fieldpath.NewSet()}}
}

// members compares the fields of a struct, but for those that are passed over.
func (c *fieldChanges) members(old, now reflect.Value, ref schema.TypeRef, pass nobodys) {
	is := c.separable(ref)
	if is == nil {
		c.gaveUp = true
		return
	}
	for _, f := range value.TypeReflectEntryOf(old.Type()).OrderedFields() {
		within, some := pass[f.JsonName]
		if c.gaveUp || some && within == nil {
			continue
		}
		a, b := f.GetFrom(old), f.GetFrom(now)
		if api.SameValue(a, b) {
			continue
		}
		field, known := is.FindField(f.JsonName)
		structs := known && a.Kind() == reflect.Struct && !hasOwnForm(a.Type()) && c.separable(field.Type) != nil
		c.gaveUp = !known
		c.enter(f.JsonName)
		switch hadNone, hasNone := f.CanOmit(a), f.CanOmit(b); {
		case !known:
		case structs && hadNone && hasNone:
		case structs && (hadNone || hasNone):
			c.gaveUp = true
		case structs:
			c.members(a, b, field.Type, within)
		case a.Kind() == reflect.Map:
			c.texts(a, b, field.Type)
		default:
			c.leaf(a, b, hadNone, hasNone, field.Type)
		}
		c.leave()
	}
}

// separable is what fields or entries a type has; nil if it has none, or they are only set together.
func (c *fieldChanges) separable(ref schema.TypeRef) *schema.Map {
	is, known := c.types.Resolve(ref)
	if !known || is.Map == nil || is.Scalar != nil || is.List != nil || is.Map.ElementRelationship == schema.Atomic {
		return nil
	}
	return is.Map
}

func (c *fieldChanges) enter(name string) {
	c.path = append(c.path, fieldpath.PathElement{FieldName: &name})
}

func (c *fieldChanges) leave() { c.path = c.path[:len(c.path)-1] }

// leaf compares what nothing can be set within.
func (c *fieldChanges) leaf(a, b reflect.Value, hadNone, hasNone bool, ref schema.TypeRef) {
	is, known := c.types.Resolve(ref)
	t, pointer := a.Type(), a.Kind() == reflect.Pointer
	if pointer {
		t = t.Elem()
	}
	when := t == reflect.TypeFor[metav1.Time]()
	plain := !hasOwnForm(t) && slices.Contains([]reflect.Kind{reflect.String, reflect.Bool, reflect.Int32, reflect.Int64}, t.Kind())
	list := a.Kind() == reflect.Slice && known && is.List != nil && is.List.ElementRelationship == schema.Atomic
	scalar := known && is.Scalar != nil && is.List == nil && (plain || when)
	switch {
	case is.Map != nil || !scalar && !list:
		c.gaveUp = true
	case list && (a.Len() == 0) != hadNone || list && (b.Len() == 0) != hasNone: // One that reads as null.
		c.gaveUp = true
	case (when || pointer) && (a.IsZero() != hadNone || b.IsZero() != hasNone): // So does this.
		c.gaveUp = true
	case hadNone:
		c.found.Added.Insert(c.path)
	case hasNone:
		c.found.Removed.Insert(c.path)
	default:
		c.found.Modified.Insert(c.path)
	}
}

// texts compares two maps of texts that both have some.
func (c *fieldChanges) texts(a, b reflect.Value, ref schema.TypeRef) {
	old, ok := a.Interface().(map[string]string)
	if !ok || c.separable(ref) == nil || a.Len() == 0 || b.Len() == 0 {
		c.gaveUp = true
		return
	}
	now := b.Interface().(map[string]string)
	for _, name := range slices.Concat(slices.Collect(maps.Keys(old)), slices.Collect(maps.Keys(now))) {
		before, had := old[name]
		after, has := now[name]
		c.enter(name)
		switch {
		case !had:
			c.found.Added.Insert(c.path)
		case !has:
			c.found.Removed.Insert(c.path)
		case before != after:
			c.found.Modified.Insert(c.path)
		}
		c.leave()
	}
}
