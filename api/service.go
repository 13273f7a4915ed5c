package api

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func service() *Resource {
	spec := corev1.ServiceSpec{}.SwaggerDoc()
	return row(Resource{
		Version: "v1", Name: "services", Singular: "service", Kind: "Service", ShortNames: []string{"svc"},
		Categories: []string{"all"}, Namespaced: true,
		ShowsDeleted: true,
		Verbs:        allVerbs(), CreatedByPut: true,
		Subs:         []Sub{proxySub("ServiceProxyOptions"), statusSub("Service")},
		ValidateName: validation.NameIsDNSLabel, // Since 1.36 a digit may stand first.
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Type", "string", spec["type"]),
			column("Cluster-IP", "string", spec["clusterIP"]),
			column("External-IP", "string", spec["externalIPs"]),
			column("Port(s)", "string", spec["ports"]),
			ageColumn(),
			wide("Selector", "string", spec["selector"]),
		},
	}, rules[corev1.Service]{
		ValidateStatus: validateServiceStatus,
		Default:        defaultService,
		PrepareCreate:  prepareService,
		PrepareUpdate:  prepareServiceUpdate,
		Validate:       validateService,
		ValidateUpdate: validateServiceUpdate,
		Fields: func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
		Row: printService,
	})
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	setDefault(&spec.Type, corev1.ServiceTypeClusterIP)
	setDefault(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		setDefaultPtr(&spec.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		setDefaultPtr(&spec.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		setDefaultPtr(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	for i := range spec.Ports {
		port := &spec.Ports[i]
		setDefault(&port.Protocol, corev1.ProtocolTCP)
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	if reachableFromOutside(spec) {
		setDefault(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	switch spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		setDefaultPtr(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		setDefaultPtr(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if ingress := &s.Status.LoadBalancer.Ingress[i]; ingress.IP != "" {
				setDefaultPtr(&ingress.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// reachableFromOutside tells a service that takes traffic from outside the cluster, for which externalTrafficPolicy
// has a meaning.
func reachableFromOutside(s *corev1.ServiceSpec) bool {
	return s.Type == corev1.ServiceTypeLoadBalancer || s.Type == corev1.ServiceTypeNodePort ||
		s.Type == corev1.ServiceTypeClusterIP && len(s.ExternalIPs) > 0
}

func printService(s *corev1.Service) []any {
	clusterIP := "<none>"
	if len(s.Spec.ClusterIPs) > 0 {
		clusterIP = s.Spec.ClusterIPs[0]
	}
	var ports []string
	for _, p := range s.Spec.Ports {
		if p.NodePort > 0 {
			ports = append(ports, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
		} else {
			ports = append(ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return []any{
		s.Name, string(s.Spec.Type), clusterIP, externalIP(s), or(strings.Join(ports, ","), "<none>"),
		age(s.CreationTimestamp.Time), labels.FormatLabels(s.Spec.Selector),
	}
}

// externalIP is where a service can be reached from outside, as far as its type has such a place.
func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return or(strings.Join(s.Spec.ExternalIPs, ","), "<none>")
	case corev1.ServiceTypeLoadBalancer:
		var ips []string
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			if ip := or(ingress.IP, ingress.Hostname); ip != "" {
				ips = append(ips, ip)
			}
		}
		slices.Sort(ips)
		ips = append(slices.Compact(ips), s.Spec.ExternalIPs...)
		return or(strings.Join(ips, ","), "<pending>")
	}
	return "<unknown>"
}
