package api

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func networkPolicy() *Resource {
	return row(Resource{
		Group: "networking.k8s.io", Version: "v1", Name: "networkpolicies", Singular: "networkpolicy", Kind: "NetworkPolicy",
		ShortNames: []string{"netpol"}, Namespaced: true,
		Verbs: allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Pod-Selector", "string", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]), ageColumn(),
		},
	}, rules[networkingv1.NetworkPolicy]{
		Default:  defaultNetworkPolicy,
		Validate: validateNetworkPolicy,
		Wanted:   func(p *networkingv1.NetworkPolicy) any { return &p.Spec },
		Row: func(p *networkingv1.NetworkPolicy) []any {
			return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), age(p.CreationTimestamp.Time)}
		},
	})
}

// defaultNetworkPolicy takes a policy that does not say which way it means for one of what comes in, and of what goes
// out where it has rules for that.
func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	ports := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			setDefaultPtr(&ports[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for _, rule := range p.Spec.Ingress {
		ports(rule.Ports)
	}
	for _, rule := range p.Spec.Egress {
		ports(rule.Ports)
	}
	if len(p.Spec.PolicyTypes) > 0 {
		return
	}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

func validateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	path, s := field.NewPath("spec"), &p.Spec
	errs := validateSelector(path.Child("podSelector"), &s.PodSelector)
	for i, rule := range s.Ingress {
		at := path.Child("ingress").Index(i)
		errs = append(errs, validatePolicyPorts(at.Child("ports"), rule.Ports)...)
		errs = append(errs, validatePolicyPeers(at.Child("from"), rule.From)...)
	}
	for i, rule := range s.Egress {
		at := path.Child("egress").Index(i)
		errs = append(errs, validatePolicyPorts(at.Child("ports"), rule.Ports)...)
		errs = append(errs, validatePolicyPeers(at.Child("to"), rule.To)...)
	}
	at := path.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(at, &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, kind := range s.PolicyTypes {
		errs = append(errs, oneOfAll(at.Index(i), kind, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func validatePolicyPorts(path *field.Path, ports []networkingv1.NetworkPolicyPort) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		at := path.Index(i)
		errs = append(errs, oneOfAll(at.Child("protocol"), deref(p.Protocol),
			corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		if p.Port != nil {
			errs = append(errs, validatePortOrName(at.Child("port"), *p.Port)...)
		}
		if p.EndPort == nil {
			continue
		}
		switch endAt, end := at.Child("endPort"), *p.EndPort; {
		case p.Port == nil:
			errs = append(errs, field.Invalid(endAt, end, "may not be specified when `port` is not specified"))
		case p.Port.Type == intstr.String:
			errs = append(errs, field.Invalid(endAt, end, "may not be specified when `port` is non-numeric"))
		default:
			if end < p.Port.IntVal {
				errs = append(errs, field.Invalid(endAt, end, "must be greater than or equal to `port`"))
			}
			errs = append(errs, validatePort(endAt, end)...)
		}
	}
	return errs
}

func validatePolicyPeers(path *field.Path, peers []networkingv1.NetworkPolicyPeer) field.ErrorList {
	var errs field.ErrorList
	for i, p := range peers {
		at := path.Index(i)
		if p.PodSelector != nil {
			errs = append(errs, validateSelector(at.Child("podSelector"), p.PodSelector)...)
		}
		if p.NamespaceSelector != nil {
			errs = append(errs, validateSelector(at.Child("namespaceSelector"), p.NamespaceSelector)...)
		}
		if p.IPBlock != nil {
			errs = append(errs, validateIPBlock(at.Child("ipBlock"), p.IPBlock)...)
		}
		switch selects := p.PodSelector != nil || p.NamespaceSelector != nil; {
		case !selects && p.IPBlock == nil:
			errs = append(errs, field.Required(at, "must specify a peer"))
		case selects && p.IPBlock != nil:
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
	}
	return errs
}

// validateIPBlock wants what is excepted to lie within the block.
func validateIPBlock(path *field.Path, b *networkingv1.IPBlock) field.ErrorList {
	at := path.Child("cidr")
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validation.IsValidCIDRForLegacyField(at, b.CIDR, true, nil)
	block, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return errs // Which is one of errs.
	}
	for i, text := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, text, true, nil)...)
		except, err := netip.ParsePrefix(text)
		if err == nil && (!block.Contains(except.Addr()) || block.Bits() >= except.Bits()) {
			errs = append(errs, field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}
