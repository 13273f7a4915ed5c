package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/api"
	"skiff/reconcile"
)

// claimProtection lets a deleted claim go when no pod uses it any more. The API server has put the finalizer on it.
//
// Source: https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection
type claimProtection struct {
	client kubernetes.Interface
	claims corelisters.PersistentVolumeClaimLister
	pods   cache.Indexer
}

// podOfClaim is the index of pods by the claims that they refer to.
const podOfClaim = "controller/podOfClaim"

func newClaimProtection(b *base) error {
	core := b.factory.Core().V1()
	c := &claimProtection{client: b.client, claims: core.PersistentVolumeClaims().Lister(), pods: core.Pods().Informer().GetIndexer()}
	claimsOf := func(obj any) []string {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return nil
		}
		var keys []string
		for _, name := range api.ClaimsOf(pod) {
			keys = append(keys, pod.Namespace+"/"+name)
		}
		return keys
	}
	if err := addIndex(core.Pods().Informer(), podOfClaim, func(obj any) ([]string, error) { return claimsOf(obj), nil }); err != nil {
		return fmt.Errorf("index for the claimprotection loop: %w", err)
	}
	loop := b.loop("claimprotection", 1, c.Reconcile)
	return errors.Join(
		b.watch(loop, core.PersistentVolumeClaims().Informer(), reconcile.ObjectKey),
		b.watch(loop, core.Pods().Informer(), claimsOf),
	)
}

// Reconcile looks at one claim.
func (c *claimProtection) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !waitsFor(claim, api.ClaimProtection) {
		return 0, nil
	}
	pods, err := indexed[*corev1.Pod](c.pods, podOfClaim, key)
	if err != nil || slices.ContainsFunc(pods, usesVolumes) {
		return 0, err
	}
	if used, err := c.usedAfterAll(ctx, claim); used || err != nil {
		return 0, err // Its pod's event is on the way.
	}
	return 0, dropFinalizer(ctx, claim, api.ClaimProtection, func(next *corev1.PersistentVolumeClaim) error {
		_, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Update(ctx, next, metav1.UpdateOptions{})
		return err
	})
}

// usesVolumes says that a pod may have its volumes mounted.
func usesVolumes(pod *corev1.Pod) bool {
	return pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// usedAfterAll asks the API server itself: data would be lost if the cache were behind.
func (c *claimProtection) usedAfterAll(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	pods, err := c.client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list the pods that may use claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool {
		return usesVolumes(&pod) && slices.Contains(api.ClaimsOf(&pod), claim.Name)
	}), nil
}

// volumeProtection lets a deleted volume go when it is bound no more.
type volumeProtection struct {
	client  kubernetes.Interface
	volumes corelisters.PersistentVolumeLister
}

func newVolumeProtection(b *base) error {
	informer := b.factory.Core().V1().PersistentVolumes()
	c := &volumeProtection{client: b.client, volumes: informer.Lister()}
	return b.watch(b.loop("volumeprotection", 1, c.Reconcile), informer.Informer(), reconcile.ObjectKey)
}

// Reconcile looks at one volume.
func (c *volumeProtection) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	v, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !waitsFor(v, api.VolumeProtection) || v.Status.Phase == corev1.VolumeBound {
		return 0, nil
	}
	return 0, dropFinalizer(ctx, v, api.VolumeProtection, func(next *corev1.PersistentVolume) error {
		_, err := c.client.CoreV1().PersistentVolumes().Update(ctx, next, metav1.UpdateOptions{})
		return err
	})
}

// waitsFor says that an object has been deleted, and one of its finalizers keeps it.
func waitsFor(obj metav1.Object, finalizer string) bool {
	return obj.GetDeletionTimestamp() != nil && slices.Contains(obj.GetFinalizers(), finalizer)
}

// dropFinalizer writes a copy of the object without one of its finalizers.
func dropFinalizer[T interface {
	metav1.Object
	DeepCopy() T
}](ctx context.Context, obj T, finalizer string, write func(next T) error) error {
	next := obj.DeepCopy()
	next.SetFinalizers(slices.DeleteFunc(next.GetFinalizers(), func(f string) bool { return f == finalizer }))
	if err := write(next); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take finalizer %s off %s: %w", finalizer, obj.GetName(), err)
	}
	return nil
}
