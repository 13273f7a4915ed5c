package apiserver

import (
	"encoding/json"
	"reflect"

	"skiff/api"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// differing is copies of two objects of one Go type without what is the same in both: nobody comes to own anything there, and
// to compare it in the terms of server-side apply costs many times as much as in Go's. The kind stays, the managed fields
// do not. Custom resources are given back as they are.
func differing(old, obj runtime.Object) (runtime.Object, runtime.Object) {
	if _, tree := obj.(*unstructured.Unstructured); tree || reflect.TypeOf(old) != reflect.TypeOf(obj) {
		return old, obj
	}
	a, b := shallowCopy(old), shallowCopy(obj)
	before, after := a.Addr().Interface().(runtime.Object), b.Addr().Interface().(runtime.Object)
	metaOf(before).SetManagedFields(nil)
	metaOf(after).SetManagedFields(nil)
	for i := range a.NumField() {
		if a.Type().Field(i).Name != "TypeMeta" {
			clearSame(a.Field(i), b.Field(i))
		}
	}
	return before, after
}

// shallowCopy shares with the object all that its struct points to.
func shallowCopy(obj runtime.Object) reflect.Value {
	from := reflect.ValueOf(obj).Elem()
	to := reflect.New(from.Type()).Elem()
	to.Set(from)
	return to
}

// clearSame sets to zero what is the same in two values, down through the structs in them.
func clearSame(a, b reflect.Value) {
	if a.Kind() == reflect.Struct {
		if _, one := a.Addr().Interface().(json.Marshaler); !one { // A time or an amount is one value, whatever is in it.
			for i := range a.NumField() {
				clearSame(a.Field(i), b.Field(i))
			}
			return
		}
	}
	if api.SameValue(a, b) {
		a.SetZero()
		b.SetZero()
	}
}
