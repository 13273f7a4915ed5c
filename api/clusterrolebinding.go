package api

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func clusterRoleBinding() *Resource {
	return row(Resource{
		Group: rbacv1.GroupName, Version: "v1", Name: "clusterrolebindings", Singular: "clusterrolebinding",
		Kind: "ClusterRoleBinding", Idle: true,
		Verbs: allVerbs(), CreatedByPut: true,
		ValidateName: validatePathSegment,
		Columns:      bindingColumns(),
	}, rules[rbacv1.ClusterRoleBinding]{
		Default: func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateBinding(&b.RoleRef, b.Subjects, false)
		},
		ValidateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
			return validateRoleRefUpdate(b.RoleRef, old.RoleRef)
		},
		Row: func(b *rbacv1.ClusterRoleBinding) []any { return printBinding(b, &b.RoleRef, b.Subjects) },
	})
}
