package containerd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

func TestResolveUser(t *testing.T) {
	const passwd = "root:x:0:0::/:/sh\nweb:x:101:102::/:/sh\n"
	const group = "root:x:0:\nweb:x:102:\nextra:x:7:web\nother:x:9:root\n"
	id := func(n int64) *int64 { return &n }
	for _, tc := range []struct {
		name  string
		named string
		sec   agent.Security
		files bool
		want  specs.User
		err   string
	}{
		{"nobody says", "", agent.Security{}, true, specs.User{AdditionalGids: []uint32{0, 9}}, ""},
		{"nobody says, no files", "", agent.Security{}, false, specs.User{AdditionalGids: []uint32{0}}, ""},
		{"by name", "web", agent.Security{}, true, specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 7}}, ""},
		{"by number", "101", agent.Security{}, true, specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 7}}, ""},
		{"by a number that is nobody's", "55", agent.Security{}, true, specs.User{UID: 55, AdditionalGids: []uint32{0}}, ""},
		{"with a group", "web:extra", agent.Security{}, true, specs.User{UID: 101, GID: 7, AdditionalGids: []uint32{7}}, ""},
		{"with a number as group", "web:50", agent.Security{}, true, specs.User{UID: 101, GID: 50, AdditionalGids: []uint32{50, 7}}, ""},
		{"numbers without files", "5:6", agent.Security{}, false, specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{6}}, ""},
		{"the pod's user goes before", "root", agent.Security{UID: id(101)}, true, specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 7}}, ""},
		{"the pod's group goes before", "web", agent.Security{GID: id(5)}, true, specs.User{UID: 101, GID: 5, AdditionalGids: []uint32{5, 7}}, ""},
		{"more groups", "web", agent.Security{SupplementalGroups: []int64{42, 7}}, true, specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 7, 42}}, ""},
		{"only those that are named", "web", agent.Security{SupplementalGroups: []int64{42}, StrictGroups: true}, true,
			specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 42}}, ""},
		{"a name that is nobody's", "eve", agent.Security{}, true, specs.User{}, `look up the user "eve"`},
		{"a group that is not there", "web:none", agent.Security{}, true, specs.User{}, "unable to find group none"},
		{"less than nothing", "-1", agent.Security{}, true, specs.User{}, "range"},
		{"too much", "4294967296", agent.Security{}, true, specs.User{}, "range"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p, g []byte
			if tc.files {
				p, g = []byte(passwd), []byte(group)
			}
			got, err := resolveUser(tc.named, tc.sec, p, g)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("error %v, user (-want +got):\n%s", err, diff)
			}
		})
	}
}

// A file is found where it would be in the container.
func TestLayers(t *testing.T) {
	top, middle, bottom := t.TempDir(), t.TempDir(), t.TempDir()
	put := func(layer, name, text string) {
		t.Helper()
		file := filepath.Join(layer, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(layer, name, target string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(layer, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(layer, name)); err != nil {
			t.Fatal(err)
		}
	}
	put(bottom, "etc/passwd", "bottom")
	put(bottom, "etc/group", "bottom")
	put(middle, "etc/group", "middle")
	put(bottom, "usr/etc/far", "far")
	link(top, "etc/near", "group")
	link(top, "etc/up", "../usr/etc/far")
	link(middle, "etc/absolute", "/usr/etc/far")
	link(middle, "conf", "/etc")
	link(top, "etc/out", "../../../../../../../../../../../etc/hostname")
	link(top, "etc/loop", "loop")
	put(top, "dir", "a file that hides a directory")
	put(bottom, "dir/file", "hidden")
	if err := unix.Mkfifo(filepath.Join(top, "etc/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(bottom, "etc/large", strings.Repeat("x", maxUserFile+1))
	all, err := layersOf([]mount.Mount{{Type: "overlay", Options: []string{"index=off", "workdir=/w", "upperdir=" + top, "lowerdir=" + middle + ":" + bottom}}})
	if diff := cmp.Diff(layers{top, middle, bottom}, all); err != nil || diff != "" {
		t.Fatalf("layers: error %v, (-want +got):\n%s", err, diff)
	}
	for name, want := range map[string]string{
		"etc/passwd": "bottom", "etc/group": "middle", "etc/near": "middle", "etc/up": "far", "etc/absolute": "far", "conf/passwd": "bottom",
	} {
		if got, err := all.read(name); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"etc/none", "none/none", "etc/out", "etc/passwd/below", "dir/file"} {
		if got, err := all.read(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is %q, %v; want no such file", name, got, err)
		}
	}
	for name, want := range map[string]string{"etc/loop": "too many levels", "etc/pipe": "not a file", "etc/large": "larger than", "etc": "not a file"} {
		if got, err := all.read(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is %q, %v; want an error with %q", name, got, err, want)
		}
	}

	if os.Getuid() != 0 {
		t.Skip("the rest needs root: marks of what an upper layer removed")
	}
	if err := unix.Mknod(filepath.Join(top, "etc/passwd"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	put(top, "usr/etc/other", "")
	if err := unix.Setxattr(filepath.Join(top, "usr/etc"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/passwd", "usr/etc/far"} {
		if got, err := all.read(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is %q, %v; want it removed", name, got, err)
		}
	}
	if all, err := layersOf([]mount.Mount{{Type: "zfs"}}); err == nil {
		t.Errorf("layers of zfs: %v", all)
	}
}
