package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	gocni "github.com/containerd/go-cni"
)

// CNI says which network plugins connect the pods, instead of this package: those of the first configuration in ConfDir, as
// https://www.cni.dev/docs/spec/ has it. The namespaces stay this package's, and so does what keeps packets for Services from leaving
// the node.
type CNI struct {
	ConfDir string
	BinDirs []string // Where the plugins are. None: /opt/cni/bin and /usr/lib/cni.

	NodeAddresses []netip.Addr // From which the node talks to Services, one a family.
}

// pluginTime bounds how long plugins may take over one pod.
const pluginTime = time.Minute

// plugins reads the configuration, each time: who installs a network plugin does so while the node runs.
func (c *CNI) plugins() (gocni.CNI, error) {
	dirs := c.BinDirs
	if len(dirs) == 0 {
		dirs = []string{"/opt/cni/bin", "/usr/lib/cni"}
	}
	plugins, err := gocni.New(gocni.WithPluginConfDir(c.ConfDir), gocni.WithPluginDir(dirs), gocni.WithMinNetworkCount(2))
	if err != nil {
		return nil, err
	}
	if err := plugins.Load(gocni.WithLoNetwork, gocni.WithDefaultConf); err != nil {
		return nil, fmt.Errorf("load a CNI configuration from %s: %w", c.ConfDir, err)
	}
	return plugins, nil
}

// add has the plugins connect a namespace, and returns the addresses that they gave it.
func add(ctx context.Context, plugins gocni.CNI, pod Pod, nsPath string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, pluginTime)
	defer cancel()
	result, err := plugins.Setup(ctx, pod.UID, nsPath, whatOf(pod)...)
	if err != nil {
		return nil, fmt.Errorf("CNI plugins: %w", err)
	}
	var given []netip.Addr
	if inside, ok := result.Interfaces[podDevice]; ok {
		for _, config := range inside.IPConfigs {
			if addr, ok := netip.AddrFromSlice(config.IP); ok {
				given = append(given, addr.Unmap())
			}
		}
	}
	if len(given) == 0 {
		return nil, fmt.Errorf("CNI plugins gave the pod no address on %s", podDevice)
	}
	return given, nil
}

// firstOfEach keeps one address of each family, in the order in which the cluster has the families: a pod has no more, to the API. Those of
// a family that the cluster does not have are the plugins' own affair, unless there are no others.
func firstOfEach(given []netip.Addr, cluster []netip.Prefix) (addrs []netip.Addr) {
	for _, p := range cluster {
		i := slices.IndexFunc(given, func(a netip.Addr) bool { return a.Is6() == p.Addr().Is6() })
		if i >= 0 {
			addrs = append(addrs, given[i])
		}
	}
	if len(addrs) == 0 {
		return given[:1]
	}
	return addrs
}

// remove has the plugins take back what add did.
func (c *CNI) remove(ctx context.Context, pod Pod, nsPath string) error {
	ctx, cancel := context.WithTimeout(ctx, pluginTime)
	defer cancel()
	plugins, err := c.plugins()
	if err != nil {
		return err
	}
	if err := plugins.Remove(ctx, pod.UID, nsPath, whatOf(pod)...); err != nil {
		return fmt.Errorf("CNI plugins: %w", err)
	}
	return nil
}

// whatOf is what plugins are told of a pod. Those alone hear of its host ports that declare the capability portMappings.
func whatOf(pod Pod) []gocni.NamespaceOpts {
	opts := []gocni.NamespaceOpts{gocni.WithLabels(podArguments(pod))}
	if len(pod.HostPorts) == 0 {
		return opts
	}
	var mappings []gocni.PortMapping
	for _, p := range pod.HostPorts {
		mappings = append(mappings, gocni.PortMapping{
			HostPort: int32(p.Host), ContainerPort: int32(p.Container), Protocol: strings.ToLower(p.Protocol), HostIP: p.HostIP})
	}
	return append(opts, gocni.WithCapabilityPortMap(mappings))
}

// podArguments are what plugins for Kubernetes know a pod by.
func podArguments(pod Pod) map[string]string {
	return map[string]string{
		"IgnoreUnknown":              "1",
		"K8S_POD_NAMESPACE":          pod.Namespace,
		"K8S_POD_NAME":               pod.Name,
		"K8S_POD_UID":                pod.UID,
		"K8S_POD_INFRA_CONTAINER_ID": pod.UID,
	}
}

// addCNI connects a new pod by plugins.
func (n *Network) addCNI(ctx context.Context, pod Pod) ([]netip.Addr, error) {
	plugins, err := n.config.CNI.plugins()
	if err != nil {
		return nil, err
	}
	if err := n.writeNote(pod); err != nil {
		return nil, err
	}
	given, err := add(ctx, plugins, pod, n.path(pod.UID, "net"))
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(given, func(a netip.Addr) bool { return !n.config.has(familyOf(a)) }); i >= 0 {
		n.unpoliced.Do(func() {
			n.log.Warn("CNI plugins give pods addresses of a family that --cluster-cidr does not have: no NetworkPolicy holds for them", "address", given[i])
		})
	}
	return firstOfEach(given, n.config.ClusterCIDR), n.letBridgesBeSeen() // The plugin may have loaded the module.
}

// removeCNI has plugins forget a pod. After a reboot its namespace is not there any more, which they must be able to bear.
func (n *Network) removeCNI(ctx context.Context, uid string) error {
	pod, err := n.readNote(uid)
	if errors.Is(err, os.ErrNotExist) {
		return nil // It never had plugins, or they have forgotten it.
	}
	if err != nil {
		return err
	}
	nsPath := n.path(uid, "net")
	if !n.pinned(uid, true) {
		nsPath = ""
	}
	if err := n.config.CNI.remove(ctx, pod, nsPath); err != nil {
		return err
	}
	return os.Remove(n.note(uid))
}

// forget is removeCNI for a pod whose network is not whole. What plugins cannot take back they are asked for again when the pod is
// torn down or made anew.
func (n *Network) forget(uid string) {
	if err := n.removeCNI(context.Background(), uid); err != nil {
		n.log.Warn("CNI plugins keep what a pod had", "pod", uid, "err", err)
	}
}

// letBridgesBeSeen has packets between two ports of a bridge pass the node's rules: otherwise a Service does not answer a pod that is
// behind the same bridge as its endpoint, and no policy is between the two. Without the module br_netfilter it can only be told.
func (n *Network) letBridgesBeSeen() error {
	for _, family := range []string{"iptables", "ip6tables"} {
		err := sysctl(filepath.Join("net/bridge", "bridge-nf-call-"+family), "1")
		if errors.Is(err, os.ErrNotExist) {
			n.unseen.Do(func() {
				n.log.Warn("the kernel module br_netfilter is not loaded: if a CNI plugin joins pods by a bridge, " +
					"neither Services nor NetworkPolicies hold between those of this node; modprobe br_netfilter")
			})
		} else if err != nil {
			return err
		}
	}
	return nil
}
