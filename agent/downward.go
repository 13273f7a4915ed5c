package agent

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// downwardFiles are files that tell a pod about itself.
func downwardFiles(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, defaultMode *int32, allocatable v1.ResourceList) (map[string]file, error) {
	files := map[string]file{}
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = downwardField(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = resourceField(pod, &v1.Container{}, item.ResourceFieldRef, allocatable)
		}
		if err != nil {
			return nil, err
		}
		files[filepath.Clean(item.Path)] = file{content: []byte(value), mode: fileMode(item.Mode, defaultMode)}
	}
	return files, checkInside(files)
}

// downwardField resolves a fieldRef of a volume, which may also ask for all labels or all annotations.
func downwardField(pod *v1.Pod, path string) (string, error) {
	switch path {
	case "metadata.labels":
		return formatMap(pod.Labels), nil
	case "metadata.annotations":
		return formatMap(pod.Annotations), nil
	}
	if !strings.HasPrefix(path, "metadata.") {
		return "", fmt.Errorf("unsupported fieldPath: %v", path)
	}
	return podField(pod, path, place{})
}

// formatMap writes `key="value"` lines in order, the last without its newline.
func formatMap(m map[string]string) string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, fmt.Sprintf("%s=%q", key, m[key]))
	}
	return strings.Join(lines, "\n")
}

// fileMode is a file's own mode, else the volume's, else 0644.
func fileMode(own, volume *int32) fs.FileMode {
	for _, mode := range []*int32{own, volume} {
		if mode != nil {
			return fs.FileMode(*mode) & fs.ModePerm
		}
	}
	return 0o644
}

// checkInside refuses paths that lead out of the volume, or to what the agent keeps there.
func checkInside(files map[string]file) error {
	for path := range files {
		if !filepath.IsLocal(path) || path == "." || strings.HasPrefix(path, "..") {
			return fmt.Errorf("path %q leads out of the volume", path)
		}
	}
	return nil
}
