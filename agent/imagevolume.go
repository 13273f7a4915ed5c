package agent

import (
	"context"
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
)

// errImageComes says that a volume's image is on its way. When it is here, the pod is looked at again.
var errImageComes = errors.New("the image of a volume is being pulled")

// imageVolume shows an image's files as a volume: to be read, and not to be run. It is pulled as a container's image is, with the
// same policies, logins and back-off. https://kubernetes.io/docs/concepts/storage/volumes/#image
func (a *Agent) imageVolume(ctx context.Context, pod *v1.Pod, v *v1.Volume, m *memory) (volume, error) {
	name := "volume " + v.Name // No container can be called that.
	before := m.trouble[name]
	if time.Now().Before(before.at.Add(before.delay)) {
		return volume{}, errors.New(before.message)
	}
	_, here := a.image(ctx, pod, &v1.Container{Name: name, Image: v.Image.Reference, ImagePullPolicy: v.Image.PullPolicy}, m)
	if t := m.trouble[name]; !here && t != before {
		return volume{}, errors.New(t.message)
	}
	if !here {
		return volume{}, errImageComes
	}
	delete(m.trouble, name)
	dir := a.dirs.volume(pod.UID, v.Name)
	return volume{path: dir, readOnly: true, noExec: true}, a.runtime.MountImage(ctx, string(pod.UID), v.Image.Reference, dir)
}
