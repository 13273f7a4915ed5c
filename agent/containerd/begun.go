package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A container's first process is made before it is started: until then it is the runtime's own program, which waits. Its start may be
// broken off on the way: containerd is killed, the shim gives up what it was asked for, and kills the runtime in the middle of it. The shim
// then holds a container for not started that may run. What program the process is tells.

// noteProcess writes the file with the time of a container's start, and which process is the first and what program, before it starts.
func (r *Runtime) noteProcess(id string, pid int) error {
	start, err := startOf(pid)
	if err != nil {
		return err
	}
	program, err := programOf(pid)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.containerDir(id), startedFile), fmt.Appendf(nil, "%d %s %s\n", pid, start, program), 0o600)
}

// programOf names the file that a process runs.
func programOf(pid int) (string, error) {
	var file unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/exe", pid), &file); err != nil {
		return "", fmt.Errorf("program of process %d: %w", pid, err)
	}
	return fmt.Sprintf("%d:%d", file.Dev, file.Ino), nil
}

// firstProcess opens a container's first process, which the file with the time of its start names.
func (r *Runtime) firstProcess(id string) (pidfd, pid int, err error) {
	pidfd, pid, _, err = r.notedProcess(id)
	return pidfd, pid, err
}

// hasBegun says that a container runs its own program, whatever its shim says.
func (r *Runtime) hasBegun(id string) bool {
	process, pid, before, err := r.notedProcess(id)
	if err != nil {
		return false
	}
	defer unix.Close(process)
	now, err := programOf(pid)
	return err == nil && before != "" && now != before
}

// notedProcess opens a container's first process, and says what program it was before its start; "" if nobody has noted it.
func (r *Runtime) notedProcess(id string) (pidfd, pid int, program string, err error) {
	text, err := os.ReadFile(filepath.Join(r.containerDir(id), startedFile))
	if err != nil {
		return -1, 0, "", err
	}
	number, rest, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	start, program, _ := strings.Cut(rest, " ")
	if pid, err = strconv.Atoi(number); err != nil {
		return -1, 0, "", fmt.Errorf("the first process of container %s is not known: %w", id, err)
	}
	if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return -1, 0, "", err
	}
	if now, err := startOf(pid); err != nil || now != start { // The number is another's by now.
		unix.Close(pidfd)
		return -1, 0, "", errors.Join(unix.ESRCH, err)
	}
	return pidfd, pid, program, nil
}
