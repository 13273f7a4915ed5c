package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
)

// MountImage shows an image's files in dir, which nobody can write to there. It is a view of the image's layers, which holds on
// to them until RemovePod.
func (r *Runtime) MountImage(ctx context.Context, podUID, ref, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if is, err := isMountPoint(dir); is || err != nil {
		return err
	}
	ctx = leases.WithLease(r.in(ctx), lease)
	image, err := r.find(ctx, ref)
	if err != nil {
		return err
	}
	if err := image.Unpack(ctx, r.snapshotter); err != nil { // No work if it is.
		return fmt.Errorf("unpack image %s: %w", ref, err)
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return fmt.Errorf("read the layers of image %s: %w", ref, err)
	}
	r.viewers.add(podUID)
	service, key := r.client.SnapshotService(r.snapshotter), volumeKey(podUID, filepath.Base(dir))
	mounts, err := service.View(ctx, key, identity.ChainID(layers).String(), snapshots.WithLabels(map[string]string{labelVolumeOf: podUID}))
	if errdefs.IsAlreadyExists(err) { // The mount went with a reboot, or a start was killed here.
		mounts, err = service.Mounts(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("view image %s: %w", ref, err)
	}
	if err := mount.All(mounts, dir); err != nil {
		return fmt.Errorf("mount image %s: %w", ref, err)
	}
	return nil
}

func volumeKey(podUID, name string) string { return "volume-" + podUID + "-" + name }

// removeViews lets go of the images that a pod had as volumes.
func (r *Runtime) removeViews(ctx context.Context, podUID string) error {
	if !r.viewers.has(podUID) {
		return nil
	}
	ctx = r.in(ctx)
	service := r.client.SnapshotService(r.snapshotter)
	var views []string
	err := service.Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		views = append(views, s.Name)
		return nil
	}, fmt.Sprintf("labels.%q==%q", labelVolumeOf, podUID))
	for _, key := range views {
		if removeErr := service.Remove(ctx, key); !errdefs.IsNotFound(removeErr) {
			err = errors.Join(err, removeErr)
		}
	}
	if err == nil {
		r.viewers.remove(podUID)
	}
	return err
}
