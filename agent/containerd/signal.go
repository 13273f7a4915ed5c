package containerd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// signalDirectly sends a signal to a container's first process. containerd would start the runtime for that, which takes as much
// processor time as a tenth of a container's start.
func (r *Runtime) signalDirectly(ctx context.Context, id string, signal syscall.Signal) error {
	info, err := os.Stat(filepath.Join(r.containerDir(id), startedFile))
	if err != nil {
		return err
	}
	process, pid, err := r.firstProcess(id)
	if err != nil {
		return err
	}
	defer unix.Close(process)
	if time.Since(info.ModTime()) < youth {
		awaitHandler(ctx, pid, signal)
	}
	return unix.PidfdSendSignal(process, signal, nil, 0)
}

const (
	youth        = 2 * time.Second // How old a process is that has certainly said what it does at signals.
	handlerTime  = 500 * time.Millisecond
	handlerEvery = 5 * time.Millisecond
)

// awaitHandler waits, not for long, until a process that has just begun catches the signal: before, the kernel keeps it from one that is
// process 1 of a namespace, which then runs on until its time is over and it is killed.
func awaitHandler(ctx context.Context, pid int, signal syscall.Signal) {
	ctx, cancel := context.WithTimeout(ctx, handlerTime)
	defer cancel()
	for ctx.Err() == nil {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || takes(string(status), signal) {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(handlerEvery):
		}
	}
}

// takes says whether a signal comes to a process, given the file that tells its status. What runc leaves behind before it becomes the
// container's program catches all signals, and takes none for that program.
func takes(status string, signal syscall.Signal) bool {
	field := func(name string) string {
		_, rest, _ := strings.Cut("\n"+status, "\n"+name+":")
		value, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(value)
	}
	if strings.HasPrefix(field("Name"), "runc:[") {
		return false
	}
	if inside := strings.Fields(field("NSpid")); len(inside) < 2 || inside[len(inside)-1] != "1" {
		return true
	}
	caught, err := strconv.ParseUint(field("SigCgt"), 16, 64)
	return err != nil || caught&(1<<(signal-1)) != 0
}
