package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// quotaDisk mounts a new file system of 64 MiB with these options, or skips where the machine cannot.
func quotaDisk(t *testing.T, options string, mkfs ...string) (dir string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: file systems are mounted")
	}
	dir, err := os.MkdirTemp("", "skiff-quota-") // All on the way to it may be passed by who is not root.
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(file, nil, 0o600), os.Truncate(file, 320<<20)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	for _, command := range [][]string{append(mkfs, file), {"mount", "-o", "loop" + options, file, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Skipf("needs a kernel that has quotas of projects (for ext4 CONFIG_QFMT_V2, for xfs CONFIG_XFS_QUOTA) and tools: %q: %v: %s", command, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// writeAs has a process that is not root write MiBs to a file, and says how that went.
func writeAs(t *testing.T, file, mebibytes string) error {
	t.Helper()
	dd := exec.Command("dd", "if=/dev/zero", "of="+file, "bs=1048576", "count="+mebibytes)
	dd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := dd.CombinedOutput()
	if err != nil {
		return errors.New(string(out))
	}
	return nil
}

// A volume takes what its size says and no more, whatever others take; it may grow; and what it is known by outlives the agent.
func TestVolumeQuota(t *testing.T) {
	for name, mkfs := range map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-O", "project,quota", "-E", "quotatype=prjquota"}, "xfs": {"mkfs.xfs", "-q"},
	} {
		t.Run(name, func(t *testing.T) { testVolumeQuota(t, quotaDisk(t, ",prjquota", mkfs...)) })
	}
}

func testVolumeQuota(t *testing.T, disk string) {
	volumes := filepath.Join(disk, "volumes")
	full := func(err error) bool { // xfs says of a project's limit what it says of its own.
		return err != nil && (strings.Contains(err.Error(), "uota exceeded") || strings.Contains(err.Error(), "No space left"))
	}
	q := openQuotas(disk)
	if !q.able {
		t.Fatal("a file system mounted with prjquota is said to limit nobody")
	}
	ids := map[uint32]bool{}
	for _, name := range []string{"one", "two", "three"} {
		dir := filepath.Join(volumes, name)
		if err := makeLocalVolume(dir); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := openQuotas(disk).limit(dir, 4<<20); err != nil { // Each time by an agent that knows nothing.
				t.Fatal(err)
			}
		}
		ids[q.of(dir)] = true
	}
	if len(ids) != 3 || ids[0] {
		t.Errorf("three volumes have the projects %v", ids)
	}
	if err := os.Chmod(volumes, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(volumes, "one", "file")
	if err := writeAs(t, file, "3"); err != nil {
		t.Errorf("3 of 4 MiB: %v", err)
	}
	if err := writeAs(t, file+"2", "3"); !full(err) {
		t.Errorf("6 of 4 MiB: %v, want quota exceeded", err)
	}
	if err := writeAs(t, filepath.Join(volumes, "two", "file"), "3"); err != nil {
		t.Errorf("another volume: %v", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Join(volumes, "one"), &fs); err != nil || int64(fs.Blocks)*fs.Bsize != 4<<20 {
		t.Errorf("df says that the volume has %d bytes, %v; want 4 MiB", int64(fs.Blocks)*fs.Bsize, err)
	}
	if err := q.limit(filepath.Join(volumes, "one"), 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := writeAs(t, file+"2", "3"); err != nil {
		t.Errorf("6 MiB of what has grown to 8: %v", err)
	}
	// An ID is not given again while there are files of it, wherever they are, and is when they are gone.
	id := q.of(filepath.Join(volumes, "one"))
	if err := os.Rename(filepath.Join(volumes, "one"), filepath.Join(disk, "aside")); err != nil {
		t.Fatal(err)
	}
	again := func(name string) uint32 {
		dir := filepath.Join(volumes, name)
		if err := errors.Join(makeLocalVolume(dir), q.limit(dir, 1<<20)); err != nil {
			t.Fatal(err)
		}
		return q.of(dir)
	}
	if got := again("four"); ids[got] {
		t.Errorf("a new volume has the project %d, which has files elsewhere", got)
	}
	if err := os.RemoveAll(filepath.Join(disk, "aside")); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // xfs frees them in the background.
		if usage, err := usageOf(root, id); err != nil || time.Now().After(deadline) {
			t.Fatalf("a project without files has %+v, %v", usage, err)
		} else if usage.Inodes == 0 {
			break
		}
	}
	if got := again("five"); got != id {
		t.Errorf("with the files gone a new volume has the project %d, want %d again", got, id)
	}
	if err := writeAs(t, filepath.Join(volumes, "five", "file"), "2"); !full(err) {
		t.Errorf("2 of 1 MiB: %v, want quota exceeded", err)
	}
	// What was there before quotas were is left alone.
	old := filepath.Join(volumes, "old")
	if err := errors.Join(makeLocalVolume(old), os.WriteFile(filepath.Join(old, "file"), []byte("x"), 0o644), q.limit(old, 1<<20)); err != nil || q.of(old) != 0 {
		t.Errorf("a volume with files gets the project %d, %v", q.of(old), err)
	}
}

// Where the file system does not limit, nothing is pretended, and nothing fails.
func TestVolumeWithoutQuota(t *testing.T) {
	disk := quotaDisk(t, "", "mkfs.ext4", "-q")
	q := openQuotas(disk)
	dir := filepath.Join(disk, "volumes", "one")
	if err := errors.Join(makeLocalVolume(dir), q.limit(dir, 1<<20)); err != nil || q.able || q.of(dir) != 0 {
		t.Errorf("a file system without quotas: able %t, project %d, %v", q.able, q.of(dir), err)
	}
}
