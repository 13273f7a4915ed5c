package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func aVolume(spec string) string {
	return "{metadata: {name: v}, spec: {capacity: {storage: 5Gi}, accessModes: [ReadWriteOnce]" + more(spec) + "}}"
}

func aClaim(spec string) string {
	return "{metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}" + more(spec) + "}}"
}

func inStatus(obj, status string) string {
	return strings.TrimSuffix(obj, "}") + ", status: {" + status + "}}"
}

func TestNewStorage(t *testing.T) {
	for _, tc := range []newTest{
		{
			name: "claim of a snapshot", kind: "PersistentVolumeClaim",
			given: aClaim("dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: s}"),
			want: `{metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, volumeMode: Filesystem,
				dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: s},
				dataSourceRef: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: s}}, status: {phase: Pending}}`,
		},
		{
			name: "claim of something in another namespace", kind: "PersistentVolumeClaim",
			given: aClaim("dataSourceRef: {kind: PersistentVolumeClaim, name: s, namespace: b}"),
			want: `{metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, volumeMode: Filesystem},
				status: {phase: Pending}}`,
		},
		{
			name: "claim of something else, in the old field", kind: "PersistentVolumeClaim",
			given: aClaim("dataSource: {apiGroup: a.b, kind: Other, name: s}"),
			want: `{metadata: {name: c}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, volumeMode: Filesystem},
				status: {phase: Pending}}`,
		},
		{
			name: "storage class", kind: "StorageClass",
			given: `{provisioner: a.b/c}`, want: `{provisioner: a.b/c, reclaimPolicy: Delete, volumeBindingMode: Immediate}`,
		},
		{
			name: "driver", kind: "CSIDriver",
			given: `{spec: {attachRequired: false}}`,
			want: `{spec: {attachRequired: false, podInfoOnMount: false, storageCapacity: false, requiresRepublish: false, seLinuxMount: false,
				preventPodSchedulingIfMissing: false, fsGroupPolicy: ReadWriteOnceWithFSType, volumeLifecycleModes: [Persistent]}}`,
		},
		{
			name: "limits", kind: "LimitRange",
			given: `{spec: {limits: [{type: Container, max: {cpu: 2}, min: {cpu: 100m, memory: 0.1m}}, {type: Pod, max: {cpu: 4}}]}}`,
			want: `{spec: {limits: [{type: Container, max: {cpu: "2"}, min: {cpu: 100m, memory: 1m}, default: {cpu: "2"},
				defaultRequest: {cpu: "2", memory: 1m}}, {type: Pod, max: {cpu: "4"}}]}}`,
		},
	} {
		t.Run(tc.name, tc.run)
	}
}

func TestNewPersistentVolume(t *testing.T) {
	r := find(t, "PersistentVolume")
	v := parse(t, r, aVolume("hostPath: {path: /srv}")).(*corev1.PersistentVolume)
	r.PrepareCreate(v)
	if v.Status.LastPhaseTransitionTime.IsZero() {
		t.Error("a new volume does not say since when it is Pending")
	}
	v.Status.LastPhaseTransitionTime = nil
	want := parse(t, r, aVolume("hostPath: {path: /srv, type: ''}, persistentVolumeReclaimPolicy: Retain, volumeMode: Filesystem"))
	if diff := cmp.Diff(format(t, want), format(t, v)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestValidateVolumes(t *testing.T) {
	const affinity = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}"
	checkErrors(t, []errorTest{
		{"PersistentVolume", aVolume("hostPath: {path: /srv}"), nil},
		{"PersistentVolume", aVolume("local: {path: /srv}, " + affinity), nil},
		{"PersistentVolume", aVolume("local: {path: ../srv}"), []string{
			"spec.local.path: Invalid value: \"../srv\": must not contain '..'",
			"spec.nodeAffinity: Required value: Local volume requires node affinity",
		}},
		{"PersistentVolume", "{spec: {}}", []string{
			"spec.accessModes: Required value",
			"spec.capacity: Required value",
			`spec.capacity: Unsupported value: null: supported values: "storage"`,
			"spec: Required value: must specify a volume type",
		}},
		{"PersistentVolume", "{spec: {accessModes: [ReadWriteOncePod, ReadWriteMany, Append], capacity: {storage: 0, cpu: 1}, persistentVolumeReclaimPolicy: Burn," +
			" hostPath: {path: /}, nfs: {server: a, path: b}, volumeMode: Tape, storageClassName: A, volumeAttributesClassName: ''}}", []string{
			`spec.accessModes: Unsupported value: "Append": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"`,
			"spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
			`spec.capacity: Unsupported value: {"cpu":"1","storage":"0"}: supported values: "storage"`,
			`spec.capacity[storage]: Invalid value: "0": must be greater than zero`,
			`spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain"`,
			"spec.nfs: Forbidden: may not specify more than 1 volume type",
			`spec.storageClassName: Invalid value: "A": ` + subdomain1123,
			`spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem"`,
			"spec.volumeAttributesClassName: Required value: an empty string is disallowed",
			"spec.csi: Required value: has to be specified when using volumeAttributesClassName",
		}},
		{"PersistentVolume", aVolume("hostPath: {path: /a/..}, persistentVolumeReclaimPolicy: Recycle"), []string{
			"spec.hostPath.path: Invalid value: \"/a/..\": must not contain '..'",
			"spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
		}},
		{"PersistentVolume", aVolume("csi: {driver: " + strings.Repeat("d", 64) + ", nodePublishSecretRef: {name: a}}, nodeAffinity: {}"), []string{
			"spec.nodeAffinity.required: Required value: must specify required node constraints",
			"spec.csi.driver: Too long: may not be more than 63 bytes",
			"spec.csi.volumeHandle: Required value",
			"spec.csi.nodePublishSecretRef.namespace: Required value",
		}},
		{"PersistentVolumeClaim", aClaim(""), nil},
		{"PersistentVolumeClaim", "{spec: {volumeMode: Tape, storageClassName: A, dataSourceRef: {kind: Other}}}", []string{
			"spec.accessModes: Required value: at least 1 access mode is required",
			"spec.resources[storage]: Required value",
			`spec.storageClassName: Invalid value: "A": ` + subdomain1123,
			`spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem"`,
			"spec.dataSource.name: Required value",
			`spec.dataSource: Invalid value: "Other": must be 'PersistentVolumeClaim' when referencing the default apiGroup`,
			"spec.dataSourceRef.name: Required value",
			`spec.dataSourceRef: Invalid value: "Other": must be 'PersistentVolumeClaim' when referencing the default apiGroup`,
		}},
		{"VolumeAttachment", "{spec: {attacher: a.b, nodeName: n1, source: {persistentVolumeName: v}}}", nil},
		{"VolumeAttachment", "{spec: {nodeName: N1, source: {}}}", []string{
			"spec.attacher: Required value",
			"spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
			`spec.nodeName: Invalid value: "N1": ` + subdomain1123,
		}},
		{"VolumeAttachment", "{spec: {attacher: a.b, nodeName: n1, source: {inlineVolumeSpec: {capacity: {storage: 1}, hostPath: {path: /}, volumeMode: Block}}}}", []string{
			"spec.source.inlineVolumeSpec.capacity: Forbidden: may not be specified in the context of inline volumes",
			"spec.source.inlineVolumeSpec.csi: Required value: has to be specified in the context of inline volumes",
			"spec.source.inlineVolumeSpec.accessModes: Required value",
			"spec.source.inlineVolumeSpec.volumeMode: Forbidden: may not specify volumeMode other than Filesystem in the context of inline volumes",
		}},
	})
}

func TestValidateStorage(t *testing.T) {
	checkErrors(t, []errorTest{
		{"StorageClass", "{provisioner: a.b/C}", nil},
		{"StorageClass", "{reclaimPolicy: Recycle, volumeBindingMode: Later, parameters: {'': a}, allowedTopologies: [{matchLabelExpressions: [{key: a, values: [b, b]}, {key: a}]}]}", []string{
			"provisioner: Required value",
			`parameters: Invalid value: "": field can not be empty.`,
			`reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"`,
			`volumeBindingMode: Unsupported value: "Later": supported values: "Immediate", "WaitForFirstConsumer"`,
			`allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "b"`,
			`allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: "a"`,
			"allowedTopologies[0].matchLabelExpressions[1].values: Required value",
		}},
		{"CSIDriver", "{spec: {fsGroupPolicy: All, volumeLifecycleModes: [Brief], nodeAllocatableUpdatePeriodSeconds: 9, tokenRequests: [{audience: a, expirationSeconds: 9}, {audience: a}]}}", []string{
			`spec.fsGroupPolicy: Unsupported value: "All": supported values: "File", "None", "ReadWriteOnceWithFSType"`,
			"spec.tokenRequests[0].expirationSeconds: Invalid value: 9: may not specify a duration less than 10 minutes",
			`spec.tokenRequests[1].audience: Duplicate value: "a"`,
			`spec.volumeLifecycleModes: Unsupported value: "Brief": supported values: "Persistent", "Ephemeral"`,
			"spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
		}},
		{"CSINode", "{spec: {drivers: [{name: a.b, nodeID: n1, topologyKeys: [z, z]}, {name: a.b, allocatable: {count: -1}}]}}", []string{
			`spec.drivers[0]: Duplicate value: "z"`,
			"spec.drivers[1].nodeID: Required value",
			"spec.drivers[1].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
			`spec.drivers[1].name: Duplicate value: "a.b"`,
		}},
		{"CSIStorageCapacity", "{storageClassName: A, capacity: '-1'}", []string{
			`storageClassName: Invalid value: "A": ` + subdomain1123, `capacity: Invalid value: "-1": must be greater than or equal to 0`,
		}},
		{"LimitRange", "{spec: {limits: [{type: Container, max: {cpu: 2}, min: {cpu: 100m}, default: {cpu: 1}}]}}", nil},
		{"LimitRange", "{spec: {limits: [{type: Pod, max: {cpu: 1, disk: 1}, min: {cpu: 2}, default: {cpu: 1}, maxLimitRequestRatio: {cpu: 500m}}, {type: Pod}, {type: Node}, {type: PersistentVolumeClaim}]}}", []string{
			`spec.limits[0].max[disk]: Invalid value: "disk": must be a standard resource type or fully qualified`,
			`spec.limits[0].max[disk]: Invalid value: "disk": must be a standard resource for containers`,
			"spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
			`spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1`,
			`spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1`,
			`spec.limits[1].type: Duplicate value: "Pod"`,
			`spec.limits[2].type: Invalid value: "Node": must be a standard limit type or fully qualified`,
			"spec.limits[3].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
		}},
		{"LimitRange", "{spec: {limits: [{type: Container, max: {cpu: 2}, min: {cpu: 1}, default: {cpu: 3}, defaultRequest: {cpu: 500m}, maxLimitRequestRatio: {cpu: 3}}]}}", []string{
			`spec.limits[0].defaultRequest[cpu]: Invalid value: "500m": min value 1 is greater than default request value 500m`,
			`spec.limits[0].default[cpu]: Invalid value: "2": default value 3 is greater than max value 2`,
			`spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "3": ratio 3 is greater than max/min = 2.000000`,
		}},
		{"ResourceQuota", "{spec: {hard: {pods: 10, requests.cpu: 4, count/deployments.apps: 3, requests.nvidia.com/gpu: 1}}}", nil},
		{"ResourceQuota", "{spec: {hard: {pods: 1.5, storage: 1, cpu: '-1'}, scopes: [BestEffort, NotBestEffort, Rainy]}}", []string{
			`spec.hard[cpu]: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.hard[pods]: Invalid value: "1500m": must be an integer`,
			`spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota`,
			`spec.scopes: Invalid value: ["BestEffort","NotBestEffort","Rainy"]: unsupported scope applied to resource`,
			`spec.scopes: Invalid value: ["BestEffort","NotBestEffort","Rainy"]: unsupported scope`,
			`spec.scopes: Invalid value: ["BestEffort","NotBestEffort","Rainy"]: conflicting scopes`,
		}},
		{"ResourceQuota", "{spec: {hard: {pods: 1}, scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}, {scopeName: Terminating, operator: In, values: [a]}, {scopeName: PriorityClass, operator: Exists, values: [a]}]}}}", []string{
			"spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
			"spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
			"spec.scopeSelector.matchExpressions.values: Invalid value: [\"a\"]: must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
		}},
	})
}

func TestUpdateStorage(t *testing.T) {
	bound := func(size, status string) string {
		return inStatus(strings.Replace(aClaim("volumeName: v"), "1Gi", size, 1), "phase: Bound, capacity: {storage: "+status+"}")
	}
	const fixed = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
	checkUpdates(t, []updateTest{
		{"PersistentVolume", aVolume("hostPath: {path: /a}"), aVolume("hostPath: {path: /a}, claimRef: {name: c}, storageClassName: x"), nil},
		{"PersistentVolume", aVolume("hostPath: {path: /a}"), aVolume("hostPath: {path: /b}, volumeMode: Block"), []string{
			"spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n",
			`volumeMode: Invalid value: "Block": field is immutable`,
		}},
		{"PersistentVolumeClaim", aClaim(""), aClaim("volumeName: v"), nil},
		{"PersistentVolumeClaim", aClaim(""), aClaim("storageClassName: slow"), nil},
		{"PersistentVolumeClaim", aClaim("storageClassName: slow"), aClaim("storageClassName: fast"), []string{fixed}},
		{"PersistentVolumeClaim", aClaim("volumeName: v"), aClaim("volumeName: w"), []string{fixed}},
		{"PersistentVolumeClaim", aClaim(""), strings.Replace(aClaim(""), "1Gi", "2Gi", 1), []string{fixed}},
		{"PersistentVolumeClaim", bound("1Gi", "1Gi"), bound("2Gi", "1Gi"), nil},
		{"PersistentVolumeClaim", bound("3Gi", "1Gi"), bound("2Gi", "1Gi"), nil},
		{"PersistentVolumeClaim", bound("3Gi", "2Gi"), bound("1Gi", "2Gi"), []string{
			"spec.resources.requests.storage: Forbidden: field can not be less than status.capacity",
		}},
		{"StorageClass", "{provisioner: a, parameters: {a: b}}", "{provisioner: a, parameters: {a: c}, reclaimPolicy: Retain}", []string{
			`parameters: Invalid value: {"a":"c"}: field is immutable`, `reclaimPolicy: Invalid value: "Retain": field is immutable`,
		}},
		{"CSINode", "{spec: {drivers: [{name: a, nodeID: n1, allocatable: {count: 1}}]}}", "{spec: {drivers: [{name: a, nodeID: n1, allocatable: {count: 2}}, {name: b, nodeID: n1}]}}", nil},
		{"CSINode", "{spec: {drivers: [{name: a, nodeID: n1}]}}", "{spec: {drivers: [{name: a, nodeID: n2}]}}", []string{"spec.drivers: Invalid value: "}},
		{"CSIDriver", "{}", "{spec: {attachRequired: false}}", []string{"spec.attachedRequired: Invalid value: false: field is immutable"}},
		{"CSIStorageCapacity", "{storageClassName: a}", "{storageClassName: b}", []string{`storageClassName: Invalid value: "b": field is immutable`}},
		{"VolumeAttachment", "{spec: {nodeName: a}}", "{spec: {nodeName: b}}", []string{"spec: Invalid value: "}},
		{"ResourceQuota", "{spec: {scopes: [BestEffort]}}", "{spec: {}}", []string{"spec.scopes: Invalid value: null: field is immutable"}},
	})
}

func TestStorageRows(t *testing.T) {
	checkRows(t, []rowTest{
		{"PersistentVolume", inStatus(strings.Replace(aVolume("storageClassName: slow, claimRef: {namespace: a, name: b}"), "[ReadWriteOnce]",
			"[ReadWriteMany, ReadWriteOnce]", 1), "phase: Bound, reason: R"), "v|5Gi|RWO,RWX|Retain|Bound|a/b|slow|<unset>|R|<unknown>|Filesystem"},
		{"PersistentVolumeClaim", aClaim("storageClassName: slow"), "c|Pending||||slow|<unset>|<unknown>|Filesystem"},
		{"PersistentVolumeClaim", inStatus(aClaim("volumeName: v, volumeAttributesClassName: gold"), "phase: Bound, accessModes: [ReadWriteOncePod], capacity: {storage: 5Gi}"),
			"c|Bound|v|5Gi|RWOP||gold|<unknown>|Filesystem"},
		{"StorageClass", "{metadata: {name: s, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: p, allowVolumeExpansion: true}",
			"s (default)|p|Delete|Immediate|true|<unknown>"},
		{"VolumeAttachment", "{metadata: {name: a}, spec: {attacher: d, nodeName: n1, source: {persistentVolumeName: v}}, status: {attached: true}}", "a|d|v|n1|true|<unknown>"},
		{"CSIDriver", "{metadata: {name: d}, spec: {tokenRequests: [{audience: a}, {audience: b}]}}", "d|true|false|false|a,b|false|Persistent|<unknown>"},
		{"CSINode", "{metadata: {name: n1}, spec: {drivers: [{name: a}]}}", "n1|1|<unknown>"},
		{"CSIStorageCapacity", "{metadata: {name: c}, storageClassName: s}", "c|0001-01-01T00:00:00Z"},
		{"LimitRange", "{metadata: {name: l, creationTimestamp: '2026-01-02T03:04:05Z'}}", "l|2026-01-02T03:04:05Z"},
		{"ResourceQuota", "{metadata: {name: q}, status: {hard: {pods: 10, limits.cpu: 4, requests.cpu: 2}, used: {pods: 3}}}",
			"q|pods: 3/10, requests.cpu: 0/2|limits.cpu: 0/4|<unknown>"},
	})
}
