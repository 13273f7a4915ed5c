package agent

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// mounts are the container's volumes, then the files of /etc that it does not bring itself, then the file for its
// last words.
func (a *Agent) mounts(pod *v1.Pod, s start, r *ready, env map[string]string) ([]Mount, error) {
	c := s.container
	var mounts []Mount
	taken := map[string]bool{}
	for i, m := range c.VolumeMounts {
		v, ok := r.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("volume %q of the mount at %s is not in the pod", m.Name, m.MountPath)
		}
		source := v.path
		sub, err := subPath(&m, env)
		if err != nil {
			return nil, err
		}
		if sub != "" {
			part := filepath.Join(a.dirs.parts(pod.UID, c.Name, s.attempt), strconv.Itoa(i))
			if err := bindPart(source, sub, part); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
			}
			source = part
		}
		recursive, err := recursiveReadOnly(&m, r.recursive)
		if err != nil {
			return nil, err
		}
		target := path.Clean("/" + m.MountPath)
		taken[target] = true
		mounts = append(mounts, Mount{
			Source: source, Target: target, ReadOnly: m.ReadOnly || v.readOnly, NoExec: v.noExec, Propagation: propagation(m.MountPropagation),
			Recursive: recursive,
		})
	}
	for _, m := range r.files {
		if !taken[m.Target] {
			m.ReadOnly = c.SecurityContext != nil && isTrue(c.SecurityContext.ReadOnlyRootFilesystem)
			mounts = append(mounts, m)
		}
	}
	if target := path.Clean("/" + c.TerminationMessagePath); target != "/" && !taken[target] {
		source := a.dirs.message(pod.UID, c.Name, s.attempt)
		if err := makeMessageFile(source); err != nil {
			return nil, err
		}
		mounts = append(mounts, Mount{Source: source, Target: target})
	}
	return mounts, nil
}

// recursiveReadOnly says whether what is mounted below a read-only volume is read-only too. Whether that is possible is the handler's
// to say. https://kubernetes.io/docs/concepts/storage/volumes/#recursive-read-only-mounts
func recursiveReadOnly(m *v1.VolumeMount, possible bool) (bool, error) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	if *m.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled && !possible {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", m.Name)
	}
	return possible, nil
}

// subPath is the part of the volume that a mount shows, "" for all of it.
func subPath(m *v1.VolumeMount, env map[string]string) (string, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		sub = expand(m.SubPathExpr, env)
		if strings.Contains(sub, "$(") {
			return "", fmt.Errorf("subPathExpr %q names a variable that the container does not have", m.SubPathExpr)
		}
	}
	if sub == "" {
		return "", nil
	}
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("subPath %q must be a relative path without '..'", sub)
	}
	return filepath.Clean(sub), nil
}

func propagation(mode *v1.MountPropagationMode) string {
	if mode == nil {
		return "private"
	}
	switch *mode {
	case v1.MountPropagationHostToContainer:
		return "rslave"
	case v1.MountPropagationBidirectional:
		return "rshared"
	}
	return "private"
}

// makeMessageFile makes an empty file that a container's process of any user can write to.
func makeMessageFile(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		return fmt.Errorf("make the termination message file: %w", err)
	}
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		return fmt.Errorf("make the termination message file: %w", err)
	}
	if err := os.Chmod(file, 0o666); err != nil { // The umask has cut it.
		return fmt.Errorf("make the termination message file: %w", err)
	}
	return nil
}
