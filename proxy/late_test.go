package proxy

import (
	"net"
	"net/netip"
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

// TestLateOnlyAnswers: what else an endpoint sends to the client's port while its answer is waited for keeps the address that it has.
func TestLateOnlyAnswers(t *testing.T) {
	newNode(t)
	endpoint, client := newPod(t, "10.42.0.11"), newPod(t, "10.42.0.20")
	p := newProgrammed(t)
	var socket net.PacketConn
	client.do(t, func() {
		var err error
		socket, err = net.ListenPacket("udp4", "10.42.0.20:5000")
		must(t, err)
	})
	t.Cleanup(func() { socket.Close() })
	must(t, socket.SetDeadline(time.Now().Add(patience)))
	send := func(port string) (from string) {
		t.Helper()
		var pod net.PacketConn
		endpoint.do(t, func() {
			var err error
			pod, err = net.ListenPacket("udp4", "10.42.0.11:"+port)
			must(t, err)
		})
		defer pod.Close()
		if port == "8081" { // The client talks to the pod itself.
			must(t, pod.SetDeadline(time.Now().Add(patience)))
			_, err := socket.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.42.0.11:8081")))
			must(t, err)
			_, _, err = pod.ReadFrom(make([]byte, 64))
			must(t, err)
		}
		_, err := pod.WriteTo([]byte("it"), socket.LocalAddr())
		must(t, err)
		_, sender, err := socket.ReadFrom(make([]byte, 64))
		must(t, err)
		return sender.String()
	}
	expected := newFlow("10.42.0.20:5000", "10.43.0.80:80", "10.42.0.11:8080")
	direct := newFlow("10.42.0.20:5000", "10.43.0.80:81", "10.42.0.11:8081")
	must(t, p.table.expect([]flow{expected, direct}))
	for _, tc := range []struct{ what, port, want string }{
		{"an answer", "8080", "10.43.0.80:80"},
		{"another port of the endpoint", "9090", "10.42.0.11:9090"},
		{"an answer to what was sent to the endpoint's own address", "8081", "10.42.0.11:8081"},
	} {
		if from := send(tc.port); from != tc.want {
			t.Errorf("%s comes from %s, want %s", tc.what, from, tc.want)
		}
	}
}

// TestLateAgain: who asks two addresses of one endpoint from one port is one entry of the map, whose other value the kernel would
// refuse, and with it whatever comes in the same batch.
func TestLateAgain(t *testing.T) {
	newNode(t)
	p := newProgrammed(t)
	first := newFlow("10.42.0.20:5000", "10.43.0.80:80", "10.42.0.11:8080")
	second := newFlow("10.42.0.20:5000", "10.43.0.81:80", "10.42.0.11:8080")
	other := newFlow("10.42.0.21:5000", "10.43.0.81:80", "10.42.0.11:8080")
	for range 2 {
		must(t, p.table.expect([]flow{first, second}))
		must(t, p.table.expect([]flow{second, other}))
		must(t, p.table.replace(nil)) // Which empties the maps.
	}
	restarted := &table{config: testConfig()} // It finds its table and keeps it.
	t.Cleanup(restarted.close)
	_, err := restarted.load()
	must(t, err)
	must(t, restarted.expect([]flow{other}))
}

func newFlow(client, dialed, answer string) flow {
	to := netip.MustParseAddrPort(dialed)
	return flow{frontend{to.Addr(), udp, to.Port()}, netip.MustParseAddrPort(answer), netip.MustParseAddrPort(client)}
}
