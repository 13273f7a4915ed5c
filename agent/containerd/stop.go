package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"skiff/agent"
	"skiff/agent/cgroup"
)

// Signal asks the container's first process to stop, or kills all of its processes.
func (r *Runtime) Signal(ctx context.Context, id string, kill bool) error {
	ctx = r.in(ctx)
	container, err := r.load(ctx, id)
	if err != nil {
		return err
	}
	signal := syscall.SIGKILL
	if !kill {
		if signal, err = containerd.GetStopSignal(ctx, container, syscall.SIGTERM); err != nil {
			return fmt.Errorf("signal container %s: %w", id, err)
		}
	}
	short, cancel := context.WithTimeout(ctx, shimTime)
	defer cancel()
	err = r.signal(short, container, signal)
	if timedOut(err) && ctx.Err() == nil {
		err = r.signalItself(ctx, container, signal, err)
	}
	if err != nil && !errdefs.IsNotFound(err) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// signal has the shim send a signal: to the first process or, to kill, to all.
func (r *Runtime) signal(ctx context.Context, container containerd.Container, signal syscall.Signal) error {
	task, err := container.Task(ctx, nil)
	if err != nil {
		return err
	}
	if signal != syscall.SIGKILL {
		return task.Kill(ctx, signal)
	}
	if err := r.noteNeverStarted(ctx, task); err != nil {
		return err
	}
	return task.Kill(ctx, signal, containerd.WithKillAll)
}

// noteNeverStarted is for a task that is made but not started: once killed, it would look like one that had run.
func (r *Runtime) noteNeverStarted(ctx context.Context, task containerd.Task) error {
	status, err := task.Status(ctx)
	if errdefs.IsNotFound(err) || err == nil && status.Status != containerd.Created {
		return nil
	}
	if err != nil {
		return err
	}
	err = os.Remove(filepath.Join(r.containerDir(task.ID()), startedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// load finds a container, or says ErrNoContainer.
func (r *Runtime) load(ctx context.Context, id string) (containerd.Container, error) {
	container, err := r.client.LoadContainer(ctx, containerdID(id))
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%s: %w", id, agent.ErrNoContainer)
	}
	if err != nil {
		return nil, fmt.Errorf("load container %s: %w", id, err)
	}
	return container, nil
}

// Remove deletes an ended container with its writable layer. One that runs is an error.
func (r *Runtime) Remove(ctx context.Context, id string) error {
	ctx = r.in(ctx)
	container, err := r.load(ctx, id)
	if errors.Is(err, agent.ErrNoContainer) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.wasKilled(container.ID()) {
		labels, err := container.Labels(ctx)
		if err == nil {
			err = r.endSilentShim(ctx, container, labels[labelPodUID])
		}
		if err != nil {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	if err := r.discard(ctx, container, false); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// discard deletes the task, if there is one, the container, its snapshot, and its FIFOs. With kill it may be running.
func (r *Runtime) discard(ctx context.Context, container containerd.Container, kill bool) error {
	if err := r.deleteTask(ctx, container, kill); err != nil {
		return err
	}
	if err := container.Delete(ctx, containerd.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return r.removeFiles(container.ID())
}

// deleteTask deletes the task, if there is one. With kill it may be running.
func (r *Runtime) deleteTask(ctx context.Context, container containerd.Container, kill bool) error {
	task, err := container.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		_ = r.deleteGhost(ctx, container.ID()) // Where a dead shim hinders it, containerd is about to do the same.
		return nil
	}
	if err != nil {
		return err
	}
	var opts []containerd.ProcessDeleteOpts
	if kill {
		opts = append(opts, containerd.WithProcessKill)
	} else if out := r.output(container.ID()); out != nil {
		out.drain(ctx, drainTime) // The shim waits for it too, but longer.
	}
	if _, err := task.Delete(ctx, opts...); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// removeFiles removes what a container has beside what containerd has of it.
func (r *Runtime) removeFiles(id string) error {
	if out := r.forget(id); out != nil {
		out.close()
	}
	r.holder.release(id)
	return os.RemoveAll(r.containerDir(id))
}

// deleteGhost has containerd forget a task whose making was broken off: it is in none of its answers, and yet a new one of the same
// name is refused.
func (r *Runtime) deleteGhost(ctx context.Context, id string) error {
	_, err := r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err != nil && !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		return fmt.Errorf("delete what is left of a task: %w", err)
	}
	return nil
}

// EndPod ends the process 1 of a pod that has one.
func (r *Runtime) EndPod(ctx context.Context, podUID string) error {
	return r.endPause(r.in(ctx), podUID)
}

// RemovePod deletes what is left of a pod when its containers are removed: its process 1, its /dev/shm, its cgroups, with the
// processes that are still in them, and the socket of a shim that was killed.
func (r *Runtime) RemovePod(ctx context.Context, podUID string) error {
	if podUID == "" || podUID != filepath.Base(podUID) || podUID == "." || podUID == ".." {
		return fmt.Errorf("%q is not a pod's UID", podUID)
	}
	var errs []error
	dirs, _ := filepath.Glob(r.containerDir(podUID + "-*")) // Where containerd was killed when it removed the container.
	for _, dir := range dirs {
		errs = append(errs, r.removeFiles(filepath.Base(dir)))
	}
	err := errors.Join(append(errs,
		r.EndPod(ctx, podUID),
		agent.Unmount(r.shmDir(podUID)),
		os.RemoveAll(r.shmDir(podUID)),
		r.clearPod(ctx, podUID),
		r.removeViews(ctx, podUID),
		removeDeadSocket(r.shimSocket(podUID)))...)
	if err != nil {
		return fmt.Errorf("remove the rest of pod %s: %w", podUID, err)
	}
	return nil
}

// clearPod removes a pod's cgroups, wherever the pod's class has put them.
func (r *Runtime) clearPod(ctx context.Context, podUID string) error {
	errs := []error{clearCgroups(ctx, path.Join(r.config.CgroupRoot, podUID))}
	for _, group := range cgroup.Host().Below(r.config.CgroupRoot) {
		if of := path.Join(r.config.CgroupRoot, group, podUID); cgroup.Host().Has(of) {
			errs = append(errs, clearCgroups(ctx, of))
		}
	}
	return errors.Join(errs...)
}

// How long killed processes may take to leave their cgroup, and how often that is looked at.
const (
	clearTimeout = 10 * time.Second
	clearRetry   = 5 * time.Millisecond
)

// clearCgroups removes a cgroup, and those under it, and kills whatever is in them. If a container's start was broken off, the
// process that was to become the container may outlive what containerd knows of it.
func clearCgroups(ctx context.Context, path string) error {
	deadline := time.Now().Add(clearTimeout)
	for {
		err := cgroup.Host().Remove(path)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		for _, dir := range cgroup.Host().Find(path) {
			killIn(dir)
		}
		time.Sleep(clearRetry)
	}
}

// killIn kills the processes in a tree of cgroups. What cannot be read has gone.
func killIn(dir string) {
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "cgroup.procs" {
			return nil
		}
		text, _ := os.ReadFile(path)
		for line := range strings.Lines(string(text)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		return nil
	})
}
