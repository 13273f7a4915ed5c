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

	HugePages HugePageLimits // Of a size that is not named they stay as they are.
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
	return f.LimitHugePages(path, l.HugePages)
}

func (f FS) set1(path string, l Limits) error {
	cpu, memory := f.dir("cpu", path), f.dir("memory", path)
	for _, controller := range []string{firstMade, "cpuacct", "memory", "pids"} { // Where it is limited, and where it is counted.
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
	if err := enable(f.root, path, "+cpu", "+memory", "+pids"); err != nil {
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

// enable makes a cgroup in a tree of version 2 and has the controllers reach down to it.
func enable(tree, path string, controllers ...string) error {
	dir := tree
	for _, name := range strings.Split(strings.Trim(filepath.Clean(path), "/"), "/") {
		for _, controller := range controllers {
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

// Find lists the directories, in all trees, of a cgroup or of those that a pattern matches.
func (f FS) Find(path string) []string {
	var dirs []string
	for _, tree := range f.trees() {
		matches, _ := filepath.Glob(tree + filepath.Clean(path)) // The pattern is a good one.
		dirs = append(dirs, matches...)
	}
	return dirs
}

// Below names the cgroups right below one.
func (f FS) Below(path string) (names []string) {
	entries, _ := os.ReadDir(f.dir(firstMade, path))
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// Has tells whether a cgroup is there that Set has made.
func (f FS) Has(path string) bool {
	_, err := os.Lstat(f.dir(firstMade, path))
	return err == nil
}

// firstMade is the tree in which a cgroup is made first and removed last.
const firstMade = "cpu"

// trees are the directories that a path begins in, the last one the tree of firstMade, which may go by a second name: "cpu,cpuacct".
func (f FS) trees() []string {
	if f.unified {
		return []string{f.root}
	}
	var trees []string
	last := filepath.Join(f.root, firstMade)
	if real, err := filepath.EvalSymlinks(last); err == nil {
		last = real
	}
	entries, _ := os.ReadDir(f.root) // Without any there is nothing in them.
	for _, e := range entries {
		if tree := filepath.Join(f.root, e.Name()); e.IsDir() && tree != last {
			trees = append(trees, tree)
		}
	}
	return append(trees, last)
}

// Remove removes a cgroup, and those below it, from every tree. unix.EBUSY: a process is still in one.
func (f FS) Remove(path string) error {
	var err error
	trees := f.trees()
	for i, tree := range trees {
		if err != nil && i == len(trees)-1 {
			break // By the last one the others are found again.
		}
		err = errors.Join(err, remove(filepath.Join(tree, path)))
	}
	return err
}

// remove removes a tree of cgroups bottom up. The files in them are the kernel's: only directories can be removed.
func remove(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
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
