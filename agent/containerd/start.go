package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"skiff/agent"
	"skiff/agent/cgroup"
)

const (
	runcShim       = "io.containerd.runc.v2"
	cleanupTimeout = 15 * time.Second // For what must still be done when the caller's context has ended.
)

// Start makes a container and starts its process.
func (r *Runtime) Start(ctx context.Context, c agent.ContainerConfig) (err error) {
	id := containerdID(c.ID)
	r.mu.Lock()
	if r.starting[id] {
		r.mu.Unlock()
		return fmt.Errorf("container %s is being started already", c.ID)
	}
	r.starting[id] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.starting, id)
		r.mu.Unlock()
		err = noRoom(err)
	}()

	ctx = leases.WithLease(r.in(ctx), lease)
	image, err := r.find(ctx, c.Image)
	if err != nil {
		return err
	}
	about, err := r.about(ctx, image)
	if err != nil {
		return err
	}
	shm, err := r.shm(c)
	if err != nil {
		return err
	}
	pidNS, err := r.pidNamespace(ctx, c)
	if err != nil {
		return err
	}
	if c.Security.AppArmor, err = r.appArmor(ctx, c.Security); err != nil {
		return err
	}
	for _, m := range c.Mounts {
		if err := spreads(m); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(r.containerDir(id), 0o700); err != nil { // First of all: see neverStarted.
		return err
	}
	r.own(id, c.Pod.UID)
	users, err := r.userMounts(id, c)
	if err != nil {
		return err
	}
	defer func() {
		if left := users.close(); left != nil { // The container runs all the same; the next process tries again.
			r.log.Error("what a container saw as it started can't be taken away", "container", c.ID, "err", left)
		}
	}()
	if c.Mounts, err = users.volumes(c.Mounts); err != nil {
		return err
	}
	layout := func(root []mount.Mount) ([]oci.SpecOpts, error) {
		declared, err := r.declaredVolumes(ctx, id, c, about.config, root)
		if err == nil {
			declared, err = users.volumes(declared)
		}
		c := c
		c.Mounts = slices.Concat(declared, c.Mounts)
		return spec(c, about.config, root, shm, pidNS), err
	}
	root, err := r.create(ctx, id, c, about, layout, image)
	if err != nil {
		return fmt.Errorf("create container: %w", err)
	}
	if root, err = users.root(root); err == nil {
		err = r.run(ctx, id, root, c)
	}
	if err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return r.giveUp(clean, id, err)
	}
	return nil
}

// failedFile is in the directory of a container whose process could not be started, and says why; its time says when.
const failedFile = "failed"

// giveUp keeps a container whose process cannot be started as one that has ended; of others nothing stays. One that may run is left for
// the next look at it.
func (r *Runtime) giveUp(ctx context.Context, id string, cause error) error {
	if errors.Is(cause, errUnclear) {
		return cause
	}
	var failed *agent.NotStarted
	if !errors.As(cause, &failed) {
		return errors.Join(cause, r.destroy(ctx, id))
	}
	err := os.WriteFile(filepath.Join(r.containerDir(id), failedFile), []byte(failed.Error()), 0o600)
	if err == nil {
		err = r.killTask(ctx, id)
	}
	if err == nil {
		err = r.deleteTask(ctx, id)
	}
	if err != nil {
		return errors.Join(failed.Err, err, r.destroy(ctx, id))
	}
	return cause
}

// notStarted tells what hinders this process from what hinders any: a full disk, a daemon that is away or too busy.
func notStarted(doing string, err error) error {
	err = fmt.Errorf("%s: %w", doing, err)
	if errdefs.IsUnavailable(err) || errdefs.IsCanceled(err) || timedOut(err) || errors.Is(noRoom(err), agent.ErrNoRoom) {
		return err
	}
	return &agent.NotStarted{Err: err}
}

// pidNamespace is the process namespace that a container joins, "" if it gets its own, or the host's.
func (r *Runtime) pidNamespace(ctx context.Context, c agent.ContainerConfig) (string, error) {
	switch {
	case c.SharePID:
		return r.sharedProcesses(ctx, c)
	case c.PIDOf == "":
		return "", nil
	}
	task, _, err := r.running(ctx, c.PIDOf)
	if err != nil {
		return "", fmt.Errorf("join the processes of container %s: %w", c.PIDOf, err)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", task.Pid()), nil
}

// create makes the container with its snapshot. An image that is here but not unpacked is unpacked; a snapshot that a
// killed Start left is replaced.
func (r *Runtime) create(ctx context.Context, id string, c agent.ContainerConfig, about about, layout func(root []mount.Mount) ([]oci.SpecOpts, error),
	image containerd.Image) (root []mount.Mount, err error) {
	program, err := r.programFor(c.Handler)
	if err != nil {
		return nil, err
	}
	try := func() error {
		root, err = r.client.SnapshotService(r.snapshotter).Prepare(ctx, id, about.layers, snapshots.WithLabels(map[string]string{labelID: c.ID}))
		if err != nil {
			return err
		}
		spec, err := layout(root)
		if err != nil {
			return err
		}
		_, err = r.client.NewContainer(ctx, id,
			r.withRuntime(program, c),
			r.withRoot(id, image.Name()),
			containerd.WithAdditionalContainerLabels(labelsOf(c, image.Target().Digest.String())),
			containerd.WithAdditionalContainerLabels(map[string]string{containerd.StopSignalLabel: cmp.Or(c.StopSignal, about.config.StopSignal, "SIGTERM")}),
			containerd.WithNewSpec(spec...))
		return err
	}
	err = try()
	if errdefs.IsAlreadyExists(err) {
		if _, loadErr := r.client.LoadContainer(ctx, id); loadErr == nil {
			return nil, err
		}
		if err := r.removeSnapshot(ctx, id); err != nil {
			return nil, err
		}
		err = try()
	}
	if errdefs.IsNotFound(err) {
		if err := image.Unpack(ctx, r.snapshotter); err != nil {
			return nil, fmt.Errorf("unpack image %s: %w", image.Name(), err)
		}
		err = try()
	}
	if err != nil && !errdefs.IsAlreadyExists(err) { // A daemon that is killed may have made it, and not have said so.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		err = errors.Join(err, r.discard(clean, id))
	}
	return root, err
}

// withRuntime says what program makes the container, now and for good, and has its output belong to its root.
func (r *Runtime) withRuntime(program string, c agent.ContainerConfig) containerd.NewContainerOpts {
	return containerd.WithRuntime(runcShim, &options.Options{BinaryName: program,
		Root: filepath.Join(r.config.RunDir, program), IoUid: c.FirstUser, IoGid: c.FirstUser})
}

// withRoot says what the container's root file system is. The client's options for that ask the daemon whether it is there.
func (r *Runtime) withRoot(snapshot, image string) containerd.NewContainerOpts {
	return func(_ context.Context, _ *containerd.Client, c *containers.Container) error {
		c.Snapshotter, c.SnapshotKey, c.Image = r.snapshotter, snapshot, image
		return nil
	}
}

func (r *Runtime) removeSnapshot(ctx context.Context, id string) error {
	err := r.client.SnapshotService(r.snapshotter).Remove(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// run makes the container's task and starts it, its output connected before.
func (r *Runtime) run(ctx context.Context, id string, root []mount.Mount, c agent.ContainerConfig) error {
	pipes, err := makePipes(r.containerDir(id), c.Stdin, c.TTY)
	if err != nil {
		return fmt.Errorf("make output pipes: %w", err)
	}
	defer pipes.release()
	if err := r.connect(id, pipes, c.LogPath); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, taskTime)
	defer cancel()
	pid, err := r.createTask(ctx, id, root, pipes.config)
	if errdefs.IsAlreadyExists(err) {
		if err := r.deleteTask(ctx, id); err != nil {
			return err
		}
		pid, err = r.createTask(ctx, id, root, pipes.config)
	}
	if err != nil {
		return notStarted("create task", err)
	}
	if err := cgroup.Host().LimitHugePages(cgroupFor(c), c.Resources.HugePages); err != nil { // Not every runtime can, everywhere.
		return err
	}
	// Before the start: who finds a container without this file and without a task knows that it never ran.
	if err := r.noteProcess(id, int(pid)); err != nil {
		return fmt.Errorf("note the container's process: %w", err)
	}
	if _, err := r.client.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id}); err != nil {
		return r.checkStart(ctx, id, notStarted("start task", errgrpc.ToNative(err)))
	}
	return nil
}

// errUnclear is of a container that may run although its start was asked for in vain.
var errUnclear = errors.New("whether it has been started is not known")

// checkStart is for a start that nobody has denied: the daemon was killed, or the caller is about to end, and it may have been done all
// the same. To do it again would be to run the container twice.
func (r *Runtime) checkStart(ctx context.Context, id string, failed error) error {
	var denied *agent.NotStarted
	if errors.As(failed, &denied) {
		return failed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if _, err := r.client.IsServing(ctx); err != nil { // Waits for the daemon's return.
		return errors.Join(failed, errUnclear)
	}
	switch task, err := r.task(ctx, id); {
	case err != nil, task == nil, task.Status == tasktypes.Status_UNKNOWN:
		return errors.Join(failed, errUnclear)
	case task.Status == tasktypes.Status_CREATED && !r.hasBegun(id):
		return failed
	}
	return nil
}

// createTask has the container's process made. The client's NewTask would ask for the container and its mounts again, which are known
// here.
func (r *Runtime) createTask(ctx context.Context, id string, root []mount.Mount, streams cio.Config) (pid uint32, err error) {
	response, err := r.client.TaskService().Create(ctx, &tasks.CreateTaskRequest{
		ContainerID: id, Rootfs: mount.ToProto(root),
		Terminal: streams.Terminal, Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
	})
	if err != nil {
		return 0, errgrpc.ToNative(err)
	}
	return response.Pid, nil
}

// pipes are the FIFOs between a process and this package, and our end of those that it writes.
type pipes struct {
	dir            string
	config         cio.Config
	stdout, stderr *os.File // stderr is nil with a terminal.
	holders        []*os.File
}

// makePipes makes FIFOs in dir and opens those for output. Until release they have a writer of our own, so that reading
// before the shim has opened them is not taken for the end.
func makePipes(dir string, stdin, tty bool) (p *pipes, err error) {
	p = &pipes{dir: dir, config: cio.Config{Terminal: tty}}
	defer func() {
		if err != nil {
			p.release()
			p.closeOutputs()
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return p, err
	}
	if stdin {
		p.config.Stdin = filepath.Join(dir, "stdin")
		if err := makeFIFO(p.config.Stdin); err != nil {
			return p, err
		}
	}
	p.config.Stdout = filepath.Join(dir, "stdout")
	if p.stdout, err = p.open(p.config.Stdout); err != nil {
		return p, err
	}
	if !tty { // The shim wants both or, with a terminal, one.
		p.config.Stderr = filepath.Join(dir, "stderr")
		p.stderr, err = p.open(p.config.Stderr)
	}
	return p, err
}

func (p *pipes) open(path string) (*os.File, error) {
	if err := makeFIFO(path); err != nil {
		return nil, err
	}
	holder, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	p.holders = append(p.holders, holder)
	return openOutput(path)
}

// openOutput opens the reading end. Reading ends when nobody has it open for writing.
func openOutput(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	conn, err := f.SyscallConn()
	if err == nil {
		// More room for what is written while nobody reads. The kernel may say no; then it stays at 64 KiB.
		err = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
	}
	return f, err
}

func makeFIFO(path string) error {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", path, err)
	}
	return nil
}

func (p *pipes) release() {
	for _, f := range p.holders {
		f.Close()
	}
	p.holders = nil
}

func (p *pipes) closeOutputs() {
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// creator tells the client the FIFOs' paths, and keeps it from doing anything with them.
func (p *pipes) creator() cio.Creator {
	return func(string) (cio.IO, error) { return cio.Load(cio.NewFIFOSet(p.config, func() error { return nil })) }
}

// shm returns the pod's /dev/shm, which all its containers share: a memory file system of the size that Kubernetes'
// runtimes give it.
func (r *Runtime) shm(c agent.ContainerConfig) (string, error) {
	if c.HostIPC {
		return "/dev/shm", nil
	}
	dir := r.shmDir(c.Pod.UID)
	all := filepath.Dir(dir) // An older skiff left it open.
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(os.MkdirAll(all, 0o700), os.Chmod(all, 0o700), os.MkdirAll(dir, 0o711)); err != nil {
		return "", err
	}
	mounted, err := isMountPoint(dir)
	if err != nil || mounted {
		return dir, err
	}
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=64m"); err != nil {
		return "", fmt.Errorf("mount the pod's /dev/shm: %w", err)
	}
	return dir, nil
}

func (r *Runtime) shmDir(podUID string) string { return filepath.Join(r.config.RunDir, "shm", podUID) }

// isMountPoint says whether something is mounted on dir. A kernel older than 5.8 does not say it of a directory of the same disk.
func isMountPoint(dir string) (bool, error) {
	var self unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_BASIC_STATS, &self); err == nil && self.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return self.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	var own, parent unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &own), unix.Stat(filepath.Dir(dir), &parent)); err != nil {
		return false, err
	}
	return own.Dev != parent.Dev, nil
}
