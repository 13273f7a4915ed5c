package containerd

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"skiff/agent"
)

// ImagesDir is the snapshotter's directory.
func (r *Runtime) ImagesDir() string { return r.layersDir }

// DiskUsage measures a container's writable layer, and the volumes that its image declares.
func (r *Runtime) DiskUsage(ctx context.Context, id string) (total int64, err error) {
	keys := []string{containerdID(id)}
	if r.volumed.has(containerdID(id)) {
		keys = append(keys, volumesKey(containerdID(id)))
	}
	for _, key := range keys {
		usage, err := r.client.SnapshotService(r.snapshotter).Usage(r.in(ctx), key)
		if errdefs.IsNotFound(err) {
			err = agent.ErrNoContainer
		}
		if err != nil {
			return 0, fmt.Errorf("measure the layer of container %s: %w", id, err)
		}
		total += usage.Size
	}
	return total, nil
}
