package apiserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod gets what its RuntimeClass says of its pods, and says nothing against it.
func TestRuntimeClass(t *testing.T) {
	s := start(t)
	const classes = "/apis/node.k8s.io/v1/runtimeclasses"
	pod := func(name, spec string) answer {
		return s.do(t, "POST", podsPath, `{"metadata":{"name":"`+name+`"},"spec":{`+spec+`,"containers":[{"name":"c","image":"i"}]}}`)
	}
	refused := func(spec, why string) {
		t.Helper()
		pod("p", spec).refused(t, 403, metav1.StatusReasonForbidden, why)
	}
	refused(`"runtimeClassName":"sandboxed"`, `pods "p" is forbidden: pod rejected: RuntimeClass "sandboxed" not found`)
	refused(`"overhead":{"cpu":"1"}`, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")

	s.do(t, "POST", classes, `{"metadata":{"name":"plain"},"handler":"runc"}`).want(t, 201)
	s.do(t, "POST", classes, `{"metadata":{"name":"sandboxed"},"handler":"sandbox","overhead":{"podFixed":{"memory":"64Mi"}},
		"scheduling":{"nodeSelector":{"kvm":"yes"},"tolerations":[{"key":"kvm","operator":"Exists"}]}}`).want(t, 201)
	refused(`"runtimeClassName":"sandboxed","overhead":{"memory":"1Mi"}`, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	refused(`"runtimeClassName":"plain","overhead":{"memory":"1Mi"}`, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
	refused(`"runtimeClassName":"sandboxed","nodeSelector":{"kvm":"no"}`,
		"conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes; pod.spec.nodeSelector[kvm] = no")

	got := parse[corev1.Pod](t, pod("a", `"runtimeClassName":"sandboxed","nodeSelector":{"disk":"fast"}`).want(t, 201)).Spec
	if got.Overhead.Memory().Value() != 64<<20 {
		t.Errorf("overhead %v, want 64Mi of memory", got.Overhead)
	}
	if diff := cmp.Diff(map[string]string{"disk": "fast", "kvm": "yes"}, got.NodeSelector); diff != "" {
		t.Errorf("node selector (-want +got):\n%s", diff)
	}
	if n := len(got.Tolerations); got.Tolerations[n-1].Key != "kvm" {
		t.Errorf("tolerations %v, want that of the class among them", got.Tolerations)
	}
	if got := parse[corev1.Pod](t, pod("b", `"runtimeClassName":"plain"`).want(t, 201)).Spec; got.Overhead != nil {
		t.Errorf("overhead %v of a class without", got.Overhead)
	}
}
