package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"skiff/agent"
	"skiff/agent/cgroup"
)

// A shim may not answer: somebody has stopped it, or the machine is out of breath. Its containers are then [agent.Silent]. They may run,
// and how one ended the shim may yet tell, so they are not taken for ended; but they can be killed without it, by their cgroups. What the
// kernel has killed that way has ended, whatever the shim has not said, and when all of its containers have, so can the shim.

const (
	shimTime = 3 * time.Second // How long a shim has to answer; the daemon itself gives it two seconds to tell of a process.
	taskTime = 2 * time.Minute // How long it has for making a container, which is the kubelet's time for any request.
)

// errSilent is why a container cannot be worked with that may run.
var errSilent = errors.New("the container's shim does not answer")

// answered gives a shim its time for one request, whatever time the caller has.
func answered(ctx context.Context, request func(context.Context) error) error {
	short, cancel := context.WithTimeout(ctx, taskTime)
	defer cancel()
	err := request(short)
	if timedOut(err) && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", errSilent, err)
	}
	return err
}

// killedFile is in the directory of a container that was killed without its shim.
const killedFile = "killed"

// describeSilent tells of a container whose shim does not answer.
func (r *Runtime) describeSilent(c *agent.Container, record containers.Container) {
	c.State, c.Started = agent.Silent, r.started(record)
	if r.wasKilled(record.ID) && len(processesOf(record)) == 0 {
		c.State, c.ExitCode, c.Unknown, c.Finished = agent.Exited, 137, true, r.missed(record)
	}
}

// describeMissing tells of a container that the daemon has no task of: it has ended. Where its shim was killed, what ran in it may live a
// moment longer, and has nobody any more who would hear of its end: it is killed, as the daemon does.
func (r *Runtime) describeMissing(c *agent.Container, record containers.Container) {
	c.Started = r.started(record)
	if len(processesOf(record)) > 0 {
		c.State = agent.Silent
		killGroup(cgroupOf(record))
		return
	}
	c.State, c.ExitCode, c.Unknown, c.Finished = agent.Exited, 137, true, r.missed(record)
}

// processesOf are those of a container, as far as it is known where they are.
func processesOf(record containers.Container) []int {
	if group := cgroupOf(record); group != "" {
		return cgroup.Host().Processes(group)
	}
	return nil
}

func (r *Runtime) wasKilled(id string) bool {
	_, err := os.Stat(filepath.Join(r.containerDir(id), killedFile))
	return err == nil
}

// killGroup kills what is in a cgroup.
func killGroup(group string) {
	if group == "" {
		return
	}
	for _, dir := range cgroup.Host().Find(group) {
		killIn(dir)
	}
}

// signalItself is Signal without the shim. cause is why that is needed.
func (r *Runtime) signalItself(ctx context.Context, container containerd.Container, signal syscall.Signal, cause error) error {
	record, err := container.Info(ctx, containerd.WithoutRefreshedMetadata)
	if err != nil {
		return err
	}
	if signal == syscall.SIGKILL {
		if cgroupOf(record) == "" {
			return cause
		}
		if err := os.WriteFile(filepath.Join(r.containerDir(record.ID), killedFile), nil, 0o600); err != nil {
			return err
		}
		killGroup(cgroupOf(record))
		return nil
	}
	process, _, err := r.firstProcess(record.ID)
	if err != nil {
		return errors.Join(cause, err)
	}
	defer unix.Close(process)
	return unix.PidfdSendSignal(process, signal, nil, 0)
}

// timedOut says that a shim did not answer in time. The daemon may say so before our own clock does, and 1.6 only in words.
func timedOut(err error) bool {
	return errdefs.IsDeadlineExceeded(err) || err != nil && strings.Contains(err.Error(), context.DeadlineExceeded.Error())
}

// endSilentShim kills the shim of a pod one of whose containers was killed without it, if it still does not answer and no container of
// the pod runs. The daemon then forgets its tasks.
func (r *Runtime) endSilentShim(ctx context.Context, id string) error {
	short, cancel := context.WithTimeout(ctx, shimTime)
	defer cancel()
	task, err := r.task(short, id)
	if err == nil && (task == nil || task.Status != tasktypes.Status_UNKNOWN) {
		return nil // It is back, or the daemon has forgotten the task.
	}
	podUID := r.ownerOf(id)
	if err != nil && !timedOut(err) {
		return nil // The daemon has forgotten the task, or says why it cannot tell.
	}
	records, err := r.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q==%q", labelPodUID, podUID))
	if err != nil {
		return err
	}
	for _, record := range records {
		if len(processesOf(record)) > 0 {
			return fmt.Errorf("the shim of pod %s does not answer, and container %s may run", podUID, record.ID)
		}
	}
	r.log.Warn("a shim that does not answer is killed; its containers have ended", "pod", podUID)
	return killShimAt(r.shimSocket(podUID))
}
