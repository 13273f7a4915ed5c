package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// file is one file of a volume.
type file struct {
	content []byte
	mode    fs.FileMode
}

// volumes makes the pod's volumes and brings those made of the API's objects up to date. It returns each one's path on the
// host. Called again it changes only what differs.
func (a *Agent) volumes(ctx context.Context, pod *v1.Pod) (map[string]string, error) {
	paths := map[string]string{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path, err := a.volume(ctx, pod, v)
		if err != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
		paths[v.Name] = path
	}
	return paths, nil
}

func (a *Agent) volume(ctx context.Context, pod *v1.Pod, v *v1.Volume) (string, error) {
	var group *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		group = sc.FSGroup
	}
	data := a.dirs.volume(pod.UID, v.Name)
	switch {
	case v.EmptyDir != nil:
		memory := int64(0)
		if v.EmptyDir.Medium == v1.StorageMediumMemory {
			memory = memorySize(pod, v.EmptyDir, a.allocatable())
		}
		return data, makeEmptyDir(data, group, memory)
	case v.HostPath != nil:
		return v.HostPath.Path, checkHostPath(v.HostPath)
	case v.ConfigMap != nil:
		files, err := configMapFiles(ctx, pod, v.ConfigMap, a.sources)
		if err != nil {
			return "", err
		}
		return data, writeVolume(data, files, group)
	case v.Secret != nil:
		files, err := secretFiles(ctx, pod, v.Secret, a.sources)
		if err != nil {
			return "", err
		}
		path := filepath.Join(a.dirs.secret(pod.UID), v.Name)
		return path, writeVolume(path, files, group)
	case v.DownwardAPI != nil:
		files, err := downwardFiles(pod, v.DownwardAPI.Items, v.DownwardAPI.DefaultMode, a.allocatable())
		if err != nil {
			return "", err
		}
		return data, writeVolume(data, files, group)
	case v.Projected != nil:
		files, err := projectedFiles(ctx, pod, v.Projected, a.sources, a.allocatable())
		if err != nil {
			return "", err
		}
		path := filepath.Join(a.dirs.secret(pod.UID), v.Name) // There may be a Secret in it.
		return path, writeVolume(path, files, group)
	}
	return "", fmt.Errorf("%s", unsupportedMessage([]string{"spec.volumes"})) // unsupported() has stopped it before.
}

// checkHostPath sees to it that the path is what its type promises.
func checkHostPath(h *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	if slices.Contains(strings.Split(h.Path, "/"), "..") || !filepath.IsAbs(h.Path) {
		return fmt.Errorf("hostPath %q must be an absolute path without '..'", h.Path)
	}
	info, err := os.Stat(h.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case kind == v1.HostPathUnset && missing, kind == v1.HostPathDirectoryOrCreate && missing:
		return os.MkdirAll(h.Path, 0o755)
	case kind == v1.HostPathUnset && err == nil:
		return nil
	case kind == v1.HostPathFileOrCreate && missing:
		return os.WriteFile(h.Path, nil, 0o644)
	case err != nil:
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	var ok bool
	switch kind {
	case v1.HostPathDirectory, v1.HostPathDirectoryOrCreate:
		ok = info.IsDir()
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		ok = info.Mode().IsRegular()
	case v1.HostPathSocket:
		ok = info.Mode()&fs.ModeSocket != 0
	case v1.HostPathCharDev:
		ok = info.Mode()&fs.ModeCharDevice != 0
	case v1.HostPathBlockDev:
		ok = info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, kind)
	}
	return nil
}

func configMapFiles(ctx context.Context, pod *v1.Pod, v *v1.ConfigMapVolumeSource, from configs) (map[string]file, error) {
	object, err := from.configMap(ctx, pod, v.Name)
	if apierrors.IsNotFound(err) && isTrue(v.Optional) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data := maps.Clone(object.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for key, value := range object.Data {
		data[key] = []byte(value)
	}
	return pickFiles(data, v.Items, v.DefaultMode, isTrue(v.Optional))
}

func secretFiles(ctx context.Context, pod *v1.Pod, v *v1.SecretVolumeSource, from configs) (map[string]file, error) {
	object, err := from.secret(ctx, pod, v.SecretName)
	if apierrors.IsNotFound(err) && isTrue(v.Optional) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return pickFiles(object.Data, v.Items, v.DefaultMode, isTrue(v.Optional))
}

// pickFiles names the files: by their keys or, where items are given, as those say.
func pickFiles(data map[string][]byte, items []v1.KeyToPath, defaultMode *int32, optional bool) (map[string]file, error) {
	files := map[string]file{}
	if items == nil {
		for key, content := range data {
			files[key] = file{content, fileMode(nil, defaultMode)}
		}
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok && optional {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		files[filepath.Clean(item.Path)] = file{content, fileMode(item.Mode, defaultMode)}
	}
	return files, checkInside(files)
}
