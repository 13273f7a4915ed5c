package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

// A container with users of its own sees the image's files and its volumes by mounts whose owners the kernel translates (idmapped
// mounts, from Linux 5.19 on for what lies below an overlay, 6.3 on for tmpfs). They are made here and given to the runtime as
// ordinary ones, so that no runtime has to know of them, and are only needed until the container has started: it holds them by itself
// then.

// userMounts are the mounts of one container.
type userMounts struct {
	dir   string
	first uint32
	ns    *os.File
	made  []string
}

// userMounts begins a container's; nil if it has the host's users.
func (r *Runtime) userMounts(id string, c agent.ContainerConfig) (*userMounts, error) {
	if c.UserNS == "" {
		return nil, nil
	}
	ns, err := os.Open(c.UserNS)
	if err != nil {
		return nil, fmt.Errorf("open the pod's users: %w", err)
	}
	m := &userMounts{dir: filepath.Join(r.usersDir(), id), first: c.FirstUser, ns: ns}
	err = errors.Join(os.MkdirAll(r.usersDir(), 0o700), os.Chmod(r.usersDir(), 0o700), os.MkdirAll(m.dir, 0o700)) // An older skiff made it open.
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return m, nil
}

// usersDir is root's alone: the directories above it are open to all, and what is mounted in it is not, where it comes from.
func (r *Runtime) usersDir() string { return filepath.Join(r.config.RunDir, "users") }

// show mounts a directory or file as the container's users are to see it, and says where.
func (m *userMounts) show(source string) (string, error) {
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return "", fmt.Errorf("mount %s: %w", source, err)
	}
	defer unix.Close(tree)
	translate := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(m.ns.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &translate); err != nil {
		return "", fmt.Errorf("kernel or file system cannot show the files of %s to users of a pod's own: %w", source, err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(tree, &stat); err != nil {
		return "", fmt.Errorf("mount %s: %w", source, err)
	}
	target := filepath.Join(m.dir, strconv.Itoa(len(m.made)))
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o711)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	m.made = append(m.made, target)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return "", fmt.Errorf("mount %s: %w", source, err)
	}
	return target, nil
}

// volumes are the container's mounts, shown to its users.
func (m *userMounts) volumes(mounts []agent.Mount) ([]agent.Mount, error) {
	if m == nil {
		return mounts, nil
	}
	shown := slices.Clone(mounts)
	for i := range shown {
		source, err := m.show(shown[i].Source)
		if err != nil {
			return nil, err
		}
		shown[i].Source = source
	}
	return shown, nil
}

// root is the container's root file system, shown to its users: each layer by itself, for an overlay as a whole cannot be. What the
// container writes is its users' at once, so the layer that it writes to must be root's, their root's.
func (m *userMounts) root(mounts []mount.Mount) ([]mount.Mount, error) {
	if m == nil {
		return mounts, nil
	}
	shown := slices.Clone(mounts)
	for i := range shown {
		var err error
		if shown[i].Type == "bind" {
			shown[i].Source, err = m.show(shown[i].Source)
		} else {
			shown[i].Options, err = m.layers(shown[i].Options)
		}
		if err != nil {
			return nil, err
		}
	}
	return shown, nil
}

func (m *userMounts) layers(options []string) ([]string, error) {
	shown := slices.Clone(options)
	for i, option := range shown {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			if err := os.Chown(upper, int(m.first), int(m.first)); err != nil {
				return nil, err
			}
		}
		lower, ok := strings.CutPrefix(option, "lowerdir=")
		if !ok {
			continue
		}
		dirs := strings.Split(lower, ":")
		for j := range dirs {
			var err error
			if dirs[j], err = m.show(dirs[j]); err != nil {
				return nil, err
			}
		}
		shown[i] = "lowerdir=" + strings.Join(dirs, ":")
	}
	return shown, nil
}

// close takes the mounts away.
func (m *userMounts) close() error {
	if m == nil {
		return nil
	}
	return errors.Join(m.ns.Close(), clearUserMounts(m.dir))
}

// clearUserMounts removes the mount points in a directory. Never what is in them: only what nothing is mounted on can be removed by
// these calls, and a directory only if it is empty.
func clearUserMounts(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if err := unmountView(path); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

// unmountView takes away what show has mounted. A host's mounts are shared, as a rule, and the mounts within a view are unmounted
// one by one: each of them would be unmounted on the host too, if the view were not parted from the host's first. Not before: what a
// container with Bidirectional propagation mounts goes to the host by way of the view.
func unmountView(path string) error {
	err := unix.Mount("", path, "", unix.MS_SLAVE|unix.MS_REC, "")
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // Nothing is mounted there.
		return nil
	case err != nil:
		return fmt.Errorf("part the mounts of %s from the host's: %w", path, err)
	}
	return agent.Unmount(path)
}

// clearUserMounts removes those that a killed process left.
func (r *Runtime) clearUserMounts() error {
	entries, _ := os.ReadDir(r.usersDir()) // None before the first container with users.
	var errs []error
	for _, e := range entries {
		errs = append(errs, clearUserMounts(filepath.Join(r.usersDir(), e.Name())))
	}
	return errors.Join(errs...)
}

// ownUsers puts a container into the namespace of its pod's users.
func ownUsers(s *specs.Spec, path string, first uint32) {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: agent.UsersPerPod}}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: path})
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
}
