package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
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

const (
	maxReaders = 8       // Sockets for UDP.
	readBuffer = 1 << 20 // Bytes of questions that may wait at one.
	maxRequest = 4096    // Bytes of a question over UDP.
)

// sockets are all that listen at one port. At each address, there are several for UDP, among which the kernel divides the
// clients, so that each core can answer by itself; and one for TCP.
type sockets struct {
	udp []*net.UDPConn
	tcp []net.Listener
}

// port is the one of all.
func (s sockets) port() uint16 { return s.udp[0].LocalAddr().(*net.UDPAddr).AddrPort().Port() }

func (s sockets) Close() {
	for _, conn := range s.udp {
		conn.Close()
	}
	for _, listener := range s.tcp {
		listener.Close()
	}
}

// listen opens the sockets. Port 0 means any that is free for all. Whoever has the port already holds it for TCP, and that
// is why we fail: UDP sockets share theirs.
func listen(addresses []netip.Addr, port uint16) (sockets, error) {
	for tries := 1; ; tries++ {
		s, err := tryListen(addresses, port)
		if err == nil {
			return s, nil
		}
		s.Close()
		if port != 0 || tries == 10 || !errors.Is(err, syscall.EADDRINUSE) {
			return sockets{}, fmt.Errorf("listen for dns: %w", err)
		}
	}
}

func tryListen(addresses []netip.Addr, port uint16) (s sockets, err error) {
	config := net.ListenConfig{Control: prepareSocket}
	ctx := context.Background()
	for _, address := range addresses {
		for range min(runtime.GOMAXPROCS(0), maxReaders) {
			conn, err := config.ListenPacket(ctx, "udp", netip.AddrPortFrom(address, port).String())
			if err != nil {
				return s, err
			}
			s.udp = append(s.udp, conn.(*net.UDPConn))
			port = s.port() // The next ones take the same.
		}
		listener, err := listenTCP(netip.AddrPortFrom(address, port))
		if err != nil {
			return s, err
		}
		s.tcp = append(s.tcp, listener)
	}
	return s, nil
}

func listenTCP(address netip.AddrPort) (net.Listener, error) {
	config := net.ListenConfig{Control: prepareSocket}
	listener, err := config.Listen(context.Background(), "tcp", address.String())
	if err != nil {
		return nil, err
	}
	return newLimited(listener), nil
}

// prepareSocket lets a socket have an address that the host does not have yet: the network may be set up after the server.
// A socket for UDP has others beside it, and takes a burst of questions without losing any.
func prepareSocket(network, _ string, raw syscall.RawConn) error {
	level, option := unix.SOL_IP, unix.IP_FREEBIND
	if strings.HasSuffix(network, "6") {
		level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	var err error
	if ctlErr := raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), level, option, 1); err != nil || strings.HasPrefix(network, "tcp") {
			return
		}
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return
		}
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, readBuffer) != nil {
			// Not root: what the kernel gives to everybody must do.
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer)
		}
	}); ctlErr != nil {
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

// Write gives up on a client that does not read: Run waits for all answers.
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
