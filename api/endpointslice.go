package api

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func endpointSlice() *Resource {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return row(Resource{
		Group: "discovery.k8s.io", Version: "v1", Name: "endpointslices", Singular: "endpointslice", Kind: "EndpointSlice",
		Namespaced: true,
		Gated:      []string{"endpoints.deprecatedTopology"}, // Behind none: v1 has never had it.
		Verbs:      allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("AddressType", "string", doc["addressType"]),
			column("Ports", "string", doc["ports"]),
			column("Endpoints", "string", doc["endpoints"]),
			ageColumn(),
		},
	}, rules[discoveryv1.EndpointSlice]{
		Default: func(e *discoveryv1.EndpointSlice) {
			if len(e.Endpoints) == 0 { // As it reads when it has been stored.
				e.Endpoints = nil
			}
			if len(e.Ports) == 0 {
				e.Ports = nil
			}
			for i := range e.Ports {
				setDefaultPtr(&e.Ports[i].Name, "")
				setDefaultPtr(&e.Ports[i].Protocol, corev1.ProtocolTCP)
			}
		},
		Validate: validateEndpointSlice,
		ValidateUpdate: func(e, old *discoveryv1.EndpointSlice) field.ErrorList {
			return immutable(field.NewPath("addressType"), e.AddressType, old.AddressType)
		},
		Wanted: func(e *discoveryv1.EndpointSlice) any { return []any{e.AddressType, e.Endpoints, e.Ports, e.Labels} },
		Row:    printEndpointSlice,
	})
}

func printEndpointSlice(e *discoveryv1.EndpointSlice) []any {
	var ports, addresses []string
	for _, p := range e.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			ports = append(ports, *p.Name)
		default:
			ports = append(ports, "*")
		}
	}
	for _, endpoint := range e.Endpoints {
		addresses = append(addresses, endpoint.Addresses...)
	}
	return []any{
		e.Name, string(e.AddressType), or(firstThree(ports), "<unset>"), or(firstThree(addresses), "<unset>"),
		age(e.CreationTimestamp.Time),
	}
}

// firstThree joins a list, of which a column has room for three.
func firstThree(list []string) string {
	const room = 3
	if len(list) <= room {
		return strings.Join(list, ",")
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(list[:room], ","), len(list)-room)
}

func validateEndpointSlice(e *discoveryv1.EndpointSlice) field.ErrorList {
	const maxEndpoints, maxAddresses, maxPorts = 1000, 100, 20000
	errs := oneOf(field.NewPath("addressType"), e.AddressType,
		discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	ports, endpoints := field.NewPath("ports"), field.NewPath("endpoints")
	if len(e.Ports) > maxPorts {
		return append(errs, field.TooMany(ports, len(e.Ports), maxPorts))
	}
	if len(e.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(endpoints, len(e.Endpoints), maxEndpoints))
	}
	errs = append(errs, validateSlicePorts(ports, e.Ports)...)
	for i, endpoint := range e.Endpoints {
		at := endpoints.Index(i)
		switch n := len(endpoint.Addresses); {
		case n == 0:
			errs = append(errs, field.Required(at.Child("addresses"), ""))
		case n > maxAddresses:
			errs = append(errs, field.TooMany(at.Child("addresses"), n, maxAddresses))
		}
		for j, address := range endpoint.Addresses {
			errs = append(errs, validateSliceAddress(at.Child("addresses"), j, e.AddressType, address)...)
		}
		if name := endpoint.NodeName; name != nil {
			errs = append(errs, invalid(at.Child("nodeName"), *name, validation.IsDNS1123Subdomain(*name))...)
		}
		if name := endpoint.Hostname; name != nil {
			errs = append(errs, invalid(at.Child("hostname"), *name, validation.IsDNS1123Label(*name))...)
		}
		if endpoint.Hints != nil {
			errs = append(errs, validateHints(at.Child("hints"), endpoint.Hints)...)
		}
	}
	return errs
}

func validateSlicePorts(path *field.Path, ports []discoveryv1.EndpointPort) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, p := range ports {
		at, name := path.Index(i), deref(p.Name)
		if name != "" {
			errs = append(errs, invalid(at.Child("name"), name, validation.IsDNS1123Label(name))...)
		}
		if seen[name] { // Also where both are empty.
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		seen[name] = true
		errs = append(errs, oneOfIfSet(at.Child("protocol"), p.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		if p.AppProtocol != nil {
			errs = append(errs, invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
		}
	}
	return errs
}

func validateSliceAddress(list *field.Path, i int, kind discoveryv1.AddressType, address string) field.ErrorList {
	path := list.Index(i)
	var errs field.ErrorList
	switch kind {
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(path, address)
	case discoveryv1.AddressTypeIPv4:
		errs = validateIP(path, address)
	case discoveryv1.AddressTypeIPv6:
		errs = validation.IsValidIP(path, address) // In the one way to write it, from the first day on.
	default:
		return nil // The type itself is the error.
	}
	if len(errs) > 0 {
		return errs
	}
	if want := string(kind); want != string(familyOf(address)) {
		errs = append(errs, field.Invalid(list, address, "must be an "+want+" address"))
	}
	return append(errs, validateEndpointIP(path, address)...)
}

func validateHints(path *field.Path, h *discoveryv1.EndpointHints) field.ErrorList {
	const maxZones, maxNodes = 8, 8
	zones, nodes := path.Child("forZones"), path.Child("forNodes")
	if len(h.ForZones) > maxZones {
		return field.ErrorList{field.TooMany(zones, len(h.ForZones), maxZones)}
	}
	var names []string
	for _, zone := range h.ForZones {
		names = append(names, zone.Name)
	}
	errs := validateHinted(zones, names, validation.IsValidLabelValue)
	if len(h.ForNodes) > maxNodes {
		return append(errs, field.TooMany(nodes, len(h.ForNodes), maxNodes))
	}
	names = nil
	for _, node := range h.ForNodes {
		names = append(names, node.Name)
	}
	return append(errs, validateHinted(nodes, names, validation.IsDNS1123Subdomain)...)
}

// validateHinted wants each name once. Unlike in [unique], an empty one is a name like others: labels of zones may be empty.
func validateHinted(path *field.Path, names []string, wrong func(string) []string) (errs field.ErrorList) {
	seen := map[string]bool{}
	for i, name := range names {
		at := path.Index(i).Child("name")
		if seen[name] {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen[name] = true
		errs = append(errs, invalid(at, name, wrong(name))...)
	}
	return errs
}
