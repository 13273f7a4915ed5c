package containerd

import (
	"context"
	"fmt"
	"sync"

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
			r.viewers.add(podUID)
		}
		if id := s.Labels[labelVolumesOf]; id != "" {
			r.volumed.add(id)
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

// noted is a set of names, for several goroutines. Its zero value is empty.
type noted struct {
	mu    sync.Mutex
	names map[string]bool
}

func (n *noted) add(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names == nil {
		n.names = map[string]bool{}
	}
	n.names[name] = true
}

func (n *noted) has(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.names[name]
}

func (n *noted) remove(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.names, name)
}
