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
	if !kill && r.signalDirectly(ctx, container.ID(), signal) == nil {
		return nil
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
	if errdefs.IsNotFound(err) || err == nil && (status.Status != containerd.Created || r.hasBegun(task.ID())) {
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
	if r.wasKilled(containerdID(id)) {
		if err := r.endSilentShim(ctx, containerdID(id)); err != nil {
			return fmt.Errorf("remove container %s: %w", id, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	if err := r.discard(ctx, containerdID(id)); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// destroy is discard for a container that may be running: it is killed.
func (r *Runtime) destroy(ctx context.Context, id string) error {
	if err := r.killTask(ctx, id); err != nil {
		return err
	}
	return r.discard(ctx, id)
}

// killTask kills a container and deletes its task, if there is one.
func (r *Runtime) killTask(ctx context.Context, id string) error {
	container, err := r.client.LoadContainer(ctx, id)
	if err == nil {
		var task containerd.Task
		if task, err = container.Task(ctx, nil); err == nil {
			_, err = task.Delete(ctx, containerd.WithProcessKill)
		}
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// discard deletes a container's task, its snapshots, what containerd knows of it, and its FIFOs, whichever of these are there. The
// client's Delete would ask the daemon six times more for what it says anyway.
func (r *Runtime) discard(ctx context.Context, id string) error {
	if out := r.output(id); out != nil {
		out.drain(ctx, drainTime) // The shim waits for it too, but longer.
	}
	if err := r.deleteTask(ctx, id); err != nil {
		return err
	}
	if err := errors.Join(r.removeSnapshot(ctx, id), r.removeVolumes(ctx, id)); err != nil {
		return err
	}
	if err := r.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := r.removeFiles(id); err != nil {
		return err
	}
	r.disown(id)
	return nil
}

// deleteTask has containerd forget a task that has ended. One whose making was broken off is in none of its answers, and yet a new one
// of the same name is refused.
func (r *Runtime) deleteTask(ctx context.Context, id string) error {
	_, err := r.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err == nil || errdefs.IsNotFound(err) {
		return nil
	}
	if task, lost := r.task(ctx, id); task == nil && lost == nil { // Its shim is dead: containerd is about to do the same.
		return nil
	}
	return fmt.Errorf("delete task: %w", err)
}

// removeFiles removes what a container has beside what containerd has of it.
func (r *Runtime) removeFiles(id string) error {
	if out := r.forget(id); out != nil {
		out.close()
	}
	r.holder.release(id)
	return os.RemoveAll(r.containerDir(id))
}

// EndPod ends the process 1 of a pod that has one.
func (r *Runtime) EndPod(ctx context.Context, podUID string) error {
	return r.endPause(r.in(ctx), podUID)
}

// RemovePod deletes what is left of a pod when its containers are removed: its process 1, its /dev/shm, its cgroups, with the
// processes that are still in them, and its shim, where that was killed or never had a container.
func (r *Runtime) RemovePod(ctx context.Context, podUID string) error {
	if podUID == "" || podUID != filepath.Base(podUID) || podUID == "." || podUID == ".." {
		return fmt.Errorf("%q is not a pod's UID", podUID)
	}
	var errs []error
	dirs, _ := filepath.Glob(r.containerDir(podUID + "-*")) // Where containerd was killed when it removed the container.
	for _, dir := range dirs {
		errs = append(errs, r.removeFiles(filepath.Base(dir)))
	}
	errs = append(errs, r.EndPod(ctx, podUID))
	for _, id := range r.ownedBy(podUID) { // Whose making failed.
		errs = append(errs, r.disownMissing(r.in(ctx), id))
	}
	err := errors.Join(append(errs,
		agent.Unmount(r.shmDir(podUID)),
		os.RemoveAll(r.shmDir(podUID)),
		r.clearPod(ctx, podUID),
		r.removeViews(ctx, podUID))...)
	if err == nil {
		err = endShim(r.shimSocket(podUID))
	}
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
