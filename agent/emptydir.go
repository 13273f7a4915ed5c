package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff/api"
)

// measureEvery is how often an emptyDir on disk that has a limit is measured; as often as the kubelet does. Others are not.
const measureEvery = 10 * time.Second

// fileSystem is one that is made for a volume. Of no kind: the volume is on the node's disk.
type fileSystem struct{ kind, options string }

const inMemory = "tmpfs"

// emptyDirOn is what an emptyDir is to be on.
func emptyDirOn(pod *v1.Pod, dir *v1.EmptyDirVolumeSource, allocatable v1.ResourceList) (fileSystem, error) {
	switch dir.Medium {
	case v1.StorageMediumDefault:
		return fileSystem{}, nil
	case v1.StorageMediumMemory:
		return fileSystem{inMemory, fmt.Sprintf("mode=1777,size=%d", memorySize(pod, dir, allocatable))}, nil
	}
	name, huge := api.HugePagesMedium(dir.Medium)
	if !huge {
		return fileSystem{}, fmt.Errorf("unknown storage medium %q", dir.Medium)
	}
	size, err := pageSize(pod, dir.Medium, name)
	if err != nil {
		return fileSystem{}, err
	}
	return fileSystem{"hugetlbfs", fmt.Sprintf("mode=0777,pagesize=%d", size)}, nil
}

func makeEmptyDir(path string, group *int64, disk fileSystem) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	err := os.Mkdir(path, 0o777)
	had := errors.Is(err, fs.ErrExist)
	if err != nil && !had {
		return err
	}
	mounted := false
	if disk.kind != "" {
		if mounted, err = mountOwn(path, disk); err != nil { // Also where a reboot has taken it away.
			return err
		}
	}
	if had && !mounted {
		return nil // Containers have used it since; its mode is theirs.
	}
	mode := fs.FileMode(0o777)
	if disk.kind == inMemory { // As the kernel makes one that nobody gives a mode, and the kubelet leaves it.
		mode |= fs.ModeSticky
	}
	if group != nil {
		if err := os.Chown(path, -1, int(*group)); err != nil {
			return err
		}
		mode |= fs.ModeSetgid
	}
	return os.Chmod(path, mode) // Mkdir's was cut by the umask.
}

// memorySize is how large an emptyDir in memory may become: as its limit says, but no larger than what the pod's containers may use,
// or the node has to give.
func memorySize(pod *v1.Pod, dir *v1.EmptyDirVolumeSource, allocatable v1.ResourceList) int64 {
	size := allocatable.Memory().Value()
	sum, limited := int64(0), true
	for i := range pod.Spec.Containers {
		limit := pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		sum += limit
		limited = limited && limit > 0
	}
	if limited && sum > 0 {
		size = min(size, sum)
	}
	if dir.SizeLimit != nil && dir.SizeLimit.Value() > 0 {
		size = min(size, dir.SizeLimit.Value())
	}
	return size
}

// limitOf is how many bytes a volume on disk may have; 0: any number.
func limitOf(v *v1.Volume) int64 {
	if v.EmptyDir == nil || v.EmptyDir.Medium != v1.StorageMediumDefault || v.EmptyDir.SizeLimit == nil {
		return 0
	}
	return v.EmptyDir.SizeLimit.Value()
}

// measured is what was found of a pod's use of the disk, where it has a limit.
type measured struct {
	at   time.Time
	over string // Why the pod must go. "": all is well.
	next time.Duration
}

// measure looks at what a pod has on the disk, if it has limits and it is time to. Once over its limit, a pod stays evicted.
func (a *Agent) measure(ctx context.Context, pod *v1.Pod, containers []Container, was measured, now time.Time) measured {
	if was.over != "" || over(pod) || now.Sub(was.at) < measureEvery {
		was.next = max(measureEvery-now.Sub(was.at), 0)
		return was
	}
	next := measured{at: now}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		limit := limitOf(v)
		if limit == 0 {
			continue
		}
		next.next = measureEvery
		if diskUsage(a.dirs.volume(pod.UID, v.Name)) > limit {
			next.over = fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	if next.over == "" && limitsStorage(pod) {
		next.next = measureEvery
		next.over = a.overStorage(ctx, pod, containers)
	}
	return next
}

func hasLimitedDir(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if limitOf(&pod.Spec.Volumes[i]) > 0 {
			return true
		}
	}
	return false
}

// diskUsage sums up what the files below dir take on the disk. What goes away meanwhile does not count, nor what is elsewhere: containers
// may put links there while it counts.
func diskUsage(dir string) (sum int64) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0
	}
	defer root.Close()
	_ = fs.WalkDir(root.FS(), ".", func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := e.Info(); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += stat.Blocks * 512 / max(int64(stat.Nlink), 1)
			}
		}
		return nil
	})
	return sum
}
