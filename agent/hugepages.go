package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresource "k8s.io/component-helpers/resource"

	"skiff/agent/cgroup"
	"skiff/api"
)

// Huge pages are taken from the host's memory by its administrator, before the agent starts. The Node's status has them as a resource
// for each size; a pod takes them by mappings, or from an emptyDir that is made of them, and no more than its limit says. Pods
// without a limit have none.
// https://kubernetes.io/docs/tasks/manage-hugepages/scheduling-hugepages/

// hugePagesDir is where the kernel tells of them.
const hugePagesDir = "/sys/kernel/mm/hugepages"

// hugePagesOf reads what the host has of each size. A kernel without huge pages has no such directory.
func hugePagesOf(dir string) (v1.ResourceList, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the host's huge pages: %w", err)
	}
	list := v1.ResourceList{}
	for _, e := range entries {
		kilobytes, ok := strings.CutPrefix(e.Name(), v1.ResourceHugePagesPrefix)
		size, err := strconv.ParseInt(strings.TrimSuffix(kilobytes, "kB"), 10, 64)
		if !ok || err != nil {
			continue
		}
		word, err := readWord(filepath.Join(dir, e.Name(), "nr_hugepages"), 0)
		if err != nil {
			return nil, fmt.Errorf("read the host's huge pages: %w", err)
		}
		pages, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read the host's huge pages: %w", err)
		}
		name := v1.ResourceHugePagesPrefix + resource.NewQuantity(size<<10, resource.BinarySI).String()
		list[v1.ResourceName(name)] = *resource.NewQuantity(pages*size<<10, resource.BinarySI)
	}
	return list, nil
}

// hugePageLimits are the limits of a cgroup by each size that the host has, none where it has no page at all. Of the lists the last
// that speaks of a size counts.
func hugePageLimits(capacity v1.ResourceList, lists ...v1.ResourceList) (limits cgroup.HugePageLimits) {
	n, some := 0, false
	for _, name := range slices.Sorted(maps.Keys(capacity)) {
		size, ok := api.HugePageSize(name)
		if !ok || n == len(limits) {
			continue
		}
		limits[n].Size = size
		for _, list := range lists {
			if amount, ok := list[name]; ok {
				limits[n].Limit = amount.Value()
			}
		}
		pages := capacity[name]
		n, some = n+1, some || !pages.IsZero()
	}
	if !some {
		return cgroup.HugePageLimits{}
	}
	return limits
}

// podHugePages are the limits of a pod's cgroup, containerHugePages those of a container's: where it says nothing, the pod's.
func (a *Agent) podHugePages(pod *v1.Pod) cgroup.HugePageLimits {
	return hugePageLimits(a.capacity, podresource.PodRequests(pod, podresource.PodResourcesOptions{}))
}

func (a *Agent) containerHugePages(pod *v1.Pod, c *v1.Container) cgroup.HugePageLimits {
	if pod.Spec.Resources == nil {
		return hugePageLimits(a.capacity, c.Resources.Limits)
	}
	return hugePageLimits(a.capacity, pod.Spec.Resources.Limits, c.Resources.Limits)
}

// pageSize is that of the pages which an emptyDir is made of. The words are the kubelet's.
func pageSize(pod *v1.Pod, medium v1.StorageMedium, want v1.ResourceName) (int64, error) {
	requested := v1.ResourceList{}
	if pod.Spec.Resources != nil {
		maps.Copy(requested, pod.Spec.Resources.Requests)
	}
	for _, c := range sizedContainers(pod) {
		maps.Copy(requested, c.Resources.Requests)
	}
	found := int64(0)
	for name := range requested {
		size, ok := api.HugePageSize(name)
		switch {
		case !ok:
		case want != "":
			if wanted, _ := api.HugePageSize(want); size == wanted {
				return size, nil
			}
		case found != 0 && found != size:
			return 0, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
		default:
			found = size
		}
	}
	if found == 0 {
		return 0, fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
	}
	return found, nil
}
