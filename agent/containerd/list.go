package containerd

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sync/errgroup"

	"skiff/agent"
	"skiff/agent/cgroup"
)

// Labels of our containers. Others, but containerd's own, are the agent's.
const (
	labelPrefix       = "skiff.runtime/"
	labelID           = labelPrefix + "id" // As the agent says it.
	labelPodUID       = labelPrefix + "pod-uid"
	labelPodNamespace = labelPrefix + "pod-namespace"
	labelPodName      = labelPrefix + "pod-name"
	labelName         = labelPrefix + "name"
	labelAttempt      = labelPrefix + "attempt"
	labelImage        = labelPrefix + "image"
	labelImageID      = labelPrefix + "image-id"
	labelLogPath      = labelPrefix + "log-path"
	labelStdinOnce    = labelPrefix + "stdin-once"
	labelCgroup       = labelPrefix + "cgroup-path"
	labelUser         = labelPrefix + "user"
	labelImageFile    = labelPrefix + "file"       // Of an image: the file that it was imported from.
	labelVolumeOf     = labelPrefix + "volume-of"  // Of a snapshot that is a volume: the pod's UID.
	labelVolumesOf    = labelPrefix + "volumes-of" // Of a snapshot with the volumes that an image declares: containerd's ID.
	labelImageKept    = labelPrefix + "kept"       // Of an image that somebody has imported by hand.
)

func labelsOf(c agent.ContainerConfig, imageID string) map[string]string {
	labels := map[string]string{
		labelID: c.ID, labelPodUID: c.Pod.UID, labelPodNamespace: c.Pod.Namespace, labelPodName: c.Pod.Name, labelName: c.Name,
		labelAttempt: strconv.Itoa(c.Attempt), labelImage: c.Image, labelImageID: imageID, labelLogPath: c.LogPath,
		labelCgroup: cgroupFor(c),
	}
	if c.StdinOnce {
		labels[labelStdinOnce] = "true"
	}
	for k, v := range c.Labels {
		labels[k] = v
	}
	return labels
}

// exitNotStarted is the exit code of a container that never ran, as containerd's CRI has it.
const exitNotStarted = 128

// maxID is containerd's limit for an identifier.
const maxID = 76

// containerdID is id, or what stands for it where it is too long for containerd.
func containerdID(id string) string {
	if len(id) <= maxID {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return id[:36] + "-" + hex.EncodeToString(sum[:16])
}

// Containers lists every container that Start made and Remove did not remove.
func (r *Runtime) Containers(ctx context.Context) ([]agent.Container, error) {
	starting := r.underWay() // Before the list: a Start that ends meanwhile may still be in it.
	ctx = r.in(ctx)
	records, err := r.list(ctx)
	if err != nil {
		return nil, err
	}
	tasks, err := r.tasks(ctx, records)
	if ctx.Err() != nil {
		return nil, err
	}
	if err != nil { // Of a shim that is just ending; the daemon will tell of that.
		r.log.Debug("list tasks", "err", err)
	}
	all := make([]agent.Container, 0, len(records))
	for _, record := range records {
		all = append(all, r.container(ctx, record, tasks[record.ID], starting[record.ID]))
	}
	return all, nil
}

// underWay are the containers that are being started.
func (r *Runtime) underWay() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.starting)
}

// PodContainers asks for each container that the pod may have.
func (r *Runtime) PodContainers(ctx context.Context, podUID string) ([]agent.Container, error) {
	ctx = r.in(ctx)
	var all []agent.Container
	var records []containers.Container
	starting := r.underWay() // Before the answers, as in Containers.
	for _, id := range r.ownedBy(podUID) {
		record, err := r.client.ContainerService().Get(ctx, id)
		if errdefs.IsNotFound(err) || err == nil && record.Labels[labelID] == "" { // The pod's process 1 is nobody's container.
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for container %s: %w", id, err)
		}
		records = append(records, record)
	}
	tasks, err := r.tasks(ctx, records)
	if err != nil {
		return nil, err
	}
	for _, record := range records {
		all = append(all, r.container(ctx, record, tasks[record.ID], starting[record.ID]))
	}
	return all, nil
}

// task is a container's, nil if there is none, or if its shim is dead. Of a shim that does not answer containerd 1 says that the task's
// status is unknown, and containerd 2 that there was no time for it.
func (r *Runtime) task(ctx context.Context, id string) (*tasktypes.Process, error) {
	response, err := r.client.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	switch err = errgrpc.ToNative(err); {
	case err == nil:
		return response.Process, nil
	case errdefs.IsNotFound(err):
		return nil, nil
	case timedOut(err) && ctx.Err() == nil:
		return &tasktypes.Process{ID: id, Status: tasktypes.Status_UNKNOWN}, nil
	}
	return nil, fmt.Errorf("look for the task of container %s: %w", id, err)
}

// container is what a record, a task or the lack of one, and the files of a container say together.
func (r *Runtime) container(ctx context.Context, record containers.Container, task *tasktypes.Process, starting bool) agent.Container {
	c := describe(record)
	switch {
	case starting && task == nil || r.neverStarted(record):
		c.State = agent.Created
	case (task == nil || task.Status == tasktypes.Status_CREATED) && r.describeFailed(&c, record):
	case task != nil:
		r.hearOut(ctx, record.ID, task)
		r.describeTask(&c, record, task)
	default:
		r.describeMissing(&c, record)
	}
	return c
}

// list returns the records of the containers.
func (r *Runtime) list(ctx context.Context) ([]containers.Container, error) {
	records, err := r.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q", labelID))
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	return records, nil
}

// shimsAtOnce bounds how many shims are asked side by side.
const shimsAtOnce = 64

// tasks returns the containers' tasks by ID. They are asked for side by side: the daemon gives each shim two seconds, one after the
// other if it is asked for the list of all, and what it then leaves out of that list may as well have ended as not answered. Whatever
// its error, a task that there is, or may be, is in the answer.
func (r *Runtime) tasks(ctx context.Context, records []containers.Container) (map[string]*tasktypes.Process, error) {
	var mu sync.Mutex
	byID := make(map[string]*tasktypes.Process, len(records))
	var failed error
	var group errgroup.Group
	group.SetLimit(shimsAtOnce)
	for _, record := range records {
		group.Go(func() error {
			task, err := r.task(ctx, record.ID)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				task, failed = &tasktypes.Process{ID: record.ID, Status: tasktypes.Status_UNKNOWN}, errors.Join(failed, err)
			}
			if task != nil {
				byID[record.ID] = task
			}
			return nil
		})
	}
	return byID, errors.Join(group.Wait(), failed)
}

// describe reads what the labels say.
func describe(record containers.Container) agent.Container {
	l := record.Labels
	attempt, _ := strconv.Atoi(l[labelAttempt])
	own := map[string]string{}
	for k, v := range l {
		if !strings.HasPrefix(k, labelPrefix) && k != containerd.StopSignalLabel {
			own[k] = v
		}
	}
	return agent.Container{
		ID: l[labelID], Pod: agent.PodRef{UID: l[labelPodUID], Namespace: l[labelPodNamespace], Name: l[labelPodName]},
		Name: l[labelName], Attempt: attempt, Image: l[labelImage], ImageID: l[labelImageID], Labels: own, LogPath: l[labelLogPath],
		Cgroup: cgroupOf(record), User: parseUser(l[labelUser]), Created: record.CreatedAt,
	}
}

// describeFailed tells of a container whose process could not be started, if it is one.
func (r *Runtime) describeFailed(c *agent.Container, record containers.Container) bool {
	file := filepath.Join(r.containerDir(record.ID), failedFile)
	info, err := os.Stat(file)
	if err != nil {
		return false
	}
	why, _ := os.ReadFile(file)
	c.State, c.ExitCode, c.Finished = agent.Exited, exitNotStarted, info.ModTime()
	c.StartError = cmp.Or(string(why), "its process could not be started") // Who was to write it may have been killed.
	return true
}

func (r *Runtime) describeTask(c *agent.Container, record containers.Container, t *tasktypes.Process) {
	switch t.Status {
	case tasktypes.Status_CREATED:
		c.State = agent.Created
		if r.hasBegun(record.ID) {
			c.State, c.Started = agent.Running, r.started(record)
		}
	case tasktypes.Status_STOPPED:
		c.State = agent.Exited
		c.Started = r.started(record)
		c.Finished = t.ExitedAt.AsTime()
		c.ExitCode = int(t.ExitStatus)
		// The kernel may have killed a child only, of which the container then failed; one that succeeded nevertheless did not end of it.
		c.OOM = c.ExitCode != 0 && cgroup.Host().OOMKilled(c.Cgroup)
	case tasktypes.Status_UNKNOWN:
		r.describeSilent(c, record)
	default: // Paused ones are alive too.
		c.State = agent.Running
		c.Started = r.started(record)
	}
}

// hearOut waits a moment for the last words of a container that has just ended: who sees that it has ended reads its log, and not again.
func (r *Runtime) hearOut(ctx context.Context, id string, t *tasktypes.Process) {
	if t.Status != tasktypes.Status_STOPPED {
		return
	}
	out, left := r.output(id), time.Until(t.ExitedAt.AsTime().Add(drainTime))
	if out != nil && left > 0 { // A process that it has left behind may keep its output open.
		out.drain(ctx, left)
	}
}

// Files of a container whose times say when it was to start, and when it was found without its task. The first names its process, too.
const (
	startedFile = "started"
	missedFile  = "missed"
)

// started is when the container started; its creation stands for it after a reboot, which those files do not survive.
func (r *Runtime) started(record containers.Container) time.Time {
	info, err := os.Stat(filepath.Join(r.containerDir(record.ID), startedFile))
	if err != nil {
		return record.CreatedAt
	}
	return info.ModTime()
}

// neverStarted says that the process was killed that was to start a container: it had made its directory, which only a reboot
// takes away, and came no further, or what it had made was killed before its start.
func (r *Runtime) neverStarted(record containers.Container) bool {
	has := func(file string) bool {
		_, err := os.Stat(filepath.Join(r.containerDir(record.ID), file))
		return err == nil
	}
	return has("") && !has(startedFile) && !has(missedFile) && !has(failedFile)
}

// missed is when it was first seen that a container has no task any more. Every later call says the same.
func (r *Runtime) missed(record containers.Container) time.Time {
	file := filepath.Join(r.containerDir(record.ID), missedFile)
	info, err := os.Stat(file)
	if err != nil {
		err = os.WriteFile(file, nil, 0o600)
		if err == nil {
			info, err = os.Stat(file)
		}
	}
	if errors.Is(err, fs.ErrNotExist) { // It is being removed.
		return time.Now()
	}
	if err != nil {
		r.log.Error("the time of a container's end can't be kept", "container", record.ID, "err", err)
		return time.Now()
	}
	return info.ModTime()
}
