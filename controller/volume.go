package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"

	"skiff/api"
	"skiff/reconcile"
)

// volumes keeps the phase of PersistentVolumes, and does with those whose claim is gone what their reclaim policy says.
//
// Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#reclaiming
type volumes struct {
	client  kubernetes.Interface
	volumes corelisters.PersistentVolumeLister
	claims  corelisters.PersistentVolumeClaimLister
	nodes   corelisters.NodeLister
	byClaim cache.Indexer
	events  record.EventRecorder
}

// volumeOfClaim is the index of volumes by the claim that they are bound to.
const volumeOfClaim = "controller/volumeOfClaim"

func newVolumes(b *base, events record.EventRecorder) error {
	core := b.factory.Core().V1()
	informer := core.PersistentVolumes().Informer()
	c := &volumes{
		client: b.client, volumes: core.PersistentVolumes().Lister(), claims: core.PersistentVolumeClaims().Lister(),
		nodes: core.Nodes().Lister(), byClaim: informer.GetIndexer(), events: events,
	}
	err := addIndex(informer, volumeOfClaim, func(obj any) ([]string, error) {
		if ref := obj.(*corev1.PersistentVolume).Spec.ClaimRef; ref != nil {
			return []string{ref.Namespace + "/" + ref.Name}, nil
		}
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("index for the volume loop: %w", err)
	}
	loop := b.loop("volume", 2, c.Reconcile)
	return errors.Join(
		b.watch(loop, informer, reconcile.ObjectKey),
		b.watch(loop, core.PersistentVolumeClaims().Informer(), func(obj any) []string {
			keys, _ := c.byClaim.IndexKeys(volumeOfClaim, reconcile.ObjectKey(obj)[0]) // Its only error is an unknown index.
			return keys
		}),
		b.handle(core.Nodes().Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: func(any) {
			all, _ := c.volumes.List(labels.Everything()) // A cache's list does not fail.
			for _, v := range all {
				if v.DeletionTimestamp != nil {
					loop.Add(v.Name)
				}
			}
		}}),
	)
}

// Reconcile brings one volume's phase up to date.
func (c *volumes) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	v, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if v.DeletionTimestamp != nil && v.Status.Phase != corev1.VolumeBound {
		return 0, c.forget(ctx, v)
	}
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return 0, setVolumePhase(ctx, c.client, v, corev1.VolumeAvailable, "", "")
	}
	claim, err := c.claim(ctx, ref)
	if err != nil {
		return 0, err
	}
	switch {
	case claim == nil:
		return 0, c.release(ctx, v)
	case claim.Spec.VolumeName == "": // The claim's turn, which the same event has brought.
		return 0, nil
	case claim.Spec.VolumeName == v.Name:
		return 0, setVolumePhase(ctx, c.client, v, corev1.VolumeBound, "", "")
	case metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return 0, c.release(ctx, v)
	}
	return 0, c.unbind(ctx, v)
}

// claim returns the claim that a volume is bound to, or nil if it is gone for certain.
func (c *volumes) claim(ctx context.Context, ref *corev1.ObjectReference) (*corev1.PersistentVolumeClaim, error) {
	claim, err := c.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID {
		claim, err = c.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID {
		return nil, nil
	}
	return claim, err
}

// release does with a volume whose claim is gone what its policy says. One that failed stays so, for somebody to look at.
func (c *volumes) release(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Status.Phase == corev1.VolumeFailed {
		return nil
	}
	if err := setVolumePhase(ctx, c.client, v, corev1.VolumeReleased, "", ""); err != nil {
		return err
	}
	fail := func(reason, message string) error {
		c.events.Event(v, corev1.EventTypeWarning, reason, message)
		return setVolumePhase(ctx, c.client, v, corev1.VolumeFailed, "", message)
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRecycle:
		return fail("VolumeFailedRecycle", "No recycler plugin found for the volume!")
	case corev1.PersistentVolumeReclaimDelete:
		return c.delete(ctx, v, fail)
	}
	return nil
}

func (c *volumes) delete(ctx context.Context, v *corev1.PersistentVolume, fail func(reason, message string) error) error {
	by := v.Annotations[volume.AnnDynamicallyProvisioned]
	if !api.IsLocal(v) {
		if by != "" {
			return nil // Its provisioner deletes it.
		}
		return fail("VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name))
	}
	err := c.client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(v.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete volume %s: %w", v.Name, err)
	}
	return nil
}

// unbind lets go of a claim that is bound to another volume.
func (c *volumes) unbind(ctx context.Context, v *corev1.PersistentVolume) error {
	next := v.DeepCopy()
	if metav1.HasAnnotation(v.ObjectMeta, volume.AnnBoundByController) {
		next.Spec.ClaimRef = nil
		delete(next.Annotations, volume.AnnBoundByController)
	} else { // Somebody meant it for a claim of that name: it stays so.
		next.Spec.ClaimRef.UID = ""
	}
	next, err := c.client.CoreV1().PersistentVolumes().Update(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("unbind volume %s: %w", v.Name, err)
	}
	return setVolumePhase(ctx, c.client, next, corev1.VolumeAvailable, "", "")
}

// forget lets a deleted volume go whose node is gone, and its data with it.
func (c *volumes) forget(ctx context.Context, v *corev1.PersistentVolume) error {
	if !slices.Contains(v.Finalizers, api.LocalFinalizer) {
		return nil
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if volume.CheckNodeAffinity(v, node.Labels) == nil {
			return nil // It deletes the data first.
		}
	}
	return dropFinalizer(ctx, v, api.LocalFinalizer, func(next *corev1.PersistentVolume) error {
		_, err := c.client.CoreV1().PersistentVolumes().Update(ctx, next, metav1.UpdateOptions{})
		return err
	})
}

// setVolumePhase writes how it stands with a volume, if that is not what its status says.
func setVolumePhase(ctx context.Context, client kubernetes.Interface, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, reason, message string) error {
	status := v.Status
	if status.Phase != phase {
		status.LastPhaseTransitionTime = new(metav1.Now())
	}
	status.Phase, status.Reason, status.Message = phase, reason, message
	if equality.Semantic.DeepEqual(status, v.Status) {
		return nil
	}
	v = v.DeepCopy()
	v.Status = status
	if _, err := client.CoreV1().PersistentVolumes().UpdateStatus(ctx, v, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write the phase of volume %s: %w", v.Name, err)
	}
	return nil
}
