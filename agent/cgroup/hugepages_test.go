package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHugePages limits huge pages wherever the kernel counts them.
func TestHugePages(t *testing.T) {
	limits := HugePageLimits{{2 << 20, 4 << 20}, {1 << 30, 0}, {64 << 10, 1 << 20}}
	for name, tc := range map[string]struct {
		fs    FS
		file  string
		files map[string]string // Below the cgroup.
	}{
		"version 1": {tree(t, false, map[string]string{"hugetlb/pod/hugetlb.2MB.limit_in_bytes": "", "hugetlb/pod/hugetlb.1GB.limit_in_bytes": "",
			"hugetlb/pod/hugetlb.64KB.limit_in_bytes": ""}), "hugetlb/pod/hugetlb.%.limit_in_bytes", nil},
		"both": {tree(t, false, map[string]string{"unified/cgroup.controllers": "hugetlb\n", "unified/cgroup.subtree_control": "",
			"unified/pod/hugetlb.2MB.max": "", "unified/pod/hugetlb.1GB.max": "", "unified/pod/hugetlb.64KB.max": ""}), "unified/pod/hugetlb.%.max",
			map[string]string{"unified/cgroup.subtree_control": "+hugetlb"}},
		"version 2": {tree(t, true, map[string]string{"cgroup.controllers": "cpu hugetlb\n", "cgroup.subtree_control": "", "pod/hugetlb.2MB.max": "",
			"pod/hugetlb.2MB.rsvd.max": "", "pod/hugetlb.1GB.max": "", "pod/hugetlb.64KB.max": ""}), "pod/hugetlb.%.max",
			map[string]string{"pod/hugetlb.2MB.rsvd.max": "4194304"}},
		"not counted": {tree(t, true, map[string]string{"cgroup.controllers": "cpu\n"}), "", nil},
	} {
		if err := tc.fs.LimitHugePages("/pod", limits); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := map[string]string{}
		for file, text := range tc.files {
			want[file] = text
		}
		if dir, pattern := filepath.Split(tc.file); pattern != "" {
			for size, text := range map[string]string{"2MB": "4194304", "1GB": "0", "64KB": "1048576"} {
				want[dir+"hugetlb."+size+pattern[len("hugetlb.%"):]] = text
			}
		}
		for file, text := range want {
			if got, err := os.ReadFile(filepath.Join(tc.fs.root, file)); string(got) != text {
				t.Errorf("%s: %s holds %q (%v), want %q", name, file, got, err, text)
			}
		}
		if err := tc.fs.LimitHugePages("/none", HugePageLimits{}); err != nil || tc.fs.Has("/none") {
			t.Errorf("%s: a cgroup without limits: %v", name, err)
		}
	}
}
