package agent

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A volume of files from the API looks like this, as in Kubernetes, so that all of its files change at one moment:
//
//	NAME -> ..data/NAME       what the container opens
//	..data -> ..1             replaced by rename when the object changes
//	..1/NAME                  the contents
const (
	dataLink    = "..data"
	dataLinkNew = "..data_new"
)

// writeVolume makes dir hold exactly files. It works through an [os.Root], so that nothing can be written elsewhere.
func writeVolume(dir string, files map[string]file, group *int64) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	current, _ := root.Readlink(dataLink)
	if current == "" || !sameFiles(root, current, files, group) {
		if current, err = replaceFiles(root, current, files, group); err != nil {
			return err
		}
	}
	// Also where nothing has changed: an agent may have been killed, or have found no room, when it came this far.
	return errors.Join(linkFiles(root, files), removeOld(root, current))
}

// replaceFiles has the volume show files, all of them or, after an error, what it showed before. It says where they are.
func replaceFiles(root *os.Root, current string, files map[string]file, group *int64) (next string, err error) {
	n, _ := strconv.Atoi(strings.TrimPrefix(current, ".."))
	next = ".." + strconv.Itoa(n+1)
	if err := root.RemoveAll(next); err != nil { // Left by an agent that was killed here.
		return "", err
	}
	err = writeFiles(root, next, files, group)
	if err == nil {
		err = root.RemoveAll(dataLinkNew)
	}
	if err == nil {
		err = root.Symlink(next, dataLinkNew)
	}
	if err == nil {
		err = root.Rename(dataLinkNew, dataLink)
	}
	if err != nil {
		return "", errors.Join(err, root.RemoveAll(next)) // Where the disk is full, it takes room from all.
	}
	return next, nil
}

// removeOld removes the contents that a volume had before.
func removeOld(root *os.Root, current string) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, "..") && name != dataLink && name != current {
			if err := root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeFiles(root *os.Root, dir string, files map[string]file, group *int64) error {
	if err := root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) { // One order, so that what hinders them is always the same.
		f, path := files[name], filepath.Join(dir, name)
		if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(path, f.content, 0o600); err != nil {
			return err
		}
		if err := root.Chown(path, id(f.owner), id(group)); err != nil {
			return err
		}
		if err := root.Chmod(path, groupMode(f.mode, group)); err != nil {
			return err
		}
	}
	return nil
}

// id is a user's or a group's for chown, where -1 leaves things as they are.
func id(of *int64) int {
	if of == nil {
		return -1
	}
	return int(*of)
}

// groupMode lets the pod's fsGroup read what the owner can read.
func groupMode(mode fs.FileMode, group *int64) fs.FileMode {
	if group != nil {
		mode |= 0o440
	}
	return mode
}

// linkFiles makes the names that containers open, and removes those that are gone.
func linkFiles(root *os.Root, files map[string]file) error {
	wanted := map[string]bool{}
	for path := range files {
		first, _, _ := strings.Cut(path, "/")
		wanted[first] = true
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !wanted[e.Name()] && !strings.HasPrefix(e.Name(), "..") {
			if err := root.Remove(e.Name()); err != nil {
				return err
			}
		}
		delete(wanted, e.Name())
	}
	for name := range wanted {
		if err := root.Symlink(filepath.Join(dataLink, name), name); err != nil {
			return err
		}
	}
	return nil
}

// sameFiles says whether dir holds exactly files.
func sameFiles(root *os.Root, dir string, files map[string]file, group *int64) bool {
	seen := 0
	err := fs.WalkDir(root.FS(), dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		seen++
		f, ok := files[strings.TrimPrefix(path, dir+"/")]
		info, err := e.Info()
		if err != nil || !ok || info.Mode().Perm() != groupMode(f.mode, group).Perm() {
			return fs.ErrInvalid
		}
		content, err := root.ReadFile(path)
		if err != nil || !bytes.Equal(content, f.content) {
			return fs.ErrInvalid
		}
		return nil
	})
	return err == nil && seen == len(files)
}
