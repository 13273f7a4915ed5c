package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// texts are the errors as kubectl prints them.
func texts(errs field.ErrorList) []string {
	var list []string
	for _, err := range errs {
		list = append(list, err.Error())
	}
	return list
}

// aPod is a pod of one container with more fields in its spec and in its container, in YAML's flow style.
func aPod(spec, container string) string {
	return "{metadata: {name: p}, spec: {containers: [{name: c, image: i" + more(container) + "}]" + more(spec) + "}}"
}

func aService(spec string) string {
	return "{metadata: {name: s}, spec: {" + strings.TrimPrefix(more(spec), ", ") + "}}"
}

func aDeployment(spec, template string) string {
	return "{metadata: {name: d}, spec: {selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: " +
		"{containers: [{name: c, image: i}]" + more(template) + "}}" + more(spec) + "}}"
}

func more(fields string) string {
	if fields == "" {
		return ""
	}
	return ", " + fields
}

const label1123 = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with " +
	"an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"

// errorTest is a new object, as a user writes it, and all that is wrong with it.
type errorTest struct {
	kind, given string
	want        []string
}

func checkErrors(t *testing.T, tests []errorTest) {
	t.Helper()
	for _, tc := range tests {
		r := find(t, tc.kind)
		obj := parse(t, r, tc.given)
		if r.PrepareCreate != nil {
			r.PrepareCreate(obj)
		}
		if diff := cmp.Diff(tc.want, texts(r.Validate(obj))); diff != "" {
			t.Errorf("%s %.300s\n(-want +got):\n%s", tc.kind, tc.given, diff)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Run("services", func(t *testing.T) {
		checkErrors(t, []errorTest{
			{"Service", aService("ports: [{port: 80}]"), nil},
			{"Service", aService("clusterIP: None"), nil},
			{"Service", "{metadata: {name: s, annotations: {service.kubernetes.io/topology-mode: a, service.kubernetes.io/topology-aware-hints: b, service.beta.kubernetes.io/load-balancer-source-ranges: '10.0.0.0/8, x'}}, spec: {ports: [{port: 80}]}}", []string{
				`metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: "a": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified`,
				"metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Forbidden: may only be used when `type` is 'LoadBalancer'",
				`metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`,
			}},
			{"Service", aService("type: Cluste, ports: [{port: 80}]"), []string{
				`spec.type: Unsupported value: "Cluste": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`,
			}},
			{"Service", aService(""), []string{"spec.ports: Required value"}},
			{"Service", aService("ports: [{port: 0}, {port: 70000, name: B}]"), []string{
				"spec.ports[0].name: Required value",
				"spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
				"spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
				`spec.ports[1].name: Invalid value: "B": ` + label1123,
				"spec.ports[1].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
				"spec.ports[1].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
			}},
			{"Service", aService("ports: [{name: a, port: 80}, {name: a, port: 80, protocol: tcp}, {name: b, port: 80}]"), []string{
				`spec.ports[1].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`,
				`spec.ports[2]: Duplicate value: {"protocol":"TCP","port":80,"targetPort":0}`,
				`spec.ports[1].name: Duplicate value: "a"`,
			}},
			{"Service", aService("ports: [{port: 80, targetPort: way-too-long-port-name}]"), []string{
				`spec.ports[0].targetPort: Invalid value: "way-too-long-port-name": must be no more than 15 characters`,
			}},
			{"Service", aService("ports: [{port: 80, nodePort: 30080}]"), []string{
				"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
			}},
			{"Service", aService("type: NodePort, clusterIP: None, ports: [{port: 80}]"), []string{
				`spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`,
			}},
			{"Service", aService("type: ExternalName"), []string{"spec.externalName: Required value"}},
			{"Service", aService("type: ExternalName, externalName: a.b, clusterIP: 10.0.0.1"), []string{
				"spec.clusterIPs: Forbidden: may not be set for ExternalName services",
			}},
			{"Service", aService("clusterIP: 10.0.0.300, ports: [{port: 80}]"), []string{
				`spec.clusterIPs[0]: Invalid value: "10.0.0.300": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			}},
			{"Service", aService("clusterIP: 10.0.0.1, clusterIPs: [10.0.0.2], ports: [{port: 80}]"), []string{
				"spec.clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`",
			}},
			{"Service", aService("sessionAffinity: Sticky, externalIPs: [127.0.0.1], ports: [{port: 80}]"), []string{
				`spec.sessionAffinity: Unsupported value: "Sticky": supported values: "ClientIP", "None"`,
				`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
			}},
			{"Service", aService("externalTrafficPolicy: Local, loadBalancerClass: a/b, ports: [{port: 80}]"), []string{
				"spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
				`spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`,
			}},
		})
	})
	t.Run("pods", func(t *testing.T) {
		checkErrors(t, []errorTest{
			{"Pod", aPod("", ""), nil},
			{"Pod", "{metadata: {name: p}}", []string{"spec.containers: Required value"}},
			{"Pod", "{spec: {containers: [{name: A_b}, {image: i}, {name: c, image: ' i'}, {name: c, image: i}]}}", []string{
				`spec.containers[0].name: Invalid value: "A_b": ` + label1123,
				"spec.containers[0].image: Required value",
				"spec.containers[1].name: Required value",
				`spec.containers[3].name: Duplicate value: "c"`,
				`spec.containers[2].image: Invalid value: " i": must not have leading or trailing whitespace`,
			}},
			{"Pod", aPod("restartPolicy: Sometimes, dnsPolicy: Mine", "imagePullPolicy: Maybe"), []string{
				`spec.containers[0].imagePullPolicy: Unsupported value: "Maybe": supported values: "Always", "IfNotPresent", "Never"`,
				`spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`,
				`spec.dnsPolicy: Unsupported value: "Mine": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`,
			}},
			{"Pod", aPod("", "ports: [{name: a, containerPort: 80}, {name: a, containerPort: 99999}, {protocol: tcp}]"), []string{
				"spec.containers[0].ports[1].containerPort: Invalid value: 99999: must be between 1 and 65535, inclusive",
				"spec.containers[0].ports[2].containerPort: Required value",
				`spec.containers[0].ports[2].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP"`,
				`spec.containers[0].ports[1].name: Duplicate value: "a"`,
			}},
			{"Pod", aPod("", "ports: [{containerPort: 1, hostPort: 80}, {containerPort: 2, hostPort: 80}]"), []string{
				`spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//80"`,
			}},
			{"Pod", aPod("", "env: [{name: 'a=b'}, {value: x}, {name: OK, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: N, valueFrom: {}}]"), []string{
				`spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='`,
				"spec.containers[0].env[1].name: Required value",
				"spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
				"spec.containers[0].env[3].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
			}},
			{"Pod", aPod("", "env: [{name: a, valueFrom: {fieldRef: {fieldPath: status.phase}}}, {name: b, valueFrom: {fieldRef: {fieldPath: spec.x}}},"+
				" {name: c, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}, {name: d, valueFrom: {secretKeyRef: {name: s}}}]"), []string{
				`spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
				`spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: "spec.x": error converting fieldPath: field label not supported: spec.x`,
				"spec.containers[0].env[3].valueFrom.secretKeyRef.key: Required value",
			}},
			{"Pod", aPod("securityContext: {appArmorProfile: {}, supplementalGroupsPolicy: Some}", "securityContext: {procMount: Unmasked, appArmorProfile: {type: Localhost}}"), []string{
				"spec.containers[0].securityContext.appArmorProfile.localhostProfile: Required value: must be set when AppArmor type is Localhost",
				"spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
				"spec.securityContext.appArmorProfile.type: Required value: type is required when appArmorProfile is set",
				`spec.securityContext.supplementalGroupsPolicy: Unsupported value: "Some": supported values: "Merge", "Strict"`,
			}},
			{"Pod", aPod("hostUsers: false", "securityContext: {procMount: Unmasked, appArmorProfile: {type: RuntimeDefault}}"), nil},
			{"Pod", aPod("volumes: [{name: v, emptyDir: {}}, {name: w, hostPath: {path: /}}]",
				"env: [{name: a, valueFrom: {fileKeyRef: {volumeName: v, path: e, key: K}}}, {name: b, valueFrom: {fileKeyRef: {volumeName: w, path: ../e, key: K}}},"+
					" {name: c, valueFrom: {fileKeyRef: {volumeName: x, path: e, key: K}}}]"), []string{
				`spec.containers[0].env[1].valueFrom.fileKeyRef.path: Invalid value: "../e": must not contain '..'`,
				`spec.containers[0].env[1].valueFrom.fileKeyRef.volumeName: Invalid value: "w": referenced volume must be of type emptyDir`,
				`spec.containers[0].env[2].valueFrom.fileKeyRef.volumeName: Not found: "x"`,
			}},
			{"Pod", aPod("volumes: [{name: v}, {name: v}, {name: w, emptyDir: {}, hostPath: {path: /}}]",
				"volumeMounts: [{name: v, mountPath: /a}, {name: x, mountPath: /a}, {name: v}]"), []string{
				`spec.volumes[1].name: Duplicate value: "v"`,
				`spec.volumes[2].hostPath: Forbidden: may not specify more than 1 volume type`,
				`spec.containers[0].volumeMounts[1].name: Not found: "x"`,
				`spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique`,
				"spec.containers[0].volumeMounts[2].mountPath: Required value",
			}},
			{"Pod", aPod("volumes: [{name: a, secret: {}}, {name: b, configMap: {name: c, defaultMode: 1000, items: [{key: k, path: ../x}]}},"+
				" {name: d, hostPath: {path: /a/../b, type: Dir}}, {name: e, persistentVolumeClaim: {claimName: ''}}]", ""), []string{
				"spec.volumes[0].secret.secretName: Required value",
				"spec.volumes[1].configMap.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
				`spec.volumes[1].configMap.items[0].path: Invalid value: "../x": must not contain '..'`,
				`spec.volumes[2].hostPath.path: Invalid value: "/a/../b": must not contain '..'`,
				`spec.volumes[2].hostPath.type: Unsupported value: "Dir": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`,
				"spec.volumes[3].persistentVolumeClaim.claimName: Required value",
			}},
			{"Pod", aPod("", "resources: {requests: {cpu: '2', memory: '-1', disk: '1'}, limits: {cpu: '1', example.com/gpu: '1.5'}}"), []string{
				`spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "1500m": must be an integer`,
				`spec.containers[0].resources.requests[disk]: Invalid value: "disk": must be a standard resource type or fully qualified`,
				`spec.containers[0].resources.requests[disk]: Invalid value: "disk": must be a standard resource for containers`,
				`spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "1500m": must be an integer`,
				`spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0`,
				`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`,
			}},
			{"Pod", aPod("", "livenessProbe: {successThreshold: 2, periodSeconds: -1}, readinessProbe: {exec: {}, tcpSocket: {port: http}}, startupProbe: {httpGet: {port: 0, scheme: ftp}}"), []string{
				"spec.containers[0].livenessProbe: Required value: must specify a handler type",
				"spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
				"spec.containers[0].readinessProbe.exec.command: Required value",
				"spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
				"spec.containers[0].startupProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
				`spec.containers[0].startupProbe.httpGet.scheme: Unsupported value: "ftp": supported values: "HTTP", "HTTPS"`,
				"spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
			}},
			{"Pod", aPod("hostNetwork: true, securityContext: {seLinuxChangePolicy: Never, sysctls: [{name: foo-, value: bar}, {name: kernel.shmmax, value: '1'}, {name: kernel.shmmax, value: '2'}, {value: '3'}, {name: bar.., value: '4'}, {name: net/ipv4/tcp_syncookies, value: '1'}]}", ""), []string{
				`spec.securityContext.sysctls[0].name: Invalid value: "foo-": must have at most 253 characters and match regex ` + sysctlName.String(),
				`spec.securityContext.sysctls[2].name: Duplicate value: "kernel.shmmax"`,
				`spec.securityContext.sysctls[3].name: Required value`,
				`spec.securityContext.sysctls[4].name: Invalid value: "bar..": must have at most 253 characters and match regex ` + sysctlName.String(),
				`spec.securityContext.sysctls[5].name: Invalid value: "net/ipv4/tcp_syncookies": may not be specified when 'hostNetwork' is true`,
				`spec.securityContext.seLinuxChangePolicy: Unsupported value: "Never": supported values: "MountOption", "Recursive"`,
			}},
			{"Pod", aPod("", "livenessProbe: {httpGet: {port: 80, protocol: HTTP2, scheme: HTTPS}}, readinessProbe: {grpc: {port: 80, mode: Mutual}}, startupProbe: {httpGet: {port: 80, protocol: HTTP2, host: elsewhere}}"), []string{
				`spec.containers[0].livenessProbe.httpGet.protocol: Invalid value: "HTTP2": is only supported with HTTP (H2C)`,
				`spec.containers[0].readinessProbe.grpc.mode: Unsupported value: "Mutual": supported values: "Plaintext", "TLS"`,
				`spec.containers[0].startupProbe.httpGet.host: Invalid value: "elsewhere": must be empty when ` + "`protocol` is \"HTTP2\"",
			}},
			{"Pod", aPod("initContainers: [{name: c, image: i, livenessProbe: {exec: {command: [a]}}}]", ""), []string{
				`spec.initContainers[0].name: Duplicate value: "c"`,
				"spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
			}},
			{"Pod", aPod("initContainers: [{name: d, image: i, restartPolicy: Always, livenessProbe: {exec: {command: [a]}}}]", ""), nil},
			{"Pod", aPod("tolerations: [{key: a, operator: Exists, value: b}, {operator: Equal}, {key: a, effect: Never}]", ""), []string{
				"spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
				"spec.tolerations[1].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
				`spec.tolerations[2].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
			}},
			{"Pod", aPod("affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, podAffinityTerm: {topologyKey: a}}]}}", ""), []string{
				"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
			}},
			{"Pod", aPod("volumes: [{name: a, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: status.podIP}}, {path: /m, resourceFieldRef: {resource: limits.cpu}}, {path: x}]}}]", ""), []string{
				`spec.volumes[0].downwardAPI.fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"`,
				`spec.volumes[0].downwardAPI.path: Invalid value: "/m": must be a relative path`,
				"spec.volumes[0].downwardAPI.resourceFieldRef.containerName: Required value",
				"spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
			}},
			{"Pod", aPod("volumes: [{name: a, projected: {sources: [{secret: {}, configMap: {name: c, items: [{key: k, path: ..p}]}}, {serviceAccountToken: {path: t, expirationSeconds: 5}}]}}]", ""), []string{
				"spec.volumes[0].projected.sources[0].secret.name: Required value",
				`spec.volumes[0].projected.sources[0].configMap.items[0].path: Invalid value: "..p": must not start with '..'`,
				"spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
				"spec.volumes[0].projected.sources[1].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
			}},
			{"Pod", aPod("affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: ["+
				"{key: a, operator: In}, {key: a, operator: Exists, values: [b]}, {key: a, operator: Gt}, {key: a, operator: Near}]}]}}}", ""), []string{
				"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
				"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
				"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[2].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
				`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[3].operator: Invalid value: "Near": not a valid selector operator`,
			}},
			{"Pod", aPod("topologySpreadConstraints: [{maxSkew: 0, whenUnsatisfiable: Maybe}]", ""), []string{
				"spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
				"spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
				`spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Maybe": supported values: "DoNotSchedule", "ScheduleAnyway"`,
			}},
			{"Pod", aPod("topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway, minDomains: 0, nodeAffinityPolicy: a, nodeTaintsPolicy: '', matchLabelKeys: [k]}]", ""), []string{
				"spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: must be greater than zero",
				"spec.topologySpreadConstraints[0].minDomains: Invalid value: 0: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
				`spec.topologySpreadConstraints[0].nodeAffinityPolicy: Unsupported value: "a": supported values: "Honor", "Ignore"`,
				`spec.topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: "": supported values: "Honor", "Ignore"`,
				"spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
			}},
			{"Pod", aPod("affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: z, labelSelector: {}, matchLabelKeys: [a, '!'], mismatchLabelKeys: [a]}]}}", ""), []string{
				`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[1]: Invalid value: "!": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
				`spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys[0]: Invalid value: "a": exists in both matchLabelKeys and mismatchLabelKeys`,
			}},
			{"Pod", strings.Replace(aPod("topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {a: b}}, matchLabelKeys: [a]}]", ""), "name: p", "name: p, labels: {a: b}", 1), []string{
				`spec.topologySpreadConstraints[0][0]: Invalid value: "a": exists in both matchLabelKeys and labelSelector`,
			}},
			{"Pod", aPod("volumes: [{name: a, ephemeral: {}}, {name: b, ephemeral: {volumeClaimTemplate: {spec: {}}}}, {name: c, csi: {driver: A_B}}, {name: d, image: {reference: r, pullPolicy: Often}}]", ""), []string{
				"spec.volumes[0].ephemeral.volumeClaimTemplate: Required value",
				"spec.volumes[1].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required",
				"spec.volumes[1].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
				`spec.volumes[2].csi.driver: Invalid value: "A_B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
				`spec.volumes[3].image.pullPolicy: Unsupported value: "Often": supported values: "Always", "IfNotPresent", "Never"`,
			}},
			{"Pod", aPod("volumes: [{name: a, image: {}}]", ""), []string{"spec.volumes[0].image.reference: Required value"}},
			{"Deployment", aDeployment("", "volumes: [{name: a, image: {}}]"), []string{"spec.template.spec.volumes[0].image.reference: Required value"}},
			{"Pod", aPod("os: {name: linux}, securityContext: {windowsOptions: {}, seLinuxChangePolicy: a, sysctls: [{}, {name: A B}, {name: a.b}, {name: a.b}]}", "securityContext: {windowsOptions: {}, procMount: ''}"), []string{
				`spec.containers[0].securityContext.procMount: Unsupported value: "": supported values: "Default", "Unmasked"`,
				"spec.securityContext.sysctls[0].name: Required value",
				`spec.securityContext.sysctls[1].name: Invalid value: "A B": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`,
				`spec.securityContext.sysctls[3].name: Duplicate value: "a.b"`,
				`spec.securityContext.seLinuxChangePolicy: Unsupported value: "a": supported values: "MountOption", "Recursive"`,
				"spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
				"spec.containers[0].securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
			}},
			{"Pod", aPod("overhead: {a: 1}, resourceClaims: [{name: x, resourceClaimName: y}, {name: x}]", "resources: {claims: [{}, {name: x, request: r}, {name: x}, {name: z}]}"), []string{
				`spec.overhead.limits[a]: Invalid value: "a": must be a standard resource type or fully qualified`,
				`spec.overhead.limits[a]: Invalid value: "a": must be a standard resource for containers`,
				`spec.resourceClaims[1].name: Duplicate value: "x"`,
				`spec.resourceClaims[1]: Invalid value: {"name":"x"}: must specify one of: ` + "`resourceClaimName`, `resourceClaimTemplateName`",
				"spec.containers[0].resources.claims[0]: Required value",
				`spec.containers[0].resources.claims[2]: Duplicate value: "x"`,
				`spec.containers[0].resources.claims[3]: Not found: "z": must be one of the names in pod.spec.resourceClaims: x`,
			}},
			{"Pod", aPod("volumes: [{name: v, emptyDir: {}}]", "volumeMounts: [{name: v, mountPath: /a, recursiveReadOnly: Enabled, mountPropagation: HostToContainer}, {name: v, mountPath: /b, recursiveReadOnly: x}]"), []string{
				"spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
				"spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified",
				`spec.containers[0].volumeMounts.recursiveReadOnly: Unsupported value: "x": supported values: "Disabled", "Enabled", "IfPossible"`,
			}},
			{"Pod", aPod("volumes: [{name: v, secret: {}}]", "volumeMounts: [{name: v, mountPath: /a}]"), []string{
				"spec.volumes[0].secret.secretName: Required value",
				`spec.containers[0].volumeMounts[0].name: Not found: "v"`,
			}},
			{"Pod", aPod("volumes: [{name: v, projected: {sources: [{configMap: {name: a, items: [{key: k, path: p}]}}, {secret: {name: b, items: [{key: k, path: p}]}}]}}]", ""), []string{
				`spec.volumes[0].projected: Invalid value: "b": conflicting duplicate paths`,
			}},
			{"Pod", aPod("volumes: [{name: v}]", "volumeMounts: [{name: v, mountPath: /a, subPath: ../b, mountPropagation: Bidirectional}]"), []string{
				`spec.containers[0].volumeMounts.subPath: Invalid value: "../b": must not contain '..'`,
				"spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
			}},
			{"Pod", aPod("resources: {requests: {cpu: '1'}, limits: {cpu: '2'}}", "resources: {limits: {cpu: '3'}}"), []string{
				`spec.resources.requests[cpu]: Invalid value: "1": must be greater than or equal to aggregate container requests of 3`,
				`spec.resources.containers[0][cpu].limits: Invalid value: "3": must be less than or equal to pod limits of 2`,
			}},
			{"Pod", aPod("", "resources: {limits: {hugepages-2Mi: 4Mi}}"), []string{
				"spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
			}},
			{"Pod", aPod("resources: {limits: {cpu: '1', hugepages-2Mi: 2Mi}}", "resources: {limits: {cpu: '1', hugepages-2Mi: 4Mi, hugepages-huge: '1'}, requests: {hugepages-2Mi: 3Mi}}"), []string{
				`spec.containers[0].resources.limits[hugepages-huge]: Invalid value: "1": 1 is not positive integer multiple of hugepages-huge`,
				`spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
				`spec.containers[0].resources.requests[hugepages-huge]: Invalid value: "1": 1 is not positive integer multiple of hugepages-huge`,
				`spec.containers[0].resources.requests: Invalid value: "3Mi": must be equal to hugepages-2Mi limit of 4Mi`,
				`spec.resources.limits[hugepages-huge]: Invalid value: "1": 1 is not positive integer multiple of hugepages-huge`,
				`spec.resources.requests[hugepages-huge]: Invalid value: "1": 1 is not positive integer multiple of hugepages-huge`,
				`spec.resources.requests[hugepages-2Mi]: Invalid value: "2Mi": must be greater than or equal to aggregate container requests of 3Mi`,
				`spec.resources.limits[hugepages-2Mi]: Invalid value: "2Mi": must be greater than or equal to aggregate container limits of 4Mi`,
				`spec.resources.containers[0][hugepages-2Mi].limits: Invalid value: "4Mi": must be less than or equal to pod limits of 2Mi`,
			}},
			{"Pod", aPod("", "resources: {limits: {requests.cpu: '1', example.com/gpu: '1', cpu: '1'}, requests: {example.com/gpu: '2', requests.cpu: '1'}}"), []string{
				`spec.containers[0].resources.limits[requests.cpu]: Invalid value: "requests.cpu": must be a standard resource for containers`,
				`spec.containers[0].resources.requests[requests.cpu]: Invalid value: "requests.cpu": must be a standard resource for containers`,
				`spec.containers[0].resources.requests: Invalid value: "2": must be equal to example.com/gpu limit of 1`,
			}},
			{"Pod", aPod("", "env: [{name: a, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: '3'}}}, {name: b, valueFrom: {resourceFieldRef: {resource: limits.gpu}}}]"), []string{
				`spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor's values 1m and 1 are supported with the cpu resource`,
				`spec.containers[0].env[1].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.gpu": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"`,
			}},
			{"Pod", aPod("", "envFrom: [{}, {prefix: 'a=', secretRef: {name: B}}]"), []string{
				"spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
				`spec.containers[0].envFrom[1].prefix: Invalid value: "a=": a valid environment variable name must consist only of printable ASCII characters other than '='`,
				`spec.containers[0].envFrom[1].secretRef.name: Invalid value: "B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
			}},
			{"Pod", aPod("terminationGracePeriodSeconds: 10", "lifecycle: {postStart: {}, preStop: {sleep: {seconds: 11}}}"), []string{
				"spec.containers[0].lifecycle.postStart: Required value: must specify a handler type",
				"spec.containers[0].lifecycle.preStop.sleep: Invalid value: 11: must be non-negative and less than terminationGracePeriodSeconds (10)",
			}},
			{"Pod", aPod("hostUsers: false, hostPID: true, securityContext: {seccompProfile: {type: Localhost}}, os: {name: plan9}", ""), []string{
				"spec.HostPID: Forbidden: when `hostUsers` is false",
				"spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
				`spec.os: Unsupported value: "plan9": supported values: "linux", "windows"`,
			}},
			{"Pod", aPod("", "restartPolicyRules: [{action: Restart}]"), []string{
				"spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
			}},
			{"Pod", aPod("affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchFields: [{key: metadata.uid, operator: In, values: [a]}]},"+
				" {matchExpressions: [{key: a, operator: In, values: ['-']}]}]}}}", ""), []string{
				`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: Invalid value: "metadata.uid": not a valid field selector key`,
				`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[1].matchExpressions[0].values[0]: Invalid value: "-": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`,
			}},
			{"Pod", aPod("dnsPolicy: None", ""), []string{
				"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
			}},
			{"Pod", aPod("hostname: A, nodeName: B, activeDeadlineSeconds: 0, securityContext: {runAsUser: -1}", ""), []string{
				"spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
				`spec.nodeName: Invalid value: "B": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
				`spec.hostname: Invalid value: "A": ` + label1123,
				"spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
			}},
			{"Pod", aPod("", "securityContext: {privileged: true, allowPrivilegeEscalation: false}"), []string{
				"spec.containers[0].securityContext: Invalid value: {\"privileged\":true,\"allowPrivilegeEscalation\":false}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
			}},
		})
	})
	t.Run("workloads", func(t *testing.T) {
		checkErrors(t, []errorTest{
			{"Deployment", aDeployment("", ""), nil},
			{"ReplicaSet", aDeployment("", ""), nil},
			{"Deployment", "{metadata: {name: d}, spec: {template: {spec: {containers: [{name: c, image: i}]}}}}", []string{
				"spec.selector: Required value",
				"spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`",
			}},
			{"Deployment", "{spec: {selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: b}}, spec: {containers: [{name: c, image: i}]}}}}", []string{
				"spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`",
			}},
			{"ReplicaSet", "{spec: {selector: {}, template: {spec: {containers: []}}}}", []string{
				"spec.selector: Invalid value: {}: empty selector is invalid for deployment",
				"spec.template.spec.containers: Required value",
			}},
			{"Deployment", aDeployment("replicas: -1, minReadySeconds: 700, strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}", "restartPolicy: Never"), []string{
				"spec.replicas: Invalid value: -1: must be greater than or equal to 0",
				`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`,
				"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
				"spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
			}},
			{"Deployment", aDeployment("strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}", ""), []string{
				"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
			}},
			{"Deployment", aDeployment("strategy: {rollingUpdate: {maxUnavailable: 101%, maxSurge: lots}}", ""), []string{
				`spec.strategy.rollingUpdate.maxSurge: Invalid value: "lots": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')`,
				`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`,
			}},
		})
	})
	t.Run("others", func(t *testing.T) {
		big := strings.Repeat("x", maxDataSize)
		checkErrors(t, []errorTest{
			{"ConfigMap", "{data: {a: b}}", nil},
			{"ConfigMap", "{data: {'a/b': c, d: e}, binaryData: {d: QQ==}}", []string{
				`data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`,
				`data[d]: Invalid value: "d": duplicate of key present in binaryData`,
			}},
			{"ConfigMap", "{data: {a: " + big + ", b: x}}", []string{"[]: Too long: may not be more than 1048576 bytes"}},
			{"Secret", "{stringData: {a: " + big + ", b: x}}", []string{"data: Too long: may not be more than 1048576 bytes"}},
			{"Secret", "{type: kubernetes.io/tls, stringData: {tls.crt: x}}", []string{"data[tls.key]: Required value"}},
			{"Secret", "{type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: hush}}", []string{
				`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": invalid character 'h' looking for beginning of value`,
			}},
			{"Secret", "{type: kubernetes.io/basic-auth}", []string{"data[username]: Required value", "data[password]: Required value"}},
			{"Node", "{spec: {taints: [{key: a, effect: NoSchedule}, {key: a, effect: NoSchedule}, {key: b}]}}", []string{
				`metadata.taints[1]: Duplicate value: {"key":"a","effect":"NoSchedule"}: taints must be unique by key and effect pair`,
				"metadata.taints[2].effect: Required value",
			}},
			{"Event", "{metadata: {namespace: a}, involvedObject: {namespace: b}}", []string{
				`involvedObject.namespace: Invalid value: "b": does not match event.namespace`,
			}},
			{"Event", "{metadata: {namespace: default}, involvedObject: {kind: Node}}", nil},
			{"Event", "{metadata: {namespace: default}, eventTime: '2026-01-01T00:00:00.000000Z', reportingComponent: skiff, reason: R}", []string{
				"reportingInstance: Required value", "action: Required value",
			}},
			{"Lease", "{spec: {leaseDurationSeconds: 0}}", []string{"spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"}},
			{"Endpoints", "{subsets: [{ports: [{port: 0}]}, {addresses: [{ip: 127.0.0.1}]}]}", []string{
				"subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
				"subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
				`subsets[1].addresses[0].ip: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
			}},
			{"EndpointSlice", "{addressType: IPv4, endpoints: [{addresses: []}, {addresses: ['fd00::1']}], ports: [{}, {protocol: X}, {name: c, protocol: ''}]}", []string{
				`ports[1].name: Duplicate value: ""`,
				`ports[1].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`,
				`ports[2].protocol: Unsupported value: "": supported values: "SCTP", "TCP", "UDP"`,
				"endpoints[0].addresses: Required value",
				`endpoints[1].addresses: Invalid value: "fd00::1": must be an IPv4 address`,
			}},
			{"EndpointSlice", "{addressType: IPv6, endpoints: [{addresses: ['fd00::1', 10.0.0.1, 'FD00::2', '::1']}]}", []string{
				`endpoints[0].addresses: Invalid value: "10.0.0.1": must be an IPv6 address`,
				`endpoints[0].addresses[2]: Invalid value: "FD00::2": must be in canonical form ("fd00::2")`,
				`endpoints[0].addresses[3]: Invalid value: "::1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
			}},
			{"EndpointSlice", "{addressType: IPv6, ports: [{appProtocol: a/b/c}], endpoints: [{addresses: ['fd00::1'], hints: {forZones: [{name: z}, {name: z}], forNodes: [{name: N_1}]}}]}", []string{
				`ports[0].appProtocol: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`,
				`endpoints[0].hints.forZones[1].name: Duplicate value: "z"`,
				`endpoints[0].hints.forNodes[0].name: Invalid value: "N_1": ` + subdomain1123,
			}},
			{"Node", "{spec: {podCIDRs: [10.42.0.0/24, 'fd42::/64']}}", nil},
			{"Node", "{spec: {podCIDRs: [10.42.0.0/24, 10.42.1.0/24]}}", []string{
				`spec.podCIDRs: Invalid value: ["10.42.0.0/24","10.42.1.0/24"]: may specify no more than one CIDR for each IP family`,
			}},
			{"EndpointSlice", "{addressType: IPX, endpoints: [{addresses: [a]}]}", []string{
				`addressType: Unsupported value: "IPX": supported values: "FQDN", "IPv4", "IPv6"`,
			}},
		})
	})
}

func TestValidateName(t *testing.T) {
	for _, tc := range []struct {
		kind, name string
		ok         bool
	}{
		{"Service", "web", true}, {"Service", "1web", true}, {"Service", "a.b", false},
		{"Namespace", "shop", true}, {"Namespace", "a.b", false}, {"Namespace", "Shop", false},
	} {
		if got := find(t, tc.kind).ValidateName(tc.name, false); (len(got) == 0) != tc.ok {
			t.Errorf("ValidateName of %s %q says %v, want it allowed: %v", tc.kind, tc.name, got, tc.ok)
		}
	}
}

const subdomain1123 = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with " +
	`an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`
