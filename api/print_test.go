package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// printed is a row as a user sees it with -o wide, cells divided by "|". "AGO" in given is a time that is ten hours ago, and will be
// however slow this machine is.
func printed(t *testing.T, kind, given string) string {
	t.Helper()
	r := find(t, kind)
	ago := metav1.NewTime(time.Now().Add(-10*time.Hour - 30*time.Minute)).UTC().Format(time.RFC3339)
	obj := parse(t, r, strings.ReplaceAll(given, "AGO", "'"+ago+"'"))
	var cells []string
	for _, c := range r.Row(obj) {
		cells = append(cells, fmt.Sprint(c))
	}
	return strings.Join(cells, "|")
}

// rowTest is an object, and its row as [printed] has it.
type rowTest struct{ kind, given, want string }

func checkRows(t *testing.T, tests []rowTest) {
	t.Helper()
	for _, tc := range tests {
		given := strings.ReplaceAll(tc.given, "eventTime: AGO", "eventTime: MICRO")
		given = strings.ReplaceAll(given, "lastObservedTime: AGO", "lastObservedTime: MICRO")
		micro := time.Now().Add(-10*time.Hour - 30*time.Minute).UTC().Format(metav1.RFC3339Micro)
		given = strings.ReplaceAll(given, "MICRO", "'"+micro+"'")
		if diff := cmp.Diff(tc.want, printed(t, tc.kind, given)); diff != "" {
			t.Errorf("%s %s\n(-want +got):\n%s", tc.kind, tc.given, diff)
		}
	}
}

func TestRows(t *testing.T) {
	const template = "template: {spec: {containers: [{name: a, image: x}, {name: b, image: 'y:1'}]}}"
	checkRows(t, []rowTest{
		{"Namespace", "{metadata: {name: shop, creationTimestamp: AGO}}", "shop|Active|10h"},
		{"Node", "{metadata: {name: n1}}", "n1|Unknown|<none>|<unknown>||<none>|<none>|<unknown>|<unknown>|<unknown>"},
		{"Node", `{metadata: {name: n1, labels: {node-role.kubernetes.io/worker: "", node-role.kubernetes.io/control-plane: "", kubernetes.io/role: worker}},
			spec: {unschedulable: true}, status: {conditions: [{type: Ready, status: "True"}], addresses: [{type: InternalIP, address: 10.0.0.1}],
			nodeInfo: {kubeletVersion: v1.37.2, osImage: Debian, kernelVersion: "6.1", architecture: amd64, containerRuntimeVersion: containerd://2.1}}}`,
			"n1|Ready,SchedulingDisabled|control-plane,worker|<unknown>|v1.37.2|10.0.0.1|<none>|Debian|6.1 (amd64)|containerd://2.1"},
		{"Node", `{metadata: {name: n1}, status: {conditions: [{type: Ready, status: Unknown}]}}`,
			"n1|NotReady|<none>|<unknown>||<none>|<none>|<unknown>|<unknown>|<unknown>"},
		{"Deployment", "{metadata: {name: d, creationTimestamp: AGO}, spec: {replicas: 3, selector: {matchLabels: {app: a}}, " + template +
			"}, status: {readyReplicas: 2, updatedReplicas: 3, availableReplicas: 1}}", "d|2/3|3|1|10h|a,b|x,y:1|app=a"},
		{"ReplicaSet", "{metadata: {name: r}, spec: {replicas: 3, selector: {matchLabels: {app: a}}, " + template +
			"}, status: {replicas: 2, readyReplicas: 1}}", "r|3|2|1|<unknown>|a,b|x,y:1|app=a"},
		{"Service", "{metadata: {name: s, creationTimestamp: AGO}, spec: {clusterIP: 10.43.0.1, clusterIPs: [10.43.0.1], selector: {a: b}, ports: [{port: 80}, {port: 53, protocol: UDP}]}}",
			"s|ClusterIP|10.43.0.1|<none>|80/TCP,53/UDP|10h|a=b"},
		{"Service", "{metadata: {name: s}, spec: {clusterIPs: [None]}}", "s|ClusterIP|None|<none>|<none>|<unknown>|<none>"},
		{"Service", "{metadata: {name: s}, spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}], externalIPs: [1.2.3.4]}}",
			"s|NodePort|<none>|1.2.3.4|80:30080/TCP|<unknown>|<none>"},
		{"Service", "{metadata: {name: s}, spec: {type: LoadBalancer, ports: [{port: 80}]}}", "s|LoadBalancer|<none>|<pending>|80/TCP|<unknown>|<none>"},
		{"Service", "{metadata: {name: s}, spec: {type: LoadBalancer, externalIPs: [9.9.9.9]}, status: {loadBalancer: {ingress: [{ip: 2.2.2.2}, {hostname: 'lb.example'}, {ip: 1.1.1.1}]}}}",
			"s|LoadBalancer|<none>|1.1.1.1,2.2.2.2,lb.example,9.9.9.9|<none>|<unknown>|<none>"},
		{"Service", "{metadata: {name: s}, spec: {type: ExternalName, externalName: db.example}}", "s|ExternalName|<none>|db.example|<none>|<unknown>|<none>"},
		{"Endpoints", "{metadata: {name: e}}", "e|<none>|<unknown>"},
		{"Endpoints", "{metadata: {name: e}, subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], ports: [{port: 80}, {port: 81}]}]}",
			"e|10.0.0.1:80,10.0.0.2:80,10.0.0.1:81 + 1 more...|<unknown>"},
		{"Endpoints", "{metadata: {name: e}, subsets: [{addresses: [{ip: 'fd00::1'}], ports: [{port: 80}]}, {addresses: [{ip: 10.0.0.2}]}]}",
			"e|[fd00::1]:80,10.0.0.2|<unknown>"},
		{"EndpointSlice", "{metadata: {name: e}, addressType: IPv4}", "e|IPv4|<unset>|<unset>|<unknown>"},
		{"EndpointSlice", "{metadata: {name: e}, addressType: IPv4, ports: [{port: 80}, {name: x}], endpoints: [{addresses: [a, b, c]}, {addresses: [d, e]}]}",
			"e|IPv4|80,x|a,b,c + 2 more...|<unknown>"},
		{"ConfigMap", "{metadata: {name: c}, data: {a: b}, binaryData: {d: QQ==}}", "c|2|<unknown>"},
		{"Secret", "{metadata: {name: s}, stringData: {a: b}}", "s|Opaque|1|<unknown>"},
		{"ServiceAccount", "{metadata: {name: s, creationTimestamp: AGO}}", "s|10h"},
		{"Lease", "{metadata: {name: l, creationTimestamp: AGO}, spec: {holderIdentity: me}}", "l|me|10h"},
		{"Event", "{metadata: {name: e}, type: Normal, reason: Pulled, message: ' done\n', involvedObject: {kind: Pod, name: p, fieldPath: 'spec.containers{a}'}, source: {component: agent, host: n1}, firstTimestamp: AGO, count: 3}",
			"10h|Normal|Pulled|pod/p|spec.containers{a}|agent, n1|done|10h|3|e"},
		{"Event", "{metadata: {name: e}, involvedObject: {kind: Pod}, reportingComponent: skiff-scheduler, eventTime: AGO, series: {count: 4, lastObservedTime: AGO}}",
			"10h|||pod||skiff-scheduler||10h|4|e"},
	})
}

// TestPodRow goes through the lives of a pod of the containers a and b, as `kubectl get pods` shows them.
func TestPodRow(t *testing.T) {
	const running = "state: {running: {}}, ready: true"
	waiting := func(reason string) string { return "state: {waiting: {reason: " + reason + "}}" }
	ended := func(code int, reason string) string {
		return fmt.Sprintf("state: {terminated: {exitCode: %d, reason: %q}}", code, reason)
	}
	const restarted = ", restartCount: 2, lastState: {terminated: {exitCode: 1, finishedAt: AGO}}"
	for _, tc := range []struct {
		name, phase, status string // More fields of the status.
		init, a, b          string // What is said of each container; nothing where it is "".
		want                string // Ready, Status, Restarts.
	}{
		{"just made", "Pending", "", "", "", "", "0/2|Pending|0"},
		{"gated", "Pending", "conditions: [{type: PodScheduled, status: 'False', reason: SchedulingGated}]", "", "", "", "0/2|SchedulingGated|0"},
		{"being made", "Pending", "", "", waiting("ContainerCreating"), waiting("ContainerCreating"), "0/2|ContainerCreating|0"},
		{"no such image", "Pending", "", "", waiting("ImagePullBackOff"), running, "1/2|ImagePullBackOff|0"},
		{"running", "Running", "", "", running, running, "2/2|Running|0"},
		{"not ready yet", "Running", "", "", "state: {running: {}}", running, "1/2|Running|0"},
		{"restarted", "Running", "", "", running + restarted, running + ", restartCount: 1", "2/2|Running|3 (10h ago)"},
		{"crashing", "Running", "", "", waiting("CrashLoopBackOff") + restarted, running, "1/2|CrashLoopBackOff|2 (10h ago)"},
		{"done", "Succeeded", "", "", ended(0, "Completed"), ended(0, "Completed"), "0/2|Completed|0"},
		{"failed", "Failed", "", "", ended(1, "Error"), ended(0, "Completed"), "0/2|Error|0"},
		{"one done, one failed", "Failed", "", "", ended(0, "Completed"), ended(3, ""), "0/2|ExitCode:3|0"},
		{"one done, one at work", "Running", "conditions: [{type: Ready, status: 'True'}]", "", ended(0, "Completed"), running, "1/2|Running|0"},
		{"one done, one at work, pod not ready", "Running", "", "", ended(0, "Completed"), running, "1/2|NotReady|0"},
		{"killed", "Failed", "", "", "state: {terminated: {signal: 9, exitCode: 137}}", "", "0/2|Signal:9|0"},
		{"evicted", "Failed", "reason: Evicted", "", "", "", "0/2|Evicted|0"},
		{"init at work", "Pending", "", "state: {running: {}}", waiting("PodInitializing"), "", "0/2|Init:0/1|0"},
		{"init waits", "Pending", "", waiting("PodInitializing"), waiting("PodInitializing"), "", "0/2|Init:0/1|0"},
		{"init crashing", "Pending", "", waiting("CrashLoopBackOff") + restarted, waiting("PodInitializing"), "", "0/2|Init:CrashLoopBackOff|2 (10h ago)"},
		{"init failed", "Failed", "", ended(1, "Error"), waiting("PodInitializing"), "", "0/2|Init:Error|0"},
		{"init failed without a word", "Failed", "", ended(4, ""), waiting("PodInitializing"), "", "0/2|Init:ExitCode:4|0"},
		{"init done", "Running", "", ended(0, "Completed") + restarted, running, running, "2/2|Running|0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			initSpec, initStatus := "", ""
			if tc.init != "" {
				initSpec, initStatus = "{name: i}", "{name: i, "+tc.init+"}"
			}
			var containers []string
			for name, said := range map[string]string{"a": tc.a, "b": tc.b} {
				if said != "" {
					containers = append(containers, "{name: "+name+", "+said+"}")
				}
			}
			if len(containers) == 2 && strings.HasPrefix(containers[0], "{name: b") {
				containers[0], containers[1] = containers[1], containers[0]
			}
			given := "{metadata: {name: p}, spec: {initContainers: [" + initSpec + "], containers: [{name: a}, {name: b}]}, status: {phase: " + tc.phase +
				more(tc.status) + ", initContainerStatuses: [" + initStatus + "], containerStatuses: [" + strings.Join(containers, ", ") + "]}}"
			want := "p|" + tc.want + "|<unknown>|<none>|<none>|<none>|<none>"
			if diff := cmp.Diff(want, printed(t, "Pod", given)); diff != "" {
				t.Errorf("%s\n(-want +got):\n%s", given, diff)
			}
		})
	}
}

func TestPodRowOfASidecar(t *testing.T) {
	got := printed(t, "Pod", `{metadata: {name: p, creationTimestamp: AGO}, spec: {nodeName: n1, readinessGates: [{conditionType: x}, {conditionType: y}],
		initContainers: [{name: s, restartPolicy: Always}], containers: [{name: a}]},
		status: {phase: Running, podIP: 10.42.0.5, nominatedNodeName: m, conditions: [{type: x, status: "True"}],
		initContainerStatuses: [{name: s, ready: true, started: true, restartCount: 2, state: {running: {}}}],
		containerStatuses: [{name: a, ready: true, state: {running: {}}}]}}`)
	if want := "p|2/2|Running|2|10h|10.42.0.5|n1|m|1/2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPodRowWhileDeleted(t *testing.T) {
	for _, tc := range []struct{ phase, reason, want string }{
		{"Running", "", "Terminating"},
		{"Running", "NodeLost", "Unknown"},
		{"Succeeded", "", "Succeeded"},
	} {
		now := metav1.Now()
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}}
		p.Status.Phase, p.Status.Reason = corev1.PodPhase(tc.phase), tc.reason
		if got := summarize(p).status; got != tc.want {
			t.Errorf("a deleted pod, phase %s, reason %q: status %s, want %s", tc.phase, tc.reason, got, tc.want)
		}
	}
}

func TestFields(t *testing.T) {
	for _, tc := range []struct{ kind, given, field, want string }{
		{"Pod", "{spec: {nodeName: n1}}", "spec.nodeName", "n1"},
		{"Pod", "{}", "spec.restartPolicy", "Always"},
		{"Pod", "{spec: {hostNetwork: true}}", "spec.hostNetwork", "true"},
		{"Pod", "{status: {podIP: 10.0.0.1}}", "status.podIP", "10.0.0.1"},
		{"Event", "{reportingComponent: a}", "source", "a"},
		{"Event", "{involvedObject: {kind: Pod}}", "involvedObject.kind", "Pod"},
		{"Secret", "{}", "type", "Opaque"},
		{"Node", "{}", "spec.unschedulable", "false"},
		{"Namespace", "{}", "status.phase", "Active"},
		{"Service", "{}", "spec.type", "ClusterIP"},
	} {
		r := find(t, tc.kind)
		set := r.Fields(parse(t, r, tc.given))
		if got, ok := set[tc.field]; !ok || got != tc.want {
			t.Errorf("%s %s: field %s is %q (there: %v), want %q", tc.kind, tc.given, tc.field, got, ok, tc.want)
		}
	}
}
