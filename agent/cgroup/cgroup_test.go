package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// tree makes files as the kernel shows them.
func tree(t *testing.T, unified bool, files map[string]string) FS {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return FS{root: root, unified: unified}
}

// TestUsage reads both versions' files to the same numbers.
func TestUsage(t *testing.T) {
	want := Usage{CPU: 1500 * time.Microsecond, Memory: 1000, WorkingSet: 900, RSS: 500, Swap: 3, Faults: 7, BigFaults: 2, Limit: 4096, Processes: 5,
		Periods: 10, Throttled: 4, Waited: 2 * time.Microsecond}
	for name, f := range map[string]FS{
		"version 1": tree(t, false, map[string]string{
			"cpuacct/pod/cpuacct.usage": "1500000\n", "memory/pod/memory.usage_in_bytes": "1000\n", "memory/pod/memory.limit_in_bytes": "4096\n",
			"memory/pod/memory.stat": "inactive_file 1\ntotal_inactive_file 100\ntotal_rss 500\ntotal_swap 3\ntotal_pgfault 7\ntotal_pgmajfault 2\n",
			"pids/pod/pids.current":  "5\n",
			"cpu/pod/cpu.stat":       "nr_periods 10\nnr_throttled 4\nthrottled_time 2000\n",
		}),
		"version 2": tree(t, true, map[string]string{
			"pod/cpu.stat": "usage_usec 1500\nuser_usec 1000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 2\n", "pod/memory.current": "1000\n", "pod/memory.max": "4096\n", "pod/memory.swap.current": "3\n",
			"pod/memory.stat": "anon 500\ninactive_file 100\npgfault 7\npgmajfault 2\n", "pod/pids.current": "5\n",
		}),
	} {
		got, err := f.Usage("/pod")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Usage{}, "At")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if _, err := f.Usage("/none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a cgroup that is not there: %v", name, err)
		}
	}
}

// TestNoLimit knows the two versions' words for none.
func TestNoLimit(t *testing.T) {
	for _, f := range []FS{
		tree(t, false, map[string]string{"cpuacct/p/cpuacct.usage": "0", "memory/p/memory.usage_in_bytes": "0", "memory/p/memory.stat": "", "memory/p/memory.limit_in_bytes": "9223372036854771712"}),
		tree(t, true, map[string]string{"p/cpu.stat": "", "p/memory.current": "0", "p/memory.stat": "", "p/memory.max": "max"}),
	} {
		if u, err := f.Usage("p"); err != nil || u.Limit != 0 {
			t.Errorf("version 2 %t: limit %d, %v", f.unified, u.Limit, err)
		}
	}
}

// TestSet writes a pod's limits the way each version wants them, and takes them off again.
func TestSet(t *testing.T) {
	limits := Limits{CPUShares: 512, CPUQuota: 50000, CPUPeriod: 100000, Memory: 1 << 20}
	v1 := tree(t, false, map[string]string{
		"cpu/pod/cpu.shares": "", "cpu/pod/cpu.cfs_period_us": "", "cpu/pod/cpu.cfs_quota_us": "", "memory/pod/memory.limit_in_bytes": "",
	})
	v2 := tree(t, true, map[string]string{"cgroup.subtree_control": "", "pod/cpu.weight": "", "pod/cpu.max": "", "pod/memory.max": ""})
	for _, step := range []struct {
		limits Limits
		want   map[string]string // By file; what is written over is as long, or longer.
	}{
		{limits, map[string]string{
			"cpu/pod/cpu.shares": "512", "cpu/pod/cpu.cfs_quota_us": "50000", "memory/pod/memory.limit_in_bytes": "1048576",
			"pod/cpu.weight": "20", "pod/cpu.max": "50000 100000", "pod/memory.max": "1048576",
		}},
	} {
		if err := errors.Join(v1.Set("/pod", step.limits), v2.Set("/pod", step.limits)); err != nil {
			t.Fatal(err)
		}
		for name, want := range step.want {
			root := v1.root
			if filepath.Dir(name) == "pod" {
				root = v2.root
			}
			if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v; want %q", name, got, err, want)
			}
		}
	}
}

// TestHost makes a cgroup on the machine itself, limits it, changes its limits both ways, and removes it.
func TestHost(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a cgroup")
	}
	const path = "/skiff-cgroup-test/pod"
	f := Host()
	t.Cleanup(func() {
		if err := f.Remove("/skiff-cgroup-test"); err != nil {
			t.Error(err)
		}
		if left := f.Find("/skiff-cgroup-test"); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	})
	for _, memory := range []int64{64 << 20, 128 << 20, 32 << 20, 0} {
		if err := f.Set(path, Limits{CPUShares: 256, CPUQuota: 20000, CPUPeriod: 100000, Memory: memory}); err != nil {
			t.Fatal(err)
		}
		if u, err := f.Usage(path); err != nil || u.Limit != uint64(memory) {
			t.Errorf("limit %d, %v; want %d", u.Limit, err, memory)
		}
	}
}

// TestTrees removes last from the tree that tells whether a cgroup is there.
func TestTrees(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"cpu,cpuacct/skiff/group/pod", "memory/skiff/group/pod", "freezer/skiff/group/pod/container"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, alias := range []string{"cpu", "cpuacct"} {
		if err := os.Symlink("cpu,cpuacct", filepath.Join(root, alias)); err != nil {
			t.Fatal(err)
		}
	}
	f := FS{root: root}
	trees := []string{filepath.Join(root, "freezer"), filepath.Join(root, "memory"), filepath.Join(root, "cpu,cpuacct")}
	if diff := cmp.Diff(trees, f.trees()); diff != "" {
		t.Errorf("the trees (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"group"}, f.Below("/skiff")); diff != "" || !f.Has("/skiff/group/pod") {
		t.Errorf("below /skiff (-want +got):\n%s, the pod is there: %t", diff, f.Has("/skiff/group/pod"))
	}
	if err := f.Remove("/skiff/group/pod"); err != nil || f.Has("/skiff/group/pod") {
		t.Errorf("remove: %v, it is there: %t", err, f.Has("/skiff/group/pod"))
	}
	if left := f.Find("/skiff/*/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestSmallerThanTheDead lets a cgroup have less than one in it had whose processes have ended.
func TestSmallerThanTheDead(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a cgroup")
	}
	const path = "/skiff-cgroup-test-dead"
	f := Host()
	t.Cleanup(func() {
		if err := f.Remove(path); err != nil {
			t.Error(err)
		}
	})
	for _, step := range []struct {
		path  string
		quota int64
	}{{path, 20000}, {path + "/dead", 20000}, {path, 10000}} {
		if err := f.Set(step.path, Limits{CPUQuota: step.quota, CPUPeriod: 100000}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRemoveBrokenOff leaves a cgroup that could not be removed from one tree where the next try finds it.
func TestRemoveBrokenOff(t *testing.T) {
	f := tree(t, false, map[string]string{"memory/pod/busy/file": "", "pids/pod/file": "", "freezer/pod/file": ""})
	for _, dir := range []string{"cpu/pod", "cpuset/pod"} {
		if err := os.MkdirAll(filepath.Join(f.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Remove("/pod"); err == nil {
		t.Error("what is in use was removed")
	}
	if !f.Has("/pod") {
		t.Error("the cgroup is gone from the tree that it is found by, and not from others")
	}
	if _, err := os.Stat(filepath.Join(f.root, "cpuset/pod")); err == nil {
		t.Error("one that could be removed is left")
	}
}
