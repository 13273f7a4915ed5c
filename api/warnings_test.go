package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Whoever writes what is valid but odd is warned, in Kubernetes' words.
func TestWarnings(t *testing.T) {
	deployment := func(pod string) string { return aDeployment("", pod) }
	for _, tc := range []struct {
		name, kind, given string
		want              []string
	}{
		{"nothing odd", "Pod", aPod("", ""), nil},
		{"variables that hide others", "Pod", aPod("", "env: [{name: A, value: x}, {name: A, value: '$(A)y'}, {name: B, value: x}, {name: B, value: y}, {name: C}, {name: C, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"), []string{
			`spec.containers[0].env[3]: hides previous definition of "B", which may be dropped when using apply`,
			`spec.containers[0].env[5]: hides previous definition of "C", which may be dropped when using apply`,
		}},
		{"half bytes", "Pod", aPod("", "resources: {limits: {memory: 1500m, cpu: 1500m}, requests: {memory: 1m, ephemeral-storage: '1.5'}}"), []string{
			`spec.containers[0].resources.limits[memory]: fractional byte value "1500m" is invalid, must be an integer`,
			`spec.containers[0].resources.requests[memory]: fractional byte value "1m" is invalid, must be an integer`,
			`spec.containers[0].resources.requests[ephemeral-storage]: fractional byte value "1500m" is invalid, must be an integer`,
		}},
		{"ports", "Pod", aPod("", "ports: [{containerPort: 80}, {containerPort: 80}, {containerPort: 80, hostPort: 81}, {containerPort: 82, hostPort: 83}, {containerPort: 82, hostPort: 83, hostIP: 192.0.2.1}, {name: a, containerPort: 84}, {name: a, containerPort: 85}]"), []string{
			"spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
			"spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
			"spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]",
			"spec.containers[0].ports[4]: dangerously ambiguous port definition with spec.containers[0].ports[3]",
			`spec.containers[0].ports[6]: duplicate port name "a" with spec.containers[0].ports[5], services and probes that select ports by name will use spec.containers[0].ports[5]`,
		}},
		{"a host's address without a port", "Pod", aPod("", "ports: [{containerPort: 80, hostIP: 192.0.2.1}]"), []string{
			"spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:192.0.2.1}",
		}},
		{"old labels of nodes", "Pod", aPod("nodeSelector: {beta.kubernetes.io/os: linux}, topologySpreadConstraints: [{topologyKey: failure-domain.beta.kubernetes.io/zone}]", ""), []string{
			`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`,
			`spec.topologySpreadConstraints[0].topologyKey: failure-domain.beta.kubernetes.io/zone is deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
			"spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
		}},
		{"affinity", "Pod", aPod(`affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{preference: {matchExpressions: [{key: beta.kubernetes.io/arch, values: ['a b']}]}}]},
			podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{podAffinityTerm: {topologyKey: a}}]}}`, ""), []string{
			`spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" instead`,
			`spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values[0]: a b is invalid, a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
			"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
		}},
		{"lists by name", "Pod", aPod("hostAliases: [{ip: 192.0.2.1}, {ip: 192.0.2.1}, {ip: 'FD00::1'}], imagePullSecrets: [{name: a}, {name: a}, {name: ''}], dnsConfig: {nameservers: ['::ffff:192.0.2.1']}", ""), []string{
			`spec.hostAliases[1].ip: duplicate ip "192.0.2.1"`,
			`spec.imagePullSecrets[1].name: duplicate name "a"`,
			`spec.imagePullSecrets[2].name: invalid empty name ""`,
			`spec.dnsConfig.nameservers[0]: non-standard IP address "::ffff:192.0.2.1" is invalid: use "192.0.2.1"`,
			`spec.hostAliases[2].ip: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")`,
		}},
		{"volumes", "Pod", aPod(`volumes: [{name: a, gitRepo: {repository: x}}, {name: b, rbd: {}}, {name: c, configMap: {name: m, items: [{key: k, path: a}, {key: l, path: a/b}]}},
			{name: d, projected: {sources: [{}, {secret: {name: s, items: [{key: k, path: token}]}}, {serviceAccountToken: {path: token}}]}}]`, ""), []string{
			"spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
			"spec.volumes[1].rbd: deprecated in v1.28, non-functional in v1.31+",
			`volume "c" (ConfigMap "m"): overlapping paths: "a/b" with "a"`,
			`volume "d" (Projected) has no sources provided`,
			`volume "d" (Projected): overlapping paths: "token" (ServiceAccountToken) with "token" (Secret "s")`,
		}},
		{"old annotations", "Pod", `{metadata: {name: a.b, annotations: {scheduler.alpha.kubernetes.io/critical-pod: "", seccomp.security.alpha.kubernetes.io/pod: x, container.apparmor.security.beta.kubernetes.io/c: x}},
			spec: {containers: [{name: c, image: i}]}}`, []string{
			"metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
			`metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead`,
			`metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead`,
			`metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the "appArmorProfile" field instead`,
		}},
		{"a template", "Deployment", deployment("terminationGracePeriodSeconds: -1, overhead: {memory: 1m}"), []string{
			`spec.template.spec.overhead[memory]: fractional byte value "1m" is invalid, must be an integer`,
			"spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
		}},
		{"a cron job", "CronJob", "{metadata: {name: c}, spec: {jobTemplate: {spec: {template: {spec: {nodeSelector: {node-role.kubernetes.io/master: ''}}}}}}}", []string{
			`spec.jobTemplate.spec.template.spec.nodeSelector[node-role.kubernetes.io/master]: use "node-role.kubernetes.io/control-plane" instead`,
		}},
		{"a stateful set", "StatefulSet", "{metadata: {name: s}, spec: {revisionHistoryLimit: -1, volumeClaimTemplates: [{spec: {resources: {requests: {storage: 1m}}}}]}}", []string{
			`spec.volumeClaimTemplates[0].resources.requests[storage]: fractional byte value "1m" is invalid, must be an integer`,
			"spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended",
		}},
		{"headless", "Service", aService("clusterIP: None, sessionAffinity: ClientIP, loadBalancerIP: 192.0.2.1, externalName: a.b, externalIPs: ['FD00::1']"), []string{
			"spec.loadBalancerIP is ignored for headless services",
			"spec.externalIPs is ignored for headless services",
			"spec.SessionAffinity is ignored for headless services",
			`spec.externalIPs[0]: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")`,
			`spec.externalName is ignored when spec.type is not "ExternalName"`,
		}},
		{"addresses of a service", "Service", aService("clusterIP: 'FD43::5', clusterIPs: ['FD43::5'], externalIPs: [192.0.2.1], loadBalancerSourceRanges: [' 10.0.0.1/8'], trafficDistribution: PreferClose"), []string{
			`spec.clusterIPs[0]: IPv6 address "FD43::5" should be in RFC 5952 canonical format ("fd43::5")`,
			"spec.externalIPs is deprecated and may no longer be implemented in some clusters",
			`spec.loadBalancerSourceRanges[0]: CIDR value "10.0.0.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.1/32"?)`,
			`spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`,
		}},
		{"another name", "Service", aService("type: ExternalName, externalName: a.b, externalIPs: [192.0.2.1]"), []string{`spec.externalIPs is ignored when spec.type is "ExternalName"`}},
		{"a certificate", "Secret", "{metadata: {name: s}, type: kubernetes.io/tls, data: {tls.crt: '', tls.key: ''}}", []string{"tls: failed to find any PEM data in certificate input"}},
		{"a claim", "PersistentVolumeClaim", "{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: x}}, spec: {resources: {requests: {storage: 1500m}}}}", []string{
			`metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead`,
			`spec.resources.requests[storage]: fractional byte value "1500m" is invalid, must be an integer`,
		}},
		{"a volume", "PersistentVolume", "{spec: {persistentVolumeReclaimPolicy: Recycle, cephfs: {}}}", []string{
			"spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
			"spec.cephfs: deprecated in v1.28, non-functional in v1.31+",
		}},
		{"names in a slice", "EndpointSlice", "{addressType: FQDN, endpoints: [{addresses: [a.b]}]}", []string{"spec.addressType: FQDN endpoints are deprecated"}},
		{"an ingress", "Ingress", "{metadata: {annotations: {kubernetes.io/ingress.class: x}}}", []string{`annotation "kubernetes.io/ingress.class" is deprecated, please use 'spec.ingressClassName' instead`}},
		{"a policy", "NetworkPolicy", "{spec: {egress: [{to: [{ipBlock: {cidr: 'FD00::/8', except: ['fd01::1/16']}}]}]}}", []string{
			`spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value "FD00::/8" should be in RFC 5952 canonical format ("fd00::/8")`,
			`spec.egress[0].to[0].ipBlock.except[0]: CIDR value "fd01::1/16" is ambiguous in this context (should be "fd01::/16" or "fd01::1/128"?)`,
		}},
		{"a node", "Node", "{spec: {externalID: x}}", []string{"spec.externalID: this field is deprecated, and is unused by Kubernetes"}},
		{"a runtime class", "RuntimeClass", "{scheduling: {nodeSelector: {beta.kubernetes.io/os: x}}}", []string{`scheduling.nodeSelector: deprecated since v1.14; use "kubernetes.io/os" instead`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			obj := parse(t, find(t, tc.kind), tc.given)
			if diff := cmp.Diff(tc.want, Warnings(obj, nil)); diff != "" {
				t.Errorf("%s %s\n(-want +got):\n%s", tc.kind, tc.given, diff)
			}
		})
	}
}

// A template that was odd before is not spoken of again, until something else is wanted of the object.
func TestWarningsOfChanges(t *testing.T) {
	at := func(kind string, generation int64, text string) runtime.Object {
		obj := parse(t, find(t, kind), text)
		obj.(metav1.Object).SetGeneration(generation)
		return obj
	}
	odd := aDeployment("", "terminationGracePeriodSeconds: -1")
	for _, tc := range []struct {
		name     string
		now, old runtime.Object
		want     int
	}{
		{"a deployment as before", at("Deployment", 1, odd), at("Deployment", 1, odd), 0},
		{"a deployment of another generation", at("Deployment", 2, odd), at("Deployment", 1, odd), 1},
		{"a pod", at("Pod", 2, aPod("", "ports: [{containerPort: 80}, {containerPort: 80}]")), at("Pod", 1, aPod("", "")), 0},
		{"a service", at("Service", 0, aService("externalName: a.b")), at("Service", 0, aService("externalName: a.b")), 1},
	} {
		if got := Warnings(tc.now, tc.old); len(got) != tc.want {
			t.Errorf("%s: warned of %q, want %d warnings", tc.name, got, tc.want)
		}
	}
}
