// Package proxy makes the addresses of Services work on a node: it turns Services and EndpointSlices into a [Ruleset], and
// the Ruleset into elements of nftables maps in the kernel.
//
// The first part decides and is pure. The second part is a difference: what changed goes to the kernel as one atomic
// batch of netlink messages. The rules themselves do not change with the Services. Roughly, they say
//
//	address . protocol . port          -> number of endpoints        (map services4)
//	number of endpoints                -> chain that draws one slot  (map pick4)
//	address . protocol . port . slot   -> endpoint                   (map endpoints4)
//
// so that a packet costs the same with one Service as with ten thousand, and a change costs what changed. Only the first packet of
// a connection takes this way; the kernel remembers the answer for the others.
//
// What holds: a Service without endpoints, and any address or port of the service range that no Service uses, is refused at once.
// From outside the node a cluster address does not answer. No commit has a gap in it, a restart of the proxy neither: it reads
// what the kernel holds and sends the difference. It does so again when somebody else changes its table. When Run ends the rules stay and connections go on; [Purge] removes them.
// Connections to endpoints that are gone are forgotten, so that UDP finds a live endpoint and TCP is reset.
//
// Ports of the node and addresses outside the service range (external ones, those of load balancers) are the same kind of
// element as cluster addresses, and so are the host ports of this node's pods. Of session affinity and of ranges that clients
// must come from, too, the rules are fixed and the elements change.
//
// In Kubernetes: kube-proxy in its nftables mode, which has a chain for each Service and each endpoint. Left out for now:
// IPv6, and hints about zones: of topology hints those that name nodes count. Host ports are the portmap plug-in's there.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/reconcile"
)

// Config says where the proxy works. All fields but LocalAddresses are required.
type Config struct {
	NodeName       string
	ClusterCIDR    netip.Prefix // Pod addresses. IPv4.
	ServiceCIDR    netip.Prefix // Cluster addresses of Services. IPv4.
	LocalAddresses []netip.Addr // In the service range, but answered by the node itself and never translated, like the node's DNS.
	HostPorts      bool         // Open the host ports of this node's pods too. Elsewhere a plug-in of the pod network does that.
	Table          string       // Name of the nftables table, family inet, which belongs to the proxy alone.
}

func (c Config) validate() error {
	if c.NodeName == "" || c.Table == "" {
		return errors.New("proxy needs a node name and a table name")
	}
	for _, p := range []netip.Prefix{c.ClusterCIDR, c.ServiceCIDR} {
		if !p.IsValid() || !p.Addr().Is4() {
			return fmt.Errorf("proxy needs IPv4 ranges for pods and Services, not %q", p)
		}
	}
	return nil
}

// Proxy keeps the kernel's rules like the Services. Build one with [New].
type Proxy struct {
	services    corelisters.ServiceLister
	slices      cache.Indexer
	pods        corelisters.PodLister // nil without host ports.
	cachesReady []cache.InformerSynced
	kernel      kernel
	rulesLoop   *reconcile.Loop
	flowsLoop   *reconcile.Loop
	synced      chan struct{}
	once        sync.Once

	mu    sync.Mutex
	dirty map[string]bool // Services, and pods with host ports, to look at again, as a Ruleset calls them.
	rules *Ruleset
	// What forget has to look at: connections that these addresses answer, or all, when something went away while nobody looked.
	left       map[netip.Addr]bool
	leftUnseen bool

	disturbed atomic.Bool // Somebody else has changed the table.

	// Of the one worker of rulesLoop:
	known  bool // The kernel holds what rules held before its latest changes.
	health healthChecks
}

// kernel is where a Ruleset goes; see table.
type kernel interface {
	load() (map[key]value, error)
	replace(all map[key]value) error
	commit(d diff) error
	watch(changed func()) (stop func(), err error)
	close()
}

const (
	// onlyKey: there is one table, and one thing to do with it.
	onlyKey = "table"
	// byService is the index of EndpointSlices by the Service that they belong to.
	byService = "proxy/service"
)

// New prepares a proxy that works with the kernel's network namespace of this process.
func New(c Config, factory informers.SharedInformerFactory) (*Proxy, error) {
	return newProxy(c, factory, &table{config: c})
}

func newProxy(c Config, factory informers.SharedInformerFactory, k kernel) (*Proxy, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	serviceInformer := factory.Core().V1().Services()
	sliceInformer := factory.Discovery().V1().EndpointSlices().Informer()
	p := &Proxy{
		services:    serviceInformer.Lister(),
		slices:      sliceInformer.GetIndexer(),
		cachesReady: []cache.InformerSynced{serviceInformer.Informer().HasSynced, sliceInformer.HasSynced},
		kernel:      k,
		synced:      make(chan struct{}),
		dirty:       map[string]bool{},
		left:        map[netip.Addr]bool{},
		rules:       NewRuleset(c),
	}
	p.rulesLoop = reconcile.New("proxy", p.sync)
	p.flowsLoop = reconcile.New("proxy connections", p.forget)
	err := sliceInformer.AddIndexers(cache.Indexers{byService: func(obj any) ([]string, error) { return serviceOf(obj), nil }})
	if err != nil {
		return nil, fmt.Errorf("index EndpointSlices: %w", err)
	}
	if err := p.rulesLoop.Watch(serviceInformer.Informer(), p.touched(reconcile.ObjectKey)); err != nil {
		return nil, err
	}
	if err := p.rulesLoop.Watch(sliceInformer, p.touched(serviceOf)); err != nil {
		return nil, err
	}
	if c.HostPorts {
		pods := factory.Core().V1().Pods()
		p.pods = pods.Lister()
		p.cachesReady = append(p.cachesReady, pods.Informer().HasSynced)
		if err := p.rulesLoop.Watch(pods.Informer(), p.touched(c.podWithHostPorts)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// serviceOf returns the "namespace/name" of the Service that an EndpointSlice says it belongs to.
func serviceOf(obj any) []string {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}
}

// touched notes the Services of an object and has the one key of the loop queued: many events become one batch.
func (p *Proxy) touched(names func(obj any) []string) func(obj any) []string {
	return func(obj any) []string {
		touched := names(obj)
		if len(touched) == 0 {
			return nil
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, name := range touched {
			p.dirty[name] = true
		}
		return []string{onlyKey}
	}
}

// Synced is closed when the kernel holds the rules for all Services for the first time.
func (p *Proxy) Synced() <-chan struct{} { return p.synced }

// Run keeps the kernel's rules like the Services until ctx ends. It leaves the rules in place. The informers must be started
// by the caller.
func (p *Proxy) Run(ctx context.Context) error {
	// Rules written before all Services are known would cut off those that are still to come.
	if !cache.WaitForCacheSync(ctx.Done(), p.cachesReady...) {
		return nil
	}
	if err := p.touchAll(); err != nil {
		return err
	}
	defer p.kernel.close()
	defer p.health.close()
	stop, err := p.kernel.watch(func() {
		p.disturbed.Store(true)
		p.rulesLoop.Add(onlyKey)
	})
	if err != nil {
		return err
	}
	defer stop()
	p.rulesLoop.Add(onlyKey)
	var wg sync.WaitGroup
	wg.Go(func() { p.rulesLoop.Run(ctx, 1) })
	wg.Go(func() { p.flowsLoop.Run(ctx, 1) })
	wg.Wait()
	return nil
}

// touchAll notes everything: the informers may know them before they have told.
func (p *Proxy) touchAll() error {
	all, err := p.services.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	var pods []*corev1.Pod
	if p.pods != nil {
		if pods, err = p.pods.List(labels.Everything()); err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, svc := range all {
		p.dirty[svc.Namespace+"/"+svc.Name] = true
	}
	for _, pod := range pods {
		for _, name := range p.rules.config.podWithHostPorts(pod) {
			p.dirty[name] = true
		}
	}
	return nil
}

// sync brings the kernel up to date with the Services.
func (p *Proxy) sync(context.Context, string) (time.Duration, error) {
	deaf, err := p.update()
	if err == nil {
		err = p.tell()
	}
	p.health.healthy.Store(err == nil)
	if err := errors.Join(err, deaf); err != nil {
		return 0, err
	}
	return 0, nil
}

// update computes the touched Services anew. What cannot be asked about its health, for which deaf gives the reasons, stays
// touched; all else goes on.
func (p *Proxy) update() (deaf, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.dirty {
		if podName, ok := strings.CutPrefix(name, podOwner); ok {
			pod, err := p.readPod(podName)
			if err != nil {
				return nil, err
			}
			p.rules.SetPod(podName, pod)
			delete(p.dirty, name)
			continue
		}
		svc, endpointSlices, err := p.read(name)
		if err != nil {
			return nil, err
		}
		p.rules.Set(name, svc, endpointSlices)
		if err := p.health.set(name, p.rules.health(name)); err != nil {
			deaf = errors.Join(deaf, err)
			continue
		}
		delete(p.dirty, name)
	}
	return deaf, nil
}

// tell brings the kernel up to date with the Ruleset.
func (p *Proxy) tell() error {
	if p.disturbed.Swap(false) {
		p.known = false
	}
	d, err := p.program()
	if err != nil {
		p.known = false // Nobody knows what the kernel took: read it.
		return err
	}
	p.mu.Lock()
	for _, addr := range slices.Concat(d.left, p.rules.died) {
		p.left[addr] = true
	}
	if len(p.left) > 0 {
		p.flowsLoop.Add(onlyKey)
	}
	p.rules.told()
	p.mu.Unlock()
	p.once.Do(func() { close(p.synced) })
	return nil
}

func (p *Proxy) readPod(name string) (*corev1.Pod, error) {
	namespace, short, err := cache.SplitMetaNamespaceKey(name)
	if err != nil {
		return nil, err
	}
	pod, err := p.pods.Pods(namespace).Get(short)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("get pod %s: %w", name, err)
	}
	return pod, nil
}

func (p *Proxy) read(name string) (*corev1.Service, []*discoveryv1.EndpointSlice, error) {
	namespace, short, err := cache.SplitMetaNamespaceKey(name)
	if err != nil {
		return nil, nil, err
	}
	svc, err := p.services.Services(namespace).Get(short)
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("get service %s: %w", name, err)
	}
	objs, err := p.slices.ByIndex(byService, name)
	if err != nil {
		return nil, nil, fmt.Errorf("get EndpointSlices of %s: %w", name, err)
	}
	found := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, obj := range objs {
		found = append(found, obj.(*discoveryv1.EndpointSlice))
	}
	return svc, found, nil
}

// program sends the difference and returns it.
func (p *Proxy) program() (diff, error) {
	if p.known {
		d := p.rules.news()
		if d.empty() {
			return d, nil
		}
		return d, p.kernel.commit(d)
	}
	return p.check()
}

// check reads the kernel and sends the difference to that, or everything where the table is not as it should be.
func (p *Proxy) check() (diff, error) {
	have, err := p.kernel.load()
	damaged := errors.Is(err, errDamaged)
	if err != nil && !damaged {
		return diff{}, err
	}
	d := p.rules.against(have)
	switch {
	case damaged:
		slog.Info("writing the table of Services anew", "elements", len(d.add))
		err = p.kernel.replace(d.add)
	case !d.empty():
		slog.Info("mending the table of Services", "remove", len(d.remove), "add", len(d.add))
		err = p.kernel.commit(d)
	}
	if err != nil {
		return diff{}, err
	}
	p.known = true
	p.mu.Lock()
	p.leftUnseen = true
	p.mu.Unlock()
	p.flowsLoop.Add(onlyKey)
	return d, nil
}
