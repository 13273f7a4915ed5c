package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func role() *Resource {
	return row(Resource{
		Group: rbacv1.GroupName, Version: "v1", Name: "roles", Singular: "role", Kind: "Role", Idle: true, Namespaced: true,
		Verbs: allVerbs(), CreatedByPut: true,
		ValidateName: validatePathSegment,
		Columns:      []metav1.TableColumnDefinition{nameColumn(), createdColumn()},
	}, rules[rbacv1.Role]{
		Validate: func(r *rbacv1.Role) field.ErrorList { return validatePolicyRules(r.Rules, true) },
		Row:      func(r *rbacv1.Role) []any { return []any{r.Name, created(r)} },
	})
}

// validatePathSegment allows every name that can be a part of a URL: "system:node", for one.
func validatePathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// validatePolicyRules wants each rule to be about resources or about URLs. URLs are in no namespace.
func validatePolicyRules(list []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	for i, r := range list {
		at := field.NewPath("rules").Index(i)
		if len(r.Verbs) == 0 {
			errs = append(errs, field.Required(at.Child("verbs"), "verbs must contain at least one value"))
		}
		if len(r.NonResourceURLs) > 0 {
			at := at.Child("nonResourceURLs")
			if namespaced {
				errs = append(errs, field.Invalid(at, r.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
			}
			if len(r.APIGroups)+len(r.Resources)+len(r.ResourceNames) > 0 {
				errs = append(errs, field.Invalid(at, r.NonResourceURLs,
					"rules cannot apply to both regular resources and non-resource URLs"))
			}
			continue
		}
		if len(r.APIGroups) == 0 {
			errs = append(errs, field.Required(at.Child("apiGroups"), "resource rules must supply at least one api group"))
		}
		if len(r.Resources) == 0 {
			errs = append(errs, field.Required(at.Child("resources"), "resource rules must supply at least one resource"))
		}
	}
	return errs
}
