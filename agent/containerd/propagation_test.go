package containerd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"skiff/agent"
)

// What the host mounts in a volume comes to a container that wants it so, where the kernel can do that. Where it cannot, the container
// does not start as if it could.
func testPropagation(t *testing.T, n *node) {
	volume := filepath.Join(n.dir, "spread")
	mounted := func(dir string) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mounted(volume)
	become := func(how uintptr) {
		if err := unix.Mount("", volume, "", how, ""); err != nil {
			t.Fatal(err)
		}
	}
	config := n.config("propagation", "hold")
	config.Mounts = []agent.Mount{{Source: volume, Target: "/data", Propagation: "rslave"}}
	become(unix.MS_PRIVATE)
	for mode, want := range map[string]string{"rslave": "not a shared or slave mount", "rshared": "not a shared mount"} {
		config.Mounts[0].Propagation = mode
		if err := n.runtime.Start(t.Context(), config); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s where nothing is passed on: %v, want %q", mode, err, want)
		}
	}
	become(unix.MS_SHARED)
	config.Mounts[0].Propagation = "rslave"
	if err := n.runtime.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	defer n.end(config.ID)
	mounted(filepath.Join(volume, "later"))
	if err := os.WriteFile(filepath.Join(volume, "later", "file"), []byte("from the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out buffer
	show := agent.ExecConfig{Command: []string{"/box", "show", "/data/later/file"}, Streams: agent.Streams{Stdout: &out}}
	if _, err := n.runtime.Exec(t.Context(), config.ID, show); err != nil || !strings.Contains(out.String(), "from the host") {
		t.Errorf("the container sees %q (%v) of what the host mounted later", out.String(), err)
	}
}
