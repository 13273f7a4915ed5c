package apiserver

import (
	"encoding/json"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// Most patches set a label, an annotation or a number. To write all of the object as JSON for that, change a word and read it again
// is a third of what such a request costs. What a patch changes of structs, maps of texts, texts, numbers and truth values is the same
// by a merge patch and by a strategic one, and is done here in the Go value itself. Of all else, lists above all, and wherever something
// is wrong, nothing is done: the patch goes the long way, which has the words for it.

// patched is a copy of old with the patch in it. ok is false where only the long way can tell.
func (p patch) patched(old runtime.Object) (_ runtime.Object, ok bool) {
	_, tree := old.(*unstructured.Unstructured)
	if tree || p.kind != types.MergePatchType && p.kind != types.StrategicMergePatchType {
		return nil, false
	}
	obj := old.DeepCopyObject()
	if !p.patchStruct(reflect.ValueOf(obj).Elem(), p.body) {
		return nil, false
	}
	return obj, obj.GetObjectKind().GroupVersionKind() == old.GetObjectKind().GroupVersionKind()
}

// patchStruct brings the members of a JSON object to the fields of a struct.
func (p patch) patchStruct(v reflect.Value, patch []byte) (ok bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(patch, &members) != nil || members == nil {
		return false
	}
	fields := value.TypeReflectEntryOf(v.Type()).Fields()
	for name, member := range members {
		f := fields[name]
		if f == nil || strings.HasPrefix(name, "$") || !p.patchValue(f.GetFrom(v), member) {
			return false
		}
	}
	return true
}

// patchValue brings a member of a patch to what it is about.
func (p patch) patchValue(v reflect.Value, patch json.RawMessage) (ok bool) {
	switch t := v.Type(); {
	case !v.CanSet():
		return false
	case string(patch) == "null":
		v.SetZero()
		return true
	case hasOwnForm(t):
		return false
	case t.Kind() == reflect.Pointer && p.kind == types.StrategicMergePatchType && t.Elem().Kind() == reflect.Struct:
		return false // It may be one that is replaced: a disruption budget's selector is.
	case t.Kind() == reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		return p.patchValue(v.Elem(), patch)
	case t.Kind() == reflect.Struct:
		return p.patchStruct(v, patch)
	case t.Kind() == reflect.Map:
		return patchTexts(v, patch)
	case t.Kind() == reflect.String, t.Kind() == reflect.Bool, v.CanInt():
		return json.Unmarshal(patch, v.Addr().Interface()) == nil
	}
	return false
}

// patchTexts brings a member of a patch to a map of texts.
func patchTexts(v reflect.Value, patch json.RawMessage) (ok bool) {
	texts, ok := v.Addr().Interface().(*map[string]string)
	var members map[string]*string
	if !ok || json.Unmarshal(patch, &members) != nil {
		return false
	}
	if *texts == nil {
		*texts = make(map[string]string, len(members))
	}
	for name, text := range members {
		if strings.HasPrefix(name, "$") {
			return false
		}
		if text == nil {
			delete(*texts, name)
		} else {
			(*texts)[name] = *text
		}
	}
	return len(*texts) <= maxMembers
}
