package containerd

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// learn finds out what pods have, of an earlier process.
func (r *Runtime) learn(ctx context.Context) error {
	records, err := r.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q", labelPodUID))
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range records {
		r.own(c.ID, c.Labels[labelPodUID])
	}
	err = r.client.SnapshotService(r.snapshotter).Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		if podUID := s.Labels[labelVolumeOf]; podUID != "" {
			r.views(podUID)
		}
		if id := s.Labels[labelVolumesOf]; id != "" {
			r.haveVolumes(id)
		}
		return nil
	}, fmt.Sprintf("labels.%q", labelVolumeOf), fmt.Sprintf("labels.%q", labelVolumesOf))
	if err != nil {
		return fmt.Errorf("list the volumes that are snapshots: %w", err)
	}
	return nil
}

// own notes that a pod may have a container from here on.
func (r *Runtime) own(id, podUID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.owners[id] = podUID
}

// disown notes that a container is gone.
func (r *Runtime) disown(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.owners, id)
}

// ownerOf is the pod that a container belongs to, "" for none.
func (r *Runtime) ownerOf(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.owners[id]
}

// ownedBy are the containers that a pod may have.
func (r *Runtime) ownedBy(podUID string) (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, owner := range r.owners {
		if owner == podUID {
			ids = append(ids, id)
		}
	}
	return ids
}

// disownMissing notes that a container is gone, if that is so.
func (r *Runtime) disownMissing(ctx context.Context, id string) error {
	_, err := r.client.ContainerService().Get(ctx, id)
	if errdefs.IsNotFound(err) {
		r.disown(id)
		return nil
	}
	return err
}

// haveVolumes notes that a container may have volumes of its image from here on, hasVolumes tells it, and hasNoVolumes notes that it has
// none.
func (r *Runtime) haveVolumes(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.volumed[id] = true
}

func (r *Runtime) hasVolumes(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.volumed[id]
}

func (r *Runtime) hasNoVolumes(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.volumed, id)
}

// views notes that a pod may have an image as a volume from here on, mayView tells it, and viewsNothing notes that it has none.
func (r *Runtime) views(podUID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.viewers[podUID] = true
}

func (r *Runtime) mayView(podUID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.viewers[podUID]
}

func (r *Runtime) viewsNothing(podUID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.viewers, podUID)
}
