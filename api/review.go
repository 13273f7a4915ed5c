package api

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The reviews are questions: to create one is to ask, and its status is the answer. They are not stored.

func review(group, name, singular, kind string, namespaced bool) Resource {
	return Resource{
		Group: group, Version: "v1", Name: name, Singular: singular, Kind: kind, Namespaced: namespaced,
		Review: true,
		Verbs:  []string{"create"},
	}
}

// selfSubjectReview asks who one is: `kubectl auth whoami`.
func selfSubjectReview() *Resource {
	return row(review("authentication.k8s.io", "selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview", false),
		rules[authenticationv1.SelfSubjectReview]{})
}

// tokenReview asks whose token it is.
func tokenReview() *Resource {
	return row(review("authentication.k8s.io", "tokenreviews", "tokenreview", "TokenReview", false), rules[authenticationv1.TokenReview]{})
}

// selfSubjectAccessReview asks what one may do oneself: `kubectl auth can-i`.
func selfSubjectAccessReview() *Resource {
	return row(review("authorization.k8s.io", "selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview", false),
		rules[authorizationv1.SelfSubjectAccessReview]{
			Validate: func(r *authorizationv1.SelfSubjectAccessReview) field.ErrorList {
				return validateQuestion(field.NewPath("spec"), r.Spec.ResourceAttributes != nil, r.Spec.NonResourceAttributes != nil)
			},
		})
}

// selfSubjectRulesReview asks for all that one may do oneself: `kubectl auth can-i --list`.
func selfSubjectRulesReview() *Resource {
	return row(review("authorization.k8s.io", "selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview", false),
		rules[authorizationv1.SelfSubjectRulesReview]{})
}

// subjectAccessReview asks what somebody else may do.
func subjectAccessReview() *Resource {
	return row(review("authorization.k8s.io", "subjectaccessreviews", "subjectaccessreview", "SubjectAccessReview", false),
		rules[authorizationv1.SubjectAccessReview]{
			Validate: func(r *authorizationv1.SubjectAccessReview) field.ErrorList { return validateSubjectQuestion(&r.Spec) },
		})
}

// localSubjectAccessReview asks what somebody else may do in a namespace.
func localSubjectAccessReview() *Resource {
	return row(review("authorization.k8s.io", "localsubjectaccessreviews", "localsubjectaccessreview", "LocalSubjectAccessReview", true),
		rules[authorizationv1.LocalSubjectAccessReview]{
			Validate: func(r *authorizationv1.LocalSubjectAccessReview) field.ErrorList {
				path := field.NewPath("spec")
				errs := validateSubjectQuestion(&r.Spec)
				if a := r.Spec.ResourceAttributes; a != nil && a.Namespace != r.Namespace {
					errs = append(errs, field.Invalid(path.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
				}
				if r.Spec.NonResourceAttributes != nil {
					errs = append(errs, field.Invalid(path.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes,
						"disallowed on this kind of request"))
				}
				return errs
			},
		})
}

func validateSubjectQuestion(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateQuestion(path, s.ResourceAttributes != nil, s.NonResourceAttributes != nil)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(path.Child("user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

// validateQuestion wants one question: of a resource, or of a path that is none.
func validateQuestion(path *field.Path, ofResource, ofPath bool) field.ErrorList {
	switch {
	case ofResource && ofPath:
		return field.ErrorList{field.Invalid(path.Child("nonResourceAttributes"), "", "cannot be specified in combination with resourceAttributes")}
	case !ofResource && !ofPath:
		return field.ErrorList{field.Invalid(path.Child("resourceAttributes"), nil, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	}
	return nil
}
