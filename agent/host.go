package agent

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff/api"
)

// capacityOf reads what the host has.
func capacityOf(dataDir string, maxPods int) (v1.ResourceList, error) {
	memory, err := meminfo("MemTotal")
	if err != nil {
		return nil, err
	}
	capacity, err := hugePagesOf(hugePagesDir)
	if err != nil {
		return nil, err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dataDir, &disk); err != nil {
		return nil, fmt.Errorf("measure the disk under %s: %w", dataDir, err)
	}
	capacity[v1.ResourceCPU] = *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI)
	capacity[v1.ResourceMemory] = *resource.NewQuantity(memory, resource.BinarySI)
	capacity[v1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(disk.Blocks)*disk.Bsize, resource.BinarySI)
	capacity[v1.ResourcePods] = *resource.NewQuantity(int64(maxPods), resource.DecimalSI)
	return capacity, nil
}

// allocatableOf is the capacity less what is kept from pods: what is reserved, and what is left when they are evicted. Memory in huge
// pages is no memory for anything else.
func allocatableOf(capacity, reserved v1.ResourceList, thresholds []Threshold) v1.ResourceList {
	list := capacity.DeepCopy()
	take := func(name v1.ResourceName, amount resource.Quantity) {
		q, ok := list[name]
		if !ok {
			return
		}
		if q.Sub(amount); q.Sign() < 0 {
			q = resource.Quantity{Format: q.Format}
		}
		list[name] = q
	}
	for name, amount := range reserved {
		take(name, amount)
	}
	for name, amount := range capacity {
		if _, huge := api.HugePageSize(name); huge {
			take(v1.ResourceMemory, amount)
		}
	}
	for _, t := range thresholds {
		switch name := t.Signal.resource(); t.Signal {
		case memoryAvailable, diskAvailable:
			all := capacity[name]
			take(name, *resource.NewQuantity(t.of(all.Value()), resource.BinarySI))
		}
	}
	return list
}

// meminfo reads a line of /proc/meminfo, in bytes.
func meminfo(name string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read the host's memory: %w", err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == name+":" {
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the host's memory: %w", err)
			}
			return kilobytes * 1024, nil
		}
	}
	return 0, fmt.Errorf("read the host's memory: no %s in /proc/meminfo", name)
}

// processes counts the host's processes and threads, and how many there may be.
func processes() (used, most int64, err error) {
	load, err := readWord("/proc/loadavg", 3) // "1/234": running and all.
	if err != nil {
		return 0, 0, err
	}
	_, all, _ := strings.Cut(load, "/")
	limit, err := readWord("/proc/sys/kernel/pid_max", 0)
	if err != nil {
		return 0, 0, err
	}
	used, usedErr := strconv.ParseInt(all, 10, 64)
	most, mostErr := strconv.ParseInt(limit, 10, 64)
	return used, most, errors.Join(usedErr, mostErr)
}

// readWord reads the nth word of a file, counted from 0.
func readWord(path string, n int) (string, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(content))
	if n >= len(words) {
		return "", fmt.Errorf("%s has no word %d", path, n)
	}
	return words[n], nil
}

// systemInfo reads what a Node tells of its host. What cannot be read stays empty.
func systemInfo(bootID, version, runtimeVersion string) v1.NodeSystemInfo {
	machine, _ := readWord("/etc/machine-id", 0)
	system, _ := readWord("/sys/class/dmi/id/product_uuid", 0)
	kernel, _ := readWord("/proc/sys/kernel/osrelease", 0)
	return v1.NodeSystemInfo{
		MachineID: machine, SystemUUID: system, BootID: bootID, KernelVersion: kernel, OSImage: osImage(),
		ContainerRuntimeVersion: runtimeVersion, KubeletVersion: version,
		OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH, RunningInUserNamespace: inUserNamespace(),
	}
}

// inUserNamespace says whether the agent's users are only some of the machine's, so that its root is not the machine's.
func inUserNamespace() *bool {
	users, err := os.ReadFile("/proc/self/uid_map")
	return new(err == nil && !slices.Equal(strings.Fields(string(users)), []string{"0", "0", "4294967295"}))
}

// osImage is what the host's distribution calls itself.
func osImage() string {
	content, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	for line := range strings.Lines(string(content)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Linux"
}
