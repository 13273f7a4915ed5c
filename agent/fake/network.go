package fake

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"skiff/agent"
)

var _ agent.Network = (*Network)(nil)

// Network is an [agent.Network] in memory. Build it with [NewNetwork].
type Network struct {
	mu     sync.Mutex
	broken error
	first  []netip.Addr // One a family.
	taken  map[netip.Addr]bool
	pods   map[string]agent.PodNetwork
	ports  map[string]func(net.Conn)
}

// NewNetwork makes a network that gives out addresses from 10.42.0.2 on.
func NewNetwork() *Network { return NewNetworkFrom(netip.AddrFrom4([4]byte{10, 42, 0, 2})) }

// NewNetworkFrom makes a network that gives out the first free address from each of these on: one, or one of each family.
func NewNetworkFrom(first ...netip.Addr) *Network {
	return &Network{first: first, taken: map[netip.Addr]bool{}, pods: map[string]agent.PodNetwork{}, ports: map[string]func(net.Conn){}}
}

// Break makes every call fail with err; nil mends it.
func (n *Network) Break(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken = err
}

// Serve lets something listen on a port of a pod's loopback: each connection is given to serve.
func (n *Network) Serve(podUID string, port uint16, serve func(net.Conn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[fmt.Sprintf("%s:%d", podUID, port)] = serve
}

// Setup implements [agent.Network].
func (n *Network) Setup(_ context.Context, pod agent.PodNetworkConfig) (agent.PodNetwork, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken != nil {
		return agent.PodNetwork{}, n.broken
	}
	if had, ok := n.pods[pod.UID]; ok {
		return had, nil
	}
	got := agent.PodNetwork{IPCNS: "/run/ns/" + pod.UID + "/ipc", UTSNS: "/run/ns/" + pod.UID + "/uts"}
	if !pod.HostNetwork {
		for _, addr := range n.first {
			for n.taken[addr] {
				addr = addr.Next()
			}
			n.taken[addr] = true
			got.IPs = append(got.IPs, addr.String())
		}
		got.NetNS = "/run/ns/" + pod.UID + "/net"
	}
	if pod.FirstUser > 0 {
		got.UserNS = "/run/ns/" + pod.UID + "/user"
	}
	n.pods[pod.UID] = got
	return got, nil
}

// Teardown implements [agent.Network].
func (n *Network) Teardown(_ context.Context, podUID string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.broken != nil {
		return n.broken
	}
	for _, ip := range n.pods[podUID].IPs {
		delete(n.taken, netip.MustParseAddr(ip))
	}
	delete(n.pods, podUID)
	return nil
}

// Pods implements [agent.Network].
func (n *Network) Pods(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.pods)), n.broken
}

// Dial implements [agent.Network].
func (n *Network) Dial(_ context.Context, podUID string, port uint16) (net.Conn, error) {
	n.mu.Lock()
	serve, ok := n.ports[fmt.Sprintf("%s:%d", podUID, port)]
	_, up := n.pods[podUID]
	n.mu.Unlock()
	if !ok || !up {
		return nil, fmt.Errorf("dial tcp 127.0.0.1:%d: connect: connection refused", port)
	}
	here, there := net.Pipe()
	go serve(there)
	return here, nil
}
