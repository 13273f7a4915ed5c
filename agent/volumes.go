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
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// file is one file of a volume.
type file struct {
	content []byte
	mode    fs.FileMode
	owner   *int64    // nil: root.
	due     time.Time // When the content has to be asked for anew. Zero: it is told of changes.
}

// volume is one that is ready to be mounted.
type volume struct {
	path     string
	noExec   bool      // No program in it can be run.
	readOnly bool      // Whatever the mount says.
	due      time.Time // When its files have to be looked at again. Zero: when something changes.
}

// volumes makes the pod's volumes and brings those made of the API's objects up to date. Called again it changes only what
// differs.
func (a *Agent) volumes(ctx context.Context, pod *v1.Pod, m *memory) (map[string]volume, error) {
	all := map[string]volume{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		made, err := a.volume(ctx, pod, v, m.ready.volumes[v.Name], m)
		if errors.Is(err, errImageAwaited) {
			return nil, err
		}
		if err != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
		all[v.Name] = made
	}
	return all, nil
}

func (a *Agent) volume(ctx context.Context, pod *v1.Pod, v *v1.Volume, had volume, m *memory) (volume, error) {
	group := fsGroup(pod)
	data, secret := a.dirs.volume(pod.UID, v.Name), filepath.Join(a.dirs.secret(pod.UID), v.Name)
	switch {
	case v.EmptyDir != nil:
		disk, err := emptyDirOn(pod, v.EmptyDir, a.allocatable())
		if err != nil {
			return volume{}, err
		}
		return volume{path: data}, makeEmptyDir(data, group, disk)
	case v.HostPath != nil:
		return volume{path: v.HostPath.Path}, checkHostPath(v.HostPath)
	case v.ConfigMap != nil:
		files, err := configMapFiles(ctx, pod, v.ConfigMap, a.sources)
		return showFiles(data, files, group, err)
	case v.Secret != nil:
		files, err := secretFiles(ctx, pod, v.Secret, a.sources)
		return showFiles(secret, files, group, err)
	case v.DownwardAPI != nil:
		files, err := downwardFiles(pod, v.DownwardAPI.Items, v.DownwardAPI.DefaultMode, a.allocatable())
		return showFiles(data, files, group, err)
	case v.Projected != nil:
		files, err := projectedFiles(ctx, pod, v.Projected, a.sources, a.allocatable())
		return showFiles(secret, files, group, err) // There may be a Secret in it.
	case had.path != "": // What follows does not change.
		return had, nil
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		return a.claimVolume(ctx, pod, v)
	case v.Image != nil:
		return a.imageVolume(ctx, pod, v, m)
	}
	return volume{}, errors.New(unservedMessage([]string{"spec.volumes"})) // api.Unserved has stopped it before.
}

// showFiles makes a volume of files, unless they could not be had.
func showFiles(dir string, files map[string]file, group *int64, err error) (volume, error) {
	if err != nil {
		return volume{}, err
	}
	v := volume{path: dir, readOnly: true}
	for _, f := range files {
		v.due = sooner(v.due, f.due)
	}
	return v, writeVolume(dir, files, group)
}

// sooner is the earlier of two times, of which a zero one is never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func fsGroup(pod *v1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// checkHostPath sees to it that the path is what its type promises.
func checkHostPath(h *v1.HostPathVolumeSource) error {
	kind := v1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	if err := checkPath(h.Path); err != nil {
		return err
	}
	info, err := os.Stat(h.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case kind == v1.HostPathUnset && missing, kind == v1.HostPathDirectoryOrCreate && missing:
		return os.MkdirAll(h.Path, 0o755)
	case kind == v1.HostPathUnset && err == nil:
		return nil
	case kind == v1.HostPathFileOrCreate && missing:
		// Nothing that has come there meanwhile is emptied, and no link leads to where a file is made.
		f, err := os.OpenFile(h.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return fmt.Errorf("hostPath type check failed: %w", err)
		}
		return f.Close()
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

// checkPath refuses a path of the host that means another one than it says.
func checkPath(path string) error {
	if slices.Contains(strings.Split(path, "/"), "..") || !filepath.IsAbs(path) {
		return fmt.Errorf("%q must be an absolute path without '..'", path)
	}
	return nil
}

func configMapFiles(ctx context.Context, pod *v1.Pod, v *v1.ConfigMapVolumeSource, from objectSource) (map[string]file, error) {
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

func secretFiles(ctx context.Context, pod *v1.Pod, v *v1.SecretVolumeSource, from objectSource) (map[string]file, error) {
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
			files[key] = file{content: content, mode: fileMode(nil, defaultMode)}
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
		files[filepath.Clean(item.Path)] = file{content: content, mode: fileMode(item.Mode, defaultMode)}
	}
	return files, checkInside(files)
}
