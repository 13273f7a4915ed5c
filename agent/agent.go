// Package agent is the node: it makes the containers that run here the ones that the API says should run here, and tells
// the API how they are.
//
// Two sides move it, and neither is polled. The API's side is an informer: a pod of this node came, changed or is to go;
// pods that are files of the node stand beside those (static.go). The kernel's side is [Runtime].Events: a container started
// or ended. Both only name a pod. For that name the agent looks at what is wanted and at what there is, [decide]s (a pure
// function), does that, looks again, and writes the pod's status if it has changed. Since nothing is remembered that could
// not be read again, an agent may be killed at any time: the containers run on, and the next agent finds them by their
// labels and goes on from there.
//
// What the agent cannot do yet, a pod must not silently run without: such a pod stays in Waiting, with a message that
// names the field (see api.Unserved).
//
// The agent also answers the API server's questions about its containers: logs, exec, attach and port-forward (server.go).
//
// In Kubernetes: the kubelet. Left out so far: what api.Unserved lists (volumes that need a driver, runtime classes
// and others), device plugins, and soft eviction thresholds. There is no pod sandbox container: the pod's namespaces
// are bind mounts, which need no process; but for a process namespace, where the pod's containers share one.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedv1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/agent/cgroup"
	"skiff/reconcile"
)

// Config says which node this is. NodeName, NodeIPs, DataDir, RunDir and TLS must be set.
type Config struct {
	NodeName string

	// The addresses that other nodes reach this one at, one a family, in the order of the pods'; hostNetwork pods have them too. Where they
	// change, see [Agent.SetNodeIPs].
	NodeIPs []string

	PodFiles string // Folder with the files of static pods; they may lie beside the agent's own in DATA/pods. "": there are none.
	DataDir  string // Survives a reboot: logs/, and pods/ with the volumes.
	RunDir   string // On a tmpfs: the contents of Secrets, which must not reach a disk.

	ClusterDNS    []string // Addresses of the cluster's DNS. None: pods get the node's resolv.conf, whatever their dnsPolicy.
	ClusterDomain string   // "": "cluster.local".
	ResolvConf    string   // The node's own. "": /etc/resolv.conf.

	Listen string      // Where the API server reaches the agent. "": ":10250".
	TLS    *tls.Config // With certificate and client CA. The agent itself decides which clients it lets in.

	Traffic Traffic                // nil: containers are stopped without asking who sends them requests.
	Metrics []prometheus.Collector // What else of this node is counted, shown with the agent's own.

	Pretend bool // There is nothing behind the pods' addresses: who would be asked there by a probe or a hook is taken to be well.

	Version           string            // The Node's kubeletVersion. "": "v1.37.2+skiff".
	Labels            map[string]string // More labels for the Node, set when it is registered.
	CgroupRoot        string            // Parent of the pods' cgroups. "": "/skiff".
	EvictionHard      []Threshold       // Below one of these pods are evicted. nil: none.
	EvictionPause     time.Duration     // How long the node stays under pressure when it is not any more. 0: 5 minutes.
	Reserved          v1.ResourceList   // What of the machine is kept from pods, besides the thresholds.
	MaxPods           int               // 0: 110.
	MaxRestartBackoff time.Duration     // 0: 5 minutes.
	HeartbeatInterval time.Duration     // 0: 20 seconds, half as often as the kubelet: each is a write to disk.
	Workers           int               // How many pods are worked on at once. 0: 8.
}

func (c Config) withDefaults() (Config, error) {
	for name, value := range map[string]string{"NodeName": c.NodeName, "NodeIPs": strings.Join(c.NodeIPs, ","), "DataDir": c.DataDir, "RunDir": c.RunDir} {
		if value == "" {
			return c, fmt.Errorf("agent: %s is not set", name)
		}
	}
	if c.TLS == nil {
		return c, errors.New("agent: TLS is not set")
	}
	orDefault(&c.ClusterDomain, "cluster.local")
	orDefault(&c.ResolvConf, "/etc/resolv.conf")
	orDefault(&c.Listen, ":10250")
	orDefault(&c.Version, "v1.37.2+skiff")
	orDefault(&c.CgroupRoot, "/skiff")
	orDefault(&c.EvictionPause, 5*time.Minute)
	orDefault(&c.MaxPods, 110)
	orDefault(&c.MaxRestartBackoff, 5*time.Minute)
	orDefault(&c.HeartbeatInterval, 20*time.Second)
	orDefault(&c.Workers, 8)
	return c, nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Agent is one node. Build it with [New].
type Agent struct {
	Config
	client   kubernetes.Interface
	runtime  Runtime
	network  Network
	pods     cache.SharedIndexInformer
	services corelisters.ServiceLister
	synced   []cache.DoneChecker
	listener net.Listener

	loop     *reconcile.Loop
	events   record.EventRecorder
	cast     record.EventBroadcaster
	sources  *sources
	pulls    *pulls
	probes   *probes
	hooks    *hooks
	dirs     dirs
	images   string // A directory on the disk of the images.
	apart    bool   // That is another one than that of DataDir.
	boot     string // The kernel's boot ID: containers of another boot have lost their namespaces.
	exits    bell
	sessions sync.WaitGroup // Requests whose connection was taken over.
	memories memories
	counts   *counts
	usages   usages
	shares   groupShares
	users    userRanges
	reclaims reclaims
	quotas   *quotas
	pressure *pressure
	uses     imageUses
	admitted admission
	disk     func(dir string) (percent int, err error) // How much of it is used.
	statics  *statics
	capacity v1.ResourceList
	appArmor bool          // The kernel has it.
	seLinux  bool          // Likewise.
	ready    chan struct{} // Closed when the API knows the Node as Ready.
	contact  *contact

	addresses atomic.Pointer[[]string] // The node's; see nodeIPs.
	moved     chan struct{}            // Tells that they have changed.
}

// New makes an agent and opens its port. It asks factory for the informers of pods, services and volumes; the caller starts the
// factory afterwards. The factory's pod informer may be limited to the node (a field selector on spec.nodeName, given
// with factory.InformerFor) or see all pods: the agent looks at its own only.
func New(config Config, client kubernetes.Interface, factory informers.SharedInformerFactory, runtime Runtime, network Network) (*Agent, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read the boot ID: %w", err)
	}
	a := &Agent{
		Config:   config,
		client:   client,
		runtime:  runtime,
		network:  network,
		pods:     factory.Core().V1().Pods().Informer(),
		services: factory.Core().V1().Services().Lister(),
		dirs:     dirs{data: config.DataDir, run: config.RunDir},
		boot:     strings.TrimSpace(string(boot)),
		cast:     record.NewBroadcaster(),
		ready:    make(chan struct{}),
		moved:    make(chan struct{}, 1),
		pressure: newPressure(config),
		admitted: admission{in: map[types.UID]bool{}},
		disk:     diskShare,
		appArmor: hasAppArmor(), seLinux: hasSELinux(),
		statics: newStatics(config.PodFiles, config.NodeName),
		usages:  usages{fs: cgroup.Host()},
		counts:  newCounts(),
		contact: &contact{doubt: make(chan struct{}, 1)},
	}
	a.addresses.Store(&config.NodeIPs)
	a.synced = []cache.DoneChecker{a.pods.HasSyncedChecker(), factory.Core().V1().Services().Informer().HasSyncedChecker()}
	a.events = a.cast.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: config.NodeName})
	a.loop = reconcile.New("agent", a.reconcile)
	a.sources = newSources(client, a.contact, a.loop.Add)
	a.pulls = newPulls(runtime, a.loop.Add)
	checker := newChecker(runtime)
	checker.pretend = config.Pretend
	a.probes = newProbes(checker, a.loop.Add, a.tell)
	a.hooks = newHooks(checker, a.loop.Add, a.tell)
	for _, dir := range []string{a.dirs.pods(), a.dirs.logs(), a.dirs.secrets()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make the agent's directory: %w", err)
		}
	}
	if err := os.Chmod(a.dirs.secrets(), 0o700); err != nil { // The files in it are for any user of a container, but of no other.
		return nil, err
	}
	if err := a.users.read(a.dirs); err != nil {
		return nil, fmt.Errorf("read which users pods have: %w", err)
	}
	a.quotas = openQuotas(config.DataDir)
	if err := errors.Join(a.watchPods(), a.watchVolumes(factory)); err != nil {
		return nil, err
	}
	a.images, a.apart = imagesOn(runtime.ImagesDir(), config.DataDir)
	if a.capacity, err = capacityOf(config.DataDir, config.MaxPods); err != nil {
		return nil, err
	}
	if a.listener, err = net.Listen("tcp", config.Listen); err != nil {
		return nil, fmt.Errorf("listen for the API server: %w", err)
	}
	return a, nil
}

// Addr is where the agent listens, with the port it got if Config.Listen asked for port 0.
func (a *Agent) Addr() net.Addr { return a.listener.Addr() }

// Ready is closed when the agent has told the API for the first time that its node is Ready.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// watchPods feeds the loop with the UIDs of this node's pods. The key is the UID, not the name, because a pod may be
// replaced by another of the same name while its own containers still end.
func (a *Agent) watchPods() error {
	mine := func(obj any) []string {
		pod, ok := obj.(*v1.Pod)
		if !ok {
			return nil
		}
		keys := a.statics.named(pod.Namespace, pod.Name) // Whose mirror has to wait until another pod of its name is gone.
		if pod.Spec.NodeName == a.NodeName {
			key := podKey(pod)
			if key == string(pod.UID) {
				a.memories.of(key) // From now on it counts how long the pod takes to start.
			}
			keys = append(append(keys, key), a.memories.allDeferred()...) // It may have made room for them.
		}
		return keys
	}
	for name, index := range map[string]cache.IndexFunc{byNode: indexByNode, byUID: indexByUID} {
		if _, ok := a.pods.GetIndexer().GetIndexers()[name]; ok {
			continue // Another agent of this process has added it.
		}
		if err := a.pods.AddIndexers(cache.Indexers{name: index}); err != nil {
			return fmt.Errorf("index the pods: %w", err)
		}
	}
	return a.loop.Watch(a.pods, mine)
}

// The indexes of pods: by the node that they are on, and by that and their UID.
const (
	byNode = "agent/node"
	byUID  = "agent/uid"
)

func indexByNode(obj any) ([]string, error) {
	if pod, ok := obj.(*v1.Pod); ok && pod.Spec.NodeName != "" {
		return []string{pod.Spec.NodeName}, nil
	}
	return nil, nil
}

func indexByUID(obj any) ([]string, error) {
	if pod, ok := obj.(*v1.Pod); ok && pod.Spec.NodeName != "" {
		return []string{pod.Spec.NodeName + "/" + podKey(pod)}, nil
	}
	return nil, nil
}

// podKey is what the agent knows a pod by: its UID or, of the mirror of a static pod, that pod's.
func podKey(pod *v1.Pod) string {
	if static, is := pod.Annotations[v1.MirrorPodAnnotationKey]; is {
		return static
	}
	return string(pod.UID)
}

// pod returns the pod with this UID if it belongs to this node and is known. It is shared: read only.
func (a *Agent) pod(uid string) *v1.Pod {
	if static := a.statics.get(uid); static != nil {
		return seenOfStatic(static, a.mirrorOf(static))
	}
	found, err := a.pods.GetIndexer().ByIndex(byUID, a.NodeName+"/"+uid)
	if err != nil {
		return nil
	}
	for _, obj := range found { // Others say that they mirror it.
		if pod := obj.(*v1.Pod); string(pod.UID) == uid {
			return pod
		}
	}
	return nil
}

// ownPods are the pods of this node that are known. They are shared: read only.
func (a *Agent) ownPods() []*v1.Pod {
	found, err := a.pods.GetIndexer().ByIndex(byNode, a.NodeName)
	if err != nil {
		return nil
	}
	pods := make([]*v1.Pod, 0, len(found))
	for _, obj := range found {
		if pod := obj.(*v1.Pod); podKey(pod) == string(pod.UID) {
			pods = append(pods, pod)
		}
	}
	for _, uid := range a.statics.uids() {
		if pod := a.pod(uid); pod != nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

// Run registers the node, keeps it alive, and runs its pods until ctx ends. The containers run on when it returns.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.cast.StartRecordingToSink(&typedv1.EventSinkImpl{Interface: a.client.CoreV1().Events("")})
	defer a.cast.Shutdown()
	a.begin(ctx)

	var wg sync.WaitGroup
	wg.Go(func() { a.runNode(ctx) })
	if len(a.EvictionHard) > 0 {
		wg.Go(func() { a.watchPressure(ctx) })
	}
	if a.PodFiles != "" {
		wg.Go(func() { a.watchStatics(ctx) })
	}
	wg.Go(func() { a.runPods(ctx) })
	wg.Go(func() {
		if cache.WaitFor(ctx, "", a.synced...) { // An image is unused only if all pods are known.
			a.runImages(ctx)
		}
	})
	err := a.serve(ctx)
	cancel()
	wg.Wait()
	a.wait()
	return err
}

// begin sets when all that goes on in the background ends. The static pods are read before anybody asks which pods there are: what
// they left running is no orphan's.
func (a *Agent) begin(ctx context.Context) {
	if a.PodFiles != "" {
		a.statics.read(time.Now())
	}
	a.sources.begin(ctx)
	a.pulls.begin(ctx)
	a.probes.begin(ctx)
	a.hooks.begin(ctx)
}

// wait returns when that has ended.
func (a *Agent) wait() {
	a.sources.wait()
	a.pulls.wait()
	a.probes.wait()
	a.hooks.wait()
}

// runPods waits until the API's pods are known before it looks at any: a container is an orphan only if the API says so, and
// a pod must not start before its Services are known, or its environment lacks them.
func (a *Agent) runPods(ctx context.Context) {
	if !cache.WaitFor(ctx, "", a.synced...) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	a.sweepVolumes() // Before anybody makes the directory of a volume that the lister does not know yet.
	wg.Go(func() { a.loop.Run(ctx, a.Workers) })
	wg.Go(func() { a.reclaims.loop.Run(ctx, 1) })
	a.addAll(ctx)
	for ctx.Err() == nil {
		err := a.runtime.Events(ctx, func(uid string) {
			if uid == "" {
				a.addAll(ctx)
				return
			}
			a.exits.ring(uid)
			a.loop.Add(uid)
		})
		if ctx.Err() == nil {
			slog.Warn("container events ended, starting again", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// addAll asks for every pod that is wanted, and for every one that has left something on this node.
func (a *Agent) addAll(ctx context.Context) {
	uids := a.statics.uids()
	if found, err := a.pods.GetIndexer().ByIndex(byNode, a.NodeName); err == nil {
		for _, obj := range found {
			uids = append(uids, podKey(obj.(*v1.Pod)))
		}
	}
	if containers, err := a.runtime.Containers(ctx); err == nil {
		for _, c := range containers {
			uids = append(uids, c.Pod.UID)
		}
	}
	if networks, err := a.network.Pods(ctx); err == nil {
		uids = append(uids, networks...)
	}
	for _, dir := range []string{a.dirs.pods(), a.dirs.secrets()} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.IsDir() { // Static pods are files.
				uids = append(uids, e.Name())
			}
		}
	}
	logs, _ := filepath.Glob(filepath.Join(a.dirs.logs(), "*_*_*"))
	for _, dir := range logs {
		uids = append(uids, dir[strings.LastIndexByte(dir, '_')+1:])
	}
	for _, uid := range uids {
		a.exits.ring(uid)
		a.loop.Add(uid)
	}
}

// pause waits for d or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// bell lets those who follow a pod's log hear that one of its containers started or ended.
type bell struct {
	mu    sync.Mutex
	rings map[string]chan struct{}
}

// next returns a channel that is closed at the next ring for uid.
func (b *bell) next(uid string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rings == nil {
		b.rings = map[string]chan struct{}{}
	}
	if b.rings[uid] == nil {
		b.rings[uid] = make(chan struct{})
	}
	return b.rings[uid]
}

func (b *bell) ring(uid string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ring := b.rings[uid]; ring != nil {
		close(ring)
		delete(b.rings, uid)
	}
}
