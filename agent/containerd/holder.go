package containerd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// holder keeps the reading ends of all containers' FIFOs open while no agent runs: the kernel throws away what is in a pipe
// when the last who has it open goes, and that is the shim, if a container ends meanwhile.
//
// It is a process without code of its own, `sleep`, that has inherited a pair of sockets. A file that was sent over a unix
// socket and not received yet stays open; so the files are sent, and wait in the socket for ever. The next agent
// borrows the sockets from the process (pidfd_getfd), sends what it reads now, and throws away what the last one sent.
type holder struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex
	process int // A pidfd.
	in, out int // The sockets: what is sent to in waits at out.
	held    map[string][]int
	epoch   byte // Marks what was sent since the last sweep.
	stale   int  // How many waiting messages are of containers that are gone.
}

// holdBuffer is room in the socket: the kernel counts about 1 KiB a message.
const holdBuffer = 16 << 20

// maxStale is how many messages of containers that are gone may wait before they are swept out.
const maxStale = 64

// openHolder finds the holder that an earlier process started, or starts one. dir is where its process number is kept.
func openHolder(dir string, log *slog.Logger) (*holder, error) {
	h := &holder{dir: dir, log: log, process: -1, in: -1, out: -1, held: map[string][]int{}}
	err := h.borrow()
	if err != nil {
		h.close()
		err = h.begin()
	}
	if err != nil {
		h.close()
		return nil, fmt.Errorf("hold the containers' output: %w", err)
	}
	return h, nil
}

var errNoHolder = errors.New("no process holds the containers' output")

// borrow takes the sockets of the process that is there. Its number could be another's by now: only one that was started at the
// noted time is meant.
func (h *holder) borrow() error {
	text, err := os.ReadFile(h.pidFile())
	if err != nil {
		return err
	}
	number, start, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	if h.process, err = unix.PidfdOpen(pid, 0); err != nil {
		return err
	}
	if now, err := startOf(pid); err != nil || now != start {
		return errors.Join(errNoHolder, err)
	}
	if h.in, err = unix.PidfdGetfd(h.process, firstInherited, 0); err != nil {
		return fmt.Errorf("borrow the holder's socket: %w", err)
	}
	if h.out, err = unix.PidfdGetfd(h.process, firstInherited+1, 0); err != nil {
		return fmt.Errorf("borrow the holder's socket: %w", err)
	}
	// The last sweep may have been broken off: what waits there has up to two marks.
	var oldest [1]byte
	if n, _, _, _, err := unix.Recvmsg(h.out, oldest[:], nil, unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil && n == 1 {
		h.epoch = oldest[0] + 1
	}
	return nil
}

// firstInherited is the number of the first file that a child of os/exec gets beside the standard ones.
const firstInherited = 3

// begin makes the sockets and starts the process.
func (h *holder) begin() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	h.in, h.out = pair[0], pair[1]
	if err := unix.SetsockoptInt(h.in, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, holdBuffer); err != nil {
		return fmt.Errorf("make room in a socket: %w", err)
	}
	return h.spawn()
}

// spawn starts the process with the sockets that we have.
func (h *holder) spawn() error {
	cmd := exec.Command("sleep", "2147483647") // What every sleep takes: 68 years.
	cmd.Env, cmd.Dir = []string{}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // A Ctrl-C in our terminal is not for it.
	for _, fd := range []int{h.in, h.out} {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(own), "holder")
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // It is killed, one day.
	pid := cmd.Process.Pid
	// The last to be killed for the node's memory. Who may not ask for that goes without.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("-999"), 0)
	start, err := startOf(pid)
	if err == nil {
		err = os.WriteFile(h.pidFile(), fmt.Appendf(nil, "%d %s\n", pid, start), 0o600)
	}
	if err == nil {
		h.process, err = unix.PidfdOpen(pid, 0)
	}
	if err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	return nil
}

func (h *holder) pidFile() string { return filepath.Join(h.dir, "holder.pid") }

// startOf is when a process started, in the kernel's ticks: with the number it names a process for good.
func startOf(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const startTime = 19 // The 22nd field, counted after the name.
	if len(fields) <= startTime {
		return "", fmt.Errorf("process %d has no start time", pid)
	}
	return fields[startTime], nil
}

// hold keeps a container's files open from here on, whether or not this process lives.
func (h *holder) hold(id string, files ...*os.File) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.revive(); err != nil {
		return err
	}
	fds, err := duplicate(files)
	if err != nil {
		return fmt.Errorf("hold the output of container %s: %w", id, err)
	}
	h.drop(id)
	h.held[id] = fds
	if err := h.send(fds); err != nil {
		return fmt.Errorf("hold the output of container %s: %w", id, err)
	}
	return nil
}

// revive starts the process again if somebody has killed it. What waits in the sockets waits as long as we have them too.
func (h *holder) revive() error {
	ended, err := unix.Poll([]unix.PollFd{{Fd: int32(h.process), Events: unix.POLLIN}}, 0)
	for err == unix.EINTR {
		ended, err = unix.Poll([]unix.PollFd{{Fd: int32(h.process), Events: unix.POLLIN}}, 0)
	}
	if ended == 0 && err == nil {
		return nil
	}
	h.log.Warn("the process that holds the containers' output was killed, starting another")
	unix.Close(h.process)
	h.process = -1
	return h.spawn()
}

// release lets a container's files go.
func (h *holder) release(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(id)
	if h.stale > maxStale && h.stale > len(h.held) {
		if err := h.sweep(); err != nil {
			h.log.Warn("files of removed containers stay open", "err", err)
		}
	}
}

func (h *holder) drop(id string) {
	if fds, ok := h.held[id]; ok {
		_ = closeAll(fds)
		delete(h.held, id)
		h.stale++
	}
}

// takeOver throws away what an earlier process had sent. What is held of it has been sent anew.
func (h *holder) takeOver() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sweep()
}

// sweep sends all that is held anew, and then throws away what was sent before.
func (h *holder) sweep() error {
	h.epoch++
	for _, fds := range h.held {
		if err := h.send(fds); err != nil {
			return err
		}
	}
	for {
		var mark [1]byte
		n, _, _, _, err := unix.Recvmsg(h.out, mark[:], nil, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) || err == nil && n == 1 && mark[0] == h.epoch {
			h.stale = 0
			return nil
		}
		if err == nil { // Without room for them the kernel closes the files.
			_, _, _, _, err = unix.Recvmsg(h.out, mark[:], nil, unix.MSG_DONTWAIT)
		}
		if err != nil {
			return fmt.Errorf("receive from the holder's socket: %w", err)
		}
	}
}

func (h *holder) send(fds []int) error {
	return unix.Sendmsg(h.in, []byte{h.epoch}, unix.UnixRights(fds...), nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
}

// close lets go of the holder, which holds on.
func (h *holder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id := range h.held {
		h.drop(id)
	}
	for _, fd := range []*int{&h.process, &h.in, &h.out} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// end ends the process: there is nothing to hold any more.
func (h *holder) end() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := unix.PidfdSendSignal(h.process, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end the holder of the containers' output: %w", err)
	}
	if err := os.Remove(h.pidFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// duplicate opens the files a second time; they may be nil. It leaves them as they are, which Fd does not: that makes them block.
func duplicate(files []*os.File) (fds []int, err error) {
	for _, f := range files {
		if f == nil {
			continue
		}
		conn, err := f.SyscallConn()
		if err != nil {
			return nil, errors.Join(err, closeAll(fds))
		}
		var fd int
		var failed error
		err = conn.Control(func(own uintptr) { fd, failed = unix.FcntlInt(own, unix.F_DUPFD_CLOEXEC, 0) })
		if err := errors.Join(err, failed); err != nil {
			return nil, errors.Join(err, closeAll(fds))
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func closeAll(fds []int) error {
	var errs []error
	for _, fd := range fds {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}
