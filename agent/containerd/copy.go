package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/continuity/sysx"
	"golang.org/x/sys/unix"
)

// copyPart is how much of a file is copied before it is looked whether somebody still wants it.
const copyPart = 64 << 20

// copier copies a directory that is put together from layers, with owners, modes, times and extended attributes.
type copier struct {
	ctx   context.Context
	to    *os.Root
	links map[inode]string // Of files with several names, the first that was copied.
}

type inode struct{ dev, number uint64 }

// copyTo copies a directory of layers into a directory that is there and empty.
func (l layers) copyTo(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	c := copier{ctx, root, map[inode]string{}}
	return c.dir(l, ".")
}

// dir copies what is in a directory, and then what is to be said of the directory itself: what comes into it changes its times.
func (c *copier) dir(from layers, name string) error {
	seen := map[string]bool{}
	for _, layer := range from {
		entries, err := os.ReadDir(layer)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if seen[e.Name()] {
				continue
			}
			seen[e.Name()] = true
			if err := c.entry(from, filepath.Join(layer, e.Name()), path.Join(name, e.Name())); err != nil {
				return err
			}
		}
	}
	info, err := os.Lstat(from[0])
	if err != nil {
		return err
	}
	return c.describe(from[0], name, info)
}

// entry copies what is called name from the uppermost layer that has it.
func (c *copier) entry(parent layers, file, name string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	switch mode := info.Mode(); {
	case whiteout(info):
		return nil
	case mode.IsDir():
		below, err := parent.below(path.Base(name))
		if err == nil {
			err = c.to.Mkdir(name, 0o700)
		}
		if err != nil {
			return err
		}
		return c.dir(below, name)
	case mode.IsRegular():
		if linked, err := c.link(name, info); linked || err != nil {
			return err
		}
		err = c.file(file, name)
	case mode&fs.ModeSymlink != 0:
		err = c.symlink(file, name)
	default:
		err = c.node(name, info)
	}
	if err != nil {
		return err
	}
	return c.describe(file, name, info)
}

// link gives a file that was copied before another name.
func (c *copier) link(name string, info fs.FileInfo) (bool, error) {
	stat := info.Sys().(*syscall.Stat_t)
	if stat.Nlink < 2 {
		return false, nil
	}
	id := inode{stat.Dev, stat.Ino}
	if first, ok := c.links[id]; ok {
		return true, c.to.Link(first, name)
	}
	c.links[id] = name
	return false, nil
}

func (c *copier) file(file, name string) error {
	from, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := c.to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	for err == nil {
		if _, err = io.CopyN(to, from, copyPart); err == nil { // The kernel copies, and shares the blocks where the file system can.
			err = c.ctx.Err()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, to.Close())
}

func (c *copier) symlink(file, name string) error {
	target, err := os.Readlink(file)
	if err != nil {
		return err
	}
	return c.to.Symlink(target, name)
}

// node makes a device or a FIFO.
func (c *copier) node(name string, info fs.FileInfo) error {
	dir, err := c.to.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	stat := info.Sys().(*syscall.Stat_t)
	if err := unix.Mknodat(int(dir.Fd()), path.Base(name), stat.Mode&unix.S_IFMT|0o600, int(stat.Rdev)); err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return nil
}

// describe gives a copy what is said of the original. The owner first: a change of it takes other things away.
func (c *copier) describe(file, name string, info fs.FileInfo) error {
	stat := info.Sys().(*syscall.Stat_t)
	if err := c.to.Lchown(name, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	if err := c.to.Chmod(name, info.Mode()); err != nil {
		return err
	}
	if info.Mode().IsDir() || info.Mode().IsRegular() {
		if err := c.attributes(file, name); err != nil {
			return err
		}
	}
	return c.to.Chtimes(name, info.ModTime(), info.ModTime())
}

// attributes copies the extended ones, but for the overlay's own. A file system that has none gets none.
func (c *copier) attributes(file, name string) error {
	all, err := sysx.LListxattr(file)
	if err != nil || len(all) == 0 {
		return ignoreUnsupported(err)
	}
	to, err := c.to.Open(name)
	if err != nil {
		return err
	}
	defer to.Close()
	for _, attribute := range all {
		if strings.HasPrefix(attribute, "trusted.overlay.") {
			continue
		}
		value, err := sysx.LGetxattr(file, attribute)
		if err == nil {
			err = unix.Fsetxattr(int(to.Fd()), attribute, value, 0)
		}
		if err := ignoreUnsupported(err); err != nil {
			return fmt.Errorf("copy the attribute %s of %s: %w", attribute, name, err)
		}
	}
	return nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}
