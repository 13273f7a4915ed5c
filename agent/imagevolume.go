package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// errImageAwaited says that a volume's image is on its way, or cannot be had now: then the containers that mount it tell why.
var errImageAwaited = errors.New("the image of a volume is awaited")

// imageVolume shows an image's files as a volume: to be read, and not to be run. It is pulled as a container's image is, with the
// same policies, logins and back-off. https://kubernetes.io/docs/concepts/storage/volumes/#image
func (a *Agent) imageVolume(ctx context.Context, pod *v1.Pod, v *v1.Volume, m *memory) (volume, error) {
	puller := pullerFor(v)
	t, troubled := m.trouble[puller.Name]
	if !troubled || !t.holds(time.Now()) {
		if _, here := a.image(ctx, pod, puller, m); here {
			delete(m.trouble, puller.Name)
			dir := a.dirs.volume(pod.UID, v.Name)
			return volume{path: dir, readOnly: true, noExec: true}, a.runtime.MountImage(ctx, string(pod.UID), v.Image.Reference, dir)
		}
		t, troubled = m.trouble[puller.Name]
	}
	if troubled {
		m.due = sooner(m.due, t.nextLook(time.Now()))
	}
	return volume{}, errImageAwaited
}

// pullerFor stands for the container whose image a volume's would be. No other can be called that.
func pullerFor(v *v1.Volume) *v1.Container {
	return &v1.Container{Name: "volume " + v.Name, Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy}
}

// hindrance is why a container's last start came to nothing, by an image of its own or of a volume that it mounts.
func (s seen) hindrance(c *v1.Container) (t trouble, image string, ok bool) {
	if t, ok = s.trouble[c.Name]; ok {
		return t, c.Image, true
	}
	for i := range s.pod.Spec.Volumes {
		v := &s.pod.Spec.Volumes[i]
		if v.Image == nil || !slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == v.Name }) {
			continue
		}
		if t, ok = s.trouble[pullerFor(v).Name]; ok {
			return t, v.Image.Reference, true
		}
	}
	return trouble{}, "", false
}
