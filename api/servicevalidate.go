package api

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateService wants a service as it is after allocation: with its addresses and node ports.
func validateService(s *corev1.Service) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateServiceType(path, s)
	errs = append(errs, validateServicePorts(path.Child("ports"), s)...)
	errs = append(errs, validateLabels(path.Child("selector"), s.Spec.Selector)...)
	errs = append(errs, validateAffinityOfService(path, &s.Spec)...)
	errs = append(errs, validateClusterIPs(path, s)...)
	for i, ip := range s.Spec.ExternalIPs {
		errs = append(errs, validateEndpointIP(path.Child("externalIPs").Index(i), ip)...)
	}
	errs = append(errs, oneOf(path.Child("type"), s.Spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, validateLoadBalancer(path, &s.Spec)...)
	errs = append(errs, validateTrafficPolicies(path, s)...)
	return errs
}

func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// validateServiceType checks what one type needs and another may not have.
func validateServiceType(path *field.Path, s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	forbid := func(name string, set bool) {
		if set {
			errs = append(errs, field.Forbidden(path.Child(name), "may not be set for ExternalName services"))
		}
	}
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if isHeadless(s) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), s.Spec.ClusterIPs[0],
				fmt.Sprintf("may not be set to 'None' for %s services", s.Spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		forbid("clusterIPs", len(s.Spec.ClusterIPs) > 0)
		forbid("ipFamilies", len(s.Spec.IPFamilies) > 0)
		forbid("ipFamilyPolicy", s.Spec.IPFamilyPolicy != nil)
		name := strings.TrimSuffix(s.Spec.ExternalName, ".")
		return append(errs, requiredName(path.Child("externalName"), name, validation.IsDNS1123Subdomain)...)
	}
	if len(s.Spec.Ports) == 0 && !isHeadless(s) {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	return errs
}

func validateServicePorts(path *field.Path, s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	names, ports, nodePorts := []string{}, map[key]bool{}, map[key]bool{}
	for i, p := range s.Spec.Ports {
		at := path.Index(i)
		names = append(names, p.Name)
		errs = append(errs, validateServicePort(at, &p, len(s.Spec.Ports) > 1)...)
		if port := (key{p.Protocol, p.Port}); ports[port] {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		} else {
			ports[port] = true
		}
		if p.NodePort == 0 {
			continue
		}
		if s.Spec.Type == corev1.ServiceTypeClusterIP {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
		}
		if port := (key{p.Protocol, p.NodePort}); nodePorts[port] {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
		} else {
			nodePorts[port] = true
		}
	}
	return append(errs, unique(path, names, "name")...)
}

func validateServicePort(path *field.Path, p *corev1.ServicePort, named bool) field.ErrorList {
	var errs field.ErrorList
	if named || p.Name != "" {
		errs = requiredName(path.Child("name"), p.Name, validation.IsDNS1123Label)
	}
	errs = append(errs, validatePort(path.Child("port"), p.Port)...)
	errs = append(errs, validateProtocol(path.Child("protocol"), p.Protocol)...)
	errs = append(errs, validatePortOrName(path.Child("targetPort"), p.TargetPort)...)
	if p.AppProtocol != nil {
		errs = append(errs, invalid(path.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
	}
	return errs
}

func validateProtocol(path *field.Path, p corev1.Protocol) field.ErrorList {
	return oneOf(path, p, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

func validateAffinityOfService(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	errs := oneOf(path.Child("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	config := path.Child("sessionAffinityConfig")
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if s.SessionAffinityConfig != nil {
			errs = append(errs, field.Forbidden(config, "must not be set when session affinity is None"))
		}
	case corev1.ServiceAffinityClientIP: // The defaults have filled in the timeout.
		seconds := deref(s.SessionAffinityConfig.ClientIP.TimeoutSeconds)
		if limit := int32(24 * 60 * 60); seconds <= 0 || seconds > limit {
			errs = append(errs, field.Invalid(config.Child("clientIP", "timeoutSeconds"), seconds,
				fmt.Sprintf("must be greater than 0 and less than %d", limit)))
		}
	}
	return errs
}

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
	for i, ip := range ips {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(ips) > 1 {
				errs = append(errs, field.Invalid(at, ips, "'None' must be the first and only value"))
			}
			continue
		}
		bad := validateIP(at.Index(i), ip)
		errs = append(errs, bad...)
		if len(bad) == 0 && i < len(s.Spec.IPFamilies) && familyOf(ip) != s.Spec.IPFamilies[i] {
			errs = append(errs, field.Invalid(at.Index(i), ip,
				fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", s.Spec.IPFamilies[i], i)))
		}
	}
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(at, ips, "may only hold up to 2 values"))
	}
	if len(ips) > 1 && (len(ips) > 2 || familyOf(ips[0]) == familyOf(ips[1])) && ips[0] != corev1.ClusterIPNone {
		errs = append(errs, field.Invalid(at, ips, "may specify no more than one IP for each IP family"))
	}
	return errs
}

// validateFamilies also says what a cluster of one family, IPv4, can't do.
func validateFamilies(path *field.Path, s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	at, policyAt := path.Child("ipFamilies"), path.Child("ipFamilyPolicy")
	var names []string
	for i, f := range s.Spec.IPFamilies {
		errs = append(errs, oneOf(at.Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		names = append(names, string(f))
	}
	errs = append(errs, unique(at, names, "")...)
	policy := deref(s.Spec.IPFamilyPolicy)
	errs = append(errs, oneOfOrNone(policyAt, policy, corev1.IPFamilyPolicyPreferDualStack,
		corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	if len(errs) > 0 {
		return errs // What follows would only repeat it.
	}
	if policy == corev1.IPFamilyPolicySingleStack {
		both := "must be 'RequireDualStack' or 'PreferDualStack' when multiple %s are specified"
		if len(s.Spec.ClusterIPs) == 2 {
			errs = append(errs, field.Invalid(policyAt, policy, fmt.Sprintf(both, "cluster IPs")))
		}
		if len(s.Spec.IPFamilies) == 2 {
			errs = append(errs, field.Invalid(policyAt, policy, fmt.Sprintf(both, "IP families")))
		}
	}
	if len(errs) > 0 || s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0 {
		return errs
	}
	if policy == corev1.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(policyAt, policy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.Spec.IPFamilies {
		if f != corev1.IPv4Protocol {
			errs = append(errs, field.Invalid(at.Index(i), f, "not configured on this cluster"))
		}
	}
	return errs
}

func validateLoadBalancer(path *field.Path, s *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	only := func(name string, set bool) {
		if set && s.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(path.Child(name), "may only be used when `type` is 'LoadBalancer'"))
		}
	}
	only("LoadBalancerSourceRanges", len(s.LoadBalancerSourceRanges) > 0) // With a capital L, as Kubernetes has it.
	only("allocateLoadBalancerNodePorts", s.AllocateLoadBalancerNodePorts != nil)
	only("loadBalancerClass", s.LoadBalancerClass != nil)
	for i, cidr := range s.LoadBalancerSourceRanges {
		at := path.Child("LoadBalancerSourceRanges").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, strings.TrimSpace(cidr), true, nil)...)
	}
	if c := s.LoadBalancerClass; c != nil && s.Type == corev1.ServiceTypeLoadBalancer {
		errs = append(errs, invalid(path.Child("loadBalancerClass"), *c, validation.IsQualifiedName(*c))...)
	}
	return errs
}

func validateTrafficPolicies(path *field.Path, s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	external := path.Child("externalTrafficPolicy")
	switch {
	case reachableFromOutside(&s.Spec):
		errs = oneOf(external, s.Spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster,
			corev1.ServiceExternalTrafficPolicyLocal)
	case s.Spec.ExternalTrafficPolicy != "":
		errs = append(errs, field.Invalid(external, s.Spec.ExternalTrafficPolicy,
			"may only be set for externally-accessible services"))
	}
	check, port := path.Child("healthCheckNodePort"), s.Spec.HealthCheckNodePort
	switch {
	case needsHealthCheckPort(s) && port == 0:
		errs = append(errs, field.Required(check, ""))
	case needsHealthCheckPort(s):
		errs = append(errs, validatePort(check, port)...)
	case port != 0:
		errs = append(errs, field.Invalid(check, port,
			"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	}
	errs = append(errs, oneOfOrNone(path.Child("internalTrafficPolicy"), deref(s.Spec.InternalTrafficPolicy),
		corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	spread := []string{corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone,
		corev1.ServiceTrafficDistributionPreferSameNode}
	if d := s.Spec.TrafficDistribution; d != nil && !slices.Contains(spread, *d) {
		errs = append(errs, field.NotSupported(path.Child("trafficDistribution"), *d, spread))
	}
	return errs
}

// validateServiceUpdate holds a service to the address that it was given.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	if !needsClusterIP(s) || !needsClusterIP(old) {
		return nil
	}
	var errs field.ErrorList
	path := field.NewPath("spec")
	if len(old.Spec.ClusterIPs) > 0 && (!isHeadless(s) || !isHeadless(old)) {
		at := path.Child("clusterIPs").Index(0)
		switch {
		case len(s.Spec.ClusterIPs) == 0:
			errs = append(errs, field.Invalid(at, s.Spec.ClusterIPs, "primary clusterIP can not be unset"))
		case s.Spec.ClusterIPs[0] != old.Spec.ClusterIPs[0]:
			errs = append(errs, field.Invalid(at, s.Spec.ClusterIPs, "may not change once set"))
		}
	}
	if !isHeadless(s) && !isHeadless(old) && len(s.Spec.IPFamilies) > 0 && len(old.Spec.IPFamilies) > 0 &&
		s.Spec.IPFamilies[0] != old.Spec.IPFamilies[0] {
		errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(0), s.Spec.IPFamilies, "may not change once set"))
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		deref(s.Spec.LoadBalancerClass) != deref(old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if needsHealthCheckPort(s) && needsHealthCheckPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	return errs
}
