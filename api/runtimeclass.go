package api

import (
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func runtimeClass() *Resource {
	return row(Resource{
		Group: "node.k8s.io", Version: "v1", Name: "runtimeclasses", Singular: "runtimeclass", Kind: "RuntimeClass",
		Conditional:  true,
		AnyFinalizer: true,
		Verbs:        allVerbs(), CreatedByPut: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Handler", "string", nodev1.RuntimeClass{}.SwaggerDoc()["handler"]), ageColumn(),
		},
	}, rules[nodev1.RuntimeClass]{
		Default: func(c *nodev1.RuntimeClass) {
			if c.Overhead != nil {
				roundUp(c.Overhead.PodFixed)
			}
		},
		Validate: validateRuntimeClass,
		ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
			return immutable(field.NewPath("handler"), c.Handler, old.Handler)
		},
		Row: func(c *nodev1.RuntimeClass) []any {
			return []any{c.Name, c.Handler, age(c.CreationTimestamp.Time)}
		},
	})
}

func validateRuntimeClass(c *nodev1.RuntimeClass) field.ErrorList {
	errs := requiredName(field.NewPath("handler"), c.Handler, validation.IsDNS1123Label)
	if c.Overhead != nil {
		errs = append(errs, validateResources(field.NewPath("overhead"), &corev1.ResourceRequirements{Limits: c.Overhead.PodFixed})...)
	}
	if c.Scheduling == nil {
		return errs
	}
	path := field.NewPath("scheduling")
	errs = append(errs, validateLabels(path.Child("nodeSelector"), c.Scheduling.NodeSelector)...)
	at := path.Child("tolerations")
	errs = append(errs, validateTolerations(at, c.Scheduling.Tolerations)...)
	seen := map[corev1.Toleration]bool{}
	for i, t := range c.Scheduling.Tolerations {
		key := corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}
		if seen[key] {
			errs = append(errs, field.Duplicate(at.Index(i), t))
		}
		seen[key] = true
	}
	return errs
}
