package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"skiff/agent"
)

// What an image declares as VOLUME is, in each container, a directory of the container's own: it can be written to also where the root
// file system cannot, begins with what the image has there, and goes with the container. A mount of the pod's at the same path takes
// its place. The directories of a container are in one snapshot without a parent, so that containerd looks after them as after the
// container's own layer, on the same disk.

// declaredVolumes makes a container's. root is its root file system, of which nothing may have been changed yet.
func (r *Runtime) declaredVolumes(ctx context.Context, id string, c agent.ContainerConfig, image ocispec.ImageConfig, root []mount.Mount) ([]agent.Mount, error) {
	targets := volumeTargets(image.Volumes, c.Mounts)
	if len(targets) == 0 {
		return nil, nil
	}
	if targets[0] == "/" { // They are sorted.
		return nil, errors.New("the image declares / as a VOLUME: nothing can be mounted over all of a container")
	}
	files, err := layersOf(root)
	if err != nil {
		return nil, err
	}
	dir, err := r.volumesDir(ctx, id)
	if err != nil {
		return nil, err
	}
	var all []agent.Mount
	for i, target := range targets {
		source := filepath.Join(dir, strconv.Itoa(i))
		if err := fillVolume(ctx, source, files, target); err != nil {
			return nil, fmt.Errorf("fill the volume %s of the image: %w", target, err)
		}
		all = append(all, agent.Mount{Source: source, Target: target})
	}
	return all, nil
}

// volumeTargets are the paths of the declared volumes where nothing of the pod's is mounted.
func volumeTargets(declared map[string]struct{}, mounts []agent.Mount) []string {
	targets := map[string]bool{}
	for target := range declared {
		targets[path.Join("/", target)] = true
	}
	for _, m := range mounts {
		delete(targets, path.Clean(m.Target))
	}
	return slices.Sorted(maps.Keys(targets))
}

// fillVolume makes a volume's directory, with what the image has at its path.
func fillVolume(ctx context.Context, dir string, image layers, target string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // Whatever the umask is.
		return err
	}
	files, err := image.dir(strings.TrimPrefix(target, "/"))
	if err != nil || len(files) == 0 {
		return err
	}
	return files.copyTo(ctx, dir)
}

// volumesDir makes the directory that a container's volumes are in. What a Start left that was killed is replaced.
func (r *Runtime) volumesDir(ctx context.Context, id string) (string, error) {
	r.volumed.add(id)
	service := r.client.SnapshotService(r.snapshotter)
	prepare := func() ([]mount.Mount, error) {
		return service.Prepare(ctx, volumesKey(id), "", snapshots.WithLabels(map[string]string{labelVolumesOf: id}))
	}
	mounts, err := prepare()
	if errdefs.IsAlreadyExists(err) {
		if err := service.Remove(ctx, volumesKey(id)); err != nil {
			return "", err
		}
		mounts, err = prepare()
	}
	if err != nil {
		return "", fmt.Errorf("make room for the image's volumes: %w", err)
	}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		return "", errors.New("make room for the image's volumes: the snapshotter gives no directory")
	}
	return mounts[0].Source, nil
}

func volumesKey(id string) string { return "volumes-" + id }

// removeVolumes removes those of a container, if it has any.
func (r *Runtime) removeVolumes(ctx context.Context, id string) error {
	if !r.volumed.has(id) {
		return nil
	}
	if err := r.removeSnapshot(ctx, volumesKey(id)); err != nil {
		return err
	}
	r.volumed.remove(id)
	return nil
}
