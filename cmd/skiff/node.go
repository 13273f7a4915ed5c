package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"skiff/agent"
	"skiff/agent/containerd"
	"skiff/agent/network"
	"skiff/dns"
	"skiff/handover"
	"skiff/proxy"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	toolswatch "k8s.io/client-go/tools/watch"
)

// node is what makes this machine one: containerd, the pod network, the agent, the proxy and the DNS server.
type node struct {
	*plane
	factory informers.SharedInformerFactory
	stop    <-chan struct{} // When the informers stop.
}

// run runs the node until ctx ends; ready is called when it is Ready.
func (n *node) run(ctx context.Context, ready func()) error {
	client, err := n.client("system:node:"+n.nodeName, "system:nodes")
	if err != nil {
		return err
	}
	// Two things take time, and neither needs the other.
	var daemon *containerd.Daemon
	var pods ranges
	setup, setupCtx := errgroup.WithContext(ctx)
	setup.Go(func() (err error) {
		daemon, err = n.startContainerd(setupCtx)
		return err
	})
	setup.Go(func() (err error) {
		if pods, err = podRanges(setupCtx, client, n.nodeName); err != nil {
			return err
		}
		pods, err = pods.within(n.clusterRanges)
		return err
	})
	if err := setup.Wait(); err != nil {
		if daemon != nil {
			err = errors.Join(err, daemon.Stop())
		}
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if daemon != nil {
		// The daemon ends last: the agent still asks it while it stops.
		daemonCtx, stopDaemon := context.WithCancel(context.WithoutCancel(ctx))
		ended := make(chan error, 1)
		go func() { ended <- daemon.Run(daemonCtx) }()
		defer func() { stopDaemon(); <-ended }()
	}
	if err := n.leave(n.left(pods)); err != nil {
		return err
	}
	runtime, err := n.openRuntime(ctx)
	if err != nil {
		return err
	}
	defer runtime.Close()
	runtime.ChooseProgram(ctx)
	net, err := network.New(networkConfig(n.dirs, pods, n.clusterRanges, n.serviceRanges, n.dns, n.cni()))
	if err != nil {
		return err
	}
	services, err := newServiceRoutes(net, n.factory)
	if err != nil {
		return err
	}
	a, p, d, err := n.components(ctx, client, runtime, net)
	if err != nil {
		return err
	}
	nodes := n.factory.Core().V1().Nodes().Informer()
	n.factory.Start(n.stop)
	group.Go(func() error { return handover.Publish(ctx, client, n.progress, nodes) })
	imported := make(chan struct{})
	group.Go(func() error { return runtime.WatchImages(ctx, n.images(), func() { close(imported) }) })
	group.Go(func() error { return p.Run(ctx) })
	group.Go(func() error { return d.Run(ctx) })
	group.Go(func() error { return services.Run(ctx) })
	group.Go(func() error {
		select {
		case <-imported: // Before that a pod whose image lies there would look for it in a registry.
		case <-ctx.Done():
			return nil
		}
		select {
		case <-p.Synced(): // Before that no NetworkPolicy holds what a pod does, and what it has begun goes on.
		case <-time.After(rulesTime):
			slog.Warn("the kernel does not have the rules for Services and NetworkPolicies yet; pods run without them")
		case <-ctx.Done():
			return nil
		}
		return a.Run(ctx)
	})
	group.Go(func() error {
		select {
		case <-a.Ready():
			ready()
		case <-ctx.Done():
		}
		return nil
	})
	return group.Wait()
}

// untilWritable waits for a data directory on a disk that is read-only: a node keeps images and containers there. It is false if
// ctx ends before.
func (d dirs) untilWritable(ctx context.Context) bool {
	for said := false; errors.Is(unix.Access(d.data, unix.W_OK), unix.EROFS); said = true {
		if !said {
			slog.Warn("this machine is no node for as long as its disk is read-only", "dir", d.data)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// rulesTime is how long a node's pods wait for the rules. A kernel that never takes them says so in the log again and again.
const rulesTime = 10 * time.Second

func (n *node) components(ctx context.Context, client kubernetes.Interface, runtime *containerd.Runtime, net *network.Network) (a *agent.Agent, p *proxy.Proxy, d *dns.Server, err error) {
	tlsConfig, err := n.agentTLS()
	if err != nil {
		return nil, nil, nil, err
	}
	traffic, err := handover.New(ctx, n.factory, n.progress)
	if err != nil {
		return nil, nil, nil, err
	}
	proxyConfig := n.proxyConfig()
	proxyConfig.HostPorts, proxyConfig.Policies, proxyConfig.Took = true, true, n.progress.Took
	proxyConfig.Socket = n.dirs.proxySocket()
	p, err = proxy.New(proxyConfig, n.factory)
	if err != nil {
		return nil, nil, nil, err
	}
	d, err = dns.New(n.dnsConfig(), n.factory)
	if err != nil {
		return nil, nil, nil, err
	}
	config := agent.Config{
		MaxRestartBackoff: n.maxBackoff,
		NodeName:          n.nodeName, NodeIPs: texts(n.addresses),
		DataDir: n.data, RunDir: n.dirs.run, PodFiles: filepath.Join(n.data, "pods"),
		ClusterDNS: texts(n.dns), ClusterDomain: n.clusterDomain, CgroupRoot: n.cgroupRoot(),
		EvictionHard: n.thresholds, EvictionPause: n.evictionPause, Reserved: n.reserved,
		TLS: tlsConfig, Metrics: []prometheus.Collector{p, d}, Version: kubernetesVersion + "+skiff",
	}
	if !n.racing {
		config.Traffic = traffic
	}
	a, err = agent.New(config, client, n.factory, runtime, podNetwork{net})
	if err != nil {
		return nil, nil, nil, err
	}
	n.whereabouts.follow(func(s settings) {
		a.SetNodeIPs(texts(s.addresses))
		if err := net.SetNodeAddresses(s.addresses); err != nil {
			slog.Warn("the node talks to Services from an address that it has no more", "err", err)
		}
	})
	return a, p, d, nil
}

func (n *node) left(pods ranges) left {
	return left{
		Containerd: n.settings.containerd, PodCIDR: pods.String(),
		ClusterCIDR: n.clusterRanges.String(), ServiceCIDR: n.serviceRanges.String(), ClusterDNS: join(n.dns),
		CNI: n.cni(),
	}
}

// cni returns the plugins that connect the pods, if there is a directory for their configuration.
func (n *node) cni() *network.CNI {
	if n.cniConfDir == "" {
		return nil
	}
	return &network.CNI{ConfDir: n.cniConfDir, BinDirs: n.cniBinDirs, NodeAddresses: n.addresses}
}

// startContainerd starts the private containerd, unless a socket was given.
func (n *node) startContainerd(ctx context.Context) (*containerd.Daemon, error) {
	if n.settings.containerd != "" {
		return nil, nil
	}
	return containerd.StartDaemon(ctx, n.daemonConfig())
}

// openRuntime connects to containerd. A private one that is killed meanwhile comes back, and is asked again.
func (n *node) openRuntime(ctx context.Context) (runtime *containerd.Runtime, err error) {
	for range runtimeTries {
		runtime, err = containerd.New(ctx, n.runtimeConfig())
		if n.settings.containerd != "" || !errdefs.IsUnavailable(err) {
			return runtime, err
		}
		slog.Warn("containerd went away as the node started, asking it again", "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, err
}

// runtimeTries is how often a private containerd is asked, a second apart.
const runtimeTries = 5

func (d dirs) daemonConfig() containerd.DaemonConfig {
	return containerd.DaemonConfig{Root: filepath.Join(d.data, "containerd"), State: filepath.Join(d.run, "containerd")}
}

func (s settings) runtimeConfig() containerd.Config {
	socket := s.containerd
	if socket == "" {
		socket = s.containerdSocket()
	}
	return containerd.Config{
		Socket: socket, RunDir: filepath.Join(s.run, "runtime"), Registries: filepath.Join(s.data, "registries"),
		CgroupRoot: s.cgroupRoot(),
	}
}

// agentTLS is how the agent listens: with a certificate of the cluster's authority, for clients that have one too.
func (n *node) agentTLS() (*tls.Config, error) {
	return n.serverTLS(n.ca.Server)
}

// podRanges registers the Node, if it is new, and waits for the ranges of pod addresses that a controller gives it.
func podRanges(ctx context.Context, client kubernetes.Interface, name string) (ranges, error) {
	_, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("register node %s: %w", name, err)
	}
	n, err := waitNode(ctx, client, name, func(n *corev1.Node) bool { return n.Spec.PodCIDR != "" })
	if err != nil {
		return nil, fmt.Errorf("wait for node %s to get its pod addresses: %w", name, err)
	}
	return parsePodRanges(n.Spec.PodCIDRs)
}

// within are those of the node's ranges that the cluster has, too. It may have been started with others since the node registered.
func (r ranges) within(cluster ranges) (inside ranges, err error) {
	for _, p := range r {
		if slices.ContainsFunc(cluster, func(c netip.Prefix) bool { return c.Bits() <= p.Bits() && c.Contains(p.Addr()) }) {
			inside = append(inside, p)
			continue
		}
		slog.Warn("the node has pod addresses that --cluster-cidr does not: its pods get no more of them", "podCIDR", p, "cluster-cidr", cluster)
	}
	if len(inside) == 0 {
		return nil, fmt.Errorf("the node's pod addresses %s are not in --cluster-cidr %s: start with the range of before, delete the Node (kubectl delete node), stop, and start with this one", r, cluster)
	}
	return inside, nil
}

func parsePodRanges(texts []string) (all ranges, err error) {
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("read the node's pod addresses: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// waitNode waits until done says that the Node is as wanted.
func waitNode(ctx context.Context, client kubernetes.Interface, name string, done func(*corev1.Node) bool) (*corev1.Node, error) {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	nodes := client.CoreV1().Nodes()
	w, err := nodes.Watch(ctx, metav1.ListOptions{FieldSelector: selector})
	if err != nil {
		return nil, err
	}
	event, err := toolswatch.UntilWithoutRetry(ctx, w, func(ev watch.Event) (bool, error) {
		n, ok := ev.Object.(*corev1.Node)
		return ok && ev.Type != watch.Deleted && done(n), nil
	})
	if err != nil {
		return nil, err
	}
	return event.Object.(*corev1.Node), nil
}

// podNetwork lets the agent use the network, which knows nothing of the agent.
type podNetwork struct{ *network.Network }

var _ agent.Network = podNetwork{}

func (p podNetwork) Setup(ctx context.Context, pod agent.PodNetworkConfig) (agent.PodNetwork, error) {
	wanted := network.Pod{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Hostname: pod.Hostname, HostNetwork: pod.HostNetwork,
		FirstUser: pod.FirstUser, Users: agent.UsersPerPod}
	for _, port := range pod.HostPorts {
		wanted.HostPorts = append(wanted.HostPorts, network.HostPort(port))
	}
	got, err := p.Network.Setup(ctx, wanted)
	if err != nil {
		return agent.PodNetwork{}, err
	}
	return agent.PodNetwork{IPs: texts(got.Addrs), NetNS: got.NetNS, IPCNS: got.IPCNS, UTSNS: got.UTSNS, UserNS: got.UserNS}, nil
}
