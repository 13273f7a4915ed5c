package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func clusterRole() *Resource {
	return row(Resource{
		Group: rbacv1.GroupName, Version: "v1", Name: "clusterroles", Singular: "clusterrole", Kind: "ClusterRole", Idle: true,
		Verbs: allVerbs(), CreatedByPut: true,
		ValidateName: validatePathSegment,
		Columns:      []metav1.TableColumnDefinition{nameColumn(), createdColumn()},
	}, rules[rbacv1.ClusterRole]{
		Validate: validateClusterRole,
		Row:      func(r *rbacv1.ClusterRole) []any { return []any{r.Name, created(r)} },
	})
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs := validatePolicyRules(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	path, selectors := field.NewPath("aggregationRule", "clusterRoleSelectors"), r.AggregationRule.ClusterRoleSelectors
	if len(selectors) == 0 {
		errs = append(errs, field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range selectors {
		errs = append(errs, validateSelector(path.Index(i), &selectors[i])...)
	}
	return errs
}
