package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// LocalDriver makes volumes out of directories of a node's disk. To the API it is a CSI driver like any other; there is just
// nothing to install. A volume's handle is the name of its directory on the node that its affinity names.
const LocalDriver = "local.skiff.io"

// LocalFinalizer is on a volume of [LocalDriver] as long as its node holds data of it.
const LocalFinalizer = LocalDriver + "/data"

// The finalizers that keep a claim as long as a pod uses it, a volume as long as it is bound, and a VolumeAttributesClass as long as
// one of them names it.
// https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection
const (
	ClaimProtection           = "kubernetes.io/pvc-protection"
	VolumeProtection          = "kubernetes.io/pv-protection"
	AttributesClassProtection = "kubernetes.io/vac-protection"
)

// LocalStorage is what a cluster begins with: the driver, and the class of the claims that name none. A volume is made where
// the first pod that wants it is to run.
func LocalStorage() (*storagev1.CSIDriver, *storagev1.StorageClass) {
	no, yes := false, true
	wait, gone := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete
	driver := &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: LocalDriver},
		Spec:       storagev1.CSIDriverSpec{AttachRequired: &no},
	}
	class := &storagev1.StorageClass{
		ObjectMeta:  metav1.ObjectMeta{Name: "local", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner: LocalDriver, VolumeBindingMode: &wait, ReclaimPolicy: &gone, AllowVolumeExpansion: &yes,
	}
	return driver, class
}

// IsLocal tells the volumes of [LocalDriver].
func IsLocal(v *corev1.PersistentVolume) bool {
	return v.Spec.CSI != nil && v.Spec.CSI.Driver == LocalDriver
}

// ClaimsOf names the claims that a pod's volumes are of: those that it refers to, and those that are made for it alone.
func ClaimsOf(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		if name := ClaimOf(pod, &pod.Spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// ClaimOf names the claim that a volume of a pod is of, "" where it is of none.
func ClaimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// InTopology tells whether a node with these labels is where a class allows its volumes to be. Without terms it is so anywhere.
func InTopology(terms []corev1.TopologySelectorTerm, labels map[string]string) bool {
	return len(terms) == 0 || slices.ContainsFunc(terms, func(term corev1.TopologySelectorTerm) bool {
		return len(term.MatchLabelExpressions) > 0 && !slices.ContainsFunc(term.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			value, has := labels[r.Key]
			return !has || !slices.Contains(r.Values, value)
		})
	})
}
