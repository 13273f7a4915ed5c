package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// floor starts and ends containers like a pod's with containerd's own client and nothing else: the same daemon, the same image, a
// network namespace with an address and a route. Nothing that uses containerd can be faster.
type floor struct {
	b      *testing.B
	ctx    context.Context
	client *containerd.Client
	image  containerd.Image
	links  *netlink.Handle // Of the node's network namespace.
	last   atomic.Int64    // Number of the last container.
	prefix string
}

const floorCgroup = "skiff-bench"

func newFloor(b *testing.B, n *node) *floor {
	b.Helper()
	client, err := containerd.New(filepath.Join(n.run, "containerd", "containerd.sock"),
		containerd.WithDefaultNamespace("skiff"), containerd.WithDefaultRuntime("io.containerd.runc.v2"))
	if err != nil {
		b.Fatal(err)
	}
	handle, err := netns.GetFromName(n.netns)
	if err != nil {
		b.Fatal(err)
	}
	defer handle.Close()
	links, err := netlink.NewHandleAt(handle)
	if err != nil {
		b.Fatal(err)
	}
	f := &floor{b: b, ctx: namespaces.WithNamespace(context.Background(), "floor"), client: client, links: links, prefix: n.netns}
	b.Cleanup(func() {
		links.Close()
		client.Close()
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + floorCgroup)
		_ = os.Remove("/run/containerd/runc/floor") // Where runc keeps what containerd gives it no other place for; empty by now.
		for _, dir := range append(dirs, "/sys/fs/cgroup/"+floorCgroup) {
			removeCgroup(dir)
		}
	})
	return f
}

// open imports the image into a containerd namespace of the floor's own.
func (f *floor) open() {
	f.b.Helper()
	file, err := os.Open(repository("bin/images/nginx.tar"))
	if err != nil {
		f.b.Fatal(err)
	}
	defer file.Close()
	images, err := f.client.Import(f.ctx, file)
	if err != nil {
		f.b.Fatal(err)
	}
	f.image = containerd.NewImage(f.client, images[0])
	if err := f.image.Unpack(f.ctx, "overlayfs"); err != nil {
		f.b.Fatal(err)
	}
}

// model is what a pod's only container was made of: what it may do, its mounts, its limits. What is made of it needs the pod to stay.
func (f *floor) model(pod *corev1.Pod) *oci.Spec {
	f.b.Helper()
	ctx := namespaces.WithNamespace(context.Background(), "skiff")
	c, err := f.client.LoadContainer(ctx, strings.TrimPrefix(pod.Status.ContainerStatuses[0].ContainerID, "containerd://"))
	if err != nil {
		f.b.Fatal(err)
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		f.b.Fatal(err)
	}
	return spec
}

// run measures how long it takes to start containers, some at a time, and how long to end and remove them. Without a model they are what
// containerd makes by default: they have no seccomp filter, and nothing of a pod's mounts.
func (f *floor) run(model *oci.Spec, count, atOnce int) (up, gone time.Duration) {
	f.b.Helper()
	tasks := make([]containerd.Task, count)
	up = f.inParallel(count, atOnce, func(i int) (err error) {
		tasks[i], err = f.start(f.last.Add(1), model)
		return err
	})
	for _, task := range tasks {
		f.awaitHandler(task, stopSignal)
	}
	gone = f.inParallel(count, atOnce, func(i int) error { return f.remove(tasks[i]) })
	return up, gone
}

func (f *floor) inParallel(count, atOnce int, do func(i int) error) time.Duration {
	f.b.Helper()
	start := time.Now()
	var all errgroup.Group
	all.SetLimit(atOnce)
	for i := range count {
		all.Go(func() error { return do(i) })
	}
	if err := all.Wait(); err != nil {
		f.b.Fatal(err)
	}
	return time.Since(start)
}

func (f *floor) name(number int64) string { return fmt.Sprintf("%s-floor-%d", f.prefix, number) }

func (f *floor) start(number int64, model *oci.Spec) (containerd.Task, error) {
	name := f.name(number)
	if err := f.connect(name, number); err != nil {
		return nil, fmt.Errorf("network of %s: %w", name, err)
	}
	c, err := f.client.NewContainer(f.ctx, name,
		containerd.WithSnapshotter("overlayfs"),
		containerd.WithNewSnapshot(name, f.image),
		containerd.WithNewSpec(f.spec(model), oci.WithCgroup("/"+floorCgroup+"/"+name),
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/run/netns/" + name})))
	if err != nil {
		return nil, err
	}
	task, err := c.NewTask(f.ctx, cio.NullIO)
	if err != nil {
		return nil, err
	}
	return task, task.Start(f.ctx)
}

// spec is what runs: what the image says, or what the model does, in namespaces of its own and with a shim of its own.
func (f *floor) spec(model *oci.Spec) oci.SpecOpts {
	if model == nil {
		return oci.WithImageConfig(f.image)
	}
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		*s = *model
		linux := *model.Linux
		linux.Namespaces = slices.Clone(linux.Namespaces)
		for i := range linux.Namespaces {
			linux.Namespaces[i].Path = ""
		}
		s.Linux, s.Annotations = &linux, nil
		return nil
	}
}

// connect makes the network namespace, and a pair of links with an address and a default route.
func (f *floor) connect(name string, number int64) error {
	ns, err := newNamespace(name)
	if err != nil {
		return err
	}
	defer ns.Close()
	outer := fmt.Sprintf("floor%d", number)
	if err := f.links.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: outer}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}); err != nil {
		return err
	}
	link, err := f.links.LinkByName(outer)
	if err != nil {
		return err
	}
	if err := f.links.LinkSetUp(link); err != nil {
		return err
	}
	inner, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inner.Close()
	if link, err = inner.LinkByName("eth0"); err != nil {
		return err
	}
	address := &net.IPNet{IP: net.IPv4(198, 18, byte(number>>8), byte(number)), Mask: net.CIDRMask(32, 32)} // Of the range for benchmarks.
	if err := inner.AddrAdd(link, &netlink.Addr{IPNet: address}); err != nil {
		return err
	}
	if err := inner.LinkSetUp(link); err != nil {
		return err
	}
	return inner.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
}

// newNamespace makes a named network namespace.
func newNamespace(name string) (ns netns.NsHandle, err error) {
	onOwnThread(func() { ns, err = netns.NewNamed(name) })
	return ns, err
}

// onOwnThread runs do on a thread that ends with it, so that do may put it into another network namespace. The process's first thread
// would live on there, and keep the namespace.
func onOwnThread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // Never unlocked: the runtime then drops the thread.
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			onOwnThread(do)
			return
		}
		do()
	}()
	<-done
}

// stopSignal is what the image's program is asked to end by.
const stopSignal = unix.SIGQUIT

// awaitHandler waits until the program will act on the signal: before, the kernel keeps it from a namespace's process 1. What the
// runtime leaves behind before it becomes the program catches signals too.
func (f *floor) awaitHandler(task containerd.Task, signal unix.Signal) {
	f.b.Helper()
	soon(f.b, func() bool {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", task.Pid()))
		_, caught, _ := strings.Cut(string(status), "SigCgt:")
		caught, _, _ = strings.Cut(strings.TrimSpace(caught), "\n")
		mask, err := strconv.ParseUint(caught, 16, 64)
		return err == nil && mask&(1<<(signal-1)) != 0 && strings.HasPrefix(string(status), "Name:\tnginx\n")
	})
}

// remove asks a container to end, and leaves nothing of it.
func (f *floor) remove(task containerd.Task) error {
	c, err := f.client.LoadContainer(f.ctx, task.ID())
	if err != nil {
		return err
	}
	ended, err := task.Wait(f.ctx)
	if err == nil {
		err = task.Kill(f.ctx, stopSignal)
	}
	if err != nil {
		return err
	}
	select {
	case <-ended:
	case <-time.After(patience):
		return fmt.Errorf("container %s does not end", task.ID())
	}
	if _, err := task.Delete(f.ctx); err != nil {
		return err
	}
	if err := c.Delete(f.ctx, containerd.WithSnapshotCleanup); err != nil {
		return err
	}
	return netns.DeleteNamed(task.ID())
}
