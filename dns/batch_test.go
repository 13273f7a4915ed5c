package dns

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// Of a full batch and a few more, some packets are answered, each to who sent it; that one cannot be is nothing to the others.
func TestBatch(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(address)})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			const packets = batchSize + 4
			clients := make([]net.Conn, packets)
			for i := range clients {
				if clients[i], err = net.Dial("udp", conn.LocalAddr().String()); err != nil {
					t.Fatal(err)
				}
				defer clients[i].Close()
				if _, err := fmt.Fprintf(clients[i], "question %d", i); err != nil {
					t.Fatal(err)
				}
			}
			b, err := newBatch(conn)
			if err != nil {
				t.Fatal(err)
			}
			const unanswered, unreachable = 3, 5
			for done := 0; done < packets; done += b.received {
				if err := b.receive(); err != nil {
					t.Fatal(err)
				}
				for i := range b.received {
					n := done + i
					if got, want := b.from(i).String(), clients[n].LocalAddr().String(); got != want {
						t.Errorf("packet %d comes from %s, want %s", n, got, want)
					}
					switch n {
					case unanswered:
						continue
					case unreachable:
						b.senders[i].Port = 0
					}
					b.answer(i, append(b.packet(i), " and answer"...))
				}
				if err := b.send(); err != nil {
					t.Fatal(err)
				}
			}
			buf := make([]byte, maxRequest)
			for i, client := range clients {
				if i == unanswered || i == unreachable {
					continue
				}
				if err := client.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				n, err := client.Read(buf)
				if want := fmt.Sprintf("question %d and answer", i); err != nil || string(buf[:n]) != want {
					t.Errorf("client %d: got %q, %v, want %q", i, buf[:n], err, want)
				}
			}
		})
	}
}
