// Package fake is a container runtime and a pod network that live in memory, for tests of what stands on them, and for the
// pretended nodes of `skiff agent`. They keep the promises of [agent.Runtime] and [agent.Network], their refusals included: an
// image that is not here cannot be started, an ID is not used twice, a running container is not removed. agent/runtimetest holds the
// one in memory and the real one to the same. What a real container would do by itself, a test does for it: it exits, it says something.
//
// In Kubernetes: pkg/kubelet/container/testing. Left out: calls recorded one by one; tests look at what came of them.
package fake

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/distribution/reference"

	"skiff/agent"
	"skiff/agent/cgroup"
)

var _ agent.Runtime = (*Runtime)(nil)

// Command is what an executable does when a test runs it by Exec; it returns its exit status.
type Command func(ctx context.Context, args []string, streams agent.Streams) int

// Runtime is an [agent.Runtime] in memory. Build it with [NewRuntime].
type Runtime struct {
	mu         sync.Mutex
	down       error
	images     map[string]agent.Image // By full name.
	anyImage   bool
	registry   map[string]agent.Image
	guards     map[string]agent.Login // By full name: who may pull it. Others are for anybody.
	noRegistry error
	startError error
	onRemove   func(name string)
	stubborn   bool
	commands   map[string]Command
	containers map[string]*container
	groups     map[string]cgroup.Limits
	watchers   map[int]func(string)
	nextWatch  int
}

type container struct {
	agent.Container
	config   agent.ContainerConfig
	ended    chan struct{}
	attached []agent.Streams
}

// NewRuntime makes a runtime that has nothing but these images.
func NewRuntime(images ...string) *Runtime {
	r := &Runtime{
		images: map[string]agent.Image{}, registry: map[string]agent.Image{}, guards: map[string]agent.Login{}, commands: map[string]Command{},
		containers: map[string]*container{}, groups: map[string]cgroup.Limits{}, watchers: map[int]func(string){},
	}
	for _, name := range images {
		r.AddImage(name, agent.Image{})
	}
	return r
}

func fullName(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.TagNameOnly(named).String()
}

func complete(name string, image agent.Image) agent.Image {
	image.Names = []string{fullName(name)}
	if image.Digest == "" {
		image.Digest = "sha256:" + fmt.Sprintf("%064x", len(name))
	}
	return image
}

// AddImage puts an image into the local store.
func (r *Runtime) AddImage(name string, image agent.Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[fullName(name)] = complete(name, image)
}

// HaveAll lets every image be in the local store that somebody asks for, and every command that has not been installed do nothing,
// well.
func (r *Runtime) HaveAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.anyImage = true
}

// image finds a local image. The lock is held.
func (r *Runtime) image(ref string) (agent.Image, bool) {
	name := fullName(ref)
	image, ok := r.images[name]
	if !ok && r.anyImage {
		image, ok = complete(ref, agent.Image{}), true
		r.images[name] = image
	}
	return image, ok
}

// Publish puts an image into the registry, from where Pull gets it.
func (r *Runtime) Publish(name string, image agent.Image) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registry[fullName(name)] = complete(name, image)
}

// Guard lets only this login pull an image.
func (r *Runtime) Guard(name string, login agent.Login) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guards[fullName(name)] = login
}

// CutRegistry makes every Pull fail with err; nil mends it.
func (r *Runtime) CutRegistry(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noRegistry = err
}

// Break makes the runtime's daemon fail with err; nil mends it. Running containers go on.
func (r *Runtime) Break(err error) {
	r.mu.Lock()
	r.down = err
	r.mu.Unlock()
	if err == nil {
		r.tell("")
	}
}

// FailStarts lets no container's process start, for err; nil mends it.
func (r *Runtime) FailStarts(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.startError = err
}

// IgnoreSignals makes containers go on when asked to stop, until they are killed.
func (r *Runtime) IgnoreSignals() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stubborn = true
}

// Install gives every container an executable for Exec.
func (r *Runtime) Install(name string, do Command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.commands[name] = do
}

// Config returns what a container was started with.
func (r *Runtime) Config(id string) (agent.ContainerConfig, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if !ok {
		return agent.ContainerConfig{}, false
	}
	return c.config, true
}

// Exit lets a running container end by itself.
func (r *Runtime) Exit(id string, code int) error { return r.end(id, code, 0) }

// Silence keeps a container from being told of, until it is heard again or killed. What watches over it does not pass signals on.
func (r *Runtime) Silence(id string) error { return r.turn(id, agent.Running, agent.Silent) }

// Hear ends a Silence. Nobody is told of it.
func (r *Runtime) Hear(id string) error { return r.turn(id, agent.Silent, agent.Running) }

func (r *Runtime) turn(id string, from, to agent.State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if !ok || c.State != from {
		return fmt.Errorf("container %s is not %s", id, from)
	}
	c.State = to
	return nil
}

// Reboot forgets all containers, as a host does whose runtime keeps its state in memory.
func (r *Runtime) Reboot() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.containers {
		if c.State == agent.Running || c.State == agent.Silent {
			close(c.ended)
		}
		delete(r.containers, id)
	}
}

// Say lets a container write a line, to its log and to who is attached.
func (r *Runtime) Say(id, stream, line string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if !ok || c.State != agent.Running {
		return fmt.Errorf("say something in %s: %w", id, agent.ErrNotRunning)
	}
	for _, s := range c.attached {
		if stream == "stdout" && s.Stdout != nil {
			fmt.Fprintln(s.Stdout, line)
		}
		if stream == "stderr" && s.Stderr != nil {
			fmt.Fprintln(s.Stderr, line)
		}
	}
	f, err := os.OpenFile(c.LogPath, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = fmt.Fprintf(f, "%s %s F %s\n", time.Now().UTC().Format(time.RFC3339Nano), stream, line)
	return err
}

// Version implements [agent.Runtime].
func (r *Runtime) Version(context.Context) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return "containerd://fake", r.down
}

// Handlers implements [agent.Runtime].
func (r *Runtime) Handlers() []agent.Handler {
	return []agent.Handler{{Name: "runc", RecursiveReadOnly: true, UserNamespaces: true}}
}

// Image implements [agent.Runtime].
func (r *Runtime) Image(_ context.Context, ref string) (agent.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return agent.Image{}, r.down
	}
	image, ok := r.image(ref)
	if !ok {
		return agent.Image{}, fmt.Errorf("%s: %w", ref, agent.ErrNoImage)
	}
	return image, nil
}

// Pull implements [agent.Runtime].
func (r *Runtime) Pull(ctx context.Context, ref string, logins []agent.Login, progress func(done, total int64)) (agent.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	image, ok := r.registry[fullName(ref)]
	if !ok && r.anyImage {
		image, ok = r.image(ref)
	}
	guard, guarded := r.guards[fullName(ref)]
	switch {
	case ctx.Err() != nil:
		return agent.Image{}, ctx.Err()
	case r.noRegistry != nil:
		return agent.Image{}, fmt.Errorf("pull %s: %w", ref, r.noRegistry)
	case !ok:
		return agent.Image{}, fmt.Errorf("%s: %w", fullName(ref), agent.ErrNoImage)
	case guarded && !slices.Contains(logins, guard):
		return agent.Image{}, fmt.Errorf("pull %s: 401 Unauthorized", fullName(ref))
	}
	if progress != nil {
		progress(image.Size, image.Size)
	}
	r.images[fullName(ref)] = image
	return image, nil
}

// Images implements [agent.Runtime].
func (r *Runtime) Images(context.Context) ([]agent.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.images), func(a, b agent.Image) int { return slices.Compare(a.Names, b.Names) }), r.down
}

// OnRemove calls do after each image that was removed.
func (r *Runtime) OnRemove(do func(name string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onRemove = do
}

// RemoveImage implements [agent.Runtime].
func (r *Runtime) RemoveImage(_ context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return r.down
	}
	delete(r.images, name)
	if r.onRemove != nil {
		r.onRemove(name)
	}
	return nil
}

// MountImage implements [agent.Runtime]: the image's files are its name.
func (r *Runtime) MountImage(_ context.Context, _, ref, dir string) error {
	r.mu.Lock()
	_, ok := r.images[fullName(ref)]
	err := r.down
	r.mu.Unlock()
	if err == nil && !ok {
		err = fmt.Errorf("%s: %w", ref, agent.ErrNoImage)
	}
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "image"), []byte(fullName(ref)), 0o444)
}

// Start implements [agent.Runtime].
func (r *Runtime) Start(_ context.Context, c agent.ContainerConfig) error {
	r.mu.Lock()
	image, ok := r.image(c.Image)
	_, twice := r.containers[c.ID]
	var err error
	switch {
	case r.down != nil:
		err = r.down
	case !ok:
		err = fmt.Errorf("start container %s: %s: %w", c.ID, c.Image, agent.ErrNoImage)
	case c.Handler != "" && !slices.ContainsFunc(r.Handlers(), func(h agent.Handler) bool { return h.Name == c.Handler }):
		err = fmt.Errorf("start container %s: no runtime for %q is configured", c.ID, c.Handler)
	case twice:
		err = fmt.Errorf("start container %s: it is already there", c.ID)
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	now := time.Now()
	made := &container{
		Container: agent.Container{
			ID: c.ID, Pod: c.Pod, Name: c.Name, Attempt: c.Attempt, Image: c.Image, ImageID: image.Digest, Labels: maps.Clone(c.Labels),
			LogPath: c.LogPath, User: userOf(c.Security), State: agent.Running, Created: now, Started: now,
		},
		config: c,
		ended:  make(chan struct{}),
	}
	r.containers[c.ID] = made
	if err = cmp.Or(r.startError, checkMounts(c)); err != nil {
		made.State, made.Started, made.Finished, made.ExitCode, made.StartError = agent.Exited, time.Time{}, now, exitNotStarted, err.Error()
		close(made.ended)
		r.mu.Unlock()
		return &agent.NotStarted{Err: err}
	}
	r.mu.Unlock()
	r.tell(c.Pod.UID)
	return nil
}

// exitNotStarted is the exit code of a container that never ran.
const exitNotStarted = 128

// userOf is who a container runs as whose image says nothing: root, unless the pod says otherwise.
func userOf(sec agent.Security) *agent.User {
	u := &agent.User{}
	if sec.UID != nil {
		u.UID = *sec.UID
	}
	if sec.GID != nil {
		u.GID = *sec.GID
	}
	u.Groups = append([]int64{u.GID}, sec.SupplementalGroups...)
	return u
}

// checkMounts refuses what a real runtime would: a bind mount of nothing.
func checkMounts(c agent.ContainerConfig) error {
	for _, m := range c.Mounts {
		if _, err := os.Stat(m.Source); err != nil {
			return fmt.Errorf("start container %s: mount at %s: %w", c.ID, m.Target, err)
		}
	}
	return nil
}

// Containers implements [agent.Runtime].
func (r *Runtime) Containers(context.Context) ([]agent.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []agent.Container
	for _, id := range slices.Sorted(maps.Keys(r.containers)) {
		list = append(list, r.containers[id].Container)
	}
	return list, r.down
}

// PodContainers implements [agent.Runtime].
func (r *Runtime) PodContainers(_ context.Context, podUID string) ([]agent.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []agent.Container
	for _, c := range r.containers {
		if c.Pod.UID == podUID {
			list = append(list, c.Container)
		}
	}
	slices.SortFunc(list, func(a, b agent.Container) int { return cmp.Compare(a.ID, b.ID) })
	return list, r.down
}

// Signal implements [agent.Runtime].
func (r *Runtime) Signal(_ context.Context, id string, kill bool) error {
	r.mu.Lock()
	c, ok := r.containers[id]
	stubborn, down, silent := r.stubborn, r.down, ok && c.State == agent.Silent
	r.mu.Unlock()
	switch {
	case down != nil:
		return down
	case !ok:
		return fmt.Errorf("signal %s: %w", id, agent.ErrNoContainer)
	case kill:
		return r.end(c.ID, 128+int(syscall.SIGKILL), int(syscall.SIGKILL))
	case stubborn:
		return nil
	case silent:
		return fmt.Errorf("signal %s: no answer", id)
	}
	return r.end(c.ID, 0, 0)
}

func (r *Runtime) end(id string, code, signal int) error {
	r.mu.Lock()
	c, ok := r.containers[id]
	if !ok {
		r.mu.Unlock()
		return fmt.Errorf("end %s: %w", id, agent.ErrNoContainer)
	}
	if c.State == agent.Running || c.State == agent.Silent {
		c.State, c.Finished, c.ExitCode, c.Signal = agent.Exited, time.Now(), code, signal
		close(c.ended)
	}
	r.mu.Unlock()
	r.tell(c.Pod.UID)
	return nil
}

// Remove implements [agent.Runtime].
func (r *Runtime) Remove(_ context.Context, id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	if ok && (c.State == agent.Running || c.State == agent.Silent) {
		return fmt.Errorf("remove container %s: it is running", id)
	}
	delete(r.containers, id)
	return r.down
}

// Collect implements [agent.Runtime].
func (r *Runtime) Collect(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down
}

// EndPod implements [agent.Runtime]. There is nothing besides containers.
func (r *Runtime) EndPod(context.Context, string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.down
}

// RemovePod implements [agent.Runtime].
func (r *Runtime) RemovePod(_ context.Context, podUID string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.Pod.UID == podUID {
			return fmt.Errorf("remove pod %s: it has container %s", podUID, c.ID)
		}
	}
	return r.down
}

// Resize implements [agent.Runtime].
func (r *Runtime) Resize(_ context.Context, id string, to agent.Resources, labels map[string]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.containers[id]
	switch {
	case r.down != nil:
		return r.down
	case !ok:
		return fmt.Errorf("resize %s: %w", id, agent.ErrNoContainer)
	case c.State != agent.Running:
		return fmt.Errorf("resize %s: %w", id, agent.ErrNotRunning)
	}
	c.config.Resources = to
	c.Labels = maps.Clone(c.Labels) // Listings share it.
	maps.Copy(c.Labels, labels)
	return nil
}

// LimitGroup implements [agent.Runtime].
func (r *Runtime) LimitGroup(_ context.Context, path string, limits cgroup.Limits) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.groups[path] = limits
	return r.down
}

// Group returns the limits of a cgroup that LimitGroup made.
func (r *Runtime) Group(path string) (cgroup.Limits, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	limits, ok := r.groups[path]
	return limits, ok
}

// ImagesDir implements [agent.Runtime].
func (r *Runtime) ImagesDir() string { return "" }

// DiskUsage implements [agent.Runtime]. There is no layer to write to.
func (r *Runtime) DiskUsage(_ context.Context, id string) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.containers[id]; !ok {
		return 0, fmt.Errorf("measure %s: %w", id, agent.ErrNoContainer)
	}
	return 0, r.down
}

// Exec implements [agent.Runtime].
func (r *Runtime) Exec(ctx context.Context, id string, e agent.ExecConfig) (int, error) {
	r.mu.Lock()
	c, ok := r.containers[id]
	do := r.commands[e.Command[0]]
	if do == nil && r.anyImage {
		do = func(context.Context, []string, agent.Streams) int { return 0 }
	}
	running := ok && c.State == agent.Running
	r.mu.Unlock()
	switch {
	case !ok:
		return 0, fmt.Errorf("exec in %s: %w", id, agent.ErrNoContainer)
	case !running:
		return 0, fmt.Errorf("exec in %s: %w", id, agent.ErrNotRunning)
	case do == nil:
		return 0, fmt.Errorf("exec: %q: executable file not found in $PATH", e.Command[0])
	}
	return do(ctx, e.Command[1:], e.Streams), nil
}

// Attach implements [agent.Runtime]. What comes by stdin, the container says.
func (r *Runtime) Attach(ctx context.Context, id string, s agent.Streams) error {
	r.mu.Lock()
	c, ok := r.containers[id]
	if !ok {
		r.mu.Unlock()
		return fmt.Errorf("attach to %s: %w", id, agent.ErrNoContainer)
	}
	if c.State != agent.Running {
		r.mu.Unlock()
		return fmt.Errorf("attach to %s: %w", id, agent.ErrNotRunning)
	}
	c.attached = append(c.attached, s)
	r.mu.Unlock()
	var said chan struct{}
	if s.Stdin != nil {
		heard := make(chan struct{})
		if !s.EndsStdin(c.config.StdinOnce) {
			said = heard
		}
		go func() { r.echo(id, s.Stdin); close(heard) }()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-said:
		return nil
	case <-c.ended:
		return nil
	}
}

func (r *Runtime) echo(id string, in io.Reader) {
	buffer := make([]byte, 1024)
	for {
		n, err := in.Read(buffer)
		if n > 0 && r.Say(id, "stdout", string(buffer[:n])) != nil || err != nil {
			return
		}
	}
}

// Events implements [agent.Runtime]. What came before may have been missed, as everywhere.
func (r *Runtime) Events(ctx context.Context, changed func(podUID string)) error {
	r.mu.Lock()
	watch := r.nextWatch
	r.nextWatch++
	r.watchers[watch] = changed
	r.mu.Unlock()
	changed("")
	<-ctx.Done()
	r.mu.Lock()
	delete(r.watchers, watch)
	r.mu.Unlock()
	return ctx.Err()
}

func (r *Runtime) tell(uid string) {
	r.mu.Lock()
	watchers := slices.Collect(maps.Values(r.watchers))
	r.mu.Unlock()
	for _, changed := range watchers {
		changed(uid)
	}
}
