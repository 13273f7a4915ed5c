package agent

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"
)

// What a pod's containers write to the node's disk, that is their own layers and their logs, and what stands in its emptyDirs,
// counts against limits of ephemeral-storage. A pod that is over one is evicted.
// https://kubernetes.io/docs/concepts/storage/ephemeral-storage/

// limitsStorage says whether a pod has such limits: others are not measured.
func limitsStorage(pod *v1.Pod) bool {
	return slices.ContainsFunc(sizedContainers(pod), func(c *v1.Container) bool { return storageLimit(c) > 0 })
}

func storageLimit(c *v1.Container) int64 { return c.Resources.Limits.StorageEphemeral().Value() }

// overStorage says which limit a pod is over, "" for none. The words are the kubelet's.
func (a *Agent) overStorage(ctx context.Context, pod *v1.Pod, containers []Container) string {
	total := int64(0)
	for _, c := range sizedContainers(pod) {
		used := a.written(ctx, pod, c.Name, containers)
		total += used
		if limit := storageLimit(c); limit > 0 && used > limit {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, c.Resources.Limits.StorageEphemeral().String())
		}
	}
	total += a.volumesWritten(pod)
	// The sum says something only where each container has a limit.
	all := !slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool { return storageLimit(&c) == 0 })
	limit := podresource.PodLimits(pod, podresource.PodResourcesOptions{})[v1.ResourceEphemeralStorage]
	if all && total > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	return ""
}

// volumesWritten is how much stands in a pod's emptyDirs on disk.
func (a *Agent) volumesWritten(pod *v1.Pod) (total int64) {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault {
			total += diskUsage(a.dirs.volume(pod.UID, v.Name))
		}
	}
	return total
}

// written is how much a container, in all its attempts that are there, has written.
func (a *Agent) written(ctx context.Context, pod *v1.Pod, name string, containers []Container) int64 {
	return a.logged(pod, name) + a.layered(ctx, name, containers)
}

func (a *Agent) logged(pod *v1.Pod, name string) int64 {
	return diskUsage(filepath.Join(a.dirs.podLogs(pod), name))
}

func (a *Agent) layered(ctx context.Context, name string, containers []Container) (used int64) {
	for _, c := range containers {
		if c.Name == name {
			if layer, err := a.runtime.DiskUsage(ctx, c.ID); err == nil { // It may have been removed since.
				used += layer
			}
		}
	}
	return used
}
