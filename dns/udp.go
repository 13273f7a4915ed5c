package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
)

// serveUDP answers what comes to one socket until that is closed. One packet after another: between two system calls an
// answer is ready, and what takes longer goes on elsewhere.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn) error {
	var q question
	buf := make([]byte, maxRequest)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed), err != nil && ctx.Err() != nil:
			return nil
		case isTemporary(err):
			takeBreath(ctx)
			continue
		case err != nil:
			return fmt.Errorf("read from the udp socket: %w", err)
		}
		client := from.Addr().Unmap()
		if reply, ok := s.fast(&q, buf[:n], client, 0); ok {
			writeUDP(conn, reply, from)
		} else if isQuestion(buf[:n]) {
			s.answerUDP(ctx, conn, buf[:n], from, client)
		}
	}
}

// answerUDP is a function of its own so that the fast path need not pay for what this one keeps.
func (s *Server) answerUDP(ctx context.Context, conn *net.UDPConn, packet []byte, from netip.AddrPort, client netip.Addr) {
	s.answer(ctx, packet, client, 0, func(reply []byte) { writeUDP(conn, reply, from) })
}

func writeUDP(conn *net.UDPConn, reply []byte, to netip.AddrPort) {
	if _, err := conn.WriteToUDPAddrPort(reply, to); err != nil {
		slog.Debug("write a dns answer", "client", to, "err", err)
	}
}
