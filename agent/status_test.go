package agent_test

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
)

// A container's status tells who it runs as and how its volumes are mounted, as the kubelet's does.
func TestStatusTellsUserAndMounts(t *testing.T) {
	enabled, disabled, ifPossible := v1.RecursiveReadOnlyEnabled, v1.RecursiveReadOnlyDisabled, v1.RecursiveReadOnlyIfPossible
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.create(newPod("web", func(p *v1.Pod) {
			p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: new(int64(1000)), RunAsGroup: new(int64(3000)), SupplementalGroups: []int64{4000}}
			p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
			p.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{
				{Name: "data", MountPath: "/data"}, {Name: "data", MountPath: "/plain", ReadOnly: true},
				{Name: "data", MountPath: "/all", ReadOnly: true, RecursiveReadOnly: &enabled},
				{Name: "data", MountPath: "/may", ReadOnly: true, RecursiveReadOnly: &ifPossible},
			}
		}))
		n.want("web", "Running app=running/0")
		status := n.get("web").Status.ContainerStatuses[0]
		user := &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: 1000, GID: 3000, SupplementalGroups: []int64{3000, 4000}}}
		if diff := cmp.Diff(user, status.User); diff != "" {
			t.Errorf("the user (-want +got):\n%s", diff)
		}
		mounts := []v1.VolumeMountStatus{
			{Name: "data", MountPath: "/data"}, {Name: "data", MountPath: "/plain", ReadOnly: true, RecursiveReadOnly: &disabled},
			{Name: "data", MountPath: "/all", ReadOnly: true, RecursiveReadOnly: &enabled},
			{Name: "data", MountPath: "/may", ReadOnly: true, RecursiveReadOnly: &enabled},
		}
		if diff := cmp.Diff(mounts, status.VolumeMounts); diff != "" {
			t.Errorf("the mounts (-want +got):\n%s", diff)
		}
	})
}
