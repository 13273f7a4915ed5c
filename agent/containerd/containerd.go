// Package containerd runs the agent's containers on containerd, 1.6 or newer.
//
// A container is a containerd container and its task, in a containerd namespace of its own. All containers of a pod share
// one shim: the runc shim groups by an annotation of the OCI spec, so there is no sandbox, and a pause container only where
// a pod's containers share a process namespace ([Runtime.pause]). What the agent asks back later (whose container this is,
// where its log goes) is kept in the container's labels, so a new [Runtime] finds everything again; only FIFOs with their
// spools and journals, the time of start and runc's state are files, under RunDir.
//
// # Output
//
// The shim copies what a container writes into two FIFOs. One goroutine a FIFO reads it, writes the log in the CRI
// format (rotated by renaming), and gives it to the clients of Attach; a FIFO has one reader only. While the agent is
// away, the container goes on until the FIFO is full (1 MiB) and then waits in its write; it is never killed and never
// sees a broken pipe. A new Runtime goes on reading where the last one stopped, byte for byte, wherever that was killed: see
// [spool] and [journal]. What a container wrote that has ended meanwhile is there too: see [holder].
// That a container has ended is told when its last words are in the log, or two seconds later.
//
// # Lifetime
//
// A container that has ended keeps its task, and so its exit status, until Remove. Snapshots belong to one permanent
// lease, so the garbage collector cannot take one between its making and its container's; New removes those that a
// killed Start left.
//
// A daemon of the agent's own is made with [StartDaemon].
//
// In Kubernetes: the container runtime interface (CRI) and containerd's plugin for it. Left out: the interface itself and
// its sandboxes, checkpoints and SELinux.
package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"skiff/agent"
)

// Config says which containerd to use.
type Config struct {
	Socket     string // The daemon's unix socket.
	Namespace  string // Of containerd; "" is "skiff". Everything in it is taken for ours.
	RunDir     string // For FIFOs and runc's state: RUN/runtime. Should not outlive a reboot.
	Registries string // A folder with hosts.toml files, as containerd's certs.d; may be missing: DATA/registries.
	CgroupRoot string // Parent of the pods' cgroups; "" is "/skiff".
}

// Runtime implements [agent.Runtime].
type Runtime struct {
	config      Config
	client      *containerd.Client
	snapshotter string
	layersDir   string // Where the snapshotter's files are, "" if it does not say.
	program     string // runc or crun: what makes the containers to come.
	handlers    func() []agent.Handler
	log         *slog.Logger
	buffers     sync.Pool // *[]byte, for the output's readers.
	entries     sync.Pool // *[]byte, for what they write.
	abouts      abouts
	pauses      singleflight.Group // By pod UID: the process 1 of a pod is being made.
	profile     defaultProfile
	holder      *holder // nil of one that was made by Connect.

	mu       sync.Mutex
	starting map[string]bool    // By containerd's ID: Start is at work.
	outputs  map[string]*output // By containerd's ID, while there is a reader.

	// What pods have: by containerd's ID, the pods of all containers that there may be, process 1 of a pod among them; the containers
	// that may have volumes of their image; and the pods that may have images as volumes. Nobody else makes any, so whatever is not in
	// here needs not be asked for.
	owners  map[string]string
	volumed noted
	viewers noted
}

var _ agent.Runtime = (*Runtime)(nil)

// lease holds the snapshots of all containers.
const lease = "skiff"

// New connects to the daemon, which must be serving, and takes over the containers that are there.
func New(ctx context.Context, c Config) (*Runtime, error) {
	r, err := Connect(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := os.RemoveAll(r.execDir()); err != nil { // Of commands whose clients went with the last process.
		return nil, errors.Join(err, r.Close())
	}
	if r.holder, err = openHolder(c.RunDir, r.log); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := r.adopt(r.in(ctx)); err != nil {
		return nil, errors.Join(fmt.Errorf("take over containers: %w", err), r.Close())
	}
	return r, nil
}

// Connect is New for a process beside the one that runs the containers: it leaves these, and their output, alone. It is for
// looking after images.
func Connect(ctx context.Context, c Config) (*Runtime, error) {
	c.Namespace = cmp.Or(c.Namespace, "skiff")
	c.CgroupRoot = cmp.Or(c.CgroupRoot, "/skiff")
	// The client's own log lines repeat the errors that it returns.
	if err := log.SetLevel("fatal"); err != nil {
		return nil, err
	}
	client, err := containerd.New(c.Socket, containerd.WithDefaultNamespace(c.Namespace), containerd.WithDefaultRuntime(runcShim))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", c.Socket, err)
	}
	r := &Runtime{config: c, client: client, program: runc, log: slog.With("component", "containerd"),
		starting: map[string]bool{}, outputs: map[string]*output{}, owners: map[string]string{}}
	r.entries.New = func() any { return new([]byte) }
	r.buffers.New = func() any { b := make([]byte, maxLine+readSize); return &b }
	r.handlers = sync.OnceValue(r.describePrograms)
	r.abouts.byDigest = map[digest.Digest]about{}
	if err := r.open(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Runtime) open(ctx context.Context) error {
	ctx = r.in(ctx)
	version, err := r.client.Version(ctx)
	if err != nil {
		return fmt.Errorf("talk to containerd at %s: %w", r.config.Socket, errgrpc.ToNative(err))
	}
	if err := checkVersion(version.Version); err != nil {
		return err
	}
	if err := r.chooseSnapshotter(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(r.containerDir(""), 0o711); err != nil {
		return err
	}
	if err := r.client.NamespaceService().Create(ctx, r.config.Namespace, nil); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("create containerd namespace %s: %w", r.config.Namespace, err)
	}
	if _, err := r.client.LeasesService().Create(ctx, leases.WithID(lease)); err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("create lease: %w", err)
	}
	return nil
}

// chooseSnapshotter prefers overlayfs. Where the kernel or the disk does not do it, native copies files instead.
func (r *Runtime) chooseSnapshotter(ctx context.Context) error {
	plugins, err := r.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1")
	if err != nil {
		return fmt.Errorf("list containerd's snapshotters: %w", err)
	}
	for _, want := range []string{"overlayfs", "native"} {
		for _, p := range plugins.Plugins {
			if p.ID == want && p.InitErr == nil {
				r.snapshotter, r.layersDir = want, p.Exports["root"]
				return nil
			}
		}
	}
	return errors.New("containerd has neither the overlayfs nor the native snapshotter")
}

// adopt reads on the output of the containers that are there, and removes what a killed Start or Remove left of others.
func (r *Runtime) adopt(ctx context.Context) error {
	records, err := r.list(ctx)
	if err != nil {
		return err
	}
	if err := r.learn(ctx); err != nil {
		return err
	}
	known := map[string]bool{}
	for _, c := range records {
		known[c.ID] = true
		err := r.readOutput(c.ID, c.Labels[labelLogPath])
		if errors.Is(err, fs.ErrNotExist) { // A reboot took the FIFOs away, or they were never made.
			err = r.mourn(c)
		}
		if err != nil {
			r.log.Error("a container's output is lost", "container", c.ID, "err", err)
		}
	}
	return errors.Join(r.holder.takeOver(), r.clearUserMounts(), r.removeOrphans(ctx, known))
}

// mourn notes of a container without a directory that it was there before a reboot and is not any more.
func (r *Runtime) mourn(c containers.Container) error {
	err := os.Mkdir(r.containerDir(c.ID), 0o700)
	if err == nil {
		r.missed(c)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// removeOrphans removes the snapshots and directories that belong to no container.
func (r *Runtime) removeOrphans(ctx context.Context, known map[string]bool) error {
	service := r.client.SnapshotService(r.snapshotter)
	var orphans []string
	err := service.Walk(ctx, func(_ context.Context, s snapshots.Info) error {
		if !known[cmp.Or(s.Labels[labelVolumesOf], s.Name)] {
			orphans = append(orphans, s.Name)
		}
		return nil
	}, fmt.Sprintf("labels.%q", labelID), fmt.Sprintf("labels.%q", labelVolumesOf))
	for _, name := range orphans {
		err = errors.Join(err, service.Remove(ctx, name))
	}
	dirs, _ := os.ReadDir(r.containerDir("")) // None before the first container.
	for _, dir := range dirs {
		if !known[dir.Name()] {
			err = errors.Join(err, os.RemoveAll(r.containerDir(dir.Name())))
		}
	}
	return err
}

// Close lets go of the daemon. Containers run on; their output waits for the next Runtime.
func (r *Runtime) Close() error {
	r.mu.Lock()
	outputs := r.outputs
	r.outputs = map[string]*output{}
	r.mu.Unlock()
	for _, o := range outputs {
		o.close()
	}
	if r.holder != nil {
		r.holder.close()
	}
	return r.client.Close()
}

// Version is what a Node reports.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	version, err := r.client.Version(ctx)
	if err != nil {
		return "", fmt.Errorf("ask containerd for its version: %w", err)
	}
	return "containerd://" + releaseOf(version.Version), nil
}

// in names the containerd namespace, for those parts of the client that want to know.
func (r *Runtime) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, r.config.Namespace)
}

func (r *Runtime) containerDir(id string) string {
	return filepath.Join(r.config.RunDir, "containers", id)
}

func (r *Runtime) execDir() string { return filepath.Join(r.config.RunDir, "exec") }

// release finds the number in "1.6.20~ds1" or "v2.1.4".
var release = regexp.MustCompile(`^v?((\d+)\.(\d+)[0-9.]*)`)

func releaseOf(version string) string {
	if m := release.FindStringSubmatch(version); m != nil {
		return m[1]
	}
	return version
}

func checkVersion(version string) error {
	m := release.FindStringSubmatch(version)
	if m == nil {
		return nil // A build of its own; who runs one knows why.
	}
	major, _ := strconv.Atoi(m[2])
	minor, _ := strconv.Atoi(m[3])
	if major < 1 || major == 1 && minor < 6 {
		return fmt.Errorf("containerd is %s, but 1.6 or newer is needed", version)
	}
	return nil
}
