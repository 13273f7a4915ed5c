package api

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func roleBinding() *Resource {
	return row(Resource{
		Group: rbacv1.GroupName, Version: "v1", Name: "rolebindings", Singular: "rolebinding", Kind: "RoleBinding", Idle: true,
		Namespaced: true,
		Verbs:      allVerbs(), CreatedByPut: true,
		ValidateName: validatePathSegment,
		Columns:      bindingColumns(),
	}, rules[rbacv1.RoleBinding]{
		Default: func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
		Validate: func(b *rbacv1.RoleBinding) field.ErrorList {
			return validateBinding(&b.RoleRef, b.Subjects, true)
		},
		ValidateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
			return validateRoleRefUpdate(b.RoleRef, old.RoleRef)
		},
		Row: func(b *rbacv1.RoleBinding) []any { return printBinding(b, &b.RoleRef, b.Subjects) },
	})
}

func bindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		nameColumn(),
		column("Role", "string", rbacv1.RoleBinding{}.SwaggerDoc()["roleRef"]),
		ageColumn(),
		wide("Users", "string", "The users who get the role."),
		wide("Groups", "string", "The groups whose members get the role."),
		wide("ServiceAccounts", "string", "The ServiceAccounts that get the role."),
	}
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	setDefault(&ref.APIGroup, rbacv1.GroupName)
	for i := range subjects {
		if kind := subjects[i].Kind; kind == rbacv1.UserKind || kind == rbacv1.GroupKind {
			setDefault(&subjects[i].APIGroup, rbacv1.GroupName)
		}
	}
}

func printBinding(obj metav1.Object, ref *rbacv1.RoleRef, subjects []rbacv1.Subject) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			name := s.Name
			if s.Namespace != "" {
				name = s.Namespace + "/" + s.Name
			}
			accounts = append(accounts, name)
		}
	}
	return []any{
		obj.GetName(), ref.Kind + "/" + ref.Name, age(obj.GetCreationTimestamp().Time),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}

// validateBinding checks a binding in a namespace, which may also bind a role of the cluster, or in none.
func validateBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	path := field.NewPath("roleRef")
	kinds := []string{"Role", "ClusterRole"}
	if !namespaced {
		kinds = kinds[1:]
	}
	errs := oneOfAll(path.Child("apiGroup"), ref.APIGroup, rbacv1.GroupName)
	errs = append(errs, oneOfAll(path.Child("kind"), ref.Kind, kinds...)...)
	errs = append(errs, requiredName(path.Child("name"), ref.Name, content.IsPathSegmentName)...)
	for i, s := range subjects {
		errs = append(errs, validateSubject(field.NewPath("subjects").Index(i), &s, namespaced)...)
	}
	return errs
}

func validateSubject(path *field.Path, s *rbacv1.Subject, namespaced bool) field.ErrorList {
	errs := required(path.Child("name"), s.Name)
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			errs = append(errs, invalid(path.Child("name"), s.Name, validation.IsDNS1123Subdomain(s.Name))...)
		}
		errs = append(errs, oneOfAll(path.Child("apiGroup"), s.APIGroup, "")...)
		if !namespaced {
			errs = append(errs, required(path.Child("namespace"), s.Namespace)...)
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		errs = append(errs, oneOfAll(path.Child("apiGroup"), s.APIGroup, rbacv1.GroupName)...)
	default:
		errs = append(errs, oneOfAll(path.Child("kind"), s.Kind, rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind)...)
	}
	return errs
}

// validateRoleRefUpdate refuses in words that some operators wait for, to delete the binding and make it anew.
func validateRoleRefUpdate(ref, old rbacv1.RoleRef) field.ErrorList {
	if ref != old {
		return field.ErrorList{field.Invalid(field.NewPath("roleRef"), ref, "cannot change roleRef")}
	}
	return nil
}
