package api

import (
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podDisruptionBudget() *Resource {
	spec := policyv1.PodDisruptionBudgetSpec{}.SwaggerDoc()
	return row(Resource{
		Group: "policy", Version: "v1", Name: "poddisruptionbudgets", Singular: "poddisruptionbudget", Kind: "PodDisruptionBudget",
		ShortNames: []string{"pdb"}, Namespaced: true,
		Conditional:  true,
		AnyFinalizer: true,
		Verbs:        allVerbs(),
		Subs:         []Sub{statusSub("PodDisruptionBudget")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Min Available", "string", spec["minAvailable"]),
			column("Max Unavailable", "string", spec["maxUnavailable"]),
			column("Allowed Disruptions", "integer", policyv1.PodDisruptionBudgetStatus{}.SwaggerDoc()["disruptionsAllowed"]),
			ageColumn(),
		},
	}, rules[policyv1.PodDisruptionBudget]{
		Validate:       validatePodDisruptionBudget,
		ValidateStatus: validateBudgetStatus,
		Wanted:         func(b *policyv1.PodDisruptionBudget) any { return &b.Spec },
		Row: func(b *policyv1.PodDisruptionBudget) []any {
			text := func(v *intstr.IntOrString) string {
				if v == nil {
					return "N/A"
				}
				return v.String()
			}
			return []any{
				b.Name, text(b.Spec.MinAvailable), text(b.Spec.MaxUnavailable), int64(b.Status.DisruptionsAllowed),
				age(b.CreationTimestamp.Time),
			}
		},
	})
}

func validatePodDisruptionBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	path, s := field.NewPath("spec"), &b.Spec
	var errs field.ErrorList
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *s, "minAvailable and maxUnavailable cannot be both set"))
	}
	for _, bound := range []struct {
		name  string
		value *intstr.IntOrString
	}{{"minAvailable", s.MinAvailable}, {"maxUnavailable", s.MaxUnavailable}} {
		if bound.value != nil {
			at := path.Child(bound.name)
			_, numberErrs := validateNumberOrPercent(at, *bound.value)
			errs = append(errs, numberErrs...)
			errs = append(errs, atMostAll(at, *bound.value)...)
		}
	}
	errs = append(errs, validateSelector(path.Child("selector"), s.Selector)...)
	if policy := s.UnhealthyPodEvictionPolicy; policy != nil {
		errs = append(errs, oneOfAll(path.Child("unhealthyPodEvictionPolicy"), *policy,
			policyv1.AlwaysAllow, policyv1.IfHealthyBudget)...)
	}
	return errs
}
