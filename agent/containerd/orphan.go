package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// endOrphan ends the daemon of an earlier process that was killed. The pid file may be old and the number another
// process's by now, so the process must have been started with our configuration file.
func (d *Daemon) endOrphan(ctx context.Context) error {
	text, err := os.ReadFile(d.pidFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || !hasArgument(pid, d.config.file()) {
		return nil
	}
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(process)
	d.log.Info("ending the containerd that an earlier server left", "pid", pid)
	if err := unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end containerd %d: %w", pid, err)
	}
	if waitPidfd(ctx, process, stopTimeout) {
		return nil
	}
	if err := unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill containerd %d: %w", pid, err)
	}
	if !waitPidfd(ctx, process, stopTimeout) {
		return fmt.Errorf("containerd %d does not end", pid)
	}
	return nil
}

// waitPidfd waits for the end of a process that is not our child.
func waitPidfd(ctx context.Context, pidfd int, patience time.Duration) bool {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
	return false
}

// hasArgument says whether a process was started with this argument.
func hasArgument(pid int, argument string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	for _, a := range strings.Split(string(line), "\x00") {
		if a == argument {
			return true
		}
	}
	return false
}

// killShims kills the shims that belong to the daemon at socket, and the containers that are their children.
func killShims(socket string) error {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	parents, shims := map[int]int{}, map[int]bool{}
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return err
		}
		parents[pid] = parentIn(file)
		shims[pid] = isShim(pid) && hasArgument(pid, socket)
	}
	for pid, parent := range parents {
		if !shims[pid] && !shims[parent] {
			continue
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return nil
}

// parentIn reads a process's parent out of its stat file, 0 if it has ended. The name before it, in parentheses, may
// have any character.
func parentIn(stat string) int {
	text, err := os.ReadFile(stat)
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

func isShim(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.HasPrefix(filepath.Base(exe), "containerd-shim")
}

// unmountUnder unmounts everything below dir, the last mounted first.
func unmountUnder(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var points []string
	for _, line := range strings.Split(string(table), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			points = append(points, fields[4])
		}
	}
	var errs []error
	for i := len(points) - 1; i >= 0; i-- {
		errs = append(errs, unmount(points[i]))
	}
	return errors.Join(errs...)
}
