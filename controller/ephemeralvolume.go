package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"skiff/reconcile"
)

// ephemeralVolumes makes the claims of volumes that live and die with a pod: the pod owns them.
//
// Source: https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes
type ephemeralVolumes struct {
	client kubernetes.Interface
	pods   corelisters.PodLister
	claims corelisters.PersistentVolumeClaimLister
	events record.EventRecorder
}

func newEphemeralVolumes(b *base, events record.EventRecorder) error {
	core := b.factory.Core().V1()
	c := &ephemeralVolumes{client: b.client, pods: core.Pods().Lister(), claims: core.PersistentVolumeClaims().Lister(), events: events}
	loop := b.loop("ephemeralvolume", 1, c.Reconcile)
	return errors.Join(
		b.watch(loop, core.Pods().Informer(), func(obj any) []string {
			if pod, ok := obj.(*corev1.Pod); ok && hasEphemeral(pod) {
				return reconcile.ObjectKey(pod)
			}
			return nil
		}),
		b.watch(loop, core.PersistentVolumeClaims().Informer(), func(obj any) []string { // One that was deleted is made again.
			if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok {
				if owner := metav1.GetControllerOfNoCopy(claim); owner != nil && owner.Kind == "Pod" {
					return []string{claim.Namespace + "/" + owner.Name}
				}
			}
			return nil
		}),
	)
}

func hasEphemeral(pod *corev1.Pod) bool {
	for _, v := range pod.Spec.Volumes {
		if v.Ephemeral != nil {
			return true
		}
	}
	return false
}

// Reconcile makes the claims of one pod that are missing.
func (c *ephemeralVolumes) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return 0, nil
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			err = errors.Join(err, c.ensure(ctx, pod, v))
		}
	}
	return 0, err
}

func (c *ephemeralVolumes) ensure(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	claim, err := c.claims.PersistentVolumeClaims(pod.Namespace).Get(ephemeral.VolumeClaimName(pod, v))
	if err == nil {
		return ephemeral.VolumeIsForPod(pod, claim)
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = c.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Create(ctx, ephemeralClaim(pod, v), metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		c.events.Event(pod, corev1.EventTypeWarning, "FailedCreate", fmt.Sprintf("ephemeral volume %s: create PVC: %v", v.Name, err))
		return fmt.Errorf("create the claim of volume %s of pod %s/%s: %w", v.Name, pod.Namespace, pod.Name, err)
	}
	return nil
}

// ephemeralClaim is the claim that a volume of a pod describes.
func ephemeralClaim(pod *corev1.Pod, v *corev1.Volume) *corev1.PersistentVolumeClaim {
	template := v.Ephemeral.VolumeClaimTemplate
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, v), Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: template.Spec,
	}
}
