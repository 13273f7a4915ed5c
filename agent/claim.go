package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	claimowner "k8s.io/component-helpers/storage/ephemeral"
	storagevolume "k8s.io/component-helpers/storage/volume"

	"skiff/api"
)

// claimVolume makes a volume that is a claim's ready on this node.
func (a *Agent) claimVolume(ctx context.Context, pod *v1.Pod, v *v1.Volume) (volume, error) {
	claim, err := a.claim(ctx, pod, v)
	if err != nil {
		return volume{}, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, api.ClaimOf(pod, v), err)
	}
	pv, err := a.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return volume{}, fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err)
	}
	if ref := pv.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return volume{}, fmt.Errorf("PV %s is not bound to PVC %s/%s", pv.Name, claim.Namespace, claim.Name)
	}
	if err := a.checkAffinity(ctx, pv); err != nil {
		return volume{}, err
	}
	made, err := a.persistentVolume(ctx, pv)
	if err != nil {
		return volume{}, err
	}
	made.readOnly = v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
	// What is a host's own keeps its owner; and what containers that run have made since keeps the mode that they gave it.
	if group := fsGroup(pod); group != nil && pv.Spec.HostPath == nil && !hasRun(pod) {
		err = giveToGroup(made.path, int(*group), made.readOnly, pod.Spec.SecurityContext.FSGroupChangePolicy)
	}
	return made, err
}

// claim returns the claim of a pod's volume, if it is bound and the pod may use it.
func (a *Agent) claim(ctx context.Context, pod *v1.Pod, v *v1.Volume) (*v1.PersistentVolumeClaim, error) {
	claim, err := a.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, api.ClaimOf(pod, v), metav1.GetOptions{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	case claim.DeletionTimestamp != nil && !hasRun(pod):
		return nil, errors.New("PVC is being deleted")
	case !hasVolume(claim):
		return nil, errors.New("PVC is not bound")
	case v.Ephemeral != nil:
		err = claimowner.VolumeIsForPod(pod, claim)
	}
	return claim, err
}

// hasVolume says that a claim has its volume, and has not lost it. The annotation comes a moment before the phase.
func hasVolume(claim *v1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && claim.Status.Phase != v1.ClaimLost &&
		(claim.Status.Phase == v1.ClaimBound || metav1.HasAnnotation(claim.ObjectMeta, storagevolume.AnnBindCompleted))
}

// hasRun says that a container of the pod has been started: it has its volumes, and keeps them to its end.
func hasRun(pod *v1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses), func(c v1.ContainerStatus) bool {
		return c.ContainerID != ""
	})
}

func (a *Agent) checkAffinity(ctx context.Context, pv *v1.PersistentVolume) error {
	if pv.Spec.NodeAffinity == nil {
		return nil
	}
	node, err := a.client.CoreV1().Nodes().Get(ctx, a.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", a.NodeName, err)
	}
	if err := storagevolume.CheckNodeAffinity(pv, node.Labels); err != nil {
		return fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", pv.Name, err)
	}
	return nil
}

// persistentVolume finds a volume's directory.
func (a *Agent) persistentVolume(ctx context.Context, pv *v1.PersistentVolume) (volume, error) {
	switch {
	case pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == v1.PersistentVolumeBlock:
		return volume{}, fmt.Errorf("volume %s has volumeMode Block, which skiff cannot do yet", pv.Name)
	case pv.Spec.HostPath != nil:
		return volume{path: pv.Spec.HostPath.Path}, checkHostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		return volume{path: pv.Spec.Local.Path}, checkLocal(pv.Spec.Local)
	case api.IsLocal(pv):
		path, err := a.localVolume(ctx, pv)
		return volume{path: path}, err
	}
	return volume{}, fmt.Errorf("no volume plugin matched: skiff mounts hostPath, local and %s volumes, and %s is none", api.LocalDriver, pv.Name)
}

// checkLocal sees to it that a path of the host is there: it is never made, as it may be where a disk is to be mounted.
func checkLocal(l *v1.LocalVolumeSource) error {
	if err := checkPath(l.Path); err != nil {
		return err
	}
	info, err := os.Stat(l.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("path %q does not exist", l.Path)
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("path %q is not a directory; local volumes of block devices are not supported", l.Path)
	}
	return nil
}
