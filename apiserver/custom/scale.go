package custom

import (
	"math"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff/api"
)

// scaleOf is a custom resource seen as nothing but its replicas, which are where the definition says.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#scale-subresource
func scaleOf(scale *apiextensionsv1.CustomResourceSubresourceScale, obj map[string]any) api.Scale {
	var s api.Scale
	s.Wanted, s.Present = number(obj, scale.SpecReplicasPath), number(obj, scale.StatusReplicasPath)
	if scale.LabelSelectorPath != nil {
		text, _, _ := unstructured.NestedString(obj, steps(*scale.LabelSelectorPath)...)
		if selector, err := metav1.ParseToLabelSelector(text); text != "" && err == nil {
			s.Selector = selector
		}
	}
	return s
}

// number is the one at a path; 0 where there is none. Validation holds that it fits.
func number(obj map[string]any, path string) int32 {
	n, _, _ := unstructured.NestedInt64(obj, steps(path)...)
	return int32(min(max(n, 0), math.MaxInt32))
}

func setReplicas(scale *apiextensionsv1.CustomResourceSubresourceScale, obj map[string]any, n int32) {
	// An error would be a path that leads through something else than an object; the schema's validation finds that.
	_ = unstructured.SetNestedField(obj, int64(n), steps(scale.SpecReplicasPath)...)
}

// validateScale wants numbers of replicas where the definition says that they are. ofStatus leaves out the spec's.
func validateScale(scale *apiextensionsv1.CustomResourceSubresourceScale, obj map[string]any, ofStatus bool) field.ErrorList {
	errs := validateReplicas(scale.StatusReplicasPath, obj)
	if !ofStatus {
		errs = append(validateReplicas(scale.SpecReplicasPath, obj), errs...)
	}
	if path := scale.LabelSelectorPath; path != nil && *path != "" {
		if _, _, err := unstructured.NestedString(obj, steps(*path)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*path), "", err.Error()))
		}
	}
	return errs
}

func validateReplicas(path string, obj map[string]any) field.ErrorList {
	n, _, err := unstructured.NestedInt64(obj, steps(path)...)
	at := field.NewPath(path)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(at, n, err.Error())}
	case n < 0:
		return field.ErrorList{field.Invalid(at, n, "should be a non-negative integer")}
	case n > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, n, "should be less than or equal to 2147483647")}
	}
	return nil
}
