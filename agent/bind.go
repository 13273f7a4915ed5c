package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// UnmountPods takes away what an agent with this DataDir has mounted for its pods. It must be done before DataDir is deleted: a
// part of a volume is a mount, through which the volume's own files would be deleted.
func UnmountPods(dataDir string) error { return UnmountBelow(dirs{data: dataDir}.pods()) }

// UnmountVolumes takes away what somebody, or a container that may, has mounted into the volumes that DataDir holds.
func UnmountVolumes(dataDir string) error { return UnmountBelow(dirs{data: dataDir}.localVolumes()) }

// UnmountBelow takes away every mount below some directories, the innermost first. The list of all mounts is read once for them: it is
// the longer the more pods there are.
func UnmountBelow(dirs ...string) error {
	var real []string
	for _, dir := range dirs {
		there, err := filepath.EvalSymlinks(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("find the mounts below %s: %w", dir, err)
		}
		real = append(real, there)
	}
	if len(real) == 0 {
		return nil
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("find the mounts below %s: %w", strings.Join(real, ", "), err)
	}
	for _, dir := range real {
		for _, path := range mountsBelow(string(info), dir) {
			if err := Unmount(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// mountsBelow lists the mount points below dir that a mountinfo file names, the last mounted first.
func mountsBelow(info, dir string) []string {
	var found []string
	for line := range strings.Lines(info) {
		fields := strings.SplitN(line, " ", 6)
		if len(fields) < 6 {
			continue
		}
		if path := unescapeMount(fields[4]); strings.HasPrefix(path, dir+"/") {
			found = append(found, path)
		}
	}
	slices.Reverse(found)
	return found
}

// unescapeMount reads a path as the kernel writes it there: blanks and backslashes in octal.
func unescapeMount(path string) string {
	for _, c := range []struct{ escaped, plain string }{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		path = strings.ReplaceAll(path, c.escaped, c.plain)
	}
	return path
}

// Unmount takes away what is mounted on path, if anything is. Processes that use it keep it until they end.
func Unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", path, err)
}

// mountOwn mounts a volume's own file system on dir, unless that is there already, and says whether it did.
func mountOwn(dir string, disk fileSystem) (mounted bool, err error) {
	var own, parent unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &own), unix.Stat(filepath.Dir(dir), &parent)); err != nil {
		return false, err
	}
	if own.Dev != parent.Dev {
		return false, nil
	}
	if err := unix.Mount(disk.kind, dir, disk.kind, unix.MS_NOSUID|unix.MS_NODEV, disk.options); err != nil {
		return false, fmt.Errorf("mount %s at %s: %w", disk.kind, dir, err)
	}
	return true, nil
}

// bindPart mounts the part of a volume that sub names on target. A part that is missing is made as a directory, like the
// volume's root. The kernel finds the part, once, and never outside of the volume: containers may change links meanwhile.
func bindPart(volume, sub, target string) error {
	part, err := openPart(volume, sub)
	if err != nil {
		return err
	}
	defer part.Close()
	info, err := part.Stat()
	if err != nil {
		return err
	}
	if err := Unmount(target); err != nil { // Left by a start that failed.
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if info.IsDir() {
		err = os.MkdirAll(target, 0o750)
	} else if err = os.MkdirAll(filepath.Dir(target), 0o750); err == nil {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return err
	}
	opened := fmt.Sprintf("/proc/self/fd/%d", part.Fd())
	if err := unix.Mount(opened, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", sub, err)
	}
	// A host's mounts are shared, as a rule: without this, what is unmounted here with the pod would be unmounted there too.
	if err := unix.Mount("", target, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return errors.Join(fmt.Errorf("part the mount of %s from the host's: %w", sub, err), Unmount(target))
	}
	return nil
}

// openPart opens sub, a path below volume, only to point at it.
func openPart(volume, sub string) (*os.File, error) {
	root, err := os.OpenRoot(volume)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if _, err := root.Stat(sub); errors.Is(err, fs.ErrNotExist) {
		if err := makePart(root, sub); err != nil {
			return nil, err
		}
	}
	return openPlace(volume, sub, unix.RESOLVE_BENEATH)
}

// openPlace opens what a path in a volume leads to without opening the thing itself (O_PATH). How the path is kept within the volume is
// the caller's choice: see openat2(2).
func openPlace(volume, path string, resolve uint64) (*os.File, error) {
	dir, err := os.Open(volume)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// makePart makes the directories of sub that are missing, with the mode of the root.
func makePart(root *os.Root, sub string) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	made := ""
	for name := range strings.SplitSeq(filepath.Clean(sub), "/") {
		made = filepath.Join(made, name)
		err := root.Mkdir(made, 0o750)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = root.Chmod(made, info.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)) // Mkdir's was cut by the umask.
		}
		if err != nil {
			return err
		}
	}
	return nil
}
