package api

import (
	"fmt"
	"net"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateIngress(i *networkingv1.Ingress) field.ErrorList {
	path, s := field.NewPath("spec"), &i.Spec
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(path.Child("defaultBackend"), s.DefaultBackend)...)
	}
	for i, rule := range s.Rules {
		at := path.Child("rules").Index(i)
		if rule.Host != "" {
			errs = append(errs, validateIngressHost(at.Child("host"), rule.Host)...)
		}
		if rule.HTTP != nil {
			errs = append(errs, validateIngressPaths(at.Child("http", "paths"), rule.HTTP.Paths)...)
		}
	}
	for i, tls := range s.TLS {
		at := path.Child("tls").Index(i)
		for j, host := range tls.Hosts {
			errs = append(errs, validateHostPattern(at.Child("hosts").Index(j), host)...)
		}
		if tls.SecretName != "" {
			errs = append(errs, invalid(at.Child("secretName"), tls.SecretName, validation.IsDNS1123Subdomain(tls.SecretName))...)
		}
	}
	if class := s.IngressClassName; class != nil {
		errs = append(errs, invalid(path.Child("ingressClassName"), *class, validation.IsDNS1123Subdomain(*class))...)
	}
	return errs
}

func validateIngressHost(path *field.Path, host string) field.ErrorList {
	var errs field.ErrorList
	if net.ParseIP(host) != nil {
		errs = append(errs, field.Invalid(path, host, "must be a DNS name, not an IP address"))
	}
	return append(errs, validateHostPattern(path, host)...)
}

// validateHostPattern checks a host, of which the first label may be a star.
func validateHostPattern(path *field.Path, host string) field.ErrorList {
	if strings.Contains(host, "*") {
		return invalid(path, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return invalid(path, host, validation.IsDNS1123Subdomain(host))
}

func validateIngressPaths(path *field.Path, paths []networkingv1.HTTPIngressPath) field.ErrorList {
	if len(paths) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	for i, p := range paths {
		at := path.Index(i)
		if p.PathType == nil {
			errs = append(errs, field.Required(at.Child("pathType"), "pathType must be specified"))
			continue
		}
		errs = append(errs, oneOfAll(at.Child("pathType"), *p.PathType,
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)...)
		errs = append(errs, validateIngressPath(at.Child("path"), *p.PathType, p.Path)...)
		errs = append(errs, validateBackend(at.Child("backend"), &p.Backend)...)
	}
	return errs
}

// validateIngressPath wants a path that can be compared as it stands, unless it is the controller who compares.
func validateIngressPath(at *field.Path, kind networkingv1.PathType, path string) field.ErrorList {
	var errs field.ErrorList
	exact := kind == networkingv1.PathTypeExact || kind == networkingv1.PathTypePrefix
	known := exact || kind == networkingv1.PathTypeImplementationSpecific
	if known && !strings.HasPrefix(path, "/") && (exact || path != "") {
		errs = append(errs, field.Invalid(at, path, "must be an absolute path"))
	}
	if !exact {
		return errs
	}
	for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(path, part) {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("must not contain '%s'", part)))
		}
	}
	for _, end := range []string{"/..", "/."} {
		if strings.HasSuffix(path, end) {
			errs = append(errs, field.Invalid(at, path, fmt.Sprintf("cannot end with '%s'", end)))
		}
	}
	return errs
}

func validateBackend(path *field.Path, b *networkingv1.IngressBackend) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(path.Child("resource"), b.Resource)
	case b.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	}
	at, port := path.Child("service"), b.Service.Port
	errs := requiredName(at.Child("name"), b.Service.Name, validation.IsDNS1123Label)
	switch {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, invalid(at.Child("port", "name"), port.Name, validation.IsValidPortName(port.Name))...)
	case port.Number != 0:
		errs = append(errs, validatePort(at.Child("port", "number"), port.Number)...)
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

// validateReference checks a reference to an object of any kind.
func validateReference(path *field.Path, r *corev1.TypedLocalObjectReference) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, invalid(path.Child("apiGroup"), *r.APIGroup, validation.IsDNS1123Subdomain(*r.APIGroup))...)
	}
	errs = append(errs, requiredName(path.Child("kind"), r.Kind, content.IsPathSegmentName)...)
	return append(errs, requiredName(path.Child("name"), r.Name, content.IsPathSegmentName)...)
}
