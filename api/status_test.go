package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// statusTest is a change of a status, and how the errors of Kubernetes begin.
type statusTest struct {
	kind, old, given string
	want             []string
}

func TestValidateStatus(t *testing.T) {
	const (
		negative = "Invalid value: -1: must be greater than or equal to 0"
		finished = "conditions: [{type: Complete, status: 'True'}, {type: SuccessCriteriaMet, status: 'True'}], startTime: '2026-01-02T03:04:05Z', completionTime: '2026-01-02T03:04:06Z'"
		never    = "spec: {restartPolicy: Never, containers: [{name: c}]}, "
	)
	for _, tc := range []statusTest{
		{"Deployment", "{}", "{status: {replicas: 3, updatedReplicas: 3, readyReplicas: 2, availableReplicas: 1, unavailableReplicas: 2}}", nil},
		{"Deployment", "{status: {collisionCount: 2}}", "{status: {observedGeneration: -1, replicas: 1, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 3, unavailableReplicas: -1, collisionCount: 1}}", []string{
			"status.observedGeneration: " + negative, "status.unavailableReplicas: " + negative,
			"status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
			"status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
			"status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
			"status.availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
			"status.collisionCount: Invalid value: 1: cannot be decremented",
		}},
		{"ReplicaSet", "{}", "{status: {replicas: 1, fullyLabeledReplicas: 2, readyReplicas: 0, availableReplicas: 1, terminatingReplicas: -1}}", []string{
			"status.terminatingReplicas: " + negative,
			"status.fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas",
			"status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas",
		}},
		{"ReplicationController", "{}", "{status: {observedGeneration: -1, readyReplicas: 1}}", []string{
			"status.observedGeneration: " + negative, "status.readyReplicas: Invalid value: 1: cannot be greater than status.replicas"}},
		{"DaemonSet", "{status: {collisionCount: 1}}", "{status: {numberReady: -1, updatedNumberScheduled: -1}}", []string{
			"status.numberReady: " + negative, "status.updatedNumberScheduled: " + negative, "status.collisionCount: Invalid value: 0: cannot be decremented"}},
		{"StatefulSet", "{}", "{status: {replicas: 1, currentReplicas: 2, availableReplicas: 1, collisionCount: -1}}", []string{
			"status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas",
			"status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas",
			"status.collisionCount: " + negative,
		}},
		{"Job", "{}", "{status: {succeeded: 1, " + finished + "}}", nil},
		{"Job", "{status: {active: -1}}", "{status: {active: -1}}", nil}, // What is there already may stay.
		{"Job", "{}", "{status: {active: -1, ready: 1, uncountedTerminatedPods: {succeeded: [a, ''], failed: [a]}}}", []string{
			"status.active: " + negative,
			`status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty`,
			`status.uncountedTerminatedPods.failed[0]: Duplicate value: "a"`,
			"status.ready: Invalid value: 1: cannot set more ready pods than active",
		}},
		{"Job", "{status: {failed: 2, " + finished + "}}", "{status: {active: 1, failed: 1, terminating: 1, conditions: [{type: Failed, status: 'True'}], completionTime: '2026-01-02T03:04:06Z', uncountedTerminatedPods: {failed: [a]}}}", []string{
			"status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
			"status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
			"status.conditions: Invalid value: cannot disable the terminal SuccessCriteriaMet=True condition",
			`status.completionTime: Invalid value: "2026-01-02T03:04:06Z": cannot set completionTime when there is no Complete=True condition`,
			"status.active: Invalid value: 1: active>0 is invalid for finished job",
			"status.startTime: Required value: startTime is required for finished job",
			"status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",
			"status.uncountedTerminatedPods: Invalid value: ",
			"status.failed: Invalid value: 1: cannot decrease the failed counter",
		}},
		{"Job", "{}", "{status: {conditions: [{type: Complete, status: 'True'}, {type: Failed, status: 'True'}, {type: FailureTarget, status: 'True'}], startTime: '2026-01-02T03:04:05Z'}}", []string{
			"status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions",
			"status.conditions: Invalid value: cannot set Complete=True and FailureTarget=true conditions",
			"status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
			"status.completionTime: Required value: completionTime is required for Complete jobs",
		}},
		{"Pod", "{}", "{status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], hostIP: 192.0.2.1, hostIPs: [{ip: 192.0.2.1}, {ip: '2001:db8::1'}], conditions: [{type: Ready}, {type: example.com/gate}]}}", nil},
		{"Pod", "{}", "{status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], hostIPs: [{ip: x}], nominatedNodeName: N1, observedGeneration: -1, conditions: [{type: a/b/c}]}}", []string{
			"status.observedGeneration: " + negative, `status.nominatedNodeName: Invalid value: "N1": ` + subdomain1123,
			`status.conditions[0].Type: Invalid value: "a/b/c": `,
			`status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]: may specify no more than one IP for each IP family`,
			"status.hostIPs[0].ip: Invalid value: \"x\": must be equal to `hostIP`",
			`status.hostIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
		}},
		{"Pod", "{" + never + "status: {containerStatuses: [{name: c, state: {terminated: {exitCode: 0}}}]}}", "{" + never + "status: {containerStatuses: [{name: c, state: {running: {}}}]}}", []string{
			"status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"}},
		{"Pod", "{spec: {containers: [{name: c}]}, status: {containerStatuses: [{name: c, state: {terminated: {exitCode: 0}}}]}}", "{status: {containerStatuses: [{name: c, state: {running: {}}}]}}", nil},
		{"Node", "{}", "{status: {addresses: [{type: InternalIP, address: a}, {type: InternalIP, address: a}], capacity: {pods: 1500m}}}", []string{
			`status.capacity.pods: Invalid value: "1500m": must be an integer`, `status.allocatable.pods: Invalid value: "1500m": must be an integer`,
			`status.addresses[1]: Duplicate value: {"type":"InternalIP","address":"a"}`}},
		{"Namespace", "{}", "{status: {phase: Terminating}}", []string{"status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"}},
		{"Namespace", "{}", "{metadata: {deletionTimestamp: '2026-01-02T03:04:05Z'}, status: {phase: Active}}", []string{
			"status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty"}},
		{"Service", "{}", "{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {hostname: lb.example.com}]}}}", nil},
		{"Service", "{}", "{status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}", []string{"status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is LoadBalancer"}},
		{"Service", "{}", "{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: x, ipMode: Other}, {hostname: 10.0.0.1, ipMode: VIP}]}}}", []string{
			`status.loadBalancer.ingress[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`status.loadBalancer.ingress[0].ipMode: Unsupported value: "Other": supported values: "Proxy", "VIP"`,
			`status.loadBalancer.ingress[1].hostname: Invalid value: "10.0.0.1": must be a DNS name, not an IP address`,
			"status.loadBalancer.ingress[1].ipMode: Forbidden: may not be specified when `ip` is not set",
		}},
		{"Ingress", "{}", "{status: {loadBalancer: {ingress: [{ip: 010.0.0.1}, {hostname: A}]}}}", []string{
			`status.loadBalancer.ingress[0].ip: Invalid value: "010.0.0.1": `, `status.loadBalancer.ingress[1].hostname: Invalid value: "A": ` + subdomain1123}},
		{"HorizontalPodAutoscaler", "{}", "{status: {currentReplicas: -1, desiredReplicas: -1}}", []string{"status.currentReplicas: " + negative, "status.desiredReplicas: " + negative}},
		{"PodDisruptionBudget", "{}", "{status: {disruptionsAllowed: -1, conditions: [{type: a, status: x, reason: r, lastTransitionTime: '2026-01-02T03:04:05Z'}]}}", []string{
			`status.conditions[0].status: Unsupported value: "x": supported values: "False", "True", "Unknown"`, "status.disruptionsAllowed: " + negative}},
		{"PersistentVolumeClaim", "{}", "{status: {capacity: {storage: -1}}}", []string{`status.capacity[storage]: Invalid value: "-1": must be greater than or equal to 0`}},
		{"ResourceQuota", "{}", "{status: {hard: {pods: 1500m}, used: {what: 1}}}", []string{
			`status.hard[pods]: Invalid value: "1500m": must be an integer`, `status.used[what]: Invalid value: "what": must be a standard resource type or fully qualified`,
			`status.used[what]: Invalid value: "what": must be a standard resource for quota`}},
	} {
		r := find(t, tc.kind)
		sub, _ := r.Sub("status")
		got := texts(sub.Validate(parse(t, r, tc.given), parse(t, r, tc.old)))
		for i := range min(len(got), len(tc.want)) {
			got[i] = got[i][:min(len(got[i]), len(tc.want[i]))]
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s\nstored %s\ngiven %s\n(-want +got):\n%s", tc.kind, tc.old, tc.given, diff)
		}
	}
}
