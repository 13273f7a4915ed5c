package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func namespace() *Resource {
	return row(Resource{
		Version: "v1", Name: "namespaces", Singular: "namespace", Kind: "Namespace", ShortNames: []string{"ns"},
		// Deleting all namespaces at once is not offered: the one slip from which nothing would be left.
		Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		Subs: []Sub{
			{Name: "finalize", Kind: "Namespace", Verbs: []string{"update"}},
			statusSub("Namespace"),
		},
		ValidateName: validation.NameIsDNSLabel,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Status", "string", "The status of the namespace"), ageColumn(),
		},
	}, rules[corev1.Namespace]{
		ValidateStatus: validateNamespaceStatus,
		Default:        defaultNamespace,
		PrepareCreate:  prepareNamespace,
		PrepareUpdate:  prepareNamespaceUpdate,
		Validate:       validateNamespace,
		Fields: func(n *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(n.Status.Phase)}
		},
		Row: func(n *corev1.Namespace) []any {
			return []any{n.Name, string(n.Status.Phase), age(n.CreationTimestamp.Time)}
		},
	})
}

func defaultNamespace(n *corev1.Namespace) {
	labelNamespace(n)
	setDefault(&n.Status.Phase, corev1.NamespaceActive)
}

// labelNamespace gives a namespace its name as a label, so that a label selector can pick namespaces by name.
func labelNamespace(n *corev1.Namespace) {
	if n.Name == "" {
		return // The name is still to be generated.
	}
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[corev1.LabelMetadataName] = n.Name
}

// prepareNamespace adds the finalizer that holds a namespace in Terminating until its content is gone.
func prepareNamespace(n *corev1.Namespace) {
	labelNamespace(n)
	if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
		n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

// prepareNamespaceUpdate keeps spec.finalizers: they change through the finalize subresource only.
func prepareNamespaceUpdate(n, old *corev1.Namespace) {
	n.Spec.Finalizers = slices.Clone(old.Spec.Finalizers)
}

func validateNamespace(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, f := range n.Spec.Finalizers {
		at := field.NewPath("spec", "finalizers").Index(i)
		errs = append(errs, validation.ValidateFinalizerName(string(f), at)...)
		errs = append(errs, validateFinalizerDomain(field.NewPath("spec", "finalizers"), string(f))...)
	}
	return errs
}
