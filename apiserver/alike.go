package apiserver

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// alike holds once what objects have in common. They never change, and many are made of one template by one writer: the record
// of who set which of their fields is then the same, and so are the amounts that they request, and together that is a third
// of what a small pod takes. It is forgotten when it has become large; objects that were given a part keep it.
type alike struct {
	fields    map[string]*metav1.FieldsV1
	resources map[string]corev1.ResourceList
}

// maxAlike is how many different parts of one sort are remembered.
const maxAlike = 1024

// share gives a new object those parts that others had before it.
func (a *alike) share(obj runtime.Object) {
	if _, tree := obj.(*unstructured.Unstructured); tree {
		return // It makes its parts when it is asked for them.
	}
	entries := metaOf(obj).GetManagedFields()
	for i := range entries {
		if f := &entries[i].FieldsV1; *f != nil {
			*f = first(&a.fields, (*f).GetRawBytes(), *f)
		}
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	var key []byte
	for i := range pod.Spec.Containers {
		r := &pod.Spec.Containers[i].Resources
		for _, list := range []*corev1.ResourceList{&r.Limits, &r.Requests} {
			if len(*list) > 0 {
				key = appendResources(key[:0], *list)
				*list = first(&a.resources, key, *list)
			}
		}
	}
}

// first is the part that came first with this key: part, if none did.
func first[T any](known *map[string]T, key []byte, part T) T {
	if earlier, ok := (*known)[string(key)]; ok {
		return earlier
	}
	if *known == nil || len(*known) == maxAlike {
		*known = map[string]T{}
	}
	(*known)[string(key)] = part
	return part
}

// appendResources writes amounts down, so that the same read the same.
func appendResources(b []byte, list corev1.ResourceList) []byte {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		amount := list[name]
		b = append(append(append(append(b, name...), '='), amount.String()...), ' ')
	}
	return b
}
