package apiserver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// The index of what Services hold follows them: also one that two hold, as after a mishap, and one that is written in two ways.
func TestHolders(t *testing.T) {
	version := func(key string, ips []string, port int32) *item {
		return &item{key: key, obj: &corev1.Service{Spec: corev1.ServiceSpec{ClusterIPs: ips, Ports: []corev1.ServicePort{{NodePort: port}}}}}
	}
	var h holders
	h.reset()
	has := func(held holding, want ...string) {
		t.Helper()
		if got := h.keys[held]; len(got) != len(want) || len(want) > 0 && got[0] != want[0] {
			t.Errorf("%v is held by %v, want %v", held, got, want)
		}
	}
	a, b := version("default/a", []string{"10.43.0.5", "fd00:43:0::5"}, 30000), version("default/b", []string{"10.43.0.5"}, 0)
	h.change(nil, a)
	h.change(nil, b)
	has(holding{address: "10.43.0.5"}, "default/a", "default/b")
	has(holding{address: "fd00:43::5"}, "default/a")
	has(holding{port: 30000}, "default/a")
	has(holding{port: 0})
	later := version("default/a", []string{"10.43.0.6"}, 30001)
	h.change(a, later)
	h.change(later, nil)
	h.change(b, nil)
	if len(h.keys) != 0 {
		t.Errorf("nothing is there any more, and held is %v", h.keys)
	}
}
