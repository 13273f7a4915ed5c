package api

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ingress() *Resource {
	return row(Resource{
		Group: "networking.k8s.io", Version: "v1", Name: "ingresses", Singular: "ingress", Kind: "Ingress",
		ShortNames: []string{"ing"}, Namespaced: true,
		Verbs: allVerbs(),
		Subs:  []Sub{statusSub("Ingress")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Class", "string", "The class of ingresses that it belongs to, whose controller serves it."),
			column("Hosts", "string", "The hosts that its rules are for."),
			column("Address", "string", "Where it can be reached from outside."),
			column("Ports", "string", "The ports that it opens."),
			ageColumn(),
		},
	}, rules[networkingv1.Ingress]{
		ValidateStatus: validateIngressStatus,
		Validate:       validateIngress,
		Wanted:         func(i *networkingv1.Ingress) any { return &i.Spec },
		Row: func(i *networkingv1.Ingress) []any {
			class, ports := "<none>", "80"
			if i.Spec.IngressClassName != nil {
				class = *i.Spec.IngressClassName
			}
			if len(i.Spec.TLS) > 0 {
				ports = "80, 443"
			}
			return []any{
				i.Name, class, printHosts(i.Spec.Rules), printIngressAddress(i.Status.LoadBalancer.Ingress), ports,
				age(i.CreationTimestamp.Time),
			}
		},
	})
}

// printHosts names the first three hosts.
func printHosts(rules []networkingv1.IngressRule) string {
	const room = 3
	var hosts []string
	for _, r := range rules {
		if len(hosts) == room {
			return fmt.Sprintf("%s + %d more...", strings.Join(hosts, ","), len(rules)-room)
		}
		if r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	return or(strings.Join(hosts, ","), "*")
}

func printIngressAddress(all []networkingv1.IngressLoadBalancerIngress) string {
	var addresses []string
	for _, a := range all {
		if address := or(a.IP, a.Hostname); address != "" {
			addresses = append(addresses, address)
		}
	}
	slices.Sort(addresses)
	return strings.Join(slices.Compact(addresses), ",")
}
