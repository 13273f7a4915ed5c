package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// shimSockets is where shims listen, outside of all directories of their daemon.
const shimSockets = "/run/containerd/s"

// shimSocket is where the shim of a pod listens: containerd makes the name of the daemon's address, its namespace and the group.
func (r *Runtime) shimSocket(podUID string) string {
	sum := sha256.Sum256([]byte(filepath.Join(r.config.Socket, r.config.Namespace, podUID)))
	return fmt.Sprintf("%s/%x", shimSockets, sum)
}

// removeDeadSocket removes a socket that nobody listens on. A shim removes its own when it ends, but not when it is killed.
func removeDeadSocket(path string) error {
	conn, err := net.Dial("unix", path)
	if err == nil {
		return conn.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// shimEnd is how long a shim may take to end by itself when its pod's containers are removed.
const shimEnd = 2 * time.Second

// endShim sees to it that the shim of a pod without containers is gone, with its socket. One that was never asked for a container, as
// containerd was killed before, would wait for ever.
func endShim(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return removeDeadSocket(socket)
	}
	defer conn.Close()
	for _, end := range []func(string) error{func(string) error { return nil }, killShimAt} {
		if err := errors.Join(end(socket), conn.SetReadDeadline(time.Now().Add(shimEnd))); err != nil {
			return err
		}
		if _, err = conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) { // It says nothing: its end ends the connection.
			return removeDeadSocket(socket)
		}
	}
	return fmt.Errorf("the shim at %s does not end", socket)
}

// killShims kills the shims that belong to the daemon at socket, and the containers that are their children, and removes the
// sockets that the shims listened on.
func killShims(socket string) error {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	parents, shims := map[int]int{}, map[int]bool{}
	var sockets []string
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		parents[pid] = parentIn(file)
		if shims[pid] = isShim(pid) && hasArgument(pid, socket); shims[pid] {
			sockets = append(sockets, socketsOf(pid)...)
		}
	}
	for pid, parent := range parents {
		if !shims[pid] && !shims[parent] {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	for _, path := range sockets {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// killShimAt kills the shim that listens at a path, and waits until it has gone. No error if there is none.
func killShimAt(path string) error {
	return killEachShim(func(pid int) bool { return slices.Contains(socketsOf(pid), path) })
}

// killEachShim kills the shims that are meant, and waits until they have gone.
func killEachShim(meant func(pid int) bool) error {
	processes, err := filepath.Glob("/proc/[0-9]*")
	errs := []error{err}
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err != nil || !isShim(pid) || !meant(pid) {
			continue
		}
		if err := killWhole(pid); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill shim %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

// killWhole kills a process and waits until the kernel has closed all of its files, which it does one by one: a shim's socket may take
// connections when those that it had are gone.
func killWhole(pid int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(process)
	if err := unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0); err != nil {
		return err
	}
	if !waitPidfd(context.Background(), process, shimEnd) {
		return errors.New("it does not end")
	}
	return nil
}

// removeShimSockets removes the sockets of shims that were killed before; the bundle of each container names its own.
func removeShimSockets(state string) error {
	var errs []error
	for _, bundle := range bundlesIn(state) {
		path, err := socketIn(bundle)
		if err == nil && path != "" {
			err = removeDeadSocket(path)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// removeStillborn removes the bundles of tasks that runc was never asked for, as containerd or the shim was killed before: containerd 1.6
// cannot clear them away, and makes no task of the same name while they are there; containerd 2 leaves a shim behind that it knows nothing
// of. No daemon may be running.
func removeStillborn(state string) error {
	state, err := filepath.EvalSymlinks(state) // As the kernel tells where a process is.
	if err != nil {
		return err
	}
	var errs []error
	for _, bundle := range bundlesIn(state) {
		_, err := os.Lstat(filepath.Join(bundle, "runtime")) // The shim's first step, before it mounts anything.
		if !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		path, err := socketIn(bundle)
		if err == nil && !answers(path) {
			err = errors.Join(os.RemoveAll(bundle), killWaitingShims(bundle))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// killWaitingShims kills the shims that were started in a bundle, which is removed, and wait for containerd to read their log, which it
// will not do any more. One that stays would be asked for the next container of its pod, and not answer.
func killWaitingShims(bundle string) error {
	return killEachShim(func(pid int) bool {
		dir, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		log, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/2", pid))
		return dir == bundle+" (deleted)" && err == nil && log == os.DevNull // If it has its log, somebody read it.
	})
}

// bundlesIn are the directories that a daemon has made for its tasks.
func bundlesIn(state string) []string {
	dirs, _ := filepath.Glob(filepath.Join(state, "io.containerd.runtime.v2.task", "*", "*")) // No other error than of the pattern.
	return dirs
}

// socketIn is where the shim of a bundle listens, "" if that is in no file yet. Shims of containerd 1 note it themselves; containerd 2
// does it, when it has heard of it.
func socketIn(bundle string) (string, error) {
	var noted struct{ Address string }
	text, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if err == nil {
		err = json.Unmarshal(text, &noted)
	}
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(filepath.Join(bundle, "address"))
		noted.Address = strings.TrimSpace(string(text))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	path, _ := strings.CutPrefix(noted.Address, "unix://")
	return path, err
}

func answers(socket string) bool {
	conn, err := net.Dial("unix", socket)
	return err == nil && conn.Close() == nil
}

func isShim(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasPrefix(filepath.Base(exe), "containerd-shim")
}

// socketsOf are the paths at which a shim listens: the kernel's table names them by inode.
func socketsOf(pid int) (paths []string) {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	var open []string
	for _, link := range links {
		target, _ := os.Readlink(link) // "socket:[12345]".
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			open = append(open, strings.TrimSuffix(inode, "]"))
		}
	}
	table, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid))
	for line := range strings.Lines(string(table)) {
		const inode, path = 6, 7
		fields := strings.Fields(line)
		if len(fields) > path && slices.Contains(open, fields[inode]) && strings.HasPrefix(fields[path], shimSockets+"/") {
			paths = append(paths, fields[path])
		}
	}
	return paths
}
