package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"skiff/agent"
	"skiff/agent/cgroup"
)

// maxRemovals bounds how many containers RemoveAll removes at a time.
const maxRemovals = 8

// RemoveAll kills and removes every container, with what the pods have besides. Images stay. No container may be started afterwards.
func (r *Runtime) RemoveAll(ctx context.Context) error {
	ctx = r.in(ctx)
	all, err := r.client.Containers(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var removals errgroup.Group
	removals.SetLimit(maxRemovals)
	for _, c := range all {
		removals.Go(func() error {
			if err := r.destroy(ctx, c.ID()); err != nil {
				return fmt.Errorf("remove container %s: %w", c.ID(), err)
			}
			return nil
		})
	}
	errs := []error{removals.Wait()}
	for _, uid := range r.podsLeft(ctx, all) {
		errs = append(errs, r.RemovePod(ctx, uid))
	}
	return errors.Join(append(errs, r.endTrial(ctx), r.clearUserMounts(), agent.Unmount(r.pauseDir()), r.holder.end())...)
}

// Purge removes everything that is in the containerd namespace, and the namespace; then the files. The Runtime must not
// be used afterwards, but closed.
func (r *Runtime) Purge(ctx context.Context) error {
	ctx = r.in(ctx)
	errs := []error{r.RemoveAll(ctx), r.removeImages(ctx), r.removeLeases(ctx), r.removeSnapshots(ctx)}
	if err := r.client.NamespaceService().Delete(ctx, r.config.Namespace); err != nil && !errdefs.IsNotFound(err) {
		errs = append(errs, fmt.Errorf("delete containerd namespace %s: %w", r.config.Namespace, err))
	}
	errs = append(errs, cgroup.Host().Remove(r.config.CgroupRoot))
	return errors.Join(append(errs, os.RemoveAll(r.config.RunDir))...)
}

func (r *Runtime) removeImages(ctx context.Context) error {
	all, err := r.client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for i, image := range all {
		var opts []images.DeleteOpt
		if i == len(all)-1 { // One collection for all of them.
			opts = append(opts, images.SynchronousDelete())
		}
		if err := r.client.ImageService().Delete(ctx, image.Name, opts...); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete image %s: %w", image.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (r *Runtime) removeLeases(ctx context.Context) error {
	service := r.client.LeasesService()
	all, err := service.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	var errs []error
	for _, l := range all {
		if err := service.Delete(ctx, l, leases.SynchronousDelete); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete lease %s: %w", l.ID, err))
		}
	}
	return errors.Join(errs...)
}

// podsLeft lists the pods that have something left: by their containers, and by their folders under RunDir.
func (r *Runtime) podsLeft(ctx context.Context, all []containerd.Container) []string {
	uids := map[string]bool{}
	for _, c := range all {
		// The labels came with the list: this asks nobody.
		if info, err := c.Info(ctx, containerd.WithoutRefreshedMetadata); err == nil && info.Labels[labelPodUID] != "" {
			uids[info.Labels[labelPodUID]] = true
		}
	}
	entries, _ := os.ReadDir(filepath.Join(r.config.RunDir, "shm")) // No folder, no pods.
	for _, e := range entries {
		uids[e.Name()] = true
	}
	return slices.Collect(maps.Keys(uids))
}

// removeSnapshots removes what the collector left, children before their parents.
func (r *Runtime) removeSnapshots(ctx context.Context) error {
	service := r.client.SnapshotService(r.snapshotter)
	for {
		var names []string
		if err := service.Walk(ctx, func(_ context.Context, s snapshots.Info) error {
			names = append(names, s.Name)
			return nil
		}); err != nil {
			return fmt.Errorf("list snapshots: %w", err)
		}
		removed, last := 0, error(nil)
		for _, name := range names {
			if err := service.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
				last = fmt.Errorf("remove snapshot %s: %w", name, err)
				continue
			}
			removed++
		}
		if len(names) == 0 || removed == 0 {
			return last
		}
	}
}
