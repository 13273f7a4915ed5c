package containerd

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"skiff/agent"
)

// ImagesDir is the snapshotter's directory.
func (r *Runtime) ImagesDir() string { return r.layersDir }

// DiskUsage measures a container's writable layer.
func (r *Runtime) DiskUsage(ctx context.Context, id string) (int64, error) {
	usage, err := r.client.SnapshotService(r.snapshotter).Usage(r.in(ctx), containerdID(id))
	if errdefs.IsNotFound(err) {
		return 0, fmt.Errorf("measure the layer of container %s: %w", id, agent.ErrNoContainer)
	}
	if err != nil {
		return 0, fmt.Errorf("measure the layer of container %s: %w", id, err)
	}
	return usage.Size, nil
}
