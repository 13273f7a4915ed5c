package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits are what a cgroup as a whole may use. Zero means no limit.
type Limits struct {
	CPUShares uint64 // As in version 1, 1024 a CPU; a weight on version 2. 0: as it is.
	CPUQuota  int64  // Microseconds per CPUPeriod.
	CPUPeriod uint64
	Memory    int64 // Bytes.
}

// Set makes a cgroup, with those above it, where it is not there, and limits it. Limits that it had and that are not named are
// taken off.
func (f FS) Set(path string, l Limits) error {
	var err error
	if f.unified {
		err = f.set2(path, l)
	} else {
		err = f.set1(path, l)
	}
	if err != nil {
		return fmt.Errorf("limit cgroup %s: %w", path, err)
	}
	return nil
}

func (f FS) set1(path string, l Limits) error {
	cpu, memory := f.dir("cpu", path), f.dir("memory", path)
	for _, controller := range []string{"cpu", "cpuacct", "memory", "pids"} { // Where it is limited, and where it is counted.
		if err := os.MkdirAll(f.dir(controller, path), 0o755); err != nil {
			return err
		}
	}
	if l.CPUShares > 0 {
		if err := write(cpu, "cpu.shares", strconv.FormatUint(l.CPUShares, 10)); err != nil {
			return err
		}
	}
	if l.CPUQuota > 0 {
		if err := write(cpu, "cpu.cfs_period_us", strconv.FormatUint(l.CPUPeriod, 10)); err != nil {
			return err
		}
	}
	quota := strconv.FormatInt(orNone(l.CPUQuota), 10)
	err := write(cpu, "cpu.cfs_quota_us", quota)
	if errors.Is(err, unix.EINVAL) { // It is less than one of those below has.
		relax(cpu)
		err = write(cpu, "cpu.cfs_quota_us", quota)
	}
	if err != nil {
		return err
	}
	return setMemory1(memory, orNone(l.Memory))
}

// relax takes the quotas off the cgroups below one that no process is in any more: they hold nobody, but stand in the way of a smaller
// quota of the whole.
func relax(dir string) {
	entries, _ := os.ReadDir(dir) // What cannot be done, the next write tells of.
	for _, e := range entries {
		below := filepath.Join(dir, e.Name())
		if procs, err := os.ReadFile(filepath.Join(below, "cgroup.procs")); err == nil && len(procs) == 0 {
			_ = write(below, "cpu.cfs_quota_us", "-1")
		}
	}
}

// setMemory1 sets the limit of memory and that of memory and swap together to the same: no swap. The second is never below the
// first, so a limit that grows starts with the second.
func setMemory1(dir string, limit int64) error {
	text := strconv.FormatInt(limit, 10)
	files := []string{"memory.memsw.limit_in_bytes", "memory.limit_in_bytes"}
	var last error
	for range 2 {
		last = nil
		for _, file := range files {
			err := write(dir, file, text)
			if file == files[0] && errors.Is(err, fs.ErrNotExist) { // A kernel that does not count swap.
				err = nil
			}
			last = errors.Join(last, err)
		}
	}
	return last
}

func (f FS) set2(path string, l Limits) error {
	if err := f.enable(path); err != nil {
		return err
	}
	dir := f.dir("", path)
	if l.CPUShares > 0 {
		if err := write(dir, "cpu.weight", strconv.FormatUint(weight(l.CPUShares), 10)); err != nil {
			return err
		}
	}
	cpu := "max"
	if l.CPUQuota > 0 {
		cpu = fmt.Sprintf("%d %d", l.CPUQuota, l.CPUPeriod)
	}
	memory := "max"
	if l.Memory > 0 {
		memory = strconv.FormatInt(l.Memory, 10)
	}
	return errors.Join(write(dir, "cpu.max", cpu), write(dir, "memory.max", memory))
}

// enable makes a cgroup of version 2 and has the controllers reach down to it.
func (f FS) enable(path string) error {
	dir := f.root
	for _, name := range strings.Split(strings.Trim(filepath.Clean(path), "/"), "/") {
		for _, controller := range []string{"+cpu", "+memory", "+pids"} {
			if err := write(dir, "cgroup.subtree_control", controller); err != nil {
				return err
			}
		}
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// weight is what version 2 has for shares, by the formula that runtimes use.
func weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

func orNone(limit int64) int64 {
	if limit <= 0 {
		return -1
	}
	return limit
}

// write sets one of the kernel's files, which must be there.
func write(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

// Find lists a cgroup's directories that are there: the one of version 2, those of version 1, or both.
func (f FS) Find(path string) []string {
	v1, _ := filepath.Glob(f.root + "/*" + filepath.Clean(path)) // The pattern is a good one.
	v2, _ := filepath.Glob(f.root + filepath.Clean(path))
	return append(v1, v2...)
}

// Remove removes a cgroup, and those below it, from every tree. unix.EBUSY: a process is still in one.
func (f FS) Remove(path string) error {
	var errs []error
	for _, dir := range f.Find(path) {
		errs = append(errs, remove(dir))
	}
	return errors.Join(errs...)
}

// remove removes a tree of cgroups bottom up. The files in them are the kernel's: only directories can be removed.
func remove(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}
