package api

import (
	"bytes"
	"maps"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Same tells whether two values of one type mean the same: an empty list is none, and 1000m is 1. It is what [equality.Semantic]
// says, which keeps a list of all that it has seen, because there might be a circle. Objects of the API have none.
func Same[T any](a, b T) bool {
	return SameValue(reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem())
}

// SameValue is Same of two values of one type.
func SameValue(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint8:
		return a.Equal(b)
	case reflect.Struct:
		return sameStruct(a, b)
	case reflect.Pointer:
		return a.UnsafePointer() == b.UnsafePointer() || !a.IsNil() && !b.IsNil() && SameValue(a.Elem(), b.Elem())
	case reflect.Interface:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return a.Elem().Type() == b.Elem().Type() && SameValue(a.Elem(), b.Elem())
	case reflect.Slice:
		return a.Len() == b.Len() && (a.UnsafePointer() == b.UnsafePointer() || sameItems(a, b))
	case reflect.Map:
		return a.Len() == b.Len() && (a.Len() == 0 || a.UnsafePointer() == b.UnsafePointer() || sameEntries(a, b))
	}
	return equality.Semantic.DeepEqual(a.Interface(), b.Interface())
}

// sameStruct knows those that are one value, whatever is in them.
func sameStruct(a, b reflect.Value) bool {
	switch a.Type() {
	case reflect.TypeFor[resource.Quantity]():
		return pointerTo[resource.Quantity](a).Cmp(*pointerTo[resource.Quantity](b)) == 0
	case reflect.TypeFor[metav1.Time]():
		return pointerTo[metav1.Time](a).UTC() == pointerTo[metav1.Time](b).UTC()
	case reflect.TypeFor[metav1.MicroTime]():
		return pointerTo[metav1.MicroTime](a).UTC() == pointerTo[metav1.MicroTime](b).UTC()
	case reflect.TypeFor[metav1.FieldsV1]():
		return pointerTo[metav1.FieldsV1](a).Equal(*pointerTo[metav1.FieldsV1](b))
	}
	for i := range a.NumField() {
		if !SameValue(a.Field(i), b.Field(i)) {
			return false
		}
	}
	return true
}

// pointerTo points to a value, or, where nothing can, to a copy of it.
func pointerTo[T any](v reflect.Value) *T {
	if v.CanAddr() {
		return v.Addr().Interface().(*T)
	}
	t := v.Interface().(T)
	return &t
}

// sameItems compares two lists of one length.
func sameItems(a, b reflect.Value) bool {
	if a.Type().Elem().Kind() == reflect.Uint8 {
		return bytes.Equal(a.Bytes(), b.Bytes())
	}
	for i := range a.Len() {
		if !SameValue(a.Index(i), b.Index(i)) {
			return false
		}
	}
	return true
}

// sameEntries compares two maps of one size. To get at the values of most is to copy them; those of nearly all objects are of texts
// or of amounts.
func sameEntries(a, b reflect.Value) bool {
	switch a := a.Interface().(type) {
	case map[string]string:
		return maps.Equal(a, b.Interface().(map[string]string))
	case corev1.ResourceList:
		return maps.EqualFunc(a, b.Interface().(corev1.ResourceList), func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })
	}
	for all := a.MapRange(); all.Next(); {
		if other := b.MapIndex(all.Key()); !other.IsValid() || !SameValue(all.Value(), other) {
			return false
		}
	}
	return true
}
