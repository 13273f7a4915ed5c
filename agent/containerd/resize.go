package containerd

import (
	"context"
	"fmt"
	"path"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"skiff/agent"
	"skiff/agent/cgroup"
)

// Resize changes what a running container may use. The label comes last: until then the change may be made again.
func (r *Runtime) Resize(ctx context.Context, id string, to agent.Resources, labels map[string]string) error {
	ctx = r.in(ctx)
	task, container, err := r.running(ctx, id)
	if err != nil {
		return fmt.Errorf("resize container %s: %w", id, err)
	}
	err = answered(ctx, func(ctx context.Context) error { return task.Update(ctx, containerd.WithResources(limits(to))) })
	if err != nil {
		if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
			return fmt.Errorf("resize container %s: %w", id, agent.ErrNotRunning)
		}
		return fmt.Errorf("resize container %s: %w", id, err)
	}
	if _, err := container.SetLabels(ctx, labels); err != nil {
		return fmt.Errorf("note the size of container %s: %w", id, err)
	}
	return nil
}

// limits are the kernel's for a container.
func limits(want agent.Resources) *specs.LinuxResources {
	r := &specs.LinuxResources{CPU: &specs.LinuxCPU{}}
	if want.CPUShares > 0 {
		r.CPU.Shares = &want.CPUShares
	}
	if want.CPUQuota > 0 {
		r.CPU.Quota, r.CPU.Period = &want.CPUQuota, &want.CPUPeriod
	}
	if want.MemoryLimit > 0 {
		// Swap is memory and swap together: equal means none.
		r.Memory = &specs.LinuxMemory{Limit: &want.MemoryLimit, Swap: &want.MemoryLimit}
	}
	if want.PidsLimit > 0 {
		r.Pids = &specs.LinuxPids{Limit: &want.PidsLimit}
	}
	return r
}

// LimitGroup makes a cgroup and limits it.
func (r *Runtime) LimitGroup(_ context.Context, path string, limits cgroup.Limits) error {
	return cgroup.Host().Set(path, limits)
}

// cgroupFor is the path of the cgroup that a container is to have. Of a pod's cgroups only the pod's own has its UID in the name: what
// looks for a pod's limits on a node goes by that.
func cgroupFor(c agent.ContainerConfig) string {
	return path.Join(c.CgroupParent, strings.TrimPrefix(containerdID(c.ID), c.Pod.UID+"-"))
}

// cgroupOf is the path of a container's cgroup, "" where an earlier version made it.
func cgroupOf(record containers.Container) string { return record.Labels[labelCgroup] }
