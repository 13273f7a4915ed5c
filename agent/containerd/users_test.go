package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"skiff/agent"
)

// A container whose pod has users of its own is root inside and nobody outside, and files keep their owners.
func testUsers(t *testing.T, n *node) {
	const first = 0x70000000
	namespace := inNamespaces(t, first)
	if err := os.Chmod(n.dir, 0o711); err != nil { // As the directories of a node are.
		t.Fatal(err)
	}
	volume, file := filepath.Join(n.dir, "private", "volume"), filepath.Join(n.dir, "private", "single")
	if err := os.MkdirAll(volume, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("a file of root"), 0o600); err != nil {
		t.Fatal(err)
	}
	mine := func(name string, args ...string) agent.ContainerConfig {
		c := n.config(name, args...)
		c.UserNS, c.FirstUser = namespace("user"), first
		c.NetNS, c.IPCNS, c.UTSNS = namespace("net"), namespace("ipc"), namespace("uts")
		c.SharePID, c.Security = true, agent.Security{UnmaskedProc: true}
		c.Mounts = []agent.Mount{{Source: volume, Target: "/volume"}, {Source: file, Target: "/single", ReadOnly: true}}
		return c
	}
	rootOnly := []string{n.runtime.usersDir(), n.runtime.shmDir("")}
	for _, dir := range rootOnly { // As older ones made them.
		if err := errors.Join(os.MkdirAll(dir, 0o711), os.Chmod(dir, 0o711)); err != nil {
			t.Fatal(err)
		}
	}
	c := mine("mine", "hold")
	if err := n.runtime.Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	box := func(command ...string) string {
		t.Helper()
		var out bytes.Buffer
		_, err := n.runtime.Exec(t.Context(), c.ID, agent.ExecConfig{Command: append([]string{"/box"}, command...), Streams: agent.Streams{Stdout: &out}})
		if err != nil {
			t.Fatalf("exec %v: %v", command, err)
		}
		return out.String()
	}
	if out := box("write", "/volume/by-root", "x") + box("write", "/etc/by-root", "x") + box("write", "/dev/shm/x", "x") + box("write", "/dev/stdout", "said"); out != "said" {
		t.Errorf("writing to a volume, to the image and to shared memory: %s", out)
	}
	if mounts := box("show", "/proc/self/mountinfo"); strings.Contains(mounts, " /proc/sys ") || strings.Contains(mounts, " /proc/kcore ") {
		t.Errorf("something covers a part of /proc:\n%s", mounts)
	}
	got := box("show", "/proc/self/uid_map", "/single", "/proc/1/cmdline")
	for _, want := range []string{"uid 0 gid 0", fmt.Sprint(" ", first, " "), "a file of root", "/pause"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	owner := func(path string) uint32 {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Uid
	}
	if uid := owner(filepath.Join(volume, "by-root")); uid != 0 {
		t.Errorf("on the disk the file belongs to %d", uid)
	}
	for _, pid := range n.processesOf(c.ID) {
		if uid := owner(fmt.Sprintf("/proc/%d", pid)); uid != first {
			t.Errorf("on the node the process belongs to %d", uid)
		}
	}
	for _, dir := range rootOnly {
		if info, err := os.Stat(dir); err != nil {
			t.Error(err)
		} else if mode := info.Mode().Perm(); mode != 0o700 {
			t.Errorf("%s is open to others: %o", dir, mode)
		}
	}
	if left, _ := os.ReadDir(n.runtime.usersDir()); len(left) > 0 {
		t.Errorf("once it runs its mounts are left: %v", left)
	}
	bad := mine("bad")
	bad.Mounts[0].Source = "/proc/sys"
	if err := n.runtime.Start(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "cannot show the files of /proc/sys to users of a pod's own") {
		t.Errorf("a volume whose owners cannot be translated: %v", err)
	}
	if left, _ := os.ReadDir(n.runtime.usersDir()); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	n.end(c.ID)
	testVolumesOfUsers(t, n, mine("declared"))
	if err := n.runtime.RemovePod(t.Context(), "pod-1"); err != nil {
		t.Error(err)
	}
}

// A host's mounts are shared, as a rule: what its pods see of them goes away alone.
func TestUserMountsLeaveTheHosts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root mounts")
	}
	namespace := inNamespaces(t, 0x70000000)
	dir := t.TempDir()
	if err := onOwnThread(func() error { return showShared(dir, namespace("user")) }); err != nil {
		t.Error(err)
	}
}

// onOwnThread runs do on a thread that ends with it, and with the thread the namespaces that do puts it in. That is not the process's
// first, which would stay in them for ever, and whose mounts are what /proc/self shows.
func onOwnThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // Never unlocked: the runtime then drops the thread.
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onOwnThread(do)
			return
		}
		done <- do()
	}()
	return <-done
}

// showShared shows a shared mount with another mount in it, in a mount namespace of the thread's own, and looks whether the other is
// still there after that.
func showShared(dir, userNS string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	volume := filepath.Join(dir, "volume")
	sub := filepath.Join(volume, "sub")
	data := filepath.Join(sub, "data")
	ns, err := os.Open(userNS)
	if err != nil {
		return err
	}
	m := &userMounts{dir: filepath.Join(dir, "shown"), ns: ns}
	err = errors.Join(
		unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		os.Mkdir(volume, 0o700), os.Mkdir(m.dir, 0o700),
		unix.Mount("tmpfs", volume, "tmpfs", 0, ""),
		unix.Mount("", volume, "", unix.MS_SHARED, ""),
		os.Mkdir(sub, 0o700),
		unix.Mount("tmpfs", sub, "tmpfs", 0, ""),
		os.WriteFile(data, nil, 0o600))
	if err != nil {
		return errors.Join(err, ns.Close())
	}
	shown, err := m.show(volume)
	if err == nil {
		_, err = os.Stat(filepath.Join(shown, "sub", "data"))
	}
	if err := errors.Join(err, m.close()); err != nil {
		return err
	}
	if _, err := os.Stat(m.dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the mount points are left: %v", err)
	}
	_, err = os.Stat(data)
	return err
}

// inNamespaces makes a namespace of users, and others that belong to it, and returns their paths.
func inNamespaces(t *testing.T, first int) func(kind string) string {
	t.Helper()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: agent.UsersPerPod}}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UidMappings: ids, GidMappings: ids}
	if err := cmd.Start(); err != nil {
		t.Skipf("this kernel has no namespaces of users: %v", err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // It was killed.
	})
	return func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", cmd.Process.Pid, kind) }
}
