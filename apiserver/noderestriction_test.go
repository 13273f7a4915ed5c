package apiserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const nodePath = "/api/v1/nodes/n1"

// Which Services and controllers take a pod for theirs goes by its labels; a node must not make its pods theirs.
func TestNodeKeepsLabelsOfItsPods(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	s.bind(t, "p", "n1").want(t, 201)
	status := podsPath + "/p/status"
	const why = `pods "p" is forbidden: node "n1" cannot update labels through pod status`
	s.doAs(t, nodeUser, "PATCH", status, `{"metadata":{"labels":{"app":"bank"}}}`, merge...).refused(t, 403, metav1.StatusReasonForbidden, why)
	pod := s.pod(t, "p")
	pod.Labels, pod.Status.Message = nil, "put"
	s.doAs(t, nodeUser, "PUT", status, toJSON(t, pod)).refused(t, 403, metav1.StatusReasonForbidden, why)
	s.doAs(t, nodeUser, "PATCH", status, `{"metadata":{"annotations":{"a":"b"}},"status":{"message":"patched"}}`, merge...).want(t, 200)
	if pod := s.pod(t, "p"); pod.Labels["app"] != "web" || pod.Status.Message != "patched" {
		t.Errorf("the pod has labels %v, message %q", pod.Labels, pod.Status.Message)
	}
	s.do(t, "PATCH", status, `{"metadata":{"labels":{"app":"bank"}}}`, merge...).want(t, 200)
}

// What is scheduled to a node goes by its labels and taints; a node must not draw to itself what is not for it.
func TestNodeKeepsWhatIsSaidOfIt(t *testing.T) {
	s := start(t)
	create := func(labels string) answer {
		return s.doAs(t, nodeUser, "POST", "/api/v1/nodes", `{"kind":"Node","apiVersion":"v1","metadata":{"name":"n1","labels":`+labels+`},"spec":{"taints":[{"key":"a","effect":"NoSchedule"}]}}`)
	}
	create(`{"node-role.kubernetes.io/control-plane":"","x.node-restriction.kubernetes.io/tier":"a"}`).refused(t, 403, metav1.StatusReasonForbidden,
		`nodes "n1" is forbidden: node "n1" is not allowed to set the following labels: node-role.kubernetes.io/control-plane, x.node-restriction.kubernetes.io/tier`)
	create(`{"kubernetes.io/hostname":"n1","example.com/disk":"ssd"}`).want(t, 201)
	s.do(t, "PATCH", nodePath, `{"metadata":{"labels":{"node-restriction.kubernetes.io/tier":"open"}}}`, merge...).want(t, 200)

	patch := func(path, body string) answer { return s.doAs(t, nodeUser, "PATCH", path, body, merge...) }
	for _, tc := range []struct{ path, body, why string }{
		{nodePath, `{"spec":{"taints":null}}`, `node "n1" is not allowed to modify taints`},
		{nodePath, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n2","uid":"u"}]}}`, `node "n1" is not allowed to modify ownerReferences`},
		{nodePath, `{"metadata":{"labels":{"node-restriction.kubernetes.io/tier":"secret"}}}`, "is not allowed to modify labels: node-restriction.kubernetes.io/tier"},
		{nodePath, `{"metadata":{"labels":{"node-restriction.kubernetes.io/tier":null}}}`, "is not allowed to modify labels: node-restriction.kubernetes.io/tier"},
		{nodePath + "/status", `{"metadata":{"labels":{"k8s.io/b":"","a.kubernetes.io/a":""}}}`, "is not allowed to modify labels: a.kubernetes.io/a, k8s.io/b"},
	} {
		patch(tc.path, tc.body).refused(t, 403, metav1.StatusReasonForbidden, `nodes "n1" is forbidden: `+tc.why)
	}
	patch(nodePath, `{"metadata":{"labels":{"example.com/disk":"hdd","topology.kubernetes.io/zone":"z","node.kubernetes.io/x":""}},"spec":{"unschedulable":true}}`).want(t, 200)
	patch(nodePath+"/status", `{"spec":{"taints":null},"status":{"capacity":{"cpu":"1"}}}`).want(t, 200) // Taints are no part of the status.

	node := parse[corev1.Node](t, s.do(t, "GET", nodePath, "").want(t, 200))
	want := map[string]string{
		"kubernetes.io/hostname": "n1", "node-restriction.kubernetes.io/tier": "open",
		"example.com/disk": "hdd", "topology.kubernetes.io/zone": "z", "node.kubernetes.io/x": "",
	}
	if diff := cmp.Diff(want, node.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if len(node.Spec.Taints) == 0 || node.Spec.Taints[0].Key != "a" || !node.Spec.Unschedulable {
		t.Errorf("the spec is %+v", node.Spec)
	}
}

// A node creates the mirrors of pods that it runs anyway, and no other pods: what a pod names, its node may read.
func TestNodeMirrorsItsOwn(t *testing.T) {
	s := start(t)
	create := func(name, annotations, owner, spec string) answer {
		return s.doAs(t, nodeUser, "POST", podsPath, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"`+name+`","annotations":{`+annotations+`},
			"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"`+owner+`","uid":"u"}]},"spec":{"containers":[{"name":"c","image":"i"`+spec+`}}`, "User-Agent", "skiff-agent") // Of which the defaults are set late.
	}
	const mirror, here = `"kubernetes.io/config.mirror":"h"`, `}],"nodeName":"n1"`
	for _, tc := range []struct{ annotations, owner, spec, why string }{
		{"", "n1", here, `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{mirror, "n1", `}],"nodeName":"n2"`, `node "n1" can only create pods with spec.nodeName set to itself`},
		{mirror, "n2", here, `node "n1" can only create pods with an owner reference set to itself`},
		{mirror, "n1", here + `,"serviceAccountName":"default"`, "reference secrets, configmaps, service accounts or claims"},
		{mirror, "n1", here + `,"serviceAccount":"default"`, "reference secrets, configmaps, service accounts or claims"},
		{mirror, "n1", here + `,"volumes":[{"name":"v","secret":{"secretName":"s"}}]`, "reference secrets, configmaps, service accounts or claims"},
		{mirror, "n1", `,"envFrom":[{"secretRef":{"name":"s"}}]` + here, "reference secrets, configmaps, service accounts or claims"},
	} {
		create("p", tc.annotations, tc.owner, tc.spec).refused(t, 403, metav1.StatusReasonForbidden, tc.why)
	}
	if pod := parse[corev1.Pod](t, create("p", mirror, "n1", here).want(t, 201)); pod.Spec.ServiceAccountName != "" {
		t.Errorf("the mirror has the service account %q", pod.Spec.ServiceAccountName)
	}
	s.doAs(t, nodeUser, "DELETE", podsPath+"/p", `{"gracePeriodSeconds":0}`).want(t, 200)
}
