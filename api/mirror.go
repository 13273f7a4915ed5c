package api

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A mirror shows a static pod, which its node runs from a file; the annotation says which. What is a mirror is one from the beginning
// and remains one, or a node would take a pod that it runs for one that is not to be there.
// https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/

// validateMirror wants a mirror to be on a node already.
func validateMirror(path *field.Path, annotations map[string]string, spec *corev1.PodSpec) field.ErrorList {
	if of, is := annotations[corev1.MirrorPodAnnotationKey]; is && spec.NodeName == "" {
		return field.ErrorList{field.Invalid(path.Key(corev1.MirrorPodAnnotationKey), of, "must set spec.nodeName if mirror pod annotation is set")}
	}
	return nil
}

// validateMirrorUpdate holds for every way to write a pod that can change its annotations.
func validateMirrorUpdate(p, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("metadata", "annotations").Key(corev1.MirrorPodAnnotationKey)
	of, is := p.Annotations[corev1.MirrorPodAnnotationKey]
	was, did := old.Annotations[corev1.MirrorPodAnnotationKey]
	switch {
	case did && (!is || of != was):
		return field.ErrorList{field.Forbidden(path, "may not remove or update mirror pod annotation")}
	case is && !did:
		return field.ErrorList{field.Forbidden(path, "may not add mirror pod annotation")}
	}
	return nil
}

// bindingSub puts a pod on a node. It may bring annotations along.
func bindingSub() Sub {
	return Sub{
		Name: "binding", Kind: "Binding", Verbs: []string{"create"},
		Validate: func(obj, old runtime.Object) field.ErrorList {
			return validateMirrorUpdate(obj.(*corev1.Pod), old.(*corev1.Pod))
		},
	}
}
