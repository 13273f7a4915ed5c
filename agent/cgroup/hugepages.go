package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// HugePages is how much of the huge pages of a size a cgroup may have, in bytes.
type HugePages struct{ Size, Limit int64 }

// HugePageLimits are those of all sizes that there are: on no architecture more than four. Of size 0: nothing is limited.
type HugePageLimits [4]HugePages

// LimitHugePages makes a cgroup, where it is not there, and limits its huge pages. Where the kernel does not count them nothing is
// limited, as Kubernetes has it. The controller alone may be in the tree of version 2 while all others are in those of version 1.
func (f FS) LimitHugePages(path string, limits HugePageLimits) error {
	if limits == (HugePageLimits{}) {
		return nil
	}
	dir, file, err := f.hugetlb(path)
	if err != nil {
		return fmt.Errorf("limit the huge pages of cgroup %s: %w", path, err)
	}
	if dir == "" {
		return nil
	}
	for _, l := range limits {
		if l.Size == 0 {
			continue
		}
		// What is reserved by a mapping, and what is used: the first has a mapping fail, the second its use.
		for _, kind := range []string{".rsvd.", "."} {
			err := write(dir, "hugetlb."+sizeName(l.Size)+kind+file, strconv.FormatInt(l.Limit, 10))
			if err != nil && !(kind == ".rsvd." && errors.Is(err, fs.ErrNotExist)) { // Older kernels do not count it.
				return fmt.Errorf("limit the huge pages of cgroup %s: %w", path, err)
			}
		}
	}
	return nil
}

// hugetlb makes a cgroup in the tree that counts huge pages, and says what its files of limits are called. No directory: none does.
func (f FS) hugetlb(path string) (dir, file string, err error) {
	const controller = "hugetlb"
	if dir := f.dir(controller, path); !f.unified {
		if _, err := os.Stat(filepath.Join(f.root, controller)); err == nil {
			return dir, "limit_in_bytes", os.MkdirAll(dir, 0o755)
		}
	}
	tree := f.root
	if !f.unified {
		tree = filepath.Join(f.root, "unified")
	}
	controllers, err := os.ReadFile(filepath.Join(tree, "cgroup.controllers"))
	if err != nil || !slices.Contains(strings.Fields(string(controllers)), controller) {
		return "", "", nil
	}
	return filepath.Join(tree, path), "max", enable(tree, path, "+"+controller)
}

// sizeName is what the kernel calls a size.
func sizeName(size int64) string {
	switch {
	case size >= 1<<30:
		return strconv.FormatInt(size>>30, 10) + "GB"
	case size >= 1<<20:
		return strconv.FormatInt(size>>20, 10) + "MB"
	}
	return strconv.FormatInt(size>>10, 10) + "KB"
}
