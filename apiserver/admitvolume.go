package apiserver

import (
	"errors"
	"slices"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const storageClasses = "storageclasses.storage.k8s.io"

// admitClaim gives a new claim the default class, where it names none, and the finalizer that keeps it while it is in use.
func (s *Server) admitClaim(c *corev1.PersistentVolumeClaim) {
	if _, has := c.Annotations[corev1.BetaStorageClassAnnotation]; !has && c.Spec.StorageClassName == nil {
		c.Spec.StorageClassName = s.newest(storageClasses, api.IsDefaultStorageClass)
	}
	protect(c, api.ClaimProtection)
}

// protect keeps an object from going as long as it is in use: the admission plugin StorageObjectInUseProtection.
func protect(obj metav1.Object, finalizer string) {
	if !slices.Contains(obj.GetFinalizers(), finalizer) {
		obj.SetFinalizers(append(obj.GetFinalizers(), finalizer))
	}
}

// admitGrowth holds that a claim grows only where its class allows that: the admission plugin PersistentVolumeClaimResize.
func (s *Server) admitGrowth(obj, old runtime.Object) error {
	now, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil
	}
	was := old.(*corev1.PersistentVolumeClaim)
	size, before := now.Spec.Resources.Requests[corev1.ResourceStorage], was.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(before) <= 0 || was.Status.Phase != corev1.ClaimBound {
		return nil
	}
	class := ptrOr(now.Spec.StorageClassName, "")
	if annotated, has := now.Annotations[corev1.BetaStorageClassAnnotation]; has {
		class = annotated
	}
	if it := s.shelf(storageClasses).get(class); class != "" && it != nil && ptrOr(it.obj.(*storagev1.StorageClass).AllowVolumeExpansion, false) {
		return nil
	}
	return apierrors.NewForbidden(corev1.Resource("persistentvolumeclaims"), now.Name,
		errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}
