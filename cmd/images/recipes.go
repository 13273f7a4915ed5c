package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// recipe is one image: the packages, what to leave out of them, what to add, and how the image starts.
type recipe struct {
	name     string
	packages []string
	without  []string // Patterns of packages that only an installed system needs.
	finish   func(context.Context, tree) error
	config   v1.Config
}

// ref is the name that a manifest's "image: nginx" means.
func (r recipe) ref() string { return "docker.io/library/" + r.name + ":latest" }

// leavesOut reports whether the package stays out although another depends on it.
func (r recipe) leavesOut(name string) bool { return matches(r.without, name) }

func matches(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, err := path.Match(pattern, name); err == nil && ok {
			return true
		}
	}
	return false
}

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func recipes() []recipe {
	return []recipe{
		{
			name: "nginx",
			packages: []string{
				"nginx", "libnginx-mod-stream", "curl", // What the image is for, and what one looks at it with.
				"base-files", "base-passwd", "ncurses-base", // /etc/os-release, users, terminals.
				"bash", "coreutils", "dash", "grep", "libc-bin", "procps", "sed", // Comfort for kubectl exec.
				"busybox-static", // And small versions of everything else: vi, nslookup, ip, nc, less.
			},
			without: []string{"perl*", "lib*perl*", "usrmerge", "debconf", "dpkg", "init-system-helpers", "iproute2", "libcap2-bin", "mawk", "tar"},
			finish:  finishNginx,
			config: v1.Config{
				Cmd:          []string{"nginx", "-g", "daemon off;"},
				Env:          []string{searchPath},
				ExposedPorts: map[string]struct{}{"80/tcp": {}},
				StopSignal:   "SIGQUIT", // nginx finishes what it serves, then ends.
			},
		},
		{
			name:     "busybox",
			packages: []string{"base-passwd", "busybox-static"},
			without:  []string{"debconf", "gcc-*", "libc6", "libcrypt1", "libdebconfclient0", "libgcc-s1", "libpcre2-*", "libselinux1", "perl-base"},
			finish:   finishBusybox,
			config:   v1.Config{Cmd: []string{"sh"}, Env: []string{searchPath}},
		},
		{
			name: "resolver",
			packages: []string{
				"bind9-dnsutils", "libc-bin", // dig, and getent for glibc's resolver.
				"base-passwd", "busybox-static", "musl-dev",
			},
			without: []string{"debconf", "perl*", "lib*perl*", "linux-libc-dev", "gcc*", "cpp*", "binutils*", "libgcc-*-dev", "libgprofng*"}, // gcc is the host's.
			finish:  finishResolver,
			config:  v1.Config{Cmd: []string{"sleep", "infinity"}, Env: []string{searchPath}},
		},
	}
}

func finishNginx(ctx context.Context, root tree) error {
	root.remove(func(name string) bool {
		return underAny(name, "etc/nginx/sites-available", "etc/nginx/sites-enabled", "etc/nginx/modules-available",
			"etc/nginx/modules-enabled", "var/www")
	})
	for name, in := range map[string]string{"etc/nginx/nginx.conf": "files/nginx.conf", "etc/nginx/conf.d/default.conf": "files/default.conf"} {
		data, err := source.ReadFile(in)
		if err != nil {
			return err
		}
		root.write(name, data)
	}
	root.dir("var/log/nginx", 0o755)
	root.link("var/log/nginx/access.log", "/dev/stdout") // So kubectl logs shows them.
	root.link("var/log/nginx/error.log", "/dev/stderr")
	root.link("usr/bin/sh", "dash")
	return finishDebian(ctx, root)
}

func finishBusybox(ctx context.Context, root tree) error {
	if err := finishDebian(ctx, root); err != nil {
		return err
	}
	root.remove(func(name string) bool {
		return strings.HasPrefix(name, "usr/share/") || name == "usr/sbin/update-passwd"
	})
	return nil
}

// finishDebian does for a tree of packages what their scripts would have done, and drops what a container never reads.
func finishDebian(ctx context.Context, root tree) error {
	for _, name := range []string{"passwd", "group"} {
		master, ok := root["usr/share/base-passwd/"+name+".master"]
		if !ok {
			return fmt.Errorf("base-passwd has no %s.master", name)
		}
		root.write("etc/"+name, bytes.ReplaceAll(master.data, []byte(":*:"), []byte(":x:")))
	}
	root.write("etc/nsswitch.conf", []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
	root.remove(func(name string) bool {
		return underAny(name, "etc/apt", "etc/cron.d", "etc/default", "etc/init.d", "etc/logrotate.d", "etc/ufw",
			"usr/lib/systemd", "usr/lib/tmpfiles.d", "usr/share/apport", "usr/share/base-passwd", "usr/share/bash-completion",
			"usr/share/bug", "usr/share/doc", "usr/share/doc-base", "usr/share/gcc", "usr/share/info", "usr/share/initramfs-tools",
			"usr/share/lintian", "usr/share/locale", "usr/share/man", "usr/share/vim", "usr/share/zsh",
			"usr/sbin/update-passwd", "usr/lib/*/gconv")
	})
	if err := addApplets(ctx, root); err != nil {
		return err
	}
	return root.shakeLibraries()
}

// underAny reports whether name is one of dirs or inside; a "*" stands for one directory.
func underAny(name string, dirs ...string) bool {
	for ; name != "."; name = path.Dir(name) {
		if matches(dirs, name) {
			return true
		}
	}
	return false
}

// addApplets links each command that busybox knows to it, where the tree has no such command of its own.
func addApplets(ctx context.Context, root tree) error {
	const binary = "usr/bin/busybox"
	busybox, ok := root[binary]
	if !ok {
		return errors.New("busybox-static has no /bin/busybox")
	}
	names, err := applets(ctx, busybox.data)
	if err != nil {
		return fmt.Errorf("ask busybox for its commands: %w", err)
	}
	for _, name := range names {
		if !root.has("usr/bin/"+name) && !root.has("usr/sbin/"+name) {
			root.link("usr/bin/"+name, "busybox")
		}
	}
	return nil
}

func applets(ctx context.Context, binary []byte) ([]string, error) {
	dir, err := os.MkdirTemp("", "skiff-images-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "busybox")
	if err := os.WriteFile(program, binary, 0o700); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return nil, err
	}
	names := strings.Fields(string(out))
	if len(names) < 100 {
		return nil, fmt.Errorf("only %d commands", len(names))
	}
	return names, nil
}
