package agent

import (
	"io/fs"
	"os"
	"syscall"

	v1 "k8s.io/api/core/v1"
)

// giveToGroup lets a group read, and unless readOnly write, all that is in a volume; what is made there later belongs to it
// too. With the policy OnRootMismatch a volume whose root is so already is taken to be so as a whole. Everything goes through an
// [os.Root]: another pod may be at work in the volume, and change links meanwhile.
// https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods
func giveToGroup(dir string, group int, readOnly bool, policy *v1.PodFSGroupChangePolicy) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	add := fs.FileMode(0o660)
	if readOnly {
		add = 0o440
	}
	if policy != nil && *policy == v1.FSGroupChangeOnRootMismatch {
		info, err := root.Stat(".")
		if err != nil {
			return err
		}
		if wanted := add | fs.ModeSetgid | 0o110; groupOf(info) == group && info.Mode()&wanted == wanted {
			return nil
		}
	}
	return fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return unlessGone(err)
		}
		return unlessGone(giveFile(root, path, e, group, add))
	})
}

func giveFile(root *os.Root, path string, e fs.DirEntry, group int, add fs.FileMode) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	if groupOf(info) != group {
		if err := root.Lchown(path, -1, group); err != nil {
			return err
		}
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	if info.IsDir() {
		add |= fs.ModeSetgid | 0o110
	}
	const all = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	return root.Chmod(path, info.Mode()&all|add)
}

func groupOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Gid)
	}
	return -1
}

// unlessGone forgives that a file went while it was looked at.
func unlessGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
