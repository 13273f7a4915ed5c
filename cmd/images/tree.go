package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// maxFile bounds one file of a package, in bytes: all are held in memory.
const maxFile = 256 << 20

// tree is a root file system in memory: path without leading slash to file.
type tree map[string]file

type file struct {
	kind     byte   // tar.TypeReg, TypeDir or TypeSymlink.
	mode     int64  // Permission bits, with setuid and the like.
	uid, gid int    // The owner.
	target   string // Where a symlink points.
	data     []byte // What a regular file holds.
}

// merged are the directories that Debian moved into /usr; older packages still name them at the root.
var merged = [...]string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// newTree returns a root with the links and directories that no package brings.
func newTree() tree {
	t := tree{}
	for _, dir := range merged {
		t.dir("usr/"+dir, 0o755)
		t.link(dir, "usr/"+dir)
	}
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "var/log", "var/lib"} {
		t.dir(dir, 0o755)
	}
	t.dir("root", 0o700)
	t.dir("tmp", 0o1777)
	t.dir("var/tmp", 0o1777)
	return t
}

func (t tree) dir(name string, mode int64) { t[name] = file{kind: tar.TypeDir, mode: mode} }
func (t tree) link(name, target string) {
	t[name] = file{kind: tar.TypeSymlink, mode: 0o777, target: target}
}
func (t tree) write(name string, data []byte) {
	t[name] = file{kind: tar.TypeReg, mode: 0o644, data: data}
}
func (t tree) has(name string) bool { _, ok := t[name]; return ok }
func (t tree) remove(match func(string) bool) {
	maps.DeleteFunc(t, func(name string, _ file) bool { return match(name) })
}
func (t tree) names() []string { return slices.Sorted(maps.Keys(t)) }

// addPackage adds the files of a .deb.
func (t tree) addPackage(ctx context.Context, deb string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	read := t.addTar(out)
	io.Copy(io.Discard, out) // A writer that nobody reads would not end.
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb: %w: %s", err, firstLine(stderr.String()))
	}
	return read
}

// addTar adds what a tar holds. A hard link becomes a copy: a layer's order may not matter.
func (t tree) addTar(r io.Reader) error {
	for files := tar.NewReader(r); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := place(header.Name)
		f := file{kind: header.Typeflag, mode: header.Mode & 0o7777, uid: header.Uid, gid: header.Gid}
		switch header.Typeflag {
		case tar.TypeDir:
			if name == "" || t.has(name) { // Of a directory in several packages, the first counts.
				continue
			}
		case tar.TypeSymlink:
			f.target = header.Linkname
		case tar.TypeLink:
			target, ok := t[place(header.Linkname)]
			if !ok {
				return fmt.Errorf("%s is a hard link to %s, which is not there", name, header.Linkname)
			}
			f = target
		case tar.TypeReg:
			if header.Size > maxFile {
				return fmt.Errorf("%s has %d bytes, more than %d", name, header.Size, maxFile)
			}
			if f.data, err = io.ReadAll(files); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is of the unexpected tar type %q", name, header.Typeflag)
		}
		t[name] = f
	}
}

// place returns where in the tree a package's file goes.
func place(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	first, _, _ := strings.Cut(name, "/")
	if slices.Contains(merged[:], first) {
		return "usr/" + name
	}
	return name
}

// tar writes the tree, the same bytes for the same files.
func (t tree) tar(w io.Writer) error {
	out := tar.NewWriter(w)
	for _, name := range t.names() {
		f := t[name]
		header := &tar.Header{
			Name: name, Typeflag: f.kind, Mode: f.mode, Uid: f.uid, Gid: f.gid,
			Linkname: f.target, Size: int64(len(f.data)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}
		if f.kind == tar.TypeDir {
			header.Name += "/"
		}
		if err := out.WriteHeader(header); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := out.Write(f.data); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return out.Close()
}
