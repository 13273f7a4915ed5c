package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Claims are for devices: a pod names its claims, and its containers which of them they use.
// https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/

func validateResourceClaims(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	var names []string
	for i, c := range s.ResourceClaims {
		errs = append(errs, validateResourceClaim(path.Child("resourceClaims").Index(i), &c, names)...)
		if !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	for _, list := range []struct {
		field string
		all   []corev1.Container
	}{{"initContainers", s.InitContainers}, {"containers", s.Containers}} {
		for i, c := range list.all {
			errs = append(errs, validateClaimsUsed(path.Child(list.field).Index(i).Child("resources", "claims"), c.Resources.Claims, names)...)
		}
	}
	return errs
}

// validateResourceClaim is given the names that stand before it.
func validateResourceClaim(path *field.Path, c *corev1.PodResourceClaim, names []string) field.ErrorList {
	errs := requiredName(path.Child("name"), c.Name, validation.IsDNS1123Label)
	if c.Name != "" && slices.Contains(names, c.Name) {
		errs = field.ErrorList{field.Duplicate(path.Child("name"), c.Name)}
	}
	switch {
	case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
		errs = append(errs, field.Invalid(path, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
	case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
		errs = append(errs, field.Invalid(path, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
	}
	if name := c.ResourceClaimName; name != nil {
		errs = append(errs, invalid(path.Child("resourceClaimName"), *name, validation.IsDNS1123Subdomain(*name))...)
	}
	if name := c.ResourceClaimTemplateName; name != nil {
		errs = append(errs, invalid(path.Child("resourceClaimTemplateName"), *name, validation.IsDNS1123Subdomain(*name))...)
	}
	return errs
}

// validateClaimsUsed checks which of the pod's claims a container uses: each as a whole, or parts of it, and none twice.
func validateClaimsUsed(path *field.Path, used []corev1.ResourceClaim, names []string) field.ErrorList {
	var errs field.ErrorList
	var seen []string
	for i, c := range used {
		at := path.Index(i)
		part := func(s string) bool { return c.Request == "" && strings.HasPrefix(s, c.Name+"/") }
		key := c.Name
		if c.Request != "" {
			errs = append(errs, invalid(at.Child("request"), c.Request, validation.IsDNS1123Label(c.Request))...)
			key += "/" + c.Request
		}
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at, ""))
			continue
		case slices.Contains(seen, c.Name), slices.ContainsFunc(seen, part):
			errs = append(errs, field.Duplicate(at, c.Name))
		case slices.Contains(seen, key):
			errs = append(errs, field.Duplicate(at, key))
		}
		seen = append(seen, key)
		if !slices.Contains(names, c.Name) {
			missing := field.NotFound(at, c.Name)
			missing.Detail = "must be one of the names in pod.spec.resourceClaims"
			if len(names) == 0 {
				missing.Detail += " which is empty"
			} else {
				missing.Detail += ": " + strings.Join(slices.Sorted(slices.Values(names)), ", ")
			}
			errs = append(errs, missing)
		}
	}
	return errs
}
