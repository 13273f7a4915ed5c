package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"skiff/agent"
)

// Daemon is a private containerd, a child process in a session of its own: a Ctrl-C in our terminal is not for it.
type Daemon struct {
	config DaemonConfig
	binary string
	log    *slog.Logger

	mu      sync.Mutex
	process *daemonProcess
}

// daemonProcess is one life of the daemon.
type daemonProcess struct {
	cmd   *exec.Cmd
	ended chan struct{} // Closed when err is set.
	err   error
}

const (
	startTimeout = time.Minute      // It asks each shim first.
	stopTimeout  = 10 * time.Second // From SIGTERM to SIGKILL.
	dialEvery    = 2 * time.Millisecond
	firstRestart = 100 * time.Millisecond
	lastRestart  = 30 * time.Second
	goodLife     = time.Minute // A daemon that ran so long starts again without delay.
	maxKills     = 3           // A daemon that is killed so often as it starts, before it has ever served, is given up.
	maxDaemonLog = 1 << 20

	maxSocketPath = 107 - len(".ttrpc") // A second socket stands beside the first.
)

// StartDaemon starts containerd and returns when it serves. One that an earlier process left behind in the same State is
// ended first; its containers run on.
func StartDaemon(ctx context.Context, c DaemonConfig) (*Daemon, error) {
	d := &Daemon{config: c.withDefaults(), log: slog.With("component", "containerd")}
	for _, binary := range []string{d.config.Binary, "containerd-shim-runc-v2", "runc"} {
		path, err := exec.LookPath(binary)
		if err != nil {
			return nil, fmt.Errorf("no %s on PATH: install containerd 1.6 or newer and runc (on Debian: apt-get install containerd runc): %w", binary, err)
		}
		if d.binary == "" {
			d.binary = path
		}
	}
	if len(d.config.Socket) > maxSocketPath {
		return nil, fmt.Errorf("the path of containerd's socket, %s, is longer than the %d bytes that the kernel allows: use a shorter --run-dir",
			d.config.Socket, maxSocketPath)
	}
	for _, dir := range []string{d.config.Root, d.config.State, filepath.Dir(d.config.Socket)} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	if err := d.config.write(); err != nil {
		return nil, fmt.Errorf("write containerd's configuration: %w", err)
	}
	if err := d.endOrphans(ctx); err != nil {
		return nil, err
	}
	for tries := 1; ; tries++ {
		err := d.start(ctx)
		if err == nil {
			return d, nil
		}
		if !wasKilled(err) || tries == maxKills {
			return nil, err
		}
		d.log.Warn("containerd was killed as it started, starting it again")
	}
}

// Socket is the daemon's address.
func (d *Daemon) Socket() string { return d.config.Socket }

// Run starts the daemon again whenever it dies, until ctx ends; then it stops it. Containers run on in both cases.
func (d *Daemon) Run(ctx context.Context) error {
	delay := time.Duration(0)
	for {
		p, born := d.current(), time.Now()
		select {
		case <-p.ended:
		case <-ctx.Done():
			return d.Stop()
		}
		if delay *= 2; delay == 0 || time.Since(born) > goodLife {
			delay = firstRestart
		}
		delay = min(delay, lastRestart)
		d.log.Error("containerd died", "err", p.err, "restart", delay, "log", d.config.Log)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil
		}
		if err := d.start(ctx); err != nil && ctx.Err() == nil {
			d.log.Error("containerd does not start", "err", err)
		}
	}
}

// Stop ends the daemon. Run, if it is at work, must be told by its context.
func (d *Daemon) Stop() error {
	p := d.current()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop containerd: %w", err)
	}
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill() // It may just have ended.
		<-p.ended
	}
	return nil
}

// Purge removes, of a daemon that was stopped, its shims, its mounts and all its files. Containers should have been
// removed before by [Runtime.Purge]; this is for what could not be.
func (d *Daemon) Purge() error {
	var errs []error
	errs = append(errs, killShims(d.config.Socket), removeShimSockets(d.config.State))
	errs = append(errs, agent.UnmountBelow(d.config.State), agent.UnmountBelow(d.config.Root))
	errs = append(errs, os.RemoveAll(d.config.State), os.RemoveAll(d.config.Root), os.RemoveAll(d.config.Socket))
	return errors.Join(errs...)
}

func (d *Daemon) current() *daemonProcess {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.process
}

// start starts the process and waits until it serves, or until it is clear that it will not.
func (d *Daemon) start(ctx context.Context) error {
	log, err := openDaemonLog(d.config.Log)
	if err != nil {
		return fmt.Errorf("open containerd's log: %w", err)
	}
	defer log.Close()
	if err := removeStillborn(d.config.State); err != nil {
		d.log.Error("what a killed containerd left of a container can't be removed", "err", err)
	}
	cmd := exec.Command(d.binary, "--config", d.config.file())
	cmd.Stdout, cmd.Stderr = log, log // A file, not a pipe: it must outlive us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	p := &daemonProcess{cmd: cmd, ended: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	d.mu.Lock()
	d.process = p
	d.mu.Unlock()
	if err := d.waitServing(ctx, p); err != nil {
		return errors.Join(err, d.endStart(p))
	}
	return nil
}

// wasKilled says that a daemon did not come up because somebody ended it.
func wasKilled(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() < 0
}

// endStart kills a daemon that did not come up.
func (d *Daemon) endStart(p *daemonProcess) error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.ended
	return nil
}

func (d *Daemon) waitServing(ctx context.Context, p *daemonProcess) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	try := time.NewTicker(dialEvery)
	defer try.Stop()
	for {
		conn, err := net.Dial("unix", d.config.Socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-try.C:
		case <-p.ended:
			return fmt.Errorf("containerd ended at once (%w): %s", p.err, lastLines(d.config.Log))
		case <-ctx.Done():
			return fmt.Errorf("containerd does not serve %s: %w: %s", d.config.Socket, ctx.Err(), lastLines(d.config.Log))
		}
	}
}

// openDaemonLog opens the log for appending, after beginning a new one if it has grown large.
func openDaemonLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxDaemonLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
}

// lastLines returns the end of a file for an error message.
func lastLines(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 600 {
		if _, err := f.Seek(-600, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, 600))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text))
}
