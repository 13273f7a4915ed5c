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
// What holds: a Service without endpoints, and any address or port of a service range that no Service uses, is refused at once.
// From outside the node a cluster address does not answer. No commit has a gap in it, a restart of the proxy neither: it reads
// what the kernel holds and sends the difference. It does so again when somebody else changes its table. When Run ends the
// rules stay and connections go on; [Purge] removes them. Connections to endpoints that are gone are forgotten, so that UDP
// finds a live endpoint and TCP is reset.
//
// Ports of the node and addresses outside the service range (external ones, those of load balancers) are the same kind of
// element as cluster addresses, and so are the host ports of this node's pods. Of session affinity and of ranges that clients
// must come from, too, the rules are fixed and the elements change. So it is with NetworkPolicies, which the same table enforces.
//
// All this is there for IPv4, for IPv6, or for both; see [family].
//
// In Kubernetes: kube-proxy in its nftables mode, which has a chain for each Service and each endpoint. Host ports are the portmap
// plug-in's there, and policies the network plug-in's.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/control"
	"skiff/reconcile"
)

// Config says where the proxy works. All fields but LocalAddresses and Socket are required.
type Config struct {
	NodeName       string
	ClusterCIDR    []netip.Prefix // Pod addresses: IPv4, IPv6, or one range of each.
	ServiceCIDR    []netip.Prefix // Cluster addresses of Services: one range of each family that pods have, or of one of them.
	LocalAddresses []netip.Addr   // In the service range, but answered by the node itself and never translated, like the node's DNS.
	HostPorts      bool           // Open the host ports of this node's pods too. Elsewhere a plug-in of the pod network does that,
	Policies       bool           // and this as well: enforce NetworkPolicies.
	Socket         string         // Shows the rules and counts to root; see [Dump]. Empty: there is none.
	Table          string         // Name of the nftables table, family inet, which belongs to the proxy alone.
	// Took, if not nil, is called with the revision up to which the kernel has the EndpointSlices, after each change of them.
	// Connections that would still go to an endpoint that a Service has no longer are forgotten by then.
	Took func(revision uint64)
}

func (c Config) validate() error {
	if c.NodeName == "" || c.Table == "" {
		return errors.New("proxy needs a node name and a table name")
	}
	for _, ranges := range [][]netip.Prefix{c.ClusterCIDR, c.ServiceCIDR} {
		two := len(ranges) == 2 && familyOf(ranges[0].Addr()) != familyOf(ranges[1].Addr())
		if len(ranges) != 1 && !two || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return !p.IsValid() }) {
			return fmt.Errorf("proxy needs one range for pods and one for Services, or one of each family, not %v", ranges)
		}
	}
	for _, p := range c.ServiceCIDR {
		if !familyOf(p.Addr()).rangeOf(c.ClusterCIDR).IsValid() {
			return fmt.Errorf("proxy needs pods of the family of the Services in %s", p)
		}
	}
	return nil
}

// Proxy keeps the kernel's rules like the Services. Build one with [New].
type Proxy struct {
	services     corelisters.ServiceLister
	slices       cache.Indexer
	pods         corelisters.PodLister // nil without host ports and policies.
	nodes        corelisters.NodeLister
	policies     networkinglisters.NetworkPolicyLister
	namespaces   corelisters.NamespaceLister
	serviceCIDRs networkinglisters.ServiceCIDRLister
	cachesReady  []cache.DoneChecker
	rangesReady  cache.DoneChecker // Of ServiceCIDRs.
	noRanges     chan struct{}     // Closed if there is no such kind.
	kernel       kernel
	rulesLoop    *reconcile.Loop
	flowsLoop    *reconcile.Loop
	took         func(revision uint64)
	synced       chan struct{}
	once         sync.Once

	mu       sync.Mutex
	dirty    map[string]bool // Services, and pods with host ports, to look at again, as a Ruleset calls them.
	rules    *Ruleset
	suspects suspects
	// Revisions of the EndpointSlices: up to which one they were heard of, were taken into rules, and are in the kernel.
	heard, taken, told uint64
	touchedAt          time.Time // When the first was that is dirty now.

	disturbed atomic.Bool // Somebody else has changed the table.
	metrics   metrics
	control   net.Listener // nil without Config.Socket.

	// Of the one worker of rulesLoop:
	begun  bool // The kernel was told everything at least once.
	known  bool // The kernel holds what rules held before its latest changes.
	health healthChecks
}

// kernel is where a Ruleset goes; see table.
type kernel interface {
	load() (map[key]value, error)
	replace(all []element) error
	commit(d diff) error
	expect(late []flow) error // Of these connections, which are about to be forgotten, answers are still to come through.
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
		cachesReady: []cache.DoneChecker{serviceInformer.Informer().HasSyncedChecker(), sliceInformer.HasSyncedChecker()},
		kernel:      k,
		took:        c.Took,
		synced:      make(chan struct{}),
		dirty:       map[string]bool{},
		metrics:     newMetrics(),
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
	if err := p.rulesLoop.Watch(sliceInformer, p.heardOf(p.touched(serviceOf))); err != nil {
		return nil, err
	}
	nodes := factory.Core().V1().Nodes()
	p.nodes = nodes.Lister()
	p.cachesReady = append(p.cachesReady, nodes.Informer().HasSyncedChecker())
	if err := p.rulesLoop.Watch(nodes.Informer(), p.touched(p.nodeChanged)); err != nil {
		return nil, err
	}
	if err := p.watchRanges(factory.Networking().V1().ServiceCIDRs()); err != nil {
		return nil, err
	}
	if c.HostPorts || c.Policies {
		pods := factory.Core().V1().Pods()
		p.pods = pods.Lister()
		p.cachesReady = append(p.cachesReady, pods.Informer().HasSyncedChecker())
		if err := p.rulesLoop.Watch(pods.Informer(), p.touched(c.podOfInterest)); err != nil {
			return nil, err
		}
	}
	if c.Policies {
		if err := p.watchPolicies(factory); err != nil {
			return nil, err
		}
	}
	if c.Socket != "" {
		p.control, err = control.Listen(c.Socket, "proxy")
	}
	return p, err
}

func (p *Proxy) watchPolicies(factory informers.SharedInformerFactory) error {
	policies, namespaces := factory.Networking().V1().NetworkPolicies(), factory.Core().V1().Namespaces()
	p.policies, p.namespaces = policies.Lister(), namespaces.Lister()
	p.cachesReady = append(p.cachesReady, policies.Informer().HasSyncedChecker(), namespaces.Informer().HasSyncedChecker())
	return errors.Join(
		p.rulesLoop.Watch(policies.Informer(), p.touched(owned(policyOwner))),
		p.rulesLoop.Watch(namespaces.Informer(), p.touched(owned(namespaceOwner))))
}

// Synced is closed when the kernel holds the rules for all Services for the first time.
func (p *Proxy) Synced() <-chan struct{} { return p.synced }

// Run keeps the kernel's rules like the Services until ctx ends. It leaves the rules in place. The informers must be started
// by the caller.
func (p *Proxy) Run(ctx context.Context) error {
	if p.control == nil {
		return p.run(ctx)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.serveControl(ctx, p.control) })
	group.Go(func() error { return p.run(ctx) })
	return group.Wait()
}

func (p *Proxy) run(ctx context.Context) error {
	// Rules written before all Services are known would cut off those that are still to come.
	if !cache.WaitFor(ctx, "", p.cachesReady...) || !p.rangesKnown(ctx) {
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

// sync brings the kernel up to date with the Services.
func (p *Proxy) sync(context.Context, string) (time.Duration, error) {
	deaf, since, err := p.update()
	if err == nil {
		err = p.tell(since)
	}
	p.health.healthy.Store(err == nil)
	if err != nil {
		p.metrics.failures.Inc()
	}
	if err := errors.Join(err, deaf); err != nil {
		return 0, err
	}
	return 0, nil
}

// tell brings the kernel up to date with the Ruleset, which has changed since then.
func (p *Proxy) tell(since time.Time) error {
	if p.disturbed.Swap(false) {
		p.known = false
	}
	d, err := p.program()
	if err != nil {
		p.known = false // Nobody knows what the kernel took: read it.
		return err
	}
	p.mu.Lock()
	p.suspects.add(d, p.rules.died)
	if p.suspects.any() || p.told < p.taken {
		p.flowsLoop.Add(onlyKey)
	}
	p.told = p.taken
	p.rules.told()
	p.mu.Unlock()
	p.metrics.programmed(since)
	p.once.Do(func() { close(p.synced) })
	return nil
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
	if p.begun { // Before, it was not the proxy's to keep.
		p.metrics.repaired(d, damaged)
	}
	p.begun = true
	p.known = true
	p.mu.Lock()
	p.suspects.all = true
	p.mu.Unlock()
	p.flowsLoop.Add(onlyKey)
	return d, nil
}
