package apiserver

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"skiff/api"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// alikePod is a pod of a template.
func alikePod(name, image, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "default", UID: "1-2-3", Generation: 2,
			Labels: map[string]string{"app": "web", "tier": "front"}, Annotations: map[string]string{"a": "1"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "web", UID: "4-5-6"}}, Finalizers: []string{"example.com/f"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)}},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "web", Image: image,
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": quantity.MustParse(cpu), "memory": quantity.MustParse("1Gi")}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

func podRow() *api.Resource {
	table := api.Table()
	return table[slices.IndexFunc(table, func(r *api.Resource) bool { return r.Kind == "Pod" })]
}

// plainly decodes without knowing anything else.
func plainly(t *testing.T, row *api.Resource, data []byte) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{}
	if err := pod.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	pod.SetGroupVersionKind(row.GroupVersionKind())
	row.Default(pod)
	return pod
}

// Objects that have parts in common hold them once, and read as before. What only looks alike is not taken for the same.
func TestAlike(t *testing.T) {
	row := podRow()
	var a alike
	decode := func(pod *corev1.Pod) *corev1.Pod {
		t.Helper()
		data, err := pod.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		obj, _, err := a.decode(row, data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(plainly(t, row, data), obj); diff != "" {
			t.Errorf("%s reads differently (-want +got):\n%s", pod.Name, diff)
		}
		return obj.(*corev1.Pod)
	}
	one, same := decode(alikePod("one", "web:1", "100m")), decode(alikePod("same", "web:1", "100m"))
	image := decode(alikePod("image", "web:2", "100m"))
	other := alikePod("other", "web:1", "1")
	other.Labels["app"], other.ManagedFields[0].FieldsV1, other.Finalizers = "api", metav1.NewFieldsV1(`{"f:status":{}}`), nil
	other = decode(other)

	if &one.Spec.Containers[0] != &same.Spec.Containers[0] || &one.ManagedFields[0] != &same.ManagedFields[0] || &one.OwnerReferences[0] != &same.OwnerReferences[0] {
		t.Error("equal parts are not held once")
	}
	requests := func(p *corev1.Pod) corev1.ResourceList { return p.Spec.Containers[0].Resources.Requests }
	one.Labels["app"], requests(one)["cpu"] = "changed", quantity.MustParse("7") // Nobody may: it shows who else holds the map.
	seven := quantity.MustParse("7")
	for _, tc := range []struct {
		pod              *corev1.Pod
		labels, requests bool
	}{{same, true, true}, {image, true, true}, {other, false, false}} {
		if got := tc.pod.Labels["app"] == "changed"; got != tc.labels {
			t.Errorf("%s has the labels of the first: %t, want %t", tc.pod.Name, got, tc.labels)
		}
		if cpu := requests(tc.pod)["cpu"]; cpu.Equal(seven) != tc.requests {
			t.Errorf("%s has the requests of the first: %t, want %t", tc.pod.Name, cpu.Equal(seven), tc.requests)
		}
	}
}

// What is remembered is bounded, and nothing that is large is remembered at all.
func TestAlikeIsBounded(t *testing.T) {
	var p parts[int]
	for i := range 100 {
		p.first([]byte(strings.Repeat(fmt.Sprintf("%010d", i), maxAlike/200)), i)
		size := 0
		for key := range p.known {
			size += len(key)
		}
		if size != p.size || size > maxAlike || size == 0 {
			t.Fatalf("after %d parts %d bytes are remembered, and %d counted; the bound is %d", i+1, size, p.size, maxAlike)
		}
	}
	large := []byte(strings.Repeat("x", maxAlike/16+1))
	if p.first(large, 1); p.first(large, 2) != 2 {
		t.Error("a large part is remembered")
	}
}

// Pods that another program has stored may have their fields in another order, or more of them.
func TestPodsOfAnyFormAreRead(t *testing.T) {
	row := podRow()
	pod := alikePod("one", "web:1", "100m")
	whole, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := pod.ObjectMeta.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	spec, err := pod.Spec.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	field := func(number protowire.Number, data []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), data)
	}
	backwards := func(data []byte) (out []byte) {
		for len(data) > 0 {
			_, _, n := protowire.ConsumeField(data)
			out = append(data[:n:n], out...)
			data = data[n:]
		}
		return out
	}
	for name, data := range map[string][]byte{
		"as stored":              whole,
		"spec first":             append(field(2, spec), field(1, metadata)...),
		"metadata backwards":     append(field(1, backwards(metadata)), field(2, spec)...),
		"an unknown field":       append(field(99, []byte("x")), whole...),
		"unknown metadata":       append(field(1, append(metadata, field(99, []byte("x"))...)), field(2, spec)...),
		"unknown between common": append(field(1, append(append(metadata[:len(metadata):len(metadata)], field(15, []byte("x"))...), field(17, nil)...)), field(2, spec)...),
		"no spec":                field(1, metadata),
		"no metadata":            field(2, spec),
		"metadata in two parts":  append(field(1, metadata), field(1, field(3, []byte("elsewhere")))...),
		"an empty object":        {},
	} {
		t.Run(name, func(t *testing.T) {
			var a alike
			for range 2 { // The second time from memory.
				got, _, err := a.decode(row, data)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(plainly(t, row, data), got); diff != "" {
					t.Errorf("it reads differently (-want +got):\n%s", diff)
				}
			}
		})
	}
	for n := range whole {
		_, _, err := new(alike).decode(row, whole[:n])
		if want := new(corev1.Pod).Unmarshal(whole[:n]); (err == nil) != (want == nil) {
			t.Errorf("the first %d bytes: error %v, want %v", n, err, want)
		}
	}
}
