package containerd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// layers are the directories that a root file system is put together from, the topmost first. Single files are read out of
// them without a mount, which somebody would have to take away again.
type layers []string

// layersOf finds the layers in what a snapshotter would have mounted.
func layersOf(mounts []mount.Mount) (layers, error) {
	if len(mounts) != 1 {
		return nil, fmt.Errorf("a snapshot of %d mounts, want one", len(mounts))
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		return layers{m.Source}, nil
	case "overlay":
		var all layers
		for _, option := range m.Options {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				all = slices.Insert(all, 0, upper)
			}
			if lower, ok := strings.CutPrefix(option, "lowerdir="); ok {
				all = append(all, strings.Split(lower, ":")...)
			}
		}
		return all, nil
	default:
		return nil, fmt.Errorf("a snapshot of type %s, want overlay or bind", m.Type)
	}
}

// Bounds of what an image can make us do.
const (
	maxLinks    = 40      // Symbolic links on the way to a file, as in Linux.
	maxUserFile = 1 << 20 // Bytes of /etc/passwd and /etc/group.
)

// read returns a file of the whole, "etc/passwd", or fs.ErrNotExist. Symbolic links lead to where they would lead in the
// container, never out of it.
func (l layers) read(name string) ([]byte, error) {
	_, file, err := l.resolve(name)
	if err != nil {
		return nil, fmt.Errorf("read /%s of the image: %w", name, err)
	}
	return readRegular(file)
}

// resolve follows the links on the way to a file, and says what it is called by itself and where it lies.
func (l layers) resolve(name string) (real, file string, err error) {
	for range maxLinks {
		file, link, err := l.find(name)
		if err != nil || link == "" {
			return name, file, err
		}
		name = link
	}
	return "", "", unix.ELOOP
}

// dir is the directory of that name as layers: the parts that it is put together from. Links are followed as in read; of what is not
// there there are none.
func (l layers) dir(name string) (layers, error) {
	real, _, err := l.resolve(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for part := range strings.SplitSeq(real, "/") {
		if l, err = l.below(part); err != nil {
			return nil, err
		}
	}
	if len(l) == 0 {
		return nil, unix.ENOTDIR
	}
	return l, nil
}

// below is dir for a name in the uppermost directory that is no link. What is no directory in one layer, the mark of a removed file
// among it, hides those of the lower ones, and none of them is seen if it is the first.
func (l layers) below(name string) (parts layers, err error) {
	for _, layer := range l {
		at := filepath.Join(layer, name)
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, err
		case !info.IsDir():
			return parts, nil
		}
		parts = append(parts, at)
		if opaque(at) {
			return parts, nil
		}
	}
	return parts, nil
}

// find says where a file lies: in the topmost layer that has it. If a symbolic link is on the way, it returns the name that
// it leads to instead.
func (l layers) find(name string) (file, link string, err error) {
	parts := strings.Split(name, "/")
	for _, layer := range l {
		at := layer
		for i, part := range parts {
			above := at
			at = filepath.Join(at, part)
			info, err := os.Lstat(at)
			if errors.Is(err, fs.ErrNotExist) {
				if i > 0 && opaque(above) {
					return "", "", fs.ErrNotExist
				}
				break // Perhaps a lower layer has it.
			}
			switch {
			case errors.Is(err, unix.ENOTDIR):
				return "", "", fs.ErrNotExist
			case err != nil:
				return "", "", err
			case whiteout(info):
				return "", "", fs.ErrNotExist
			case info.Mode()&fs.ModeSymlink != 0:
				link, err := follow(at, parts[:i], parts[i+1:])
				return "", link, err
			case i == len(parts)-1:
				return at, "", nil
			}
		}
	}
	return "", "", fs.ErrNotExist
}

// follow returns the name that a link in the directory dir leads to, with what comes after it.
func follow(file string, dir, rest []string) (string, error) {
	target, err := os.Readlink(file)
	if err != nil {
		return "", err
	}
	if !path.IsAbs(target) {
		target = path.Join(path.Join(dir...), target)
	}
	return strings.TrimPrefix(path.Join("/", target, path.Join(rest...)), "/"), nil
}

// whiteout tells the mark of a file that an upper layer has removed.
// https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories
func whiteout(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return info.Mode()&fs.ModeCharDevice != 0 && ok && stat.Rdev == 0
}

// opaque tells a directory that hides those of its name below it.
func opaque(dir string) bool {
	value := make([]byte, 1)
	n, err := unix.Lgetxattr(dir, "trusted.overlay.opaque", value)
	return err == nil && n == 1 && value[0] == 'y'
}

func readRegular(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", file)
	case info.Size() > maxUserFile:
		return nil, fmt.Errorf("%s is larger than %d bytes", file, maxUserFile)
	}
	return io.ReadAll(io.LimitReader(f, maxUserFile))
}
