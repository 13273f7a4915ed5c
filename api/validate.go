package api

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The texts of all errors are Kubernetes' own: people search for them, and tools compare them.

// invalid makes an error of each message about value.
func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// oneOf wants one of the supported values. The error lists them in the order given, which is therefore Kubernetes'.
func oneOf[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return oneOfOrNone(path, value, supported...)
}

// oneOfOrNone is [oneOf] for a field that may stay empty.
func oneOfOrNone[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if value == "" || slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

// oneOfAll is [oneOf] for a field that is told apart from no other by being empty.
func oneOfAll[T ~string](path *field.Path, value T, supported ...T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

// oneOfIfSet wants one of the supported values where there is any: an empty one is none of them.
func oneOfIfSet[T ~string](path *field.Path, value *T, supported ...T) field.ErrorList {
	if value == nil {
		return nil
	}
	return oneOfAll(path, *value, supported...)
}

// ValidateFinalizers wants finalizers to say whose they are, but for those that Kubernetes itself knows.
func ValidateFinalizers(path *field.Path, finalizers []string) field.ErrorList {
	var errs field.ErrorList
	for i, f := range finalizers {
		errs = append(errs, validateFinalizerDomain(path.Index(i), f)...)
	}
	return errs
}

func validateFinalizerDomain(path *field.Path, name string) field.ErrorList {
	known := []string{string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents}
	if strings.Contains(name, "/") || slices.Contains(known, name) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")}
}

// required wants a value that is not empty.
func required(path *field.Path, value string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

// requiredName wants a name, and one that check has nothing against.
func requiredName(path *field.Path, name string, check func(string) []string) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return invalid(path, name, check(name))
}

// unique reports each name that an earlier one has too; key is what stands behind the index in the path, if anything.
func unique(path *field.Path, names []string, key string) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, name := range names {
		if name == "" {
			continue // Missing, which is another error.
		}
		if seen[name] {
			at := path.Index(i)
			if key != "" {
				at = at.Child(key)
			}
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
	}
	return errs
}

func nonNegative[T ~int32 | ~int64](path *field.Path, value T) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(value), path)
}

func validatePort(path *field.Path, port int32) field.ErrorList {
	return invalid(path, port, validation.IsValidPortNum(int(port)))
}

// validatePortOrName checks a port given by number or by the name of a container's port.
func validatePortOrName(path *field.Path, port intstr.IntOrString) field.ErrorList {
	if port.Type == intstr.String {
		return invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
	return validatePort(path, port.IntVal)
}

func validateIP(path *field.Path, ip string) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, ip, true, nil)
}

// validateEndpointIP wants an address that another machine can have.
func validateEndpointIP(path *field.Path, ip string) field.ErrorList {
	if errs := validateIP(path, ip); len(errs) > 0 {
		return errs
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return field.ErrorList{field.Invalid(path, ip, err.Error())}
	}
	var errs field.ErrorList
	if addr.IsUnspecified() {
		errs = append(errs, field.Invalid(path, ip, "may not be unspecified ("+ip+")"))
	}
	if addr.IsLoopback() {
		errs = append(errs, field.Invalid(path, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)"))
	}
	if addr.IsLinkLocalUnicast() {
		errs = append(errs, field.Invalid(path, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"))
	}
	if addr.IsLinkLocalMulticast() {
		errs = append(errs, field.Invalid(path, ip, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"))
	}
	return errs
}

func validateLabels(path *field.Path, labels map[string]string) field.ErrorList {
	return metav1validation.ValidateLabels(labels, path)
}

func validateSelector(path *field.Path, s *metav1.LabelSelector) field.ErrorList {
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, path)
}

// immutable wants a field to stay what it was.
func immutable(path *field.Path, value, old any) field.ErrorList {
	return apivalidation.ValidateImmutableField(value, old, path)
}
