package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagevolume "k8s.io/component-helpers/storage/volume"

	"skiff/api"
	"skiff/reconcile"
)

// A volume of the class "local" is a directory below DATA/volumes. It is made when the first pod comes, and from then on a finalizer
// on the PersistentVolume says that there is data of it here: a directory that is gone is then an error, and not an empty volume;
// and the volume is not gone before its data is, unless the data is to be retained.

// localVolume returns the directory of a volume.
func (a *Agent) localVolume(ctx context.Context, pv *v1.PersistentVolume) (string, error) {
	dir, err := a.dirs.localVolume(pv.Spec.CSI.VolumeHandle)
	if err != nil {
		return "", err
	}
	if slices.Contains(pv.Finalizers, api.LocalFinalizer) {
		if _, err := os.Stat(dir); err != nil {
			return "", fmt.Errorf("the data of volume %s is not on this node any more: %w", pv.Name, err)
		}
		return dir, a.limitVolume(pv, dir)
	}
	if err := makeLocalVolume(dir); err != nil {
		return "", fmt.Errorf("make volume %s: %w", pv.Name, err)
	}
	if err := a.limitVolume(pv, dir); err != nil {
		return "", err
	}
	patch := []byte(`{"metadata":{"uid":"` + string(pv.UID) + `","finalizers":["` + api.LocalFinalizer + `"]}}`)
	if _, err := a.client.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return "", fmt.Errorf("note that volume %s has data here: %w", pv.Name, err)
	}
	return dir, nil
}

// limitVolume holds a volume to its size, where that can be done.
func (a *Agent) limitVolume(pv *v1.PersistentVolume, dir string) error {
	size := pv.Spec.Capacity[v1.ResourceStorage]
	if err := a.quotas.limit(dir, size.Value()); err != nil {
		return fmt.Errorf("hold volume %s to its size of %s: %w", pv.Name, size.String(), err)
	}
	return nil
}

// makeLocalVolume makes a directory that containers of any user may write to, and sees to it that it outlives a power cut.
func makeLocalVolume(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // Mkdir's was cut by the umask.
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	return parent.Sync()
}

// reclaims deletes the data of deleted volumes, where their policy says so, and gives grown ones their new size.
type reclaims struct {
	volumes corelisters.PersistentVolumeLister
	loop    *reconcile.Loop
}

// watchVolumes has the data of deleted volumes deleted, and others held to their size.
func (a *Agent) watchVolumes(factory informers.SharedInformerFactory) error {
	volumes := factory.Core().V1().PersistentVolumes()
	a.reclaims.volumes = volumes.Lister()
	a.synced = append(a.synced, volumes.Informer().HasSyncedChecker())
	a.reclaims.loop = reconcile.New("reclaim", a.reclaim)
	return a.reclaims.loop.Watch(volumes.Informer(), func(obj any) []string {
		if pv, ok := obj.(*v1.PersistentVolume); ok && (toReclaim(pv) || a.quotas.able && api.IsLocal(pv)) {
			return []string{pv.Name}
		}
		return nil
	})
}

// toReclaim tells a volume that is to go. One that is bound is still in use.
func toReclaim(pv *v1.PersistentVolume) bool {
	return api.IsLocal(pv) && pv.DeletionTimestamp != nil && pv.Status.Phase != v1.VolumeBound && slices.Contains(pv.Finalizers, api.LocalFinalizer)
}

// reclaim lets a volume go whose data is on this node, after the data if that is to be deleted. What is retained a later volume
// with the same handle finds again. https://kubernetes.io/docs/concepts/storage/persistent-volumes/#retain
func (a *Agent) reclaim(ctx context.Context, name string) (time.Duration, error) {
	pv, err := a.reclaims.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !toReclaim(pv) {
		return 0, a.resizeVolume(pv)
	}
	node, err := a.client.CoreV1().Nodes().Get(ctx, a.NodeName, metav1.GetOptions{})
	if err != nil {
		return 0, fmt.Errorf("get node %s: %w", a.NodeName, err)
	}
	if storagevolume.CheckNodeAffinity(pv, node.Labels) != nil {
		return 0, nil
	}
	if pv.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete {
		if err := a.deleteData(pv); err != nil {
			return 0, fmt.Errorf("delete the data of volume %s: %w", name, err)
		}
	}
	patch := []byte(`{"metadata":{"uid":"` + string(pv.UID) + `","$deleteFromPrimitiveList/finalizers":["` + api.LocalFinalizer + `"]}}`)
	_, err = a.client.CoreV1().PersistentVolumes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("let volume %s go: %w", name, err)
	}
	return 0, nil
}

// resizeVolume holds a volume that is on this node to the size that it has by now.
func (a *Agent) resizeVolume(pv *v1.PersistentVolume) error {
	dir, err := a.dirs.localVolume(pv.Spec.CSI.VolumeHandle)
	if err == nil {
		err = a.limitVolume(pv, dir)
	}
	if errors.Is(err, fs.ErrNotExist) { // It is on another one, or not made yet.
		return nil
	}
	return err
}

func (a *Agent) deleteData(pv *v1.PersistentVolume) error {
	dir, err := a.dirs.localVolume(pv.Spec.CSI.VolumeHandle)
	if err != nil {
		return err
	}
	if err := UnmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// sweepVolumes removes directories that an agent made just before it was killed, and whose volume has gone since: empty ones, as
// nobody can have used them.
func (a *Agent) sweepVolumes() {
	all, err := a.reclaims.volumes.List(labels.Everything())
	if err != nil {
		return
	}
	known := map[string]bool{}
	for _, pv := range all {
		if api.IsLocal(pv) {
			known[pv.Spec.CSI.VolumeHandle] = true
		}
	}
	entries, _ := os.ReadDir(a.dirs.localVolumes())
	for _, e := range entries {
		if !known[e.Name()] {
			_ = unix.Rmdir(filepath.Join(a.dirs.localVolumes(), e.Name())) // What is no empty directory stays, for somebody to look at.
		}
	}
}
