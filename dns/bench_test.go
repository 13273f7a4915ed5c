package dns

import (
	"bytes"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// BenchmarkA measures questions for an address, over UDP on loopback, from clients that wait for each answer, against
// the floor of the same run: a socket that sends each packet back as it came. "of-floor" is what part of the floor's
// rate the server reaches; client and server share the machine in both.
func BenchmarkA(b *testing.B) {
	quietLog(b)
	s, _ := startServer(b, Config{}, namespace("default"), service("default", "web", "10.43.0.80"))
	question := new(dns.Msg)
	question.SetQuestion("web.default.svc.cluster.local.", dns.TypeA)
	packet, err := question.Pack()
	if err != nil {
		b.Fatal(err)
	}
	echo := startEcho(b)
	// In turns, so that whatever else the machine does strikes both alike.
	const rounds = 10
	var served, floor time.Duration
	n := 0
	b.ResetTimer()
	for round := range rounds {
		share := (b.N + round) / rounds
		n += share
		served += exchangeAll(b, s.Addr().String(), packet, share)
		b.StopTimer()
		floor += exchangeAll(b, echo, packet, share)
		b.StartTimer()
	}
	b.ReportMetric(float64(n)/served.Seconds(), "queries/s")
	b.ReportMetric(float64(n)/floor.Seconds(), "floor-queries/s")
	b.ReportMetric(floor.Seconds()/served.Seconds(), "of-floor")
}

// quietLog keeps log lines from falling into the lines of results.
func quietLog(b *testing.B) {
	logger := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	b.Cleanup(func() { slog.SetDefault(logger) })
}

// startEcho is the floor: one socket, one goroutine, no thought.
func startEcho(b *testing.B) string {
	b.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	b.Cleanup(func() { conn.Close(); wg.Wait() })
	wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, err := conn.WriteToUDPAddrPort(buf[:n], from); err != nil {
				return
			}
		}
	})
	return conn.LocalAddr().String()
}

// exchangeAll sends packet n times, 32 at a time, and takes the time.
func exchangeAll(b *testing.B, address string, packet []byte, n int) time.Duration {
	b.Helper()
	const clients = 32
	var wg sync.WaitGroup
	start := time.Now()
	for client := range clients {
		share := n / clients
		if client < n%clients {
			share++
		}
		wg.Go(func() {
			if err := exchangeSome(address, packet, share); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func exchangeSome(address string, packet []byte, n int) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	buf := make([]byte, 2048)
	for range n {
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := conn.Write(packet); err != nil {
			return err
		}
		got, err := conn.Read(buf)
		if err != nil {
			return err
		}
		if !bytes.Equal(buf[:2], packet[:2]) || got < len(packet) {
			return dns.ErrId
		}
	}
	return nil
}
