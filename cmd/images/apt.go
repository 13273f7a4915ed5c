package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// deb is one Debian package.
type deb struct {
	name    string
	version string
	file    string // As apt-get download names it.
}

// apt asks apt-get, for a machine on which nothing is installed yet. It needs no root: it reads the package lists of
// the host, and where these are missing or out of date it keeps lists of its own under dir.
type apt struct {
	dir string
}

func openApt(ctx context.Context) (*apt, error) {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, fmt.Errorf("images are made from Debian packages, but there is no %s here: "+
				"run this on Debian or Ubuntu and copy its *.tar files", tool)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	a := &apt{dir: filepath.Join(cache, "skiff", "apt")}
	if err := os.MkdirAll(filepath.Join(a.dir, "cache", "archives", "partial"), 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for apt: %w", err)
	}
	// The state of a machine with nothing on it.
	if err := os.WriteFile(filepath.Join(a.dir, "status"), nil, 0o644); err != nil {
		return nil, fmt.Errorf("make a directory for apt: %w", err)
	}
	return a, nil
}

// closure returns packages and all that they depend on, in the order of their names.
func (a *apt) closure(ctx context.Context, packages []string) ([]deb, error) {
	args := append([]string{"install", "--print-uris", "-qq", "-y", "--no-install-recommends"}, packages...)
	out, err := a.get(ctx, "", args...)
	if err != nil {
		if err := a.update(ctx); err != nil {
			return nil, err
		}
		if out, err = a.get(ctx, "", args...); err != nil {
			return nil, err
		}
	}
	return parseURIs(out)
}

// download fetches debs into dir. Where the archive no longer has one of them, the lists are old: they are read anew,
// and what is fetched, and returned, is the present versions.
func (a *apt) download(ctx context.Context, r recipe, debs []deb, dir string) ([]deb, error) {
	if _, err := a.get(ctx, dir, downloadArgs(debs)...); err == nil {
		return debs, nil
	}
	if err := a.update(ctx); err != nil {
		return nil, err
	}
	debs, err := a.closure(ctx, r.packages)
	if err != nil {
		return nil, err
	}
	debs = slices.DeleteFunc(debs, func(d deb) bool { return r.leavesOut(d.name) })
	_, err = a.get(ctx, dir, downloadArgs(debs)...)
	return debs, err
}

func downloadArgs(debs []deb) []string {
	args := []string{"download", "-qq"}
	for _, d := range debs {
		args = append(args, d.name+"="+d.version)
	}
	return args
}

// lists is where apt's own package lists are, once update made them.
func (a *apt) lists() string { return filepath.Join(a.dir, "lists") }

// update fetches package lists of our own, which from then on are used in place of the host's.
func (a *apt) update(ctx context.Context) error {
	_, missing := os.Stat(a.lists())
	if err := os.MkdirAll(filepath.Join(a.lists(), "partial"), 0o755); err != nil {
		return fmt.Errorf("make a directory for apt: %w", err)
	}
	_, err := a.get(ctx, "", "update", "-qq", "-o", "APT::Update::Error-Mode=any")
	if err != nil && missing != nil {
		os.RemoveAll(a.lists()) // Empty lists of our own must not hide the host's.
	}
	return err
}

// get runs apt-get in dir.
func (a *apt) get(ctx context.Context, dir string, args ...string) ([]byte, error) {
	options := []string{
		"-o", "Dir::State::status=" + filepath.Join(a.dir, "status"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "Dir::Cache::pkgcache=pkgcache.bin", // Debian's container image turns it off; with it we answer in half the time.
		"-o", "Dir::Cache::srcpkgcache=",
		"-o", "Debug::NoLocking=1",
		"-o", "APT::Sandbox::User=", // The user _apt cannot write where we download to.
	}
	if _, err := os.Stat(a.lists()); err == nil {
		options = append(options, "-o", "Dir::State::lists="+a.lists())
	}
	cmd := exec.CommandContext(ctx, "apt-get", append(options, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("apt-get %s: %w: %s", args[0], err, firstError(stderr.String()))
	}
	return stdout.Bytes(), nil
}

// firstError returns the line of apt's output that says what is wrong, which warnings may precede.
func firstError(output string) string {
	for line := range strings.Lines(output) {
		if text, ok := strings.CutPrefix(line, "E: "); ok {
			return strings.TrimSpace(text)
		}
	}
	return firstLine(output)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// parseURIs reads lines like 'http://mirror.example/.../zlib1g_1.2.13_amd64.deb' zlib1g_1%3a1.2.13_amd64.deb 86684 SHA256:...
func parseURIs(out []byte) ([]deb, error) {
	var debs []deb
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.HasPrefix(fields[0], "'") {
			continue
		}
		parts := strings.Split(strings.TrimSuffix(fields[1], ".deb"), "_")
		if len(parts) != 3 {
			return nil, fmt.Errorf("apt-get names a package file %q, not name_version_architecture.deb", fields[1])
		}
		version, err := url.PathUnescape(parts[1])
		if err != nil {
			return nil, fmt.Errorf("package file %q: %w", fields[1], err)
		}
		debs = append(debs, deb{name: parts[0], version: version, file: fields[1]})
	}
	if len(debs) == 0 {
		return nil, errors.New("apt-get answered with no package at all")
	}
	slices.SortFunc(debs, func(a, b deb) int { return strings.Compare(a.file, b.file) })
	return debs, nil
}

// source is this program: an image is made anew when what makes it has changed.
//
//go:embed *.go files
var source embed.FS

// fingerprint names all that an image depends on.
func fingerprint(debs []deb) (string, error) {
	sum := sha256.New()
	for _, d := range debs {
		fmt.Fprintln(sum, d.file)
	}
	err := fs.WalkDir(source, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := source.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(data), data)
		return err
	})
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}
