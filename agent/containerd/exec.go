package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/fifo"
	"golang.org/x/sys/unix"

	"skiff/agent"
)

// outputPatience bounds the wait for the end of a command's output after its own end: a child of it that lives on may
// hold the pipe.
const outputPatience = 10 * time.Second

// Exec runs a command in a running container. When it returns, e.Stdin may still be read once.
func (r *Runtime) Exec(ctx context.Context, id string, e agent.ExecConfig) (int, error) {
	ctx = r.in(ctx)
	task, container, err := r.running(ctx, id)
	if err != nil {
		return 0, err
	}
	spec, err := container.Spec(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the container's spec: %w", err)
	}
	process := spec.Process
	process.Args, process.Terminal = e.Command, e.TTY
	if e.TTY {
		process.Env = append(process.Env, termEnv)
	}
	execID := "exec-" + rand.Text()
	dir := filepath.Join(r.execDir(), execID)
	defer os.RemoveAll(dir)
	pipes, err := makePipes(dir, e.Stdin != nil, e.TTY)
	if err != nil {
		return 0, fmt.Errorf("make pipes: %w", err)
	}
	defer pipes.release()
	defer pipes.closeOutputs()
	var command containerd.Process
	err = answered(ctx, func(ctx context.Context) error {
		command, err = task.Exec(ctx, execID, process, pipes.creator())
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", id, err)
	}
	defer deleteProcess(ctx, command)
	return runCommand(ctx, command, pipes, e)
}

// running finds a container's task, or says why there is nothing to talk to.
func (r *Runtime) running(ctx context.Context, id string) (containerd.Task, containerd.Container, error) {
	container, err := r.load(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	now, err := r.task(ctx, container.ID())
	switch {
	case err != nil:
		return nil, nil, err
	case now != nil && now.Status == tasktypes.Status_UNKNOWN:
		return nil, nil, fmt.Errorf("%s: %w", id, errSilent)
	case now == nil || now.Status != tasktypes.Status_RUNNING && !(now.Status == tasktypes.Status_CREATED && r.hasBegun(container.ID())):
		return nil, nil, fmt.Errorf("%s: %w", id, agent.ErrNotRunning)
	}
	task, err := container.Task(ctx, nil)
	switch {
	case errdefs.IsNotFound(err):
		return nil, nil, fmt.Errorf("%s: %w", id, agent.ErrNotRunning)
	case timedOut(err) && ctx.Err() == nil:
		return nil, nil, fmt.Errorf("%s: %w", id, errSilent)
	case err != nil:
		return nil, nil, fmt.Errorf("load task of container %s: %w", id, err)
	}
	return task, container, nil
}

// deleteProcess forgets a command, which by then has ended or never began.
func deleteProcess(ctx context.Context, p containerd.Process) {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	_, _ = p.Delete(clean, containerd.WithProcessKill) // What is wrong with it was said by Start or Wait.
}

// runCommand starts the command, copies its streams, and waits for its end.
func runCommand(ctx context.Context, command containerd.Process, pipes *pipes, e agent.ExecConfig) (int, error) {
	// Not the caller's context: its end kills the command, and then the end of that is waited for.
	background := context.WithoutCancel(ctx)
	exited, err := command.Wait(background)
	if err != nil {
		return 0, err
	}
	if err := answered(ctx, command.Start); err != nil {
		return 0, fmt.Errorf("start command: %w", err)
	}
	pipes.release()
	ended := make(chan struct{})
	defer close(ended)
	go resize(background, command, e.Resize, ended)
	if e.Stdin != nil {
		feeding, stop := context.WithCancel(background)
		defer stop()
		go feed(feeding, command, pipes.config.Stdin, e.Stdin)
	}
	copied := copyOutput(pipes, e.Streams)
	select {
	case status := <-exited:
		return exitCode(status, copied)
	case <-ctx.Done():
		return 0, errors.Join(ctx.Err(), kill(background, command, exited))
	}
}

// feed copies from to the command's stdin and then tells that there is no more. The shim opens its end some time after the
// command's start: opening ours waits for that, or for ctx.
func feed(ctx context.Context, command containerd.Process, path string, from io.Reader) {
	stdin, err := fifo.OpenFifo(ctx, path, unix.O_WRONLY, 0)
	if err != nil {
		return // The command ended before it could read.
	}
	defer stdin.Close()
	unblock := context.AfterFunc(ctx, func() { stdin.Close() })
	defer unblock()
	// An error means that one of the two ends is gone; the command's status says the rest.
	_, _ = io.Copy(stdin, from)
	stdin.Close()
	closeStdin(ctx, command)
}

// closeStdin tells a process that nothing comes any more.
func closeStdin(ctx context.Context, p containerd.Process) {
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	_ = p.CloseIO(clean, containerd.WithStdinCloser) // It may just have ended.
}

// copyOutput starts copying; the channel is closed when both streams have ended.
func copyOutput(p *pipes, s agent.Streams) <-chan struct{} {
	var copies sync.WaitGroup
	start := func(from *os.File, to io.Writer) {
		if from == nil {
			return
		}
		if to == nil {
			to = io.Discard
		}
		copies.Go(func() {
			if _, err := io.Copy(to, from); err != nil {
				_, _ = io.Copy(io.Discard, from) // The client is gone: its context ends soon. Meanwhile nothing may block.
			}
		})
	}
	start(p.stdout, s.Stdout)
	start(p.stderr, s.Stderr)
	done := make(chan struct{})
	go func() {
		copies.Wait()
		close(done)
	}()
	return done
}

// exitCode waits for the rest of the output and returns the command's status. An error in status is the connection's to
// the daemon, never the command's.
func exitCode(status containerd.ExitStatus, copied <-chan struct{}) (int, error) {
	if err := status.Error(); err != nil {
		return 0, fmt.Errorf("wait for command: %w", err)
	}
	select {
	case <-copied:
	case <-time.After(outputPatience):
	}
	return int(status.ExitCode()), nil
}

// kill ends a command, and what that has started. Each command is a session of its own, and so is its process group: a shell's
// child is in it, but not what an interactive shell runs in the background.
func kill(ctx context.Context, command containerd.Process, exited <-chan containerd.ExitStatus) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	if pid := int(command.Pid()); pid > 1 {
		_ = unix.Kill(-pid, unix.SIGKILL) // None, where it has just ended.
	}
	if err := command.Kill(ctx, syscall.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("kill command: %w", err)
	}
	select {
	case <-exited:
		return nil
	case <-ctx.Done():
		return errors.New("the command did not end after SIGKILL")
	}
}

// resize passes a terminal's sizes on until ended is closed or sizes is.
func resize(ctx context.Context, p interface {
	Resize(ctx context.Context, w, h uint32) error
}, sizes <-chan agent.Size, ended <-chan struct{}) {
	for sizes != nil {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			_ = answered(ctx, func(ctx context.Context) error { // It may just have ended.
				return p.Resize(ctx, uint32(size.Width), uint32(size.Height))
			})
		case <-ended:
			return
		}
	}
}

// Attach connects streams to the container's first process. What it wrote before is in its log only.
func (r *Runtime) Attach(ctx context.Context, id string, s agent.Streams) error {
	ctx = r.in(ctx)
	task, container, err := r.running(ctx, id)
	if err != nil {
		return err
	}
	out := r.output(container.ID())
	if out == nil {
		return fmt.Errorf("%s: %w", id, agent.ErrNotRunning)
	}
	client := out.listen()
	defer out.leave(client)
	ended := make(chan struct{})
	defer close(ended)
	go resize(context.WithoutCancel(ctx), task, s.Resize, ended)
	attached, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	if s.Stdin != nil {
		stdin, err := r.openStdin(container.ID())
		if err != nil {
			return err
		}
		once, err := stdinOnce(ctx, container)
		if err != nil {
			return err
		}
		defer stdin.Close()
		go func() {
			_, _ = io.Copy(stdin, s.Stdin)
			stdin.Close()
			if s.EndsStdin(once) {
				closeStdin(ctx, task)
			} else {
				time.AfterFunc(answerTime, func() { leave(errStdinEnded) })
			}
		}()
	}
	if err := out.copyTo(attached, client, s.Stdout, s.Stderr); err != nil && context.Cause(attached) != errStdinEnded {
		return fmt.Errorf("attach to container %s: %w", id, err)
	}
	return nil
}

// errStdinEnded is why a client goes that has nothing more to say to a container that goes on listening.
var errStdinEnded = errors.New("the client's stdin ended")

// answerTime is how long such a client is still told what the container says to its last words.
const answerTime = 2 * time.Second

// openStdin opens the container's stdin, if it was started with one.
func (r *Runtime) openStdin(id string) (*os.File, error) {
	stdin, err := os.OpenFile(filepath.Join(r.containerDir(id), "stdin"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("the container was started without stdin")
	}
	if err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	return stdin, nil
}

func stdinOnce(ctx context.Context, c containerd.Container) (bool, error) {
	labels, err := c.Labels(ctx)
	if err != nil {
		return false, fmt.Errorf("read the container's labels: %w", err)
	}
	return labels[labelStdinOnce] == "true", nil
}
