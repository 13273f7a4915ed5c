package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// find returns the row of a kind.
func find(t *testing.T, kind string) *Resource {
	t.Helper()
	rows := Table()
	i := slices.IndexFunc(rows, func(r *Resource) bool { return r.Kind == kind })
	if i < 0 {
		t.Fatalf("the table has no row for %s", kind)
	}
	return rows[i]
}

// parse reads an object as a user writes it, in strict YAML, and fills in the defaults.
func parse(t *testing.T, r *Resource, text string) runtime.Object {
	t.Helper()
	obj := r.New()
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatalf("the test's own YAML: %v\n%s", err, text)
	}
	if r.Default != nil {
		r.Default(obj)
	}
	return obj
}

// format writes an object in the one way that YAML has for it here.
func format(t *testing.T, obj runtime.Object) string {
	t.Helper()
	text, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatalf("marshal %T: %v", obj, err)
	}
	return string(text)
}

// newTest follows a new object through Default and PrepareCreate: what a user writes, and what is stored.
type newTest struct{ name, kind, given, want string }

func (tc newTest) run(t *testing.T) {
	r := find(t, tc.kind)
	got := parse(t, r, tc.given)
	if r.PrepareCreate != nil {
		r.PrepareCreate(got)
	}
	want := r.New()
	if err := yaml.UnmarshalStrict([]byte(tc.want), want); err != nil {
		t.Fatalf("the test's own YAML: %v", err)
	}
	if diff := cmp.Diff(format(t, want), format(t, got)); diff != "" {
		t.Errorf("given%s\n(-want +got):\n%s", tc.given, diff)
	}
}

func TestNew(t *testing.T) {
	for _, tc := range []newTest{
		{
			name: "pod", kind: "Pod",
			given: `
metadata: {name: web}
spec:
  containers:
  - {name: web, image: nginx}`,
			want: `
metadata: {name: web}
spec:
  containers:
  - {name: web, image: nginx, imagePullPolicy: Always, resources: {},
     terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  terminationGracePeriodSeconds: 30
status: {phase: Pending, qosClass: BestEffort}`,
		},
		{
			name: "pod that says much", kind: "Pod",
			given: `
metadata: {name: web}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: -5
  serviceAccount: robot
  priorityClassName: high
  schedulingGates: [{name: example.com/wait}]
  tolerations: [{operator: Exists}]
  volumes:
  - {name: nothing}
  - {name: secret, secret: {secretName: s}}
  - {name: config, configMap: {name: c}}
  - {name: host, hostPath: {path: /tmp}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: all, projected: {sources: [{serviceAccountToken: {path: token}}]}}
  initContainers:
  - {name: init, image: "busybox:1.37"}
  containers:
  - name: web
    image: nginx:1.27
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: 100.1m, memory: 64Mi}}
    livenessProbe: {httpGet: {port: 80}}
    readinessProbe: {grpc: {port: 90}}
    lifecycle: {preStop: {httpGet: {port: 80, path: /bye}}}
status: {phase: Running, podIP: 10.0.0.1}`,
			want: `
metadata: {name: web}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  serviceAccount: robot
  serviceAccountName: robot
  priorityClassName: high
  schedulingGates: [{name: example.com/wait}]
  tolerations: [{operator: Exists}]
  volumes:
  - {name: nothing, emptyDir: {}}
  - {name: secret, secret: {secretName: s, defaultMode: 420}}
  - {name: config, configMap: {name: c, defaultMode: 420}}
  - {name: host, hostPath: {path: /tmp, type: ""}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels, apiVersion: v1}}], defaultMode: 420}}
  - {name: all, projected: {sources: [{serviceAccountToken: {path: token, expirationSeconds: 3600}}], defaultMode: 420}}
  initContainers:
  - {name: init, image: "busybox:1.37", imagePullPolicy: IfNotPresent,
     resources: {}, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  containers:
  - name: web
    image: nginx:1.27
    imagePullPolicy: IfNotPresent
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP, apiVersion: v1}}}]
    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]
    resources: {limits: {cpu: 101m, memory: 64Mi}, requests: {cpu: 101m, memory: 64Mi}}
    livenessProbe: {httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    readinessProbe: {grpc: {port: 90, service: ""}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    lifecycle: {preStop: {httpGet: {port: 80, path: /bye, scheme: HTTP}}}
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
status:
  phase: Pending
  qosClass: Burstable
  conditions:
  - {type: PodScheduled, status: "False", reason: SchedulingGated, message: Scheduling is blocked due to non-empty scheduling gates,
     lastProbeTime: null, lastTransitionTime: null}`,
		},
		{
			name: "pod with resources of its own", kind: "Pod",
			given: `
spec:
  resources: {limits: {cpu: "2", memory: 1Gi}}
  containers:
  - {name: a, image: "a:1", resources: {requests: {cpu: 500m}}}
  - {name: b, image: "b:1", resources: {requests: {cpu: 500m}}}`,
			want: `
spec:
  resources: {limits: {cpu: "2", memory: 1Gi}, requests: {cpu: "1", memory: 1Gi}}
  containers:
  - {name: a, image: "a:1", resources: {requests: {cpu: 500m}}, imagePullPolicy: IfNotPresent,
     terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  - {name: b, image: "b:1", resources: {requests: {cpu: 500m}}, imagePullPolicy: IfNotPresent,
     terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  terminationGracePeriodSeconds: 30
status: {phase: Pending, qosClass: Burstable}`,
		},
		{
			name: "pod with resources of its own, whose containers are limited", kind: "Pod",
			given: `
spec:
  resources: {requests: {cpu: 500m, memory: 1Gi}}
  containers:
  - {name: a, image: "a:1", resources: {limits: {cpu: 200m, memory: 1Gi, hugepages-2Mi: 4Mi}, requests: {memory: 64Mi}}}
  - {name: b, image: "b:1", resources: {limits: {cpu: 200m}}}`,
			want: `
spec:
  resources: {requests: {cpu: 500m, memory: 1Gi, hugepages-2Mi: 4Mi}, limits: {cpu: 500m, hugepages-2Mi: 4Mi}}
  containers:
  - {name: a, image: "a:1", resources: {limits: {cpu: 200m, memory: 1Gi, hugepages-2Mi: 4Mi}, requests: {cpu: 200m, memory: 64Mi, hugepages-2Mi: 4Mi}}, imagePullPolicy: IfNotPresent,
     terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  - {name: b, image: "b:1", resources: {limits: {cpu: 200m}, requests: {cpu: 200m}}, imagePullPolicy: IfNotPresent,
     terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  terminationGracePeriodSeconds: 30
status: {phase: Pending, qosClass: Burstable}`,
		},
		{
			name: "deployment", kind: "Deployment",
			given: `
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "nginx:latest", resources: {limits: {cpu: "1"}}}]}`,
			want: `
metadata: {name: web}
spec:
  progressDeadlineSeconds: 600
  replicas: 1
  revisionHistoryLimit: 10
  selector: {matchLabels: {app: web}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 25%}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "nginx:latest", imagePullPolicy: Always, resources: {limits: {cpu: "1"}},
         terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}
      dnsPolicy: ClusterFirst
      restartPolicy: Always
      schedulerName: default-scheduler
      securityContext: {}
      terminationGracePeriodSeconds: 30
status: {}`,
		},
		{
			name: "replicaset", kind: "ReplicaSet",
			given: `{spec: {selector: {matchLabels: {a: b}}}}`,
			want: `
spec:
  replicas: 1
  selector: {matchLabels: {a: b}}
  template: {metadata: {}, spec: {containers: null, dnsPolicy: ClusterFirst, restartPolicy: Always,
    schedulerName: default-scheduler, securityContext: {}, terminationGracePeriodSeconds: 30}}
status: {replicas: 0}`,
		},
		{
			name: "service", kind: "Service",
			given: `{metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}, {name: b, port: 81, targetPort: http}]}}`,
			want: `
metadata: {name: web}
spec:
  internalTrafficPolicy: Cluster
  ports: [{port: 80, protocol: TCP, targetPort: 80}, {name: b, port: 81, protocol: TCP, targetPort: http}]
  selector: {app: web}
  sessionAffinity: None
  type: ClusterIP
status: {loadBalancer: {}}`,
		},
		{
			name: "service with a node port and affinity", kind: "Service",
			given: `{spec: {type: NodePort, clusterIP: 10.43.0.5, sessionAffinity: ClientIP, ports: [{port: 80}]}}`,
			want: `
spec:
  clusterIP: 10.43.0.5
  clusterIPs: [10.43.0.5]
  externalTrafficPolicy: Cluster
  internalTrafficPolicy: Cluster
  ports: [{port: 80, protocol: TCP, targetPort: 80}]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}
  type: NodePort
status: {loadBalancer: {}}`,
		},
		{
			name: "headless service without selector", kind: "Service",
			given: `{spec: {clusterIP: None}}`,
			want: `
spec:
  clusterIP: None
  clusterIPs: [None]
  internalTrafficPolicy: Cluster
  sessionAffinity: None
  type: ClusterIP
status: {loadBalancer: {}}`,
		},
		{
			name: "external name", kind: "Service",
			given: `{spec: {type: ExternalName, externalName: example.com}}`,
			want:  `{spec: {type: ExternalName, externalName: example.com, sessionAffinity: None}, status: {loadBalancer: {}}}`,
		},
		{
			name: "namespace", kind: "Namespace",
			given: `{metadata: {name: shop}}`,
			want: `{metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop}}, spec: {finalizers: [kubernetes]},
				status: {phase: Active}}`,
		},
		{
			name: "node keeps its status", kind: "Node",
			given: `{metadata: {name: a}, status: {capacity: {cpu: "2"}, nodeInfo: {osImage: Debian}}}`,
			want:  `{metadata: {name: a}, status: {capacity: {cpu: "2"}, allocatable: {cpu: "2"}, nodeInfo: {osImage: Debian}}}`,
		},
		{
			name: "node with two minds of its pod range", kind: "Node",
			given: `{spec: {podCIDR: 10.42.1.0/24, podCIDRs: [10.42.0.0/24, "fd00::/64"]}}`,
			want:  `{spec: {podCIDR: 10.42.1.0/24, podCIDRs: [10.42.1.0/24]}}`,
		},
		{
			name: "values that are null", kind: "Secret",
			given: `{data: {a: null, b: aA==}}`,
			want:  `{type: Opaque, data: {a: "", b: aA==}}`,
		},
		{
			name: "binary values that are null", kind: "ConfigMap",
			given: `{binaryData: {a: null}}`,
			want:  `{binaryData: {a: ""}}`,
		},
		{
			name: "node with a pod range", kind: "Node",
			given: `{spec: {podCIDRs: [10.42.0.0/24]}}`,
			want:  `{spec: {podCIDR: 10.42.0.0/24, podCIDRs: [10.42.0.0/24]}}`,
		},
		{
			name: "secret", kind: "Secret",
			given: `{data: {a: QQ==}, stringData: {a: B, c: C}}`,
			want:  `{type: Opaque, data: {a: Qg==, c: Qw==}}`,
		},
		{
			name: "endpoints", kind: "Endpoints",
			given: `{subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]}`,
			want:  `{subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80, protocol: TCP}]}]}`,
		},
		{
			name: "endpointslice", kind: "EndpointSlice",
			given: `{addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{port: 80}]}`,
			want:  `{addressType: IPv4, endpoints: [{addresses: [10.0.0.1], conditions: {}}], ports: [{name: "", port: 80, protocol: TCP}]}`,
		},
		{
			name: "service account", kind: "ServiceAccount",
			given: `{secrets: [{name: a, namespace: b, kind: Secret}]}`,
			want:  `{secrets: [{name: a}]}`,
		},
	} {
		t.Run(tc.name, tc.run)
	}
}

func TestDefaultPullPolicy(t *testing.T) {
	for image, want := range map[string]string{
		"nginx":                                          "Always",
		"nginx:latest":                                   "Always",
		"registry.local:5000/team/nginx":                 "Always",
		"registry.local:5000/nginx:1.27":                 "IfNotPresent",
		"nginx@sha256:" + strings.Repeat("a", 64):        "IfNotPresent",
		"nginx:latest@sha256:" + strings.Repeat("a", 64): "Always",
		"NOT an image":                                   "IfNotPresent",
	} {
		if got := string(defaultPullPolicy(image)); got != want {
			t.Errorf("defaultPullPolicy(%q) = %s, want %s", image, got, want)
		}
	}
}

// What is quickly seen of a name is what its parser says.
func TestPullPolicyOfEveryName(t *testing.T) {
	for _, host := range []string{"", "/", "registry.local:5000/", "registry.local:latest/", "[::1]:5000/team/"} {
		for _, name := range []string{"", "nginx", "Nginx", strings.Repeat("a", 64)} {
			for _, tag := range []string{"", ":", ":1.27", ":latest", ":latest:1", ":1:latest", ":5000/b"} {
				for _, digest := range []string{"", "@", "@sha256:" + strings.Repeat("a", 64), "@sha256:latest"} {
					image, want := host+name+tag+digest, corev1.PullIfNotPresent
					if ref, err := reference.ParseNormalizedNamed(image); err == nil {
						if tagged, ok := reference.TagNameOnly(ref).(reference.Tagged); ok && tagged.Tag() == "latest" {
							want = corev1.PullAlways
						}
					}
					if got := defaultPullPolicy(image); got != want {
						t.Errorf("defaultPullPolicy(%q) = %s, want %s", image, got, want)
					}
				}
			}
		}
	}
}
