package containerd

import (
	"context"
	"fmt"
	"path"

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

// cgroupOf is the path of a container's cgroup.
func cgroupOf(record containers.Container) string {
	parent := record.Labels[labelCgroup]
	if parent == "" {
		return "" // An earlier version made it, and did not say.
	}
	return path.Join(parent, record.ID)
}
