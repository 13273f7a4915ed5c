package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestServiceUpdate sends changed YAML for a stored service, and looks at what becomes of the fields that the user
// does not care for.
func TestServiceUpdate(t *testing.T) {
	const clusterIP = `{spec: {type: ClusterIP, clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], ipFamilies: [IPv4],
		ipFamilyPolicy: SingleStack, selector: {a: b}, ports: [{name: x, port: 80}, {name: "y", port: 81}]}}`
	const nodePort = `{spec: {type: NodePort, clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], ipFamilies: [IPv4],
		ipFamilyPolicy: SingleStack, selector: {a: b}, ports: [{name: x, port: 80, nodePort: 30001}, {name: "y", port: 81, nodePort: 30002}]}}`
	for _, tc := range []struct {
		name, old, given, want string
		errors                 []string
	}{
		{
			name: "the same YAML again", old: clusterIP,
			given: `{spec: {selector: {a: b}, ports: [{name: x, port: 80}, {name: "y", port: 81}]}}`, want: clusterIP,
		},
		{
			name: "node ports are kept by name", old: nodePort,
			given: `{spec: {type: NodePort, selector: {a: b}, ports: [{name: "y", port: 81}, {name: x, port: 8080}]}}`,
			want: `{spec: {type: NodePort, clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
				selector: {a: b}, ports: [{name: "y", port: 81, nodePort: 30002}, {name: x, port: 8080, nodePort: 30001}]}}`,
		},
		{
			name: "a node port that the user now gives to another port is not kept", old: nodePort,
			given: `{spec: {type: NodePort, selector: {a: b}, ports: [{name: x, port: 80}, {name: "y", port: 81, nodePort: 30001}]}}`,
			want: `{spec: {type: NodePort, clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
				selector: {a: b}, ports: [{name: x, port: 80}, {name: "y", port: 81, nodePort: 30001}]}}`,
		},
		{
			name: "NodePort to ClusterIP gives the node ports back", old: nodePort,
			given: `{spec: {type: ClusterIP, externalTrafficPolicy: Cluster, selector: {a: b},
				ports: [{name: x, port: 80, nodePort: 30001}, {name: "y", port: 81, nodePort: 30002}]}}`,
			want: clusterIP,
		},
		{
			name: "a node port that is new is an error, not taken back", old: nodePort,
			given: `{spec: {type: ClusterIP, selector: {a: b}, ports: [{name: x, port: 80, nodePort: 30009}]}}`,
			want: `{spec: {type: ClusterIP, clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
				selector: {a: b}, ports: [{name: x, port: 80, nodePort: 30009}]}}`,
			errors: []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		},
		{
			name: "ClusterIP to ExternalName gives the address back", old: clusterIP,
			given: `{spec: {type: ExternalName, externalName: a.example, clusterIP: 10.43.0.7, clusterIPs: [10.43.0.7],
				ipFamilies: [IPv4], ipFamilyPolicy: SingleStack, internalTrafficPolicy: Cluster}}`,
			want: `{spec: {type: ExternalName, externalName: a.example}}`,
		},
		{
			name: "an unknown policy of an ExternalName is refused", old: clusterIP,
			given:  `{spec: {type: ExternalName, externalName: a.example, internalTrafficPolicy: Sideways}}`,
			want:   `{spec: {type: ExternalName, externalName: a.example, internalTrafficPolicy: Sideways}}`,
			errors: []string{`spec.internalTrafficPolicy: Unsupported value: "Sideways": supported values: "Cluster", "Local"`},
		},
		{
			name: "another address is refused", old: clusterIP,
			given: `{spec: {clusterIP: 10.43.0.8, clusterIPs: [10.43.0.7], selector: {a: b}, ports: [{port: 80}]}}`,
			want: `{spec: {clusterIP: 10.43.0.8, clusterIPs: [10.43.0.8], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
				selector: {a: b}, ports: [{port: 80}]}}`,
			errors: []string{`spec.clusterIPs[0]: Invalid value: ["10.43.0.8"]: may not change once set`},
		},
		{
			name: "so is giving it up", old: clusterIP,
			given: `{spec: {clusterIP: None, clusterIPs: [None], selector: {a: b}, ports: [{port: 80}]}}`,
			want: `{spec: {clusterIP: None, clusterIPs: [None], ipFamilies: [IPv4], ipFamilyPolicy: SingleStack,
				selector: {a: b}, ports: [{port: 80}]}}`,
			errors: []string{`spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set`},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := find(t, "Service")
			old, got, want := parse(t, r, tc.old), parse(t, r, tc.given), parse(t, r, tc.want)
			r.PrepareUpdate(got, old)
			if errs := CompleteFamilies(got.(*corev1.Service), old.(*corev1.Service), []corev1.IPFamily{corev1.IPv4Protocol}); len(errs) > 0 {
				t.Fatal(errs)
			}
			if diff := cmp.Diff(format(t, want), format(t, got)); diff != "" {
				t.Errorf("stored %s\ngiven %s\n(-want +got):\n%s", tc.old, tc.given, diff)
			}
			errs := append(r.Validate(got), r.ValidateUpdate(got, old)...)
			if diff := cmp.Diff(tc.errors, texts(errs)); diff != "" {
				t.Errorf("stored %s\ngiven %s\nerrors (-want +got):\n%s", tc.old, tc.given, diff)
			}
		})
	}
}

// updateTest is a stored object, what a user makes of it, and what is wrong with the change.
type updateTest struct {
	kind, old, given string
	want             []string // How the errors begin.
}

func checkUpdates(t *testing.T, tests []updateTest) {
	t.Helper()
	for _, tc := range tests {
		r := find(t, tc.kind)
		old, now := parse(t, r, tc.old), parse(t, r, tc.given)
		got := texts(r.ValidateUpdate(now, old))
		for i := range min(len(got), len(tc.want)) {
			got[i] = got[i][:min(len(got[i]), len(tc.want[i]))]
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s\nstored %s\ngiven %s\n(-want +got):\n%s", tc.kind, tc.old, tc.given, diff)
		}
	}
}

func TestValidateUpdate(t *testing.T) {
	const onlyMutable = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
	checkUpdates(t, []updateTest{
		{"Pod", aPod("", ""), "{metadata: {name: p, labels: {a: b}}, spec: {containers: [{name: c, image: other, imagePullPolicy: Always}]}}", nil},
		{"Pod", aPod("tolerations: [{key: a}]", ""), aPod("tolerations: [{key: a}, {key: b, operator: Exists}], activeDeadlineSeconds: 9", ""), nil},
		{"Pod", aPod("", ""), aPod("", "env: [{name: a}]"), []string{onlyMutable}},
		{"Pod", aPod("", ""), aPod("nodeName: n1", ""), []string{onlyMutable}},
		{"Pod", aPod("", ""), "{spec: {containers: [{name: c, image: i}, {name: d, image: i}]}}", []string{
			"spec.containers: Forbidden: pod updates may not add or remove containers",
		}},
		{"Pod", aPod("tolerations: [{key: a}]", ""), aPod("tolerations: [{key: b}]", ""), []string{
			"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
		}},
		{"Pod", aPod("activeDeadlineSeconds: 5", ""), aPod("activeDeadlineSeconds: 6", ""), []string{
			"spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value",
		}},
		{"Pod", aPod("schedulingGates: [{name: a}]", ""), aPod("nodeSelector: {a: b}", ""), nil},
		{"Pod", aPod("schedulingGates: [{name: a}], nodeSelector: {a: b}", ""), aPod("nodeSelector: {a: c}", ""), []string{
			`spec.nodeSelector: Invalid value: {"a":"c"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)`,
		}},
		{"Pod", aPod("schedulingGates: [{name: a}]", ""), aPod("affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{}]}}}", ""), nil},
		{"Pod", aPod("schedulingGates: [{name: a}], affinity: "+requiring("{key: a, operator: Exists}"), ""),
			aPod("affinity: "+requiring("{key: a, operator: Exists}, {key: b, operator: Exists}"), ""), nil},
		{"Pod", aPod("schedulingGates: [{name: a}], affinity: "+requiring("{key: a, operator: Exists}"), ""),
			aPod("affinity: "+requiring("{key: b, operator: Exists}"), ""), []string{
				`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value: {"matchExpressions":[{"key":"b","operator":"Exists"}]}: only additions are allowed (no mutations or deletions)`,
			}},
		{"Pod", aPod("schedulingGates: [{name: a}], affinity: "+requiring("{key: a, operator: Exists}"), ""), aPod("", ""), []string{
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Invalid value: null: no additions/deletions to non-empty NodeSelectorTerms list are allowed",
		}},
		{"Pod", aPod("", ""), aPod("schedulingGates: [{name: a}]", ""), []string{
			"spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a'",
		}},
		{"Deployment", aDeployment("", ""), aDeployment("replicas: 9", "hostname: h"), nil},
		{"Deployment", aDeployment("", ""), "{spec: {selector: {matchLabels: {app: b}}}}", []string{
			`spec.selector: Invalid value: {"matchLabels":{"app":"b"}}: field is immutable`,
		}},
		{"ConfigMap", "{immutable: true, data: {a: b}}", "{data: {a: c}}", []string{
			"immutable: Forbidden: field is immutable when `immutable` is set",
			"data: Forbidden: field is immutable when `immutable` is set",
		}},
		{"Secret", "{type: Opaque}", "{type: kubernetes.io/tls}", []string{`type: Invalid value: "kubernetes.io/tls": field is immutable`}},
		{"Node", "{spec: {podCIDRs: [10.42.0.0/24], providerID: a}}", "{spec: {podCIDRs: [10.42.1.0/24]}}", []string{
			`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`,
			"spec.providerID: Invalid value: null: field cannot be cleared once set",
		}},
		{"Node", "{}", "{spec: {externalID: a}}", []string{"spec.externalID: Forbidden: may not be updated"}},
		{"ReplicaSet", "{spec: {selector: {matchLabels: {app: a}}}}", "{spec: {selector: {matchLabels: {app: b}}}}", []string{
			`spec.selector: Invalid value: {"matchLabels":{"app":"b"}}: field is immutable`,
		}},
		{"RuntimeClass", "{handler: runc}", "{handler: kata}", []string{`handler: Invalid value: "kata": field is immutable`}},
		{"Service", "{spec: {clusterIP: 10.43.0.5, clusterIPs: [10.43.0.5]}}", "{spec: {clusterIP: 10.43.0.6, clusterIPs: [10.43.0.6]}}", []string{
			`spec.clusterIPs[0]: Invalid value: ["10.43.0.6"]: may not change once set`,
		}},
		{"EndpointSlice", "{addressType: IPv4}", "{addressType: IPv6}", []string{`addressType: Invalid value: "IPv6": field is immutable`}},
	})
}

func TestNamespaceKeepsItsFinalizers(t *testing.T) {
	r := find(t, "Namespace")
	old, now := parse(t, r, `{spec: {finalizers: [kubernetes]}}`), parse(t, r, `{metadata: {labels: {a: b}}}`)
	r.PrepareUpdate(now, old)
	want := r.New()
	if err := yaml.Unmarshal([]byte(`{metadata: {labels: {a: b}}, spec: {finalizers: [kubernetes]}, status: {phase: Active}}`), want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(format(t, want), format(t, now)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// requiring is the affinity of a pod whose nodes have to meet requirements.
func requiring(requirements string) string {
	return "{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [" + requirements + "]}]}}}"
}
