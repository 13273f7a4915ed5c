package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Images that nothing uses stay until the disk is fuller than the high threshold. Then they go, the one that was not used for
// longest first, until it is less full than the low one. Never one that a container or a pod of this node uses, nor one that was
// imported: nobody could get it back. The thresholds, the age and the interval are the kubelet's.
// https://kubernetes.io/docs/concepts/architecture/garbage-collection/#container-image-garbage-collection
const (
	imagesEvery   = 5 * time.Minute
	imageMinAge   = 2 * time.Minute
	diskHighShare = 85 // Percent.
	diskLowShare  = 80
)

// runImages looks after the disk's images until ctx ends.
func (a *Agent) runImages(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.collectImages(ctx, time.Now()); err != nil && ctx.Err() == nil {
			slog.Warn("garbage collection of images", "err", err)
		}
		pause(ctx, imagesEvery)
	}
}

// collectImages deletes unused images if the disk is full.
func (a *Agent) collectImages(ctx context.Context, now time.Time) error {
	share, err := a.disk(a.images)
	if err != nil || share < diskHighShare {
		return err
	}
	digests, names, err := a.usedImages(ctx, now)
	if err != nil {
		return err
	}
	images, err := a.runtime.Images(ctx)
	if err != nil {
		return err
	}
	for _, image := range a.uses.garbage(images, digests, names, now) {
		if err := a.deleteImage(ctx, image); err != nil {
			return err
		}
		if share, err = a.disk(a.images); err != nil || share < diskLowShare {
			return err
		}
	}
	a.events.Event(&v1.ObjectReference{Kind: "Node", Name: a.NodeName, UID: types.UID(a.NodeName)}, v1.EventTypeWarning, "FreeDiskSpaceFailed",
		fmt.Sprintf("Failed to garbage collect required amount of images. The disk is %d %% full, and no more images are eligible to free.", share))
	return nil
}

// deleteUnusedImages deletes all that may go, and says whether there was any: the disk is so full that pods would have to.
func (a *Agent) deleteUnusedImages(ctx context.Context, now time.Time) (deleted bool, err error) {
	digests, names, err := a.usedImages(ctx, now)
	if err != nil {
		return false, err
	}
	images, err := a.runtime.Images(ctx)
	if err != nil {
		return false, err
	}
	for _, image := range a.uses.garbage(images, digests, names, now) {
		if err := a.deleteImage(ctx, image); err != nil {
			return deleted, err
		}
		deleted = true
	}
	return deleted, nil
}

func (a *Agent) deleteImage(ctx context.Context, image Image) error {
	for _, name := range image.Names {
		if err := a.runtime.RemoveImage(ctx, name); err != nil {
			return err
		}
	}
	slog.Info("unused image deleted", "image", image.Names, "size", image.Size)
	return nil
}

// usedImages are the images of the containers that there are, by digest, and those that pods of this node name.
func (a *Agent) usedImages(ctx context.Context, now time.Time) (digests, names map[string]bool, err error) {
	containers, err := a.runtime.Containers(ctx)
	if err != nil {
		return nil, nil, err
	}
	digests, names = map[string]bool{}, map[string]bool{}
	for _, c := range containers {
		digests[c.ImageID] = true
	}
	a.uses.note(digests, now)
	for _, pod := range a.ownPods() {
		if over(pod) {
			continue
		}
		for _, ref := range imagesOf(&pod.Spec) {
			if named, err := reference.ParseDockerRef(ref); err == nil {
				names[named.String()] = true
			}
		}
	}
	return digests, names, nil
}

// imagesOf are the images that a pod names.
func imagesOf(spec *v1.PodSpec) []string {
	var refs []string
	for _, c := range allContainers(spec) {
		refs = append(refs, c.Image)
	}
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			refs = append(refs, image.Reference)
		}
	}
	return refs
}

// imageUses remembers when images were used last, by digest. Of one that it does not know the time of its coming counts.
type imageUses struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// noteOf notes the images of containers that go.
func (u *imageUses) noteOf(containers []Container, now time.Time) {
	digests := map[string]bool{}
	for _, c := range containers {
		digests[c.ImageID] = true
	}
	u.note(digests, now)
}

func (u *imageUses) note(digests map[string]bool, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = map[string]time.Time{}
	}
	for digest := range digests {
		u.last[digest] = now
	}
}

// garbage are the images that may go, the one that was not used for longest first. Images that are not there any more are forgotten.
func (u *imageUses) garbage(images []Image, usedDigests, usedNames map[string]bool, now time.Time) []Image {
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.DeleteFunc(u.last, func(digest string, _ time.Time) bool {
		return !slices.ContainsFunc(images, func(i Image) bool { return i.Digest == digest })
	})
	at := func(i Image) time.Time {
		if used := u.last[i.Digest]; used.After(i.Created) {
			return used
		}
		return i.Created
	}
	images = slices.DeleteFunc(slices.Clone(images), func(i Image) bool {
		named := slices.ContainsFunc(i.Names, func(name string) bool { return usedNames[name] })
		return i.Kept || usedDigests[i.Digest] || named || now.Sub(at(i)) < imageMinAge
	})
	slices.SortStableFunc(images, func(x, y Image) int { return cmp.Or(at(x).Compare(at(y)), slices.Compare(x.Names, y.Names)) })
	return images
}

// diskShare is how many percent of a disk are used, as df has it.
func diskShare(dir string) (int, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("measure the disk of %s: %w", dir, err)
	}
	used := fs.Blocks - fs.Bfree
	return int(used * 100 / max(used+fs.Bavail, 1)), nil
}
