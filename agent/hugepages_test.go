package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/agent/cgroup"
)

// TestHugePages counts the host's huge pages, takes them from the memory that pods may have, and limits pods to theirs.
func TestHugePages(t *testing.T) {
	dir := t.TempDir()
	for size, pages := range map[string]string{"hugepages-2048kB": "8\n", "hugepages-1048576kB": "0\n", "other": "1\n"} {
		path := filepath.Join(dir, size)
		if err := errors.Join(os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, "nr_hugepages"), []byte(pages), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	has, err := hugePagesOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := func(amounts ...string) v1.ResourceList {
		l := v1.ResourceList{}
		for i := 0; i < len(amounts); i += 2 {
			l[v1.ResourceName(amounts[i])] = resource.MustParse(amounts[i+1])
		}
		return l
	}
	if diff := cmp.Diff(list("hugepages-1Gi", "0", "hugepages-2Mi", "16Mi"), has); diff != "" {
		t.Errorf("the host has (-want +got):\n%s", diff)
	}
	if none, err := hugePagesOf(filepath.Join(dir, "missing")); err != nil || len(none) > 0 {
		t.Errorf("a kernel without: %v, %v", none, err)
	}
	has[v1.ResourceMemory] = resource.MustParse("1Gi")
	if got := allocatableOf(has, nil, nil); got.Memory().String() != "1008Mi" {
		t.Errorf("beside 16 MiB of huge pages pods may have %s", got.Memory())
	}
	a := &Agent{capacity: has}
	pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{
		{Resources: v1.ResourceRequirements{Limits: list("hugepages-2Mi", "4Mi"), Requests: list("hugepages-2Mi", "4Mi")}}, {},
	}}}
	limits := func(bytes int64) cgroup.HugePageLimits {
		return cgroup.HugePageLimits{{Size: 1 << 30}, {Size: 2 << 20, Limit: bytes}}
	}
	for what, pair := range map[string][2]cgroup.HugePageLimits{
		"the pod":                {a.podHugePages(pod), limits(4 << 20)},
		"who asks":               {a.containerHugePages(pod, &pod.Spec.Containers[0]), limits(4 << 20)},
		"who does not":           {a.containerHugePages(pod, &pod.Spec.Containers[1]), limits(0)},
		"a host without a page":  {hugePageLimits(list("hugepages-2Mi", "0"), list("hugepages-2Mi", "4Mi")), cgroup.HugePageLimits{}},
		"a host without any":     {hugePageLimits(nil, list("hugepages-2Mi", "4Mi")), cgroup.HugePageLimits{}},
		"who has none in a pod":  {a.containerHugePages(&v1.Pod{Spec: v1.PodSpec{Resources: &v1.ResourceRequirements{Limits: list("hugepages-2Mi", "6Mi")}}}, &v1.Container{}), limits(6 << 20)},
		"who has some in a pod":  {a.containerHugePages(&v1.Pod{Spec: v1.PodSpec{Resources: &v1.ResourceRequirements{Limits: list("hugepages-2Mi", "6Mi")}}}, &pod.Spec.Containers[0]), limits(4 << 20)},
		"a pod of nothing of it": {a.podHugePages(&v1.Pod{}), limits(0)},
	} {
		if diff := cmp.Diff(pair[1], pair[0]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
}

// TestEmptyDirOfHugePages finds the size of the pages in what the pod requests.
func TestEmptyDirOfHugePages(t *testing.T) {
	asking := func(names ...v1.ResourceName) *v1.Pod {
		c := v1.Container{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}}}
		for _, name := range names {
			c.Resources.Requests[name] = resource.MustParse("1Gi")
		}
		return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{c}}}
	}
	for _, tc := range []struct {
		pod    *v1.Pod
		medium v1.StorageMedium
		want   string
	}{
		{asking("hugepages-2Mi"), "HugePages", "hugetlbfs mode=0777,pagesize=2097152"},
		{asking("hugepages-2Mi", "hugepages-1Gi"), "HugePages-1Gi", "hugetlbfs mode=0777,pagesize=1073741824"},
		{asking("hugepages-2Mi", "hugepages-1Gi"), "HugePages", "medium: HugePages can't be used if container requests multiple huge page sizes"},
		{asking("hugepages-2Mi"), "HugePages-1Gi", "medium HugePages-1Gi: hugePages storage requested, but there is no resource request for huge pages"},
		{asking(), "HugePages", "medium HugePages: hugePages storage requested, but there is no resource request for huge pages"},
		{asking(), "Drum", `unknown storage medium "Drum"`},
		{asking(), "", " "},
	} {
		disk, err := emptyDirOn(tc.pod, &v1.EmptyDirVolumeSource{Medium: tc.medium}, nil)
		got := disk.kind + " " + disk.options
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("medium %q: %q, want %q", tc.medium, got, tc.want)
		}
	}
}
