package agent

import (
	"context"
	"errors"
	"maps"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// projectedFiles puts what several sources give into one volume; of the same path the last source wins.
func projectedFiles(ctx context.Context, pod *v1.Pod, v *v1.ProjectedVolumeSource, from objectSource, allocatable v1.ResourceList) (map[string]file, error) {
	all := map[string]file{}
	for i := range v.Sources {
		files, err := projection(ctx, pod, &v.Sources[i], v.DefaultMode, from, allocatable)
		if err != nil {
			return nil, err
		}
		maps.Copy(all, files)
	}
	return all, nil
}

func projection(ctx context.Context, pod *v1.Pod, s *v1.VolumeProjection, mode *int32, from objectSource, allocatable v1.ResourceList) (map[string]file, error) {
	switch {
	case s.ConfigMap != nil:
		return configMapFiles(ctx, pod, &v1.ConfigMapVolumeSource{
			LocalObjectReference: s.ConfigMap.LocalObjectReference, Items: s.ConfigMap.Items, DefaultMode: mode, Optional: s.ConfigMap.Optional,
		}, from)
	case s.Secret != nil:
		return secretFiles(ctx, pod, &v1.SecretVolumeSource{
			SecretName: s.Secret.Name, Items: s.Secret.Items, DefaultMode: mode, Optional: s.Secret.Optional,
		}, from)
	case s.DownwardAPI != nil:
		return downwardFiles(pod, s.DownwardAPI.Items, mode, allocatable)
	case s.ServiceAccountToken != nil:
		return tokenFiles(ctx, pod, s.ServiceAccountToken, mode, from)
	}
	return nil, errors.New(unservedMessage([]string{"spec.volumes"})) // api.Unserved has stopped it before.
}

// tokenFiles is a file with a token, which must be looked at again in time. Where it is known whose it is, it is nobody else's.
func tokenFiles(ctx context.Context, pod *v1.Pod, p *v1.ServiceAccountTokenProjection, mode *int32, from objectSource) (map[string]file, error) {
	t, err := from.token(ctx, pod, p)
	if err != nil {
		return nil, err
	}
	f := file{content: []byte(t.text), mode: fileMode(nil, mode), owner: fsUser(pod), due: t.due}
	if f.owner != nil || pod.Spec.SecurityContext != nil && pod.Spec.SecurityContext.FSGroup != nil {
		f.mode = 0o600
	}
	files := map[string]file{filepath.Clean(p.Path): f}
	return files, checkInside(files)
}
