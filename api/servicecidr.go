package api

import (
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DefaultServiceCIDR names the range that the server was started with.
const DefaultServiceCIDR = "kubernetes"

// ServiceCIDRProtection is the finalizer of a range as long as Services have addresses of it.
const ServiceCIDRProtection = "networking.k8s.io/service-cidr-finalizer"

// AddressManager is who the addresses of Services are managed by, as Kubernetes calls it.
const AddressManager = "ipallocator.k8s.io"

// ServiceCIDRHolds says whether Services can get an address from a ServiceCIDR.
func ServiceCIDRHolds(c *networkingv1.ServiceCIDR, addr netip.Addr) bool {
	return slices.ContainsFunc(c.Spec.CIDRs, func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err == nil && RangeHolds(p, addr)
	})
}

// ServiceCIDRRanges are the ranges of a ServiceCIDR that Services can get addresses of. As in Kubernetes, one of IPv6 is a /64 at most.
func ServiceCIDRRanges(c *networkingv1.ServiceCIDR) (all []netip.Prefix) {
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil && (p.Addr().Is4() || p.Bits() >= 64) {
			all = append(all, p.Masked())
		}
	}
	return all
}

// ServiceRanges are the ranges of all ServiceCIDRs, each once and in order. One that is deleted counts until nothing holds it any more:
// Services have addresses of it for as long.
func ServiceRanges(cidrs []*networkingv1.ServiceCIDR) (all []netip.Prefix) {
	for _, c := range cidrs {
		if c.DeletionTimestamp == nil || slices.Contains(c.Finalizers, ServiceCIDRProtection) {
			all = append(all, ServiceCIDRRanges(c)...)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}

// RangeHolds says whether a Service may have an address of a range: any but the first, which is the network's, and in IPv4 the
// last, which is everybody's.
func RangeHolds(p netip.Prefix, addr netip.Addr) bool {
	if !p.Contains(addr) || addr == p.Masked().Addr() {
		return false
	}
	return addr.Is6() || p.Contains(addr.Next())
}

// serviceCIDR is a range that Services get their addresses from.
// https://kubernetes.io/docs/reference/networking/virtual-ips/#ip-address-objects
func serviceCIDR() *Resource {
	spec := networkingv1.ServiceCIDRSpec{}.SwaggerDoc()
	return row(Resource{
		Group: "networking.k8s.io", Version: "v1", Name: "servicecidrs", Singular: "servicecidr", Kind: "ServiceCIDR",
		Verbs: allVerbs(), Subs: []Sub{statusSub("ServiceCIDR", MetadataParts()...)},
		Columns: []metav1.TableColumnDefinition{nameColumn(), column("CIDRs", "string", spec["cidrs"]), ageColumn()},
	}, rules[networkingv1.ServiceCIDR]{
		Validate:       validateServiceCIDR,
		ValidateUpdate: validateServiceCIDRUpdate,
		Row: func(c *networkingv1.ServiceCIDR) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), age(c.CreationTimestamp.Time)}
		},
	})
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	at, cidrs := field.NewPath("spec", "cidrs"), c.Spec.CIDRs
	switch {
	case len(cidrs) == 0:
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	case len(cidrs) > 2:
		return field.ErrorList{field.Invalid(at, c.Spec, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, cidr := range cidrs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), cidr)...)
	}
	if len(cidrs) == 2 && ofOneFamily(cidrs[0], cidrs[1]) {
		errs = append(errs, field.Invalid(at, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	return errs
}

func ofOneFamily(a, b string) bool {
	first, err := netip.ParsePrefix(a)
	second, err2 := netip.ParsePrefix(b)
	return err == nil && err2 == nil && first.Addr().Is4() == second.Addr().Is4()
}

// validateServiceCIDRUpdate lets a range of the other family come to the one that is there, and nothing else.
func validateServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	at, now, before := field.NewPath("spec", "cidrs"), c.Spec.CIDRs, old.Spec.CIDRs
	if len(now) != len(before) && (len(before) != 1 || len(now) != 2) {
		return field.ErrorList{field.Invalid(at, now, apivalidation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i := range before {
		errs = append(errs, immutable(at.Index(i), now[i], before[i])...)
	}
	return errs
}

// ipAddress is an address that somebody, nearly always a Service, has taken: its name is the address.
func ipAddress() *Resource {
	return row(Resource{
		Group: "networking.k8s.io", Version: "v1", Name: "ipaddresses", Singular: "ipaddress", Kind: "IPAddress",
		ShortNames: []string{"ip"}, Verbs: allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("ParentRef", "string", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
		},
		ValidateName: validateAddressName,
	}, rules[networkingv1.IPAddress]{
		Validate: validateIPAddress,
		ValidateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
			return immutable(field.NewPath("spec", "parentRef"), a.Spec.ParentRef, old.Spec.ParentRef)
		},
		Row: func(a *networkingv1.IPAddress) []any { return []any{a.Name, printParent(a.Spec.ParentRef)} },
	})
}

func printParent(p *networkingv1.ParentReference) string {
	if p == nil {
		return "<none>"
	}
	text := strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())
	if p.Namespace != "" {
		text += "/" + p.Namespace
	}
	return text + "/" + p.Name
}

// validateAddressName wants an address to be written in the one way that is shortest, so that it has one name.
func validateAddressName(name string, _ bool) []string {
	var wrong []string
	for _, err := range validation.IsValidIP(&field.Path{}, name) {
		wrong = append(wrong, err.Detail)
	}
	return wrong
}

func validateIPAddress(a *networkingv1.IPAddress) field.ErrorList {
	at, p := field.NewPath("spec", "parentRef"), a.Spec.ParentRef
	if p == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if p.Group != "" {
		errs = append(errs, invalid(at.Child("group"), p.Group, validation.IsDNS1123Subdomain(p.Group))...)
	}
	errs = append(errs, requiredName(at.Child("resource"), p.Resource, content.IsPathSegmentName)...)
	errs = append(errs, requiredName(at.Child("name"), p.Name, content.IsPathSegmentName)...)
	if p.Namespace != "" {
		errs = append(errs, invalid(at.Child("namespace"), p.Namespace, content.IsPathSegmentName(p.Namespace))...)
	}
	return errs
}
