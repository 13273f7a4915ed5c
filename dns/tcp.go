package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// serveTCP answers on connections until their listener is closed.
func (s *Server) serveTCP(ctx context.Context, listener net.Listener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case isTemporary(err):
			takeBreath(ctx)
			continue
		case err != nil:
			return fmt.Errorf("accept a tcp connection: %w", err)
		}
		conns.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			s.serveConn(ctx, conn)
		})
	}
}

// serveConn answers the questions of one connection. A client may send the next before it has read the last answer; answers
// come as they are ready, so that one that takes its time does not hold the others up (RFC 7766, section 6.2.1.1).
func (s *Server) serveConn(ctx context.Context, conn net.Conn) {
	var q question
	var writing sync.Mutex
	var pending sync.WaitGroup
	defer pending.Wait()
	client := clientOf(conn.RemoteAddr())
	write := func(reply []byte) {
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply)))
		writing.Lock()
		defer writing.Unlock()
		if _, err := conn.Write(append(framed, reply...)); err != nil {
			slog.Debug("write a dns answer", "client", client, "err", err)
		}
	}
	buf := make([]byte, 512)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		packet, err := readFramed(conn, buf)
		if err != nil {
			return
		}
		if reply, ok := s.fast(&q, packet, client, dns.MaxMsgSize); ok {
			write(reply)
			continue
		}
		if !isQuestion(packet) {
			return // It is no client.
		}
		pending.Add(1)
		s.answer(ctx, packet, client, dns.MaxMsgSize, func(reply []byte) { write(reply); pending.Done() })
	}
}

// readFramed reads a message with its length before it, into buf if that is long enough.
func readFramed(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint16(buf))
	if length > len(buf) {
		buf = make([]byte, length)
	}
	_, err := io.ReadFull(r, buf[:length])
	return buf[:length], err
}

// isTemporary tells of errors that pass when others let go of files or memory. They are no reason to end.
func isTemporary(err error) bool {
	for _, passing := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EINTR, unix.ECONNABORTED} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// takeBreath waits a little before something is tried again, so that it does not take a whole core meanwhile.
func takeBreath(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Millisecond):
	}
}
