package api

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A TokenRequest is made of a ServiceAccount, answered in its status and not stored.

// DefaultTokenRequest gives a token an hour.
func DefaultTokenRequest(r *authenticationv1.TokenRequest) {
	setDefaultPtr(&r.Spec.ExpirationSeconds, 60*60)
}

// ValidateTokenRequest finds what is wrong with a TokenRequest that has its defaults.
func ValidateTokenRequest(r *authenticationv1.TokenRequest) field.ErrorList {
	const minSeconds, maxSeconds = 10 * 60, 1 << 32
	path := field.NewPath("spec", "expirationSeconds")
	switch seconds := deref(r.Spec.ExpirationSeconds); {
	case seconds < minSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration less than 10 minutes")}
	case seconds > maxSeconds:
		return field.ErrorList{field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}
