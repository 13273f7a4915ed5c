package api

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func ingressClass() *Resource {
	spec := networkingv1.IngressClassSpec{}.SwaggerDoc()
	return row(Resource{
		Group: "networking.k8s.io", Version: "v1", Name: "ingressclasses", Singular: "ingressclass", Kind: "IngressClass",
		Verbs: allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Controller", "string", spec["controller"]),
			column("Parameters", "string", spec["parameters"]),
			ageColumn(),
		},
	}, rules[networkingv1.IngressClass]{
		Default: func(c *networkingv1.IngressClass) {
			if p := c.Spec.Parameters; p != nil {
				setDefaultPtr(&p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		},
		Validate: validateIngressClass,
		ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
			return immutable(field.NewPath("spec", "controller"), c.Spec.Controller, old.Spec.Controller)
		},
		Wanted: func(c *networkingv1.IngressClass) any { return &c.Spec },
		Row:    printIngressClass,
	})
}

// IsDefaultIngressClass tells the class of ingresses that name none.
func IsDefaultIngressClass(c metav1.Object) bool {
	return c.GetAnnotations()[networkingv1.AnnotationIsDefaultIngressClass] == "true"
}

func printIngressClass(c *networkingv1.IngressClass) []any {
	name, parameters := c.Name, "<none>"
	if IsDefaultIngressClass(c) {
		name += " (default)"
	}
	if p := c.Spec.Parameters; p != nil {
		parameters = p.Kind
		if p.APIGroup != nil {
			parameters += "." + *p.APIGroup
		}
		parameters += "/" + p.Name
	}
	return []any{name, c.Spec.Controller, parameters, age(c.CreationTimestamp.Time)}
}

func validateIngressClass(c *networkingv1.IngressClass) field.ErrorList {
	const maxController = 250
	path, p := field.NewPath("spec"), c.Spec.Parameters
	var errs field.ErrorList
	if len(c.Spec.Controller) > maxController {
		errs = append(errs, field.TooLong(path.Child("controller"), "", maxController))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(path.Child("controller"), c.Spec.Controller)...)
	if p == nil {
		return errs
	}
	at := path.Child("parameters")
	errs = append(errs, validateReference(at, &corev1.TypedLocalObjectReference{APIGroup: p.APIGroup, Kind: p.Kind, Name: p.Name})...)
	errs = append(errs, oneOfAll(at.Child("scope"), deref(p.Scope), networkingv1.IngressClassParametersReferenceScopeCluster,
		networkingv1.IngressClassParametersReferenceScopeNamespace)...)
	switch namespaceAt := at.Child("namespace"); deref(p.Scope) {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			errs = append(errs, field.Required(namespaceAt, "`parameters.scope` is set to 'Namespace'"))
		} else {
			errs = append(errs, invalid(namespaceAt, *p.Namespace, validation.IsDNS1123Label(*p.Namespace))...)
		}
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespaceAt, "`parameters.scope` is set to 'Cluster'"))
		}
	}
	return errs
}
