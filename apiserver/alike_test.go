package apiserver

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Objects that have parts in common hold them once, and read as before. What only looks alike is not taken for the same.
func TestAlike(t *testing.T) {
	pod := func(cpu, fields string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(fields)}}},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": quantity.MustParse(cpu), "memory": quantity.MustParse("1Gi")}},
			}}},
		}
	}
	requests := func(p *corev1.Pod) corev1.ResourceList { return p.Spec.Containers[0].Resources.Requests }
	fields := func(p *corev1.Pod) *metav1.FieldsV1 { return p.ManagedFields[0].FieldsV1 }
	var a alike
	one, same, other := pod("100m", `{"f:spec":{}}`), pod("0.1", `{"f:spec":{}}`), pod("1", `{"f:status":{}}`)
	for _, p := range []*corev1.Pod{one, same, other} {
		want := p.DeepCopy()
		a.share(p)
		if diff := cmp.Diff(want, p); diff != "" {
			t.Errorf("a part was exchanged for another (-want +got):\n%s", diff)
		}
	}
	if fields(one) != fields(same) || fields(one) == fields(other) {
		t.Error("equal managed fields are not held once, or different ones are")
	}
	requests(one)["cpu"] = quantity.MustParse("7") // Nobody may: it shows who else holds the map.
	seven := quantity.MustParse("7")
	if shared := requests(same)["cpu"]; !shared.Equal(seven) {
		t.Error("equal requests are not held once")
	}
	if apart := requests(other)["cpu"]; apart.Equal(seven) {
		t.Error("different requests are held as one")
	}
	for i := range 3 * maxAlike {
		a.share(pod(fmt.Sprint(i+1), fmt.Sprintf(`{"f:%d":{}}`, i)))
	}
	if len(a.fields) > maxAlike || len(a.resources) > maxAlike {
		t.Errorf("%d and %d parts are remembered, the bound is %d", len(a.fields), len(a.resources), maxAlike)
	}
}
