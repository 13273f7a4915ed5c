package api

import "testing"

func TestNewNetworking(t *testing.T) {
	for _, tc := range []newTest{
		{
			name: "network policy", kind: "NetworkPolicy",
			given: `{spec: {egress: [{ports: [{port: 53, protocol: UDP}, {port: web}]}]}}`,
			want: `{spec: {podSelector: {}, policyTypes: [Ingress, Egress],
				egress: [{ports: [{port: 53, protocol: UDP}, {port: web, protocol: TCP}]}]}}`,
		},
		{
			name: "network policy that says which way", kind: "NetworkPolicy",
			given: `{spec: {policyTypes: [Egress]}}`, want: `{spec: {podSelector: {}, policyTypes: [Egress]}}`,
		},
		{
			name: "ingress class", kind: "IngressClass",
			given: `{spec: {controller: a.b/c, parameters: {kind: K, name: n}}}`,
			want:  `{spec: {controller: a.b/c, parameters: {kind: K, name: n, scope: Cluster}}}`,
		},
	} {
		t.Run(tc.name, tc.run)
	}
}

func anIngress(path string) string {
	return "{spec: {rules: [{host: a.example, http: {paths: [{" + path + "}]}}]}}"
}

func TestValidateNetworking(t *testing.T) {
	const backend = "backend: {service: {name: web, port: {number: 80}}}"
	const at = "spec.rules[0].http.paths[0]"
	checkErrors(t, []errorTest{
		{"Ingress", anIngress("path: /, pathType: Prefix, " + backend), nil},
		{"Ingress", anIngress("pathType: ImplementationSpecific, " + backend), nil},
		{"Ingress", "{spec: {}}", []string{"spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"}},
		{"Ingress", "{spec: {defaultBackend: {}, ingressClassName: a/b, tls: [{hosts: ['a.*.b'], secretName: A}], rules: [{host: 10.0.0.1}, {http: {paths: []}}]}}", []string{
			`spec.defaultBackend: Invalid value: "": resource or service backend is required`,
			`spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address`,
			"spec.rules[1].http.paths: Required value",
			"spec.tls[0].hosts[0]: Invalid value: \"a.*.b\": a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
			`spec.tls[0].secretName: Invalid value: "A": ` + subdomain1123,
			`spec.ingressClassName: Invalid value: "a/b": ` + subdomain1123,
		}},
		{"Ingress", anIngress(backend), []string{at + ".pathType: Required value: pathType must be specified"}},
		{"Ingress", anIngress("path: a//b/.., pathType: Exact, " + backend), []string{
			at + `.path: Invalid value: "a//b/..": must be an absolute path`,
			at + `.path: Invalid value: "a//b/..": must not contain '//'`,
			at + `.path: Invalid value: "a//b/..": cannot end with '/..'`,
		}},
		{"Ingress", anIngress("path: /, pathType: Regex, backend: {service: {port: {name: a, number: 1}}}"), []string{
			at + `.pathType: Unsupported value: "Regex": supported values: "Exact", "ImplementationSpecific", "Prefix"`,
			at + ".backend.service.name: Required value",
			at + `.backend: Invalid value: "": cannot set both port name & port number`,
		}},
		{"Ingress", anIngress("path: /, pathType: Exact, backend: {resource: {apiGroup: A, kind: K}}"), []string{
			at + `.backend.resource.apiGroup: Invalid value: "A": ` + subdomain1123,
			at + ".backend.resource.name: Required value",
		}},
		{"IngressClass", "{spec: {controller: ingress}}", []string{
			`spec.controller: Invalid value: "ingress": must be a domain-prefixed path (such as "acme.io/foo")`,
		}},
		{"IngressClass", "{spec: {controller: a.b/c, parameters: {kind: K, name: n, scope: Namespace}}}", []string{
			"spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
		}},
		{"IngressClass", "{spec: {controller: a.b/c, parameters: {kind: K, name: n, namespace: x}}}", []string{
			"spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
		}},
		{"NetworkPolicy", "{spec: {ingress: [{from: [{podSelector: {}, namespaceSelector: {}}], ports: [{port: 80, endPort: 90}]}]}}", nil},
		{"NetworkPolicy", "{spec: {policyTypes: [Out], ingress: [{from: [{}, {podSelector: {}, ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16, 10.0.0.0/8]}}, {ipBlock: {}}]," +
			" ports: [{protocol: ICMP}, {port: 90, endPort: 80}, {port: web, endPort: 80}, {endPort: 80}]}]}}", []string{
			`spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"`,
			"spec.ingress[0].ports[1].endPort: Invalid value: 80: must be greater than or equal to `port`",
			"spec.ingress[0].ports[2].endPort: Invalid value: 80: may not be specified when `port` is non-numeric",
			"spec.ingress[0].ports[3].endPort: Invalid value: 80: may not be specified when `port` is not specified",
			"spec.ingress[0].from[0]: Required value: must specify a peer",
			"spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
			"spec.ingress[0].from[1].ipBlock.except[1]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
			"spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
			"spec.ingress[0].from[2].ipBlock.cidr: Required value",
			`spec.policyTypes[0]: Unsupported value: "Out": supported values: "Ingress", "Egress"`,
		}},
	})
	checkUpdates(t, []updateTest{
		{"IngressClass", "{spec: {controller: a.b/c}}", "{spec: {controller: a.b/d}}", []string{`spec.controller: Invalid value: "a.b/d": field is immutable`}},
	})
}

func TestNetworkingRows(t *testing.T) {
	checkRows(t, []rowTest{
		{"Ingress", "{metadata: {name: i, creationTimestamp: AGO}}", "i|<none>|*||80|10h"},
		{"Ingress", "{metadata: {name: i}, spec: {ingressClassName: nginx, tls: [{}], rules: [{host: a}, {}, {host: b}, {host: c}, {host: d}]}, " +
			"status: {loadBalancer: {ingress: [{ip: 2.2.2.2}, {hostname: lb.example}, {ip: 1.1.1.1}]}}}",
			"i|nginx|a,b,c + 2 more...|1.1.1.1,2.2.2.2,lb.example|80, 443|<unknown>"},
		{"IngressClass", "{metadata: {name: c, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}, spec: {controller: a.b/c, parameters: {apiGroup: x.y, kind: K, name: p}}}",
			"c (default)|a.b/c|K.x.y/p|<unknown>"},
		{"IngressClass", "{metadata: {name: c}, spec: {controller: a.b/c}}", "c|a.b/c|<none>|<unknown>"},
		{"NetworkPolicy", "{metadata: {name: p}, spec: {podSelector: {matchLabels: {a: b}}}}", "p|a=b|<unknown>"},
	})
}
