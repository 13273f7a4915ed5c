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
	errs := append(validateServiceAnnotations(s), validateServiceType(path, s)...)
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

// validateServiceAnnotations checks those that stand for a field.
func validateServiceAnnotations(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath("metadata", "annotations")
	hints, old := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if mode, ok := s.Annotations[corev1.AnnotationTopologyMode]; ok && old && mode != hints {
		errs = append(errs, field.Invalid(at.Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)))
	}
	ranges, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok || len(s.Spec.LoadBalancerSourceRanges) > 0 {
		return errs
	}
	at = at.Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		errs = append(errs, field.Forbidden(at, "may only be used when `type` is 'LoadBalancer'"))
	}
	if ranges = strings.TrimSpace(ranges); ranges != "" {
		for cidr := range strings.SplitSeq(ranges, ",") {
			errs = append(errs, validation.IsValidCIDRForLegacyField(at, strings.TrimSpace(cidr), true, nil)...)
		}
	}
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
	errs = append(errs, oneOfIfSet(path.Child("internalTrafficPolicy"), s.Spec.InternalTrafficPolicy,
		corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	spread := []string{corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone,
		corev1.ServiceTrafficDistributionPreferSameNode}
	if d := s.Spec.TrafficDistribution; d != nil && !slices.Contains(spread, *d) {
		errs = append(errs, field.NotSupported(path.Child("trafficDistribution"), *d, spread))
	}
	return errs
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateFamiliesUpdate(path, s, old)
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		deref(s.Spec.LoadBalancerClass) != deref(old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(path.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if needsHealthCheckPort(s) && needsHealthCheckPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(path.Child("healthCheckNodePort"), "field is immutable"))
	}
	return errs
}
