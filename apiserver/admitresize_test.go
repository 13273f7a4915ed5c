package apiserver

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod may wait for its node to have room, but not for what the node never has.
func TestResizeWithinNode(t *testing.T) {
	s := start(t)
	s.do(t, "POST", "/api/v1/nodes", `{"metadata":{"name":"n"},"status":{"allocatable":{"cpu":"2","memory":"1Gi"}}}`).want(t, 201)
	s.do(t, "POST", podsPath, `{"metadata":{"name":"p"},"spec":{"nodeName":"n","containers":[{"name":"c","image":"i",
		"resources":{"requests":{"cpu":"100m","memory":"16Mi"},"limits":{"cpu":"9","memory":"9Gi"}}}]}}`).want(t, 201)
	resize := func(cpu, memory string) answer {
		return s.do(t, "PATCH", podsPath+"/p/resize", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"`+cpu+`","memory":"`+memory+`"}}}]}}`,
			"Content-Type", "application/strategic-merge-patch+json")
	}
	resize("2", "1Gi").want(t, 200)
	for _, tc := range []struct{ cpu, memory, why string }{
		{"3", "1Gi", `pods "p" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000`},
		{"3", "2Gi", "cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"},
	} {
		got := resize(tc.cpu, tc.memory)
		got.refused(t, 403, metav1.StatusReasonForbidden, tc.why)
		if causes := parse[metav1.Status](t, got).Details.Causes; len(causes) != 1 || causes[0].Type != "NodeCapacity" {
			t.Errorf("of %s and %s: causes %+v, want NodeCapacity", tc.cpu, tc.memory, causes)
		}
	}

	s.do(t, "DELETE", "/api/v1/nodes/n", "").want(t, 200)
	resize("1", "1Gi").refused(t, 403, metav1.StatusReasonForbidden, `node "n" not found`)
}
