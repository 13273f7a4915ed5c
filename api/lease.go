package api

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func lease() *Resource {
	return row(Resource{
		Group: "coordination.k8s.io", Version: "v1", Name: "leases", Singular: "lease", Kind: "Lease", Namespaced: true,
		Conditional:  true,
		AnyFinalizer: true,
		Gated:        []string{"spec.strategy", "spec.preferredHolder"},
		Verbs:        allVerbs(), CreatedByPut: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Holder", "string", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]), ageColumn(),
		},
	}, rules[coordinationv1.Lease]{
		Validate: validateLease,
		Row: func(l *coordinationv1.Lease) []any {
			return []any{l.Name, deref(l.Spec.HolderIdentity), age(l.CreationTimestamp.Time)}
		},
	})
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	if deref(l.Spec.PreferredHolder) != "" && deref(l.Spec.Strategy) == "" {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"), "may only be specified if `strategy` is defined"))
	}
	return errs
}
