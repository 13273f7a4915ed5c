package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// Dial connects to a TCP port on the pod's loopback: 127.0.0.1, then ::1.
func (n *Network) Dial(ctx context.Context, podUID string, port uint16) (net.Conn, error) {
	addrs, known := n.addressesOf(podUID)
	if !known {
		return nil, fmt.Errorf("pod %s has no network here", podUID)
	}
	if len(addrs) == 0 {
		return dialLoopback(ctx, port)
	}
	var conn net.Conn
	err := inNamespace(n.path(podUID, "net"), func() (err error) {
		conn, err = dialLoopback(ctx, port)
		return err
	})
	return conn, err
}

func dialLoopback(ctx context.Context, port uint16) (net.Conn, error) {
	var dialer net.Dialer
	// Literal addresses and one network each: then the dialer stays on this thread, which may be in a pod's namespace.
	conn, err := dialer.DialContext(ctx, "tcp4", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String())
	if err == nil {
		return conn, nil
	}
	if conn, err6 := dialer.DialContext(ctx, "tcp6", netip.AddrPortFrom(netip.IPv6Loopback(), port).String()); err6 == nil {
		return conn, nil
	}
	return nil, err
}
