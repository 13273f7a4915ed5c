package apiserver

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// alike decodes stored objects, and holds once what they have in common. They never change, and many are made of one template by
// one writer: the record of who set which of their fields is then the same, and so are the labels and annotations of pods, their owners
// and their specs, byte for byte. Such parts of a pod are known by their bytes, and are not decoded again: that is two thirds of a
// small pod, and nearly all of one whose status alone has changed. They are forgotten when they have become many; objects that
// were given a part keep it.
type alike struct {
	mu        sync.Mutex
	fields    parts[*metav1.FieldsV1]
	resources parts[corev1.ResourceList]
	metadata  parts[*metav1.ObjectMeta]
	specs     parts[*corev1.PodSpec]
	own       []byte // What the last pod had of its own.
}

// maxAlike is how many bytes of different parts of one sort are remembered.
const maxAlike = 256 << 10

// parts are decoded parts of objects, each by what it reads like.
type parts[T any] struct {
	known map[string]T
	size  int // Of the keys.
}

// remember has those that come later share part. A large one is not for many, and is not remembered.
func (p *parts[T]) remember(key []byte, part T) bool {
	if len(key) > maxAlike/16 {
		return false
	}
	if p.size += len(key); p.known == nil || p.size > maxAlike {
		p.known, p.size = map[string]T{}, len(key)
	}
	p.known[string(key)] = part
	return true
}

// first is the part that came first with this key: part, if none did.
func (p *parts[T]) first(key []byte, part T) T {
	if earlier, ok := p.known[string(key)]; ok {
		return earlier
	}
	p.remember(key, part)
	return part
}

// forget drops what is remembered.
func (a *alike) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fields.known, a.resources.known, a.metadata.known, a.specs.known, a.own = nil, nil, nil, nil, nil
}

// decode makes the object of the row's kind that has this stored form. That has no kind, also not of what lies within an object, and
// defaults may be younger than it. spec is that of a pod, where it is remembered.
func (a *alike) decode(r *api.Resource, data []byte) (_ runtime.Object, spec *corev1.PodSpec, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	obj := r.New()
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	if pod, ok := obj.(*corev1.Pod); ok {
		spec, err := a.decodePod(r, pod, data)
		return pod, spec, err
	}
	if err := obj.(protoMessage).Unmarshal(data); err != nil {
		return nil, nil, err
	}
	if r.Default != nil {
		r.Default(obj)
	}
	a.shareFields(metaOf(obj).GetManagedFields())
	return obj, nil, nil
}

func (a *alike) decodePod(r *api.Resource, pod *corev1.Pod, data []byte) (*corev1.PodSpec, error) {
	split, err := splitPod(a.own[:0], data)
	if err != nil {
		return nil, err
	}
	a.own = split.own
	if err := pod.Unmarshal(split.own); err != nil {
		return nil, err
	}
	for _, run := range split.metadata {
		if err := a.decodeMetadata(pod, run); err != nil {
			return nil, err
		}
	}
	if spec, ok := a.specs.known[string(split.spec)]; ok {
		r.Default(pod)
		pod.Spec = *spec
		return spec, nil
	}
	if err := pod.Spec.Unmarshal(split.spec); err != nil {
		return nil, err
	}
	r.Default(pod)
	a.shareResources(pod.Spec.Containers)
	spec := pod.Spec
	if !a.specs.remember(split.spec, &spec) {
		return nil, nil
	}
	return &spec, nil
}

// decodeMetadata gives a pod some fields of its metadata.
func (a *alike) decodeMetadata(pod *corev1.Pod, run []byte) error {
	part, ok := a.metadata.known[string(run)]
	if !ok {
		part = &metav1.ObjectMeta{}
		if err := part.Unmarshal(run); err != nil {
			return fmt.Errorf("metadata: %w", err)
		}
		a.shareFields(part.ManagedFields)
		a.metadata.remember(run, part)
	}
	switch { // It is one of them.
	case part.Labels != nil:
		pod.Labels = part.Labels
	case part.Annotations != nil:
		pod.Annotations = part.Annotations
	case part.OwnerReferences != nil:
		pod.OwnerReferences = part.OwnerReferences
	case part.Finalizers != nil:
		pod.Finalizers = part.Finalizers
	default:
		pod.ManagedFields = part.ManagedFields
	}
	return nil
}

// shareFields gives new entries those records of fields that others had before them.
func (a *alike) shareFields(entries []metav1.ManagedFieldsEntry) {
	for i := range entries {
		if f := &entries[i].FieldsV1; *f != nil {
			*f = a.fields.first((*f).GetRawBytes(), *f)
		}
	}
}

// shareResources gives new containers those amounts that others had before them.
func (a *alike) shareResources(containers []corev1.Container) {
	var key []byte
	for i := range containers {
		r := &containers[i].Resources
		for _, list := range []*corev1.ResourceList{&r.Limits, &r.Requests} {
			if len(*list) > 0 {
				key = appendResources(key[:0], *list)
				*list = a.resources.first(key, *list)
			}
		}
	}
}

// appendResources writes amounts down, so that the same read the same.
func appendResources(b []byte, list corev1.ResourceList) []byte {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		amount := list[name]
		b = append(append(append(append(b, name...), '='), amount.String()...), ' ')
	}
	return b
}
