package proxy

import (
	"net"
	"testing"
	"time"
)

// TestLateAnswer has an endpoint answer only when its connection is forgotten already, and the client's next datagram, from
// the same socket, taken to the next endpoint.
func TestLateAnswer(t *testing.T) {
	newNode(t)
	one, two, client := newPod(t, "10.42.0.11"), newPod(t, "10.42.0.12"), newPod(t, "10.42.0.20")
	two.serve(t, 8080)
	var slow net.PacketConn
	one.do(t, func() {
		var err error
		slow, err = net.ListenPacket("udp4", "10.42.0.11:8080")
		must(t, err)
	})
	t.Cleanup(func() { slow.Close() })
	must(t, slow.SetDeadline(time.Now().Add(patience)))

	c := newCluster(t)
	c.create(newTestService("web", "10.43.0.80"), "10.42.0.11")
	c.start(&table{config: testConfig()})
	conn, err := client.dial(t, "udp", "10.43.0.80:80")
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = conn.Write([]byte("early"))
	must(t, err)
	buffer := make([]byte, 64)
	n, asker, err := slow.ReadFrom(buffer)
	must(t, err)
	if got := string(buffer[:n]); got != "early" {
		t.Fatalf("the endpoint got %q", got)
	}

	c.scale("web", "(10.42.0.11)", "10.42.0.12")
	eventually(t, "the connection is forgotten", func() bool {
		left := 0
		_, err := forgetFlows(suspects{all: true}, func(f flow) bool {
			if f.answer.String() == "10.42.0.11:8080" {
				left++
			}
			return false
		})
		return err == nil && left == 0
	})
	_, err = slow.WriteTo([]byte("late"), asker)
	must(t, err)
	n, err = conn.Read(buffer)
	if err != nil || string(buffer[:n]) != "late" {
		t.Fatalf("the client got %q, %v; want the late answer", buffer[:n], err)
	}
	if r, err := exchange(conn); err != nil || r.from != two.name {
		t.Errorf("the next datagram of that socket: %v, %v; want an answer from %s", r, err, two.name)
	}
}
