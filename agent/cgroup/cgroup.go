// Package cgroup reads what groups of processes use, and limits it. It speaks all forms that the kernel has: version 2, one
// tree for everything; version 1, a tree for each controller; and the mixture of both, where what matters here is in version 1.
//
// A cgroup is named by its path in the trees, "/skiff/burstable/UID", the same in each. Nothing is remembered: what is asked is
// read from the kernel then, at the cost of opening a few files. Whoever makes a cgroup removes it.
//
// In Kubernetes: pkg/kubelet/cm of the kubelet, and the parts of cAdvisor and runc's libcontainer that it uses. Left out:
// systemd's slices, device rules, CPU sets.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FS is where the trees are mounted.
type FS struct {
	root    string
	unified bool // Version 2 alone.
}

// Host is the machine's own.
func Host() FS {
	const root = "/sys/fs/cgroup"
	var disk unix.Statfs_t
	unified := unix.Statfs(root, &disk) == nil && disk.Type == unix.CGROUP2_SUPER_MAGIC
	return FS{root: root, unified: unified}
}

// Unified tells whether everything is in one tree, version 2.
func (f FS) Unified() bool { return f.unified }

// dir is a cgroup's directory as far as a controller sees it.
func (f FS) dir(controller, path string) string {
	if f.unified {
		return filepath.Join(f.root, path)
	}
	return filepath.Join(f.root, controller, path)
}

// Usage is what the processes of a cgroup, and of those below it, have used and hold.
type Usage struct {
	At         time.Time
	CPU        time.Duration // Since the cgroup was made.
	Memory     uint64        // Bytes, with the file cache.
	WorkingSet uint64        // Without the part of that cache which can go at once.
	RSS        uint64
	Swap       uint64
	Faults     uint64
	BigFaults  uint64 // Those that had to be read from disk.
	Limit      uint64 // Of memory; 0: none.
	Processes  uint64

	// Of a quota's periods: how many there were, in how many of them it was used up, and how long processes waited for the next.
	Periods, Throttled uint64
	Waited             time.Duration
}

// names are what the two versions call the same lines of memory.stat. Version 1 has a second line for the cgroups below.
var (
	names1 = statNames{"total_inactive_file", "total_rss", "total_swap", "total_pgfault", "total_pgmajfault"}
	names2 = statNames{"inactive_file", "anon", "swap", "pgfault", "pgmajfault"}
)

type statNames struct{ inactive, rss, swap, faults, bigFaults string }

// Usage reads what a cgroup uses. fs.ErrNotExist: there is no such cgroup.
func (f FS) Usage(path string) (Usage, error) {
	u := Usage{At: time.Now()}
	read := f.usage1
	if f.unified {
		read = f.usage2
	}
	if err := read(path, &u); err != nil {
		return u, fmt.Errorf("read what cgroup %s uses: %w", path, err)
	}
	return u, nil
}

func (f FS) usage1(path string, u *Usage) error {
	nanoseconds, err := readNumber(filepath.Join(f.dir("cpuacct", path), "cpuacct.usage"))
	if err != nil {
		return err
	}
	u.CPU = time.Duration(nanoseconds)
	memory := f.dir("memory", path)
	if u.Memory, err = readNumber(filepath.Join(memory, "memory.usage_in_bytes")); err != nil {
		return err
	}
	if limit, err := readNumber(filepath.Join(memory, "memory.limit_in_bytes")); err == nil && limit < 1<<60 { // Without a limit it is near 2^63.
		u.Limit = limit
	}
	u.Processes, _ = readNumber(filepath.Join(f.dir("pids", path), "pids.current"))
	if cpu, err := readStat(filepath.Join(f.dir("cpu", path), "cpu.stat")); err == nil {
		u.Periods, u.Throttled, u.Waited = cpu["nr_periods"], cpu["nr_throttled"], time.Duration(cpu["throttled_time"])
	}
	return u.stat(filepath.Join(memory, "memory.stat"), names1)
}

func (f FS) usage2(path string, u *Usage) error {
	dir := f.dir("", path)
	cpu, err := readStat(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return err
	}
	u.CPU = time.Duration(cpu["usage_usec"]) * time.Microsecond
	u.Periods, u.Throttled, u.Waited = cpu["nr_periods"], cpu["nr_throttled"], time.Duration(cpu["throttled_usec"])*time.Microsecond
	if u.Memory, err = readNumber(filepath.Join(dir, "memory.current")); errors.Is(err, fs.ErrNotExist) && filepath.Clean(path) == "/" {
		u.Memory, err = memoryInUse() // The root has no such file.
	}
	if err != nil {
		return err
	}
	u.Limit, _ = readNumber(filepath.Join(dir, "memory.max")) // "max" is no number: no limit.
	u.Swap, _ = readNumber(filepath.Join(dir, "memory.swap.current"))
	u.Processes, _ = readNumber(filepath.Join(dir, "pids.current"))
	swap := u.Swap
	err = u.stat(filepath.Join(dir, "memory.stat"), names2)
	u.Swap = swap
	return err
}

// stat reads what is in memory.stat only.
func (u *Usage) stat(file string, names statNames) error {
	stat, err := readStat(file)
	if err != nil {
		return err
	}
	u.WorkingSet = u.Memory - min(u.Memory, stat[names.inactive])
	u.RSS, u.Swap = stat[names.rss], stat[names.swap]
	u.Faults, u.BigFaults = stat[names.faults], stat[names.bigFaults]
	return nil
}

// OOMKilled tells whether the kernel has killed a process of a cgroup for its memory.
func (f FS) OOMKilled(path string) bool {
	file := "memory.oom_control"
	if f.unified {
		file = "memory.events"
	}
	stat, err := readStat(filepath.Join(f.dir("memory", path), file))
	return err == nil && stat["oom_kill"] > 0
}

// Processes lists the processes that are in a cgroup itself.
func (f FS) Processes(path string) []int {
	text, err := os.ReadFile(filepath.Join(f.dir("memory", path), "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, word := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// memoryInUse is what the machine uses, file cache and all.
func memoryInUse() (uint64, error) {
	info, err := readStat("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return (info["MemTotal:"] - info["MemFree:"]) * 1024, nil
}

// readNumber reads a file that is one number.
func readNumber(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// readStat reads a file of lines with a name and a number.
func readStat(file string) (map[string]uint64, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat := map[string]uint64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(words[1], 10, 64); err == nil {
			stat[words[0]] = n
		}
	}
	return stat, lines.Err()
}
