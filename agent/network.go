package agent

import (
	"context"
	"net"
)

// Network gives pods their namespaces and addresses. The one for real is agent/network, adapted in cmd/skiff.
type Network interface {
	// Setup makes the pod's network, IPC and UTS namespaces, and that of its users, if they are not there yet, and connects the first with an
	// address and routes. Called again for the same pod, also after a restart of the agent, it returns the same.
	// hostNetwork pods get no network namespace and no address of their own.
	Setup(ctx context.Context, pod PodNetworkConfig) (PodNetwork, error)

	// Teardown removes what Setup made. No error if it is gone.
	Teardown(ctx context.Context, podUID string) error

	// Pods lists the UIDs of the pods that have something for Teardown to remove, restarts of the agent included.
	Pods(ctx context.Context) ([]string, error)

	// Dial connects to a TCP port on the pod's own loopback, for port-forward.
	Dial(ctx context.Context, podUID string, port uint16) (net.Conn, error)
}

// PodNetworkConfig is what a pod wants of the network.
type PodNetworkConfig struct {
	UID         string
	Namespace   string
	Name        string
	Hostname    string
	HostNetwork bool
	FirstUser   uint32     // Of the IDs that its users have outside, UsersPerPod in number; 0: the node's users.
	HostPorts   []HostPort // For networks that open them themselves.
}

// HostPort is a port of the node that leads to one of the pod.
type HostPort struct {
	Host, Container uint16
	Protocol        string // TCP, UDP or SCTP.
	HostIP          string // "": all of the node's addresses.
}

// PodNetwork is what a pod got.
type PodNetwork struct {
	IPs                 []string // One a family, that of the cluster's first family first. None for a pod on the host's network.
	NetNS, IPCNS, UTSNS string   // Paths of the pinned namespaces; NetNS is empty for a pod on the host's network.
	UserNS              string   // Owns the others; empty for a pod with the node's users.
}
