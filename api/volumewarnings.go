package api

import (
	"fmt"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podVolume warns of plugins that are gone, and of a claim's template.
func (w *warnings) podVolume(at *field.Path, v *corev1.Volume) {
	w.removedPlugin(v.PhotonPersistentDisk != nil, at, "photonPersistentDisk", "v1.11", "v1.16")
	if v.GitRepo != nil {
		w.say("%s: deprecated in v1.11, and disabled by default in v1.33+", at.Child("gitRepo"))
	}
	w.removedPlugin(v.ScaleIO != nil, at, "scaleIO", "v1.16", "v1.22")
	w.removedPlugin(v.Flocker != nil, at, "flocker", "v1.22", "v1.25")
	w.removedPlugin(v.StorageOS != nil, at, "storageOS", "v1.22", "v1.25")
	w.removedPlugin(v.Quobyte != nil, at, "quobyte", "v1.22", "v1.25")
	w.removedPlugin(v.Glusterfs != nil, at, "glusterfs", "v1.25", "v1.26")
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		w.claim(at.Child("ephemeral", "volumeClaimTemplate", "spec"), &v.Ephemeral.VolumeClaimTemplate.Spec)
	}
	w.removedPlugin(v.CephFS != nil, at, "cephfs", "v1.28", "v1.31")
	w.removedPlugin(v.RBD != nil, at, "rbd", "v1.28", "v1.31")
}

// placed is a path in a volume, and what is put there.
type placed struct{ path, source string }

func (p placed) String() string {
	if p.source == "" {
		return fmt.Sprintf("%q", p.path)
	}
	return fmt.Sprintf("%q (%s)", p.path, p.source)
}

// overlappingPaths warns of files of one volume that would lie in each other's place.
func (w *warnings) overlappingPaths(volumes []corev1.Volume) {
	for _, v := range volumes {
		switch {
		case v.ConfigMap != nil:
			w.overlaps(v.Name, fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), keyPaths(v.ConfigMap.Items, ""))
		case v.Secret != nil:
			w.overlaps(v.Name, fmt.Sprintf("Secret %q", v.Secret.SecretName), keyPaths(v.Secret.Items, ""))
		case v.DownwardAPI != nil:
			w.overlaps(v.Name, "DownwardAPI", fieldPaths(v.DownwardAPI.Items, ""))
		case v.Projected != nil:
			var all []placed
			for _, source := range v.Projected.Sources {
				w.add(reflect.ValueOf(source).IsZero(), "volume %q (Projected) has no sources provided", v.Name)
				all = append(all, projectedPaths(&source)...)
			}
			w.overlaps(v.Name, "Projected", all)
		}
	}
}

func (w *warnings) overlaps(volume, kind string, paths []placed) {
	for i := range paths {
		paths[i].path = strings.TrimRight(paths[i].path, "/")
		for _, earlier := range paths[:i] {
			w.add(inside(paths[i].path, earlier.path) || inside(earlier.path, paths[i].path),
				"volume %q (%s): overlapping paths: %s with %s", volume, kind, paths[i], earlier)
		}
	}
}

// inside says whether a path is another one, or lies below it.
func inside(path, dir string) bool {
	return path != "" && dir != "" && strings.HasPrefix(path+"/", dir+"/")
}

func keyPaths(items []corev1.KeyToPath, source string) (all []placed) {
	for _, item := range items {
		all = append(all, placed{item.Path, source})
	}
	return all
}

func fieldPaths(items []corev1.DownwardAPIVolumeFile, source string) (all []placed) {
	for _, item := range items {
		all = append(all, placed{item.Path, source})
	}
	return all
}

func projectedPaths(s *corev1.VolumeProjection) []placed {
	switch {
	case s.ConfigMap != nil:
		return keyPaths(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil:
		return keyPaths(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil:
		return fieldPaths(s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return []placed{{s.ServiceAccountToken.Path, "ServiceAccountToken"}}
	case s.ClusterTrustBundle != nil:
		name := deref(s.ClusterTrustBundle.SignerName)
		if s.ClusterTrustBundle.Name != nil {
			name = *s.ClusterTrustBundle.Name
		}
		return []placed{{s.ClusterTrustBundle.Path, fmt.Sprintf("ClusterTrustBundle %q", name)}}
	case s.PodCertificate != nil:
		return []placed{
			{s.PodCertificate.CertificateChainPath, "PodCertificate chain"}, {s.PodCertificate.KeyPath, "PodCertificate key"},
			{s.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle"},
		}
	}
	return nil
}
