package agent

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/agent/cgroup"
)

// A pod's cgroup has room for what its RuntimeClass says that it takes beside its containers; where a container has no limit, the pod
// has none either.
func TestOverheadIsTheCgroups(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	pod := &v1.Pod{Spec: v1.PodSpec{Overhead: list("250m", "16Mi"), Containers: []v1.Container{
		{Name: "app", Resources: v1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("1", "128Mi")}},
	}}}
	want := cgroup.Limits{CPUShares: shares(750), CPUQuota: quota(1250), CPUPeriod: quotaPeriod, Memory: 144 << 20}
	if got := podLimits(pod); got != want {
		t.Errorf("the pod's limits are %+v, want %+v", got, want)
	}
	pod.Spec.Containers[0].Resources.Limits = nil
	if got := podLimits(pod); got != (cgroup.Limits{CPUShares: shares(750)}) {
		t.Errorf("without a container's limits the pod's are %+v", got)
	}
}
