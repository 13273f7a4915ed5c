package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What TCP clients may hold. One client alone cannot keep the others out.
const (
	maxConns          = 1024
	maxConnsPerClient = 64
	idleTimeout       = 10 * time.Second
	writeTimeout      = 5 * time.Second
)

// listen opens the same address and port for UDP and TCP. Port 0 means any that is free for both.
func listen(address netip.AddrPort) (*net.UDPConn, net.Listener, error) {
	config := net.ListenConfig{Control: freebind}
	for tries := 1; ; tries++ {
		packets, err := config.ListenPacket(context.Background(), "udp", address.String())
		if err != nil {
			return nil, nil, fmt.Errorf("listen for dns: %w", err)
		}
		udp := packets.(*net.UDPConn)
		tcp, err := config.Listen(context.Background(), "tcp", udp.LocalAddr().String())
		if err == nil {
			return udp, newLimited(tcp), nil
		}
		udp.Close()
		if address.Port() != 0 || tries == 10 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, fmt.Errorf("listen for dns: %w", err)
		}
	}
}

// freebind lets a socket have an address that the host does not have yet: the network may be set up after the server.
func freebind(network, _ string, raw syscall.RawConn) error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if strings.HasSuffix(network, "6") {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	var err error
	if ctlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

// limited is a listener that closes at once what comes beyond the limits.
type limited struct {
	net.Listener

	mu      sync.Mutex
	all     int
	clients map[netip.Addr]int
}

func newLimited(l net.Listener) *limited {
	return &limited{Listener: l, clients: map[netip.Addr]int{}}
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
				time.Sleep(10 * time.Millisecond) // The caller tries again at once; it would spin.
			}
			return nil, err
		}
		client := clientOf(conn.RemoteAddr())
		if l.admit(client) {
			return &limitedConn{Conn: conn, release: sync.OnceFunc(func() { l.release(client) })}, nil
		}
		conn.Close()
	}
}

func (l *limited) admit(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConns || l.clients[client] >= maxConnsPerClient {
		return false
	}
	l.all++
	l.clients[client]++
	return true
}

func (l *limited) release(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.clients[client]--; l.clients[client] == 0 {
		delete(l.clients, client)
	}
}

type limitedConn struct {
	net.Conn
	release func()
}

// Write gives up on a client that does not read: miekg/dns sets no deadline for writing, and Run waits for all answers.
func (c *limitedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// clientOf is the address of the other end, without its port.
func clientOf(remote net.Addr) netip.Addr {
	switch remote := remote.(type) {
	case *net.UDPAddr:
		return remote.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return remote.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
