// Package gather makes of many small writes to a connection few large ones to its socket.
//
// All informers of a process share one connection. When a change goes to fifty watches, TLS hands down fifty records, one right
// after the other, and each by itself would cost a system call here, and wake the client there. So a Write ends when its bytes
// are in a buffer, and a goroutine sends what is in it: while one send is under way, the next gathers. Nothing waits for more to
// come, so that a lone answer leaves at once, and a silent connection has neither buffer nor goroutine. What is long by itself,
// as the records of a list are, is sent by its Write: to gather it would be to copy it, and to gain nothing.
//
// The buffer has a bound. Behind it a connection is what it was: a client that does not read makes Write wait, until there is
// room, the deadline has passed or the connection is closed; what goes wrong with a send is the error of the next Write; and
// what was written before Close is still sent.
//
// In Kubernetes: nothing. kube-apiserver sends each record as it comes.
package gather

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	room     = 64 << 10    // Bytes that gather while others are sent.
	long     = 16 << 10    // Bytes that do not gather: a full record of TLS is a little longer.
	lastSend = time.Minute // How long the last bytes of a closed connection may take.
	recheck  = 2 * time.Millisecond
)

// Listener gathers what is written to the connections that it accepts.
type Listener struct {
	net.Listener
	buffers sync.Pool    // *[]byte, empty, with a capacity of room.
	closing atomic.Int64 // Closed connections with something left to send.
}

// NewListener makes one of another.
func NewListener(l net.Listener) *Listener {
	return &Listener{Listener: l, buffers: sync.Pool{New: func() any {
		b := make([]byte, 0, room)
		return &b
	}}}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &conn{Conn: c, listener: l}
	g.changed.L = &g.mu
	return g, nil
}

// Drain waits for the last bytes of closed connections. What the kernel has it sends even if the process ends.
func (l *Listener) Drain(ctx context.Context) {
	for l.closing.Load() > 0 && ctx.Err() == nil {
		time.Sleep(recheck)
	}
}

type conn struct {
	net.Conn
	listener *Listener

	mu       sync.Mutex
	changed  sync.Cond // Tells the Writes that wait of room, deadline or err.
	waiting  int       // How many they are.
	deadline time.Time // Theirs.
	gathered *[]byte   // What is sent next. Nil if there is nothing.
	sending  bool      // Whether there is a send under way.
	through  bool      // Whether it is that of a Write, with its deadline.
	closed   bool
	err      error // Why nothing can be written any more.
}

// Write takes all of p, or nothing, unless it is long.
func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && !c.late() && c.full(len(p)) {
		c.wait()
	}
	switch {
	case c.err != nil:
		return 0, c.err
	case c.late():
		return 0, os.ErrDeadlineExceeded
	case len(p) >= long:
		return c.writeThrough(p)
	}
	if c.gathered == nil {
		c.gathered = c.listener.buffers.Get().(*[]byte)
	}
	*c.gathered = append(*c.gathered, p...)
	if !c.sending {
		c.sending = true
		go c.send()
	}
	return len(p), nil
}

func (c *conn) late() bool { return !c.deadline.IsZero() && !time.Now().Before(c.deadline) }

// full tells whether n more bytes have to wait.
func (c *conn) full(n int) bool {
	if n >= long {
		return c.sending
	}
	return c.gathered != nil && len(*c.gathered)+n > room
}

// wait waits for a change, or for the deadline.
func (c *conn) wait() {
	if !c.deadline.IsZero() {
		defer time.AfterFunc(time.Until(c.deadline), c.wake).Stop()
	}
	c.waiting++
	c.changed.Wait()
	c.waiting--
}

func (c *conn) wake() {
	c.mu.Lock() // No Write is between its look at the clock and its wait then.
	defer c.mu.Unlock()
	c.changed.Broadcast()
}

// send sends until nothing is left. It ends with the connection, if not before.
func (c *conn) send() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.gathered != nil {
		next := c.gathered
		c.gathered = nil
		c.changed.Broadcast()
		c.mu.Unlock()
		_, err := c.Conn.Write(*next)
		c.listener.free(next)
		c.mu.Lock()
		if err != nil {
			c.fail(err)
		}
	}
	c.sent()
}

// sent is called when the socket is free, and nothing waits for it.
func (c *conn) sent() {
	c.sending = false
	c.changed.Broadcast()
	if c.closed {
		_ = c.Conn.Close()
		c.listener.closing.Add(-1)
	}
}

// writeThrough writes to the socket, which is free. Other Writes gather meanwhile.
func (c *conn) writeThrough(p []byte) (int, error) {
	c.sending, c.through = true, true
	c.waiting++
	_ = c.Conn.SetWriteDeadline(c.deadline)
	c.mu.Unlock()
	n, err := c.Conn.Write(p)
	c.mu.Lock()
	c.waiting--
	c.through = false
	switch {
	case err == nil:
	case c.closed:
		err = net.ErrClosed
		c.fail(err)
	default:
		c.fail(err) // A part of p may be sent: nothing can follow it.
	}
	if !c.closed {
		_ = c.Conn.SetWriteDeadline(time.Time{})
	}
	if c.gathered != nil {
		go c.send()
	} else {
		c.sent()
	}
	return n, err
}

// fail drops what cannot be sent any more.
func (c *conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	if c.gathered != nil {
		c.listener.free(c.gathered)
		c.gathered = nil
	}
	c.changed.Broadcast()
}

func (l *Listener) free(b *[]byte) {
	if cap(*b) == room {
		*b = (*b)[:0]
		l.buffers.Put(b)
	}
}

// Close ends the connection: behind what is still to be sent, or at once, if that is stuck and a Write waits for it.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	c.err = net.ErrClosed
	c.changed.Broadcast()
	if !c.sending {
		return c.Conn.Close()
	}
	c.listener.closing.Add(1) // send closes it.
	now := time.Now()
	last := now.Add(lastSend)
	if c.waiting > 0 {
		last = now
	}
	_ = c.Conn.SetReadDeadline(now)
	_ = c.Conn.SetWriteDeadline(last)
	return nil
}

// Read says what it would of a closed connection while the last bytes leave.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.closed {
			err = net.ErrClosed
		}
	}
	return n, err
}

// SetDeadline sets both.
func (c *conn) SetDeadline(at time.Time) error {
	_ = c.SetWriteDeadline(at)
	return c.Conn.SetReadDeadline(at)
}

// SetWriteDeadline is for Writes: what they have handed over is not theirs any more.
func (c *conn) SetWriteDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = at
	c.changed.Broadcast()
	if c.through && !c.closed {
		return c.Conn.SetWriteDeadline(at)
	}
	return nil
}
