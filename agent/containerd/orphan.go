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

// endOrphans ends the daemons of an earlier process that was killed. It may have been killed before it could note the number of
// the one that it started, so they are found by their command line.
func (d *Daemon) endOrphans(ctx context.Context) error {
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	command := []byte("\x00--config\x00" + d.config.file() + "\x00")
	for _, file := range lines {
		line, err := os.ReadFile(file)
		if err != nil || !bytes.HasSuffix(line, command) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil {
			err = d.endOrphan(ctx, pid)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) endOrphan(ctx context.Context, pid int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(process)
	if !hasArgument(pid, d.config.file()) { // The number is another process's by now.
		return nil
	}
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
