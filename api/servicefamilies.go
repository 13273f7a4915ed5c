package api

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// CompleteFamilies says which IP families a service has, and with which policy, where the client did not, and finds what
// does not fit together or to the cluster. Cluster are the families of the cluster's own services, the default one first; old
// is the stored service, nil for a new one. Afterwards a service has an address of each of its families, or is to get one.
// https://kubernetes.io/docs/concepts/services-networking/dual-stack/#services
func CompleteFamilies(s, old *corev1.Service, cluster []corev1.IPFamily) field.ErrorList {
	if !needsClusterIP(s) || staysPreferred(s, old) {
		return nil
	}
	defaultFamilyPolicy(s, old)
	path := field.NewPath("spec")
	if errs := validateClusterIPs(path, s); len(errs) > 0 {
		return errs
	}
	var errs field.ErrorList
	if old != nil {
		errs = releaseSecondary(path, s, old)
	}
	errs = append(errs, validateSingleStack(path, s)...)
	errs = append(errs, familiesOfAddresses(path, s, cluster)...)
	if len(errs) > 0 {
		return errs
	}
	anywhere := s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0 // Its endpoints are the user's.
	if !anywhere {
		if errs := validateConfigured(path, s, cluster); len(errs) > 0 {
			return errs
		}
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = []corev1.IPFamily{cluster[0]}
	}
	if len(s.Spec.IPFamilies) == 1 && !singleStack(s) && (anywhere || len(cluster) == 2) {
		s.Spec.IPFamilies = append(slices.Clone(s.Spec.IPFamilies), otherFamily(s.Spec.IPFamilies[0]))
	}
	return nil
}

// staysPreferred tells a service that has what the cluster could give it when it asked for both families, and goes on with
// that: it does not change because the cluster did.
func staysPreferred(s, old *corev1.Service) bool {
	return old != nil && s.Spec.Type == old.Spec.Type &&
		deref(s.Spec.IPFamilyPolicy) == corev1.IPFamilyPolicyPreferDualStack &&
		(old.Spec.IPFamilyPolicy == nil || *old.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyPreferDualStack) &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

// defaultFamilyPolicy keeps the policy of before where the client names none, so that nobody gets or loses a family unasked.
func defaultFamilyPolicy(s, old *corev1.Service) {
	if s.Spec.IPFamilyPolicy != nil {
		return
	}
	policy := corev1.IPFamilyPolicySingleStack
	switch {
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		policy = *old.Spec.IPFamilyPolicy
	case s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0:
		policy = corev1.IPFamilyPolicyRequireDualStack
	}
	s.Spec.IPFamilyPolicy = &policy
}

// releaseSecondary lets go of the second family where the policy alone says so, and wants the policy to say so where the
// client took it away.
func releaseSecondary(path *field.Path, s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	policy, at := deref(s.Spec.IPFamilyPolicy), path.Child("ipFamilyPolicy")
	if policy == corev1.IPFamilyPolicySingleStack {
		if len(s.Spec.ClusterIPs) > 1 && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
			s.Spec.ClusterIPs = slices.Clone(s.Spec.ClusterIPs[:1])
		}
		if len(s.Spec.IPFamilies) > 1 && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			s.Spec.IPFamilies = slices.Clone(s.Spec.IPFamilies[:1])
		}
		return nil
	}
	if n := len(s.Spec.ClusterIPs); n > 0 && n < len(old.Spec.ClusterIPs) {
		errs = append(errs, field.Invalid(at, policy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if n := len(s.Spec.IPFamilies); n > 0 && n < len(old.Spec.IPFamilies) {
		errs = append(errs, field.Invalid(at, policy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

func validateSingleStack(path *field.Path, s *corev1.Service) field.ErrorList {
	if !singleStack(s) {
		return nil
	}
	var errs field.ErrorList
	policy, at := *s.Spec.IPFamilyPolicy, path.Child("ipFamilyPolicy")
	const both = "must be 'RequireDualStack' or 'PreferDualStack' when multiple %s are specified"
	if len(s.Spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(at, policy, fmt.Sprintf(both, "cluster IPs")))
	}
	if len(s.Spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(at, policy, fmt.Sprintf(both, "IP families")))
	}
	return errs
}

// familiesOfAddresses takes the families of addresses that the client asks for by number.
func familiesOfAddresses(path *field.Path, s *corev1.Service, cluster []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range s.Spec.ClusterIPs {
		if ip == corev1.ClusterIPNone || i < len(s.Spec.IPFamilies) {
			continue
		}
		family := familyOf(ip)
		if !slices.Contains(cluster, family) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(i), s.Spec.ClusterIPs,
				fmt.Sprintf("%s is not configured on this cluster", family)))
			continue
		}
		s.Spec.IPFamilies = append(slices.Clone(s.Spec.IPFamilies), family)
	}
	return errs
}

func validateConfigured(path *field.Path, s *corev1.Service, cluster []corev1.IPFamily) field.ErrorList {
	var errs field.ErrorList
	if policy := *s.Spec.IPFamilyPolicy; policy == corev1.IPFamilyPolicyRequireDualStack && len(cluster) < 2 {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), policy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.Spec.IPFamilies {
		if !slices.Contains(cluster, f) {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return errs
}

func singleStack(s *corev1.Service) bool {
	return deref(s.Spec.IPFamilyPolicy) == corev1.IPFamilyPolicySingleStack
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv6Protocol {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// validateClusterIPs checks addresses, families and policy as far as that needs nothing of the cluster.
func validateClusterIPs(path *field.Path, s *corev1.Service) field.ErrorList {
	if !needsClusterIP(s) {
		return nil // validateServiceType has said that there may be none.
	}
	var errs field.ErrorList
	ips, at := s.Spec.ClusterIPs, path.Child("clusterIPs")
	switch {
	case s.Spec.ClusterIP == "" && len(ips) > 0:
		errs = append(errs, field.Invalid(at, ips, "must be empty when `clusterIP` is not specified"))
	case s.Spec.ClusterIP != "" && len(ips) == 0:
		errs = append(errs, field.Required(at, ""))
	case s.Spec.ClusterIP != "" && ips[0] != s.Spec.ClusterIP:
		errs = append(errs, field.Invalid(at, ips, "first value must match `clusterIP`"))
	}
	errs = append(errs, validateFamilies(path, s)...)
	wrong := validateAddressList(at, ips)
	errs = append(errs, wrong...)
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(at, ips, "may only hold up to 2 values"))
	}
	if len(wrong) > 0 {
		return errs // What follows would only repeat it.
	}
	if len(ips) > 2 || len(ips) == 2 && familyOf(ips[0]) == familyOf(ips[1]) {
		errs = append(errs, field.Invalid(at, ips, "may specify no more than one IP for each IP family"))
	}
	if isHeadless(s) {
		return errs
	}
	for i, ip := range ips {
		if i < len(s.Spec.IPFamilies) && familyOf(ip) == otherFamily(s.Spec.IPFamilies[i]) {
			errs = append(errs, field.Invalid(at.Index(i), ip,
				fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", s.Spec.IPFamilies[i], i)))
		}
	}
	return errs
}

func validateAddressList(at *field.Path, ips []string) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(ips) > 1 {
				errs = append(errs, field.Invalid(at, ips, "'None' must be the first and only value"))
			}
			continue
		}
		errs = append(errs, validateIP(at.Index(i), ip)...)
	}
	return errs
}

func validateFamilies(path *field.Path, s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("ipFamilies")
	for i, f := range s.Spec.IPFamilies {
		errs = append(errs, oneOfAll(at.Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if slices.Contains(s.Spec.IPFamilies[:i], f) {
			errs = append(errs, field.Duplicate(at.Index(i), f))
		}
	}
	if p := s.Spec.IPFamilyPolicy; p != nil {
		errs = append(errs, oneOfAll(path.Child("ipFamilyPolicy"), *p, corev1.IPFamilyPolicyPreferDualStack,
			corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	return errs
}

// validateFamiliesUpdate holds a service to the addresses and families that it was given: a second one may come and go, with
// the policy. A headless service may change its families.
func validateFamiliesUpdate(path *field.Path, s, old *corev1.Service) field.ErrorList {
	if !needsClusterIP(s) || !needsClusterIP(old) || isHeadless(s) && isHeadless(old) {
		return nil
	}
	errs := validateListUpdate(path, "clusterIPs", "secondary clusterIP", s, s.Spec.ClusterIPs, old.Spec.ClusterIPs)
	if len(s.Spec.ClusterIPs) == 0 && len(old.Spec.ClusterIPs) > 0 {
		errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), s.Spec.ClusterIPs, "primary clusterIP can not be unset"))
	}
	if isHeadless(s) == isHeadless(old) {
		errs = append(errs, validateListUpdate(path, "ipFamilies", "secondary ipFamily", s, s.Spec.IPFamilies, old.Spec.IPFamilies)...)
	}
	return errs
}

func validateListUpdate[T comparable](path *field.Path, name, second string, s *corev1.Service, now, before []T) field.ErrorList {
	var errs field.ErrorList
	for i := range min(len(now), len(before)) {
		if now[i] != before[i] && (i == 0 || len(now) == len(before)) {
			at := i
			if name == "ipFamilies" {
				at = 0 // As Kubernetes has it.
			}
			errs = append(errs, field.Invalid(path.Child(name).Index(at), now, "may not change once set"))
		}
	}
	if len(now) == 1 && len(before) > 1 && !singleStack(s) {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy,
			fmt.Sprintf("must be set to 'SingleStack' when releasing the %s", second)))
	}
	return errs
}
