package api

import (
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func endpoints() *Resource {
	return row(Resource{
		Version: "v1", Name: "endpoints", Singular: "endpoints", Kind: "Endpoints", ShortNames: []string{"ep"},
		Namespaced: true,
		Deprecated: "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
		Verbs:      allVerbs(), CreatedByPut: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Endpoints", "string", corev1.Endpoints{}.SwaggerDoc()["subsets"]), ageColumn(),
		},
	}, rules[corev1.Endpoints]{
		Default: func(e *corev1.Endpoints) {
			for i := range e.Subsets {
				for j := range e.Subsets[i].Ports {
					setDefault(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
				}
			}
		},
		Validate: validateEndpoints,
		Row: func(e *corev1.Endpoints) []any {
			return []any{e.Name, printEndpoints(e), age(e.CreationTimestamp.Time)}
		},
	})
}

func printEndpoints(e *corev1.Endpoints) string {
	if len(e.Subsets) == 0 {
		return "<none>"
	}
	var all []string
	for _, subset := range e.Subsets {
		if len(subset.Ports) == 0 {
			for _, a := range subset.Addresses {
				all = append(all, a.IP)
			}
		}
		for _, port := range subset.Ports {
			for _, a := range subset.Addresses {
				all = append(all, net.JoinHostPort(a.IP, strconv.Itoa(int(port.Port))))
			}
		}
	}
	return firstThree(all)
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, subset := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(subset.Addresses)+len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		errs = append(errs, validateAddresses(at.Child("addresses"), subset.Addresses)...)
		errs = append(errs, validateAddresses(at.Child("notReadyAddresses"), subset.NotReadyAddresses)...)
		for j, p := range subset.Ports {
			portAt := at.Child("ports").Index(j)
			if p.Name != "" || len(subset.Ports) > 1 {
				errs = append(errs, requiredName(portAt.Child("name"), p.Name, validation.IsDNS1123Label)...)
			}
			errs = append(errs, validatePort(portAt.Child("port"), p.Port)...)
			errs = append(errs, validateProtocol(portAt.Child("protocol"), p.Protocol)...)
			if p.AppProtocol != nil {
				errs = append(errs, invalid(portAt.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
			}
		}
	}
	return errs
}

func validateAddresses(path *field.Path, addresses []corev1.EndpointAddress) field.ErrorList {
	var errs field.ErrorList
	for i, a := range addresses {
		at := path.Index(i)
		errs = append(errs, validateEndpointIP(at.Child("ip"), a.IP)...)
		if a.Hostname != "" {
			errs = append(errs, invalid(at.Child("hostname"), a.Hostname, validation.IsDNS1123Label(a.Hostname))...)
		}
		if a.NodeName != nil {
			errs = append(errs, invalid(at.Child("nodeName"), *a.NodeName, validation.IsDNS1123Subdomain(*a.NodeName))...)
		}
	}
	return errs
}
