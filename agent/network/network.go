// Package network gives a pod its namespaces, its address and its way out.
//
// A pod's network namespace is joined to the node by a veth pair. There is no bridge between pods: the node is a router,
// the pod has a /32 address, or a /128 one, or both, and the node has one route for each:
//
//	pod:   eth0 10.42.0.5/32, default via 10.42.0.1 dev eth0 onlink
//	            fd00:42::5/128, default via fe80::1 dev eth0
//	node:  10.42.0.5 dev veth0a2a0005 src 10.42.0.1
//	       fd00:42::5 dev veth0a2a0005 src fd00:42::1
//	       skiff0 (a bridge without ports) holds the gateways 10.42.0.1 and fd00:42::1, and the cluster's DNS address
//
// So everything a pod sends passes the node's IP hooks, where Services are translated, also what goes to the pod next
// door; with a bridge this would hang on the br_netfilter module. Both ends of the pair have fixed hardware addresses and
// permanent neighbour entries: there is no ARP, no proxy_arp, no duplicate address detection, no router advertisement, and
// the first packet goes out at once. A source address that is not the pod's is dropped at its veth (by rp_filter, and a rule for
// IPv6, which has none).
//
// Packets for the cluster's own ranges must not leave by the node's default route. What belongs to no pod ends at an
// unreachable route for the cluster range. The service range needs a real route, because the kernel routes a packet of
// the node's own before the proxy can rewrite its destination, and an unreachable one would refuse it there. So the
// range is routed to skiff0, which leads nowhere, with the gateway address as the source; and what the proxy leaves
// untouched is refused by two rules that stand behind the proxy's, so the answer comes at once and not after ARP's 3
// seconds. As these are nat rules, they see the first packet of a connection only. It is the same with ranges that Services get
// while the cluster runs; see [Network.SetServiceRanges].
//
// The namespaces (network, IPC, UTS, and that of its users for a pod that has its own) belong to no process: they are bind
// mounts under Dir, and need no pause container. Beside them stands a file with the pod's addresses. Nothing else is
// remembered, but for which pods CNI plugins were asked: a new [Network] reads it back. Processes that use the mounts
// (containerd) must be in the mount namespace of this one.
//
// Where [Config.CNI] is set, plugins connect the pods instead.
//
// In Kubernetes: the pause container of the container runtime, and a CNI plugin (bridge, host-local, loopback). Left out:
// bandwidth limits, and routes to other nodes. Host ports are the proxy's.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// Config says where the node's pods get their addresses.
type Config struct {
	// Dir holds the namespaces, a folder a pod. It must be absolute, should not outlive a reboot, and belongs to this
	// package alone: RUN/ns.
	Dir string

	// At most one range of each family; the first is that of the addresses that are named first.
	PodCIDR     []netip.Prefix // This node's pods. The first address of each is the gateway.
	ClusterCIDR []netip.Prefix // All pods. The same as PodCIDR if there is one node only.
	ServiceCIDR []netip.Prefix // The Services' virtual addresses.

	// LocalAddresses are served on the node itself, for its pods and its own processes: the DNS address.
	LocalAddresses []netip.Addr

	MTU int // Of the pods' interfaces; 0 is the kernel's default.

	CNI     *CNI   // Who connects the pods; nil: this package.
	NoteDir string // Holds what CNI plugins are still to be told; it must outlive a reboot: DATA/cni.
}

// Pod is what a pod wants.
type Pod struct {
	UID         string
	Namespace   string // It and the name are for CNI plugins.
	Name        string
	Hostname    string
	HostNetwork bool // No network namespace and no address of its own.

	HostPorts []HostPort // For CNI plugins, too.

	// The pod's users 0, 1 and so on are, outside of the pod, so many from FirstUser on. 0: it has the host's.
	FirstUser, Users uint32
}

// HostPort is a port of the node that leads to one of the pod.
type HostPort struct {
	Host, Container uint16
	Protocol        string // TCP, UDP or SCTP.
	HostIP          string // "": all of the node's addresses.
}

// Result is what a pod got.
type Result struct {
	Addrs               []netip.Addr // One a family; none with HostNetwork.
	NetNS, IPCNS, UTSNS string       // Paths; NetNS is empty with HostNetwork.
	UserNS              string       // Path; empty for a pod with the host's users.
}

// Network sets up pods. Its methods may be called from many goroutines; the changes to one pod are made one after another, and no
// pod waits for another, whose CNI plugin may hang.
type Network struct {
	config Config
	log    *slog.Logger
	unseen sync.Once // The warning that bridges hide packets.

	unpoliced sync.Once // The warning that pods have addresses without policies.

	mu        sync.Mutex
	addresses pools
	pods      map[string][]netip.Addr  // By UID; none for pods on the host's network.
	changing  map[string]chan struct{} // By UID: closed when the change that is under way has ended.

	nodeAddresses []netip.Addr   // See CNI.NodeAddresses.
	further       []netip.Prefix // Of Services; see SetServiceRanges.
	settled       bool           // The node has routes for these and no other ones.
}

// New prepares the node and takes over the pods that an earlier process left. What it had not finished is removed.
func New(c Config) (*Network, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	if c.CNI != nil {
		if err := os.MkdirAll(c.NoteDir, 0o755); err != nil {
			return nil, err
		}
	}
	n := &Network{config: c, log: slog.With("component", "network"), addresses: newPools(c.PodCIDR),
		pods: map[string][]netip.Addr{}, changing: map[string]chan struct{}{}}
	if c.CNI != nil {
		n.nodeAddresses = c.CNI.NodeAddresses
	}
	if err := n.prepareNode(); err != nil {
		return nil, err
	}
	if err := n.adopt(); err != nil {
		return nil, err
	}
	return n, nil
}

func (c Config) check() error {
	if !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("the namespaces' directory %q is not absolute", c.Dir)
	}
	if c.CNI != nil && !filepath.IsAbs(c.NoteDir) {
		return fmt.Errorf("the directory %q for what CNI plugins keep is not absolute", c.NoteDir)
	}
	return c.checkRanges()
}

// adopt reads back the pods under Dir.
func (n *Network) adopt() error {
	entries, err := os.ReadDir(n.config.Dir)
	if err != nil {
		return err
	}
	noted, err := n.noted()
	if err != nil {
		return err
	}
	for _, e := range entries {
		uid := e.Name()
		addrs, err := n.readAddresses(uid)
		if err == nil && !n.pinned(uid, len(addrs) > 0) {
			err = errors.New("its namespaces are gone")
		}
		if err == nil && n.config.CNI == nil {
			addrs, err = n.addresses.take(addrs)
		}
		if err != nil && slices.Contains(noted, uid) {
			continue // Plugins may hang, and a start waits for nobody: it goes when the pod is torn down or made anew.
		}
		if err != nil {
			n.log.Warn("removing the rest of a pod's network", "pod", uid, "why", err)
			if err := n.unpin(uid); err != nil {
				return err
			}
			continue
		}
		n.pods[uid] = addrs
	}
	return nil
}

// Setup makes the pod's namespaces and connects them. For a pod that has them already, it returns the same.
func (n *Network) Setup(ctx context.Context, pod Pod) (Result, error) {
	if err := checkUID(pod.UID); err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	end, err := n.change(ctx, pod.UID)
	if err != nil {
		return Result{}, err
	}
	defer end()
	addrs, known := n.addressesOf(pod.UID)
	if !known {
		if addrs, err = n.make(ctx, pod); err != nil {
			return Result{}, fmt.Errorf("set up the network of pod %s: %w", pod.UID, err)
		}
		n.remember(pod.UID, addrs)
	} else if len(addrs) > 0 && n.config.CNI == nil {
		if err := n.connect(n.path(pod.UID, "net"), addrs); err != nil {
			return Result{}, fmt.Errorf("connect pod %s: %w", pod.UID, err)
		}
	}
	result := Result{Addrs: addrs, IPCNS: n.path(pod.UID, "ipc"), UTSNS: n.path(pod.UID, "uts")}
	if len(addrs) > 0 {
		result.NetNS = n.path(pod.UID, "net")
	}
	if pod.FirstUser > 0 {
		result.UserNS = n.path(pod.UID, userKind)
	}
	return result, nil
}

// make does the whole work for a new pod, or leaves nothing. The address file is written last: it says that the rest is
// there.
func (n *Network) make(ctx context.Context, pod Pod) (addrs []netip.Addr, err error) {
	byPlugins := n.config.CNI != nil && !pod.HostNetwork
	if byPlugins {
		n.forget(pod.UID) // What a reboot, or a try that was killed, has left.
	}
	defer func() {
		if err != nil {
			if byPlugins {
				n.forget(pod.UID)
			}
			err = errors.Join(err, n.unpin(pod.UID))
			n.forgetAddresses(pod.UID, addrs)
			addrs = nil
		}
	}()
	if !pod.HostNetwork && !byPlugins {
		if addrs, err = n.nextAddresses(); err != nil {
			return nil, err
		}
	}
	if err := n.pin(pod); err != nil {
		return addrs, err
	}
	if byPlugins {
		if addrs, err = n.addCNI(ctx, pod); err != nil {
			return nil, err
		}
	} else if len(addrs) > 0 {
		if err := n.connect(n.path(pod.UID, "net"), addrs); err != nil {
			return addrs, err
		}
	}
	return addrs, n.writeAddresses(pod.UID, addrs)
}

// Teardown removes what Setup made. The pod's processes should have ended: the kernel keeps a namespace while it is used.
func (n *Network) Teardown(ctx context.Context, podUID string) error {
	if err := checkUID(podUID); err != nil {
		return err
	}
	end, err := n.change(ctx, podUID)
	if err != nil {
		return err
	}
	defer end()
	addrs, _ := n.addressesOf(podUID)
	if n.config.CNI != nil {
		if err := n.removeCNI(ctx, podUID); err != nil {
			return fmt.Errorf("disconnect pod %s: %w", podUID, err)
		}
	} else if err := disconnect(addrs); err != nil {
		return fmt.Errorf("remove the routes of pod %s: %w", podUID, err)
	}
	if err := n.unpin(podUID); err != nil {
		return fmt.Errorf("remove the namespaces of pod %s: %w", podUID, err)
	}
	n.forgetAddresses(podUID, addrs)
	return nil
}

// Pods lists the UIDs of the pods that have something for Teardown to remove. With CNI plugins that may be all that a pod has left.
func (n *Network) Pods(context.Context) ([]string, error) {
	uids, err := n.noted()
	if err != nil {
		return nil, fmt.Errorf("list what CNI plugins may keep: %w", err)
	}
	n.mu.Lock()
	uids = slices.AppendSeq(uids, maps.Keys(n.pods))
	n.mu.Unlock()
	slices.Sort(uids)
	return slices.Compact(uids), nil
}

// Purge removes every pod and what New made. The Network must not be used afterwards.
func (n *Network) Purge(ctx context.Context) error {
	uids, err := n.Pods(ctx)
	errs := []error{err}
	for _, uid := range uids {
		errs = append(errs, n.Teardown(ctx, uid))
	}
	errs = append(errs, n.removeLinks(ctx), n.restoreNode(), os.RemoveAll(n.config.Dir))
	return errors.Join(errs...)
}

// removeLinks sees the pods' links off. The kernel removes them by itself once their namespaces are dropped, many at a
// time and much cheaper than one by one, so only what is left after a while is deleted here.
func (n *Network) removeLinks(ctx context.Context) error {
	patience := time.After(2 * time.Second)
	for {
		left, err := n.podLinks()
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-patience:
			var errs []error
			for _, link := range left {
				errs = append(errs, netlink.LinkDel(link))
			}
			return errors.Join(errs...)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkUID refuses what is no single, plain file name.
func checkUID(uid string) error {
	if uid == "" || len(uid) > 128 || strings.HasPrefix(uid, ".") || strings.ContainsAny(uid, "/\x00") {
		return fmt.Errorf("%q is not a pod's UID", uid)
	}
	return nil
}
