package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What Kubernetes has behind a gate that is closed by default is dropped, wherever in an object it stands.
func TestGatedFieldsAreDropped(t *testing.T) {
	const gated = `{name: a, volumeMounts: [{name: v, mountPath: /v, bindMountOptions: [noexec]}], livenessProbe: {httpGet: {port: 80, protocol: HTTP}}}`
	const left = `{name: a, volumeMounts: [{name: v, mountPath: /v}], livenessProbe: {httpGet: {port: 80}}}`
	pod := `{containers: [` + gated + `], initContainers: [` + gated + `], ephemeralContainers: [` + gated + `], ` +
		`volumes: [{name: v, emptyDir: {mode: 448}}, {name: s, secret: {secretName: s}}], schedulingGroup: {}, evictionResponders: [{name: a}]}`
	wantPod := `{containers: [` + left + `], initContainers: [` + left + `], ephemeralContainers: [` + left + `], ` +
		`volumes: [{name: v, emptyDir: {}}, {name: s, secret: {secretName: s}}]}`
	for _, tc := range []struct{ kind, given, want string }{
		{"Pod", "{spec: " + pod + "}", "{spec: " + wantPod + "}"},
		{"PodTemplate", "{template: {spec: " + pod + "}}", "{template: {spec: " + wantPod + "}}"},
		{"Deployment", "{spec: {template: {spec: " + pod + "}}}", "{spec: {template: {spec: " + wantPod + "}}}"},
		{"Job", "{spec: {scheduling: {}, template: {spec: " + pod + "}}}", "{spec: {template: {spec: " + wantPod + "}}}"},
		{"CronJob", "{spec: {jobTemplate: {spec: {scheduling: {}, template: {spec: " + pod + "}}}}}", "{spec: {jobTemplate: {spec: {template: {spec: " + wantPod + "}}}}}"},
		{"Lease", "{spec: {holderIdentity: a, strategy: OldestEmulationVersion, preferredHolder: b}}", "{spec: {holderIdentity: a}}"},
		{"EndpointSlice", "{endpoints: [{addresses: [10.0.0.1], deprecatedTopology: {a: b}}]}", "{endpoints: [{addresses: [10.0.0.1]}]}"},
		{"Node", "{spec: {configSource: {}, podPreemptionPolicy: {}}, status: {config: {}}}", "{}"},
		{"CSINode", "{status: {storageHealth: [{name: a}]}}", "{}"},
		{"Lease", "{}", "{}"},
	} {
		r := find(t, tc.kind)
		obj := parse(t, r, tc.given)
		r.DropGated(obj)
		if diff := cmp.Diff(format(t, parse(t, r, tc.want)), format(t, obj)); diff != "" {
			t.Errorf("%s: what is left (-want +got):\n%s", tc.kind, diff)
		}
	}
}
