package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
)

// serveUDP answers what comes to one socket until that is closed. Between two system calls the answers are ready; what takes
// longer goes on elsewhere.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn) error {
	var q question
	b, err := newBatch(conn)
	for err == nil {
		if err = b.receive(); isTemporary(err) {
			takeBreath(ctx)
			err = nil
			continue
		} else if err != nil {
			break
		}
		for i := range b.received {
			packet, from := b.packet(i), b.from(i)
			client := from.Addr().Unmap()
			if reply, ok := s.fast(&q, packet, client, 0); ok {
				b.answer(i, reply)
			} else if isQuestion(packet) {
				s.answerUDP(ctx, conn, packet, from, client)
			}
		}
		err = b.send()
	}
	if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("answer at the udp socket: %w", err)
}

// answerUDP is a function of its own so that the fast path need not pay for what this one keeps.
func (s *Server) answerUDP(ctx context.Context, conn *net.UDPConn, packet []byte, from netip.AddrPort, client netip.Addr) {
	s.answer(ctx, packet, client, 0, func(reply []byte) {
		if _, err := conn.WriteToUDPAddrPort(reply, from); err != nil {
			slog.Debug("write a dns answer", "client", client, "err", err)
		}
	})
}
