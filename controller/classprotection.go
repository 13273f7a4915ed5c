package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"

	"skiff/api"
	"skiff/reconcile"
)

// classProtection lets a deleted VolumeAttributesClass go when no claim and no volume names it any more. The API server has put
// the finalizer on it.
//
// Source: https://kubernetes.io/docs/concepts/storage/volume-attributes-classes/
type classProtection struct {
	client  kubernetes.Interface
	classes storagelisters.VolumeAttributesClassLister
}

func newClassProtection(b *base) error {
	core, classes := b.factory.Core().V1(), b.factory.Storage().V1().VolumeAttributesClasses()
	c := &classProtection{client: b.client, classes: classes.Lister()}
	loop := b.loop("classprotection", 1, c.Reconcile)
	return errors.Join(
		b.watch(loop, classes.Informer(), reconcile.ObjectKey),
		b.watch(loop, core.PersistentVolumeClaims().Informer(), func(obj any) []string { return classesOfClaim(obj.(*corev1.PersistentVolumeClaim)) }),
		b.watch(loop, core.PersistentVolumes().Informer(), func(obj any) []string { return classesOfVolume(obj.(*corev1.PersistentVolume)) }),
	)
}

// Reconcile looks at one class.
func (c *classProtection) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	class, err := c.classes.Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !waitsFor(class, api.AttributesClassProtection) {
		return 0, nil
	}
	if used, err := c.used(ctx, name); used || err != nil {
		return 0, err
	}
	return 0, dropFinalizer(ctx, class, api.AttributesClassProtection, func(next *storagev1.VolumeAttributesClass) error {
		_, err := c.client.StorageV1().VolumeAttributesClasses().Update(ctx, next, metav1.UpdateOptions{})
		return err
	})
}

// used asks the API server itself: what is in the cache may be behind.
func (c *classProtection) used(ctx context.Context, class string) (bool, error) {
	claims, err := c.client.CoreV1().PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list the claims that may name class %s: %w", class, err)
	}
	for i := range claims.Items {
		if slices.Contains(classesOfClaim(&claims.Items[i]), class) {
			return true, nil
		}
	}
	volumes, err := c.client.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list the volumes that may name class %s: %w", class, err)
	}
	return slices.ContainsFunc(volumes.Items, func(v corev1.PersistentVolume) bool { return slices.Contains(classesOfVolume(&v), class) }), nil
}

// classesOfClaim are the classes that a claim wants, has, and is on its way to.
func classesOfClaim(c *corev1.PersistentVolumeClaim) []string {
	names := named(c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName)
	if m := c.Status.ModifyVolumeStatus; m != nil {
		names = append(names, named(&m.TargetVolumeAttributesClassName)...)
	}
	return names
}

func classesOfVolume(v *corev1.PersistentVolume) []string {
	return named(v.Spec.VolumeAttributesClassName)
}

// named are those of the names that are there.
func named(names ...*string) (given []string) {
	for _, name := range names {
		if name != nil && *name != "" {
			given = append(given, *name)
		}
	}
	return given
}
