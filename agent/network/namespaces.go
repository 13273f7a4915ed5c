package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The files in a pod's folder: its namespaces, and its addresses.
const addressFile = "address"

// userKind is the namespace that owns the others, where a pod has users of its own.
const userKind = "user"

func namespaceKinds(hostNetwork bool) []string {
	if hostNetwork {
		return []string{"ipc", "uts"}
	}
	return []string{"net", "ipc", "uts"}
}

func (n *Network) path(uid, file string) string { return filepath.Join(n.config.Dir, uid, file) }

// pin makes the pod's namespaces and mounts them onto files.
func (n *Network) pin(pod Pod) error {
	if err := n.unpin(pod.UID); err != nil { // What a try that was killed may have left.
		return err
	}
	if err := os.Mkdir(filepath.Join(n.config.Dir, pod.UID), 0o755); err != nil {
		return err
	}
	flags := unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if !pod.HostNetwork {
		flags |= unix.CLONE_NEWNET
	}
	return onOwnThread(func() error {
		if pod.FirstUser > 0 {
			if err := n.pinOwned(pod, flags); err != nil {
				return err
			}
		} else if err := unix.Unshare(flags); err != nil {
			return fmt.Errorf("make namespaces: %w", err)
		}
		if err := unix.Sethostname([]byte(pod.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", pod.Hostname, err)
		}
		for _, kind := range namespaceKinds(pod.HostNetwork) {
			if err := pinOne(unix.Gettid(), kind, n.path(pod.UID, kind)); err != nil {
				return err
			}
		}
		if pod.HostNetwork {
			return nil
		}
		return errors.Join(allowUnprivileged(), n.quietIPv6())
	})
}

// pinOwned makes a namespace of users, pins it, and takes this thread into others that belong to it. A process with threads cannot
// enter one itself; so it starts another in it, which is held at its very first instruction and never runs.
func (n *Network) pinOwned(pod Pod, flags int) (err error) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(pod.FirstUser), Size: int(pod.Users)}}
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: uintptr(unix.CLONE_NEWUSER | flags), UidMappings: ids, GidMappings: ids,
		Ptrace: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make a namespace of users: %w", err)
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Kill())
		_ = cmd.Wait() // It was killed.
	}()
	if err := pinOne(cmd.Process.Pid, userKind, n.path(pod.UID, userKind)); err != nil {
		return err
	}
	process, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(process)
	if err := unix.Setns(process, flags); err != nil {
		return fmt.Errorf("enter the namespaces of a pod: %w", err)
	}
	return nil
}

// pinOne mounts a namespace that a thread is in onto a file.
func pinOne(thread int, kind, file string) error {
	if err := os.WriteFile(file, nil, 0o444); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/%s", thread, kind), file, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s namespace: %w", kind, err)
	}
	return nil
}

// allowUnprivileged lets the pod's users bind every port and ping, as containerd 2 does for Kubernetes: in a namespace of
// its own a low port protects nobody.
func allowUnprivileged() error {
	return errors.Join(
		sysctl("net/ipv4/ip_unprivileged_port_start", "0"),
		sysctl("net/ipv4/ping_group_range", "0 2147483647"))
}

// quietIPv6 has what comes into this namespace use its addresses at once, and listen to no router: the node alone is at the other end, and
// what a pod needs is set up for it.
func (n *Network) quietIPv6() error {
	if !n.config.has(netlink.FAMILY_V6) {
		return nil
	}
	return errors.Join(
		sysctl("net/ipv6/conf/all/disable_ipv6", "0"),
		sysctl("net/ipv6/conf/default/disable_ipv6", "0"),
		sysctl("net/ipv6/conf/default/accept_dad", "0"),
		sysctl("net/ipv6/conf/default/accept_ra", "0"))
}

// pinned says whether all of the pod's namespaces are there. After a reboot the files may be left, but nothing is mounted.
func (n *Network) pinned(uid string, network bool) bool {
	kinds := namespaceKinds(!network)
	if _, err := os.Stat(n.path(uid, userKind)); err == nil {
		kinds = append(kinds, userKind)
	}
	for _, kind := range kinds {
		var fs unix.Statfs_t
		if unix.Statfs(n.path(uid, kind), &fs) != nil || fs.Type != unix.NSFS_MAGIC {
			return false
		}
	}
	return true
}

// unpin removes the pod's folder with its mounts. The kernel drops each namespace with its last process.
func (n *Network) unpin(uid string) error {
	for _, kind := range append(namespaceKinds(false), userKind) {
		err := unix.Unmount(n.path(uid, kind), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// EINVAL: a file on which nothing is mounted.
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("unmount %s namespace: %w", kind, err)
		}
	}
	return os.RemoveAll(filepath.Join(n.config.Dir, uid))
}

// readAddresses returns the pod's addresses, none for a pod on the host's network, or an error if Setup was not done.
func (n *Network) readAddresses(uid string) (addrs []netip.Addr, err error) {
	data, err := os.ReadFile(n.path(uid, addressFile))
	words := strings.Fields(string(data))
	if err != nil || len(words) == 0 {
		return nil, errors.New("its setup was not finished")
	}
	if words[0] == "host" {
		return nil, nil
	}
	for _, word := range words {
		addr, err := netip.ParseAddr(word)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

func (n *Network) writeAddresses(uid string, addrs []netip.Addr) error {
	text := "host"
	if len(addrs) > 0 {
		text = strings.ReplaceAll(joined(addrs), ",", " ")
	}
	return os.WriteFile(n.path(uid, addressFile), []byte(text+"\n"), 0o644)
}

// onOwnThread runs do on a thread that ends with it, so that do may put the thread into other namespaces.
func onOwnThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // Never unlocked: the runtime then drops the thread.
		if unix.Gettid() == unix.Getpid() {
			// All but the process's first thread, which lives on and would keep the namespaces for ever. While it is
			// locked here, do runs on another one.
			defer runtime.UnlockOSThread()
			done <- onOwnThread(do)
			return
		}
		done <- do()
	}()
	return <-done
}

// inNamespace runs do in a network namespace. Sockets that do makes stay in it wherever they are used later.
func inNamespace(path string, do func() error) error {
	return onOwnThread(func() error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return do()
	})
}

// sysctl sets a kernel parameter, unless it has that value: in some containers /proc/sys is read-only but right.
func sysctl(name, value string) error {
	file := filepath.Join("/proc/sys", name)
	if have, err := os.ReadFile(file); err == nil && strings.Join(strings.Fields(string(have)), " ") == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set kernel parameter %s to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}
