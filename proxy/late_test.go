package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestLateAnswer has an endpoint answer only when its connection is forgotten already, and the client's next datagram, from
// the same socket, taken to the next endpoint.
func TestLateAnswer(t *testing.T) { inEachWorld(t, testLateAnswer) }

func testLateAnswer(t *testing.T, w world) {
	w.newNode(t)
	one, two, client := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.12"), w.newPod(t, "10.42.0.20")
	two.serve(t, 8080)
	var slow net.PacketConn
	one.do(t, func() {
		var err error
		slow, err = net.ListenPacket("udp", w.family.as("10.42.0.11:8080"))
		must(t, err)
	})
	t.Cleanup(func() { slow.Close() })
	must(t, slow.SetDeadline(time.Now().Add(patience)))

	c := w.newCluster(t)
	c.create(w.service("web", "10.43.0.80"), "10.42.0.11")
	c.start(&table{config: w.config()})
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
			if f.answer.String() == w.family.as("10.42.0.11:8080") {
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
func TestLateOnlyAnswers(t *testing.T) { inEachWorld(t, testLateOnlyAnswers) }

func testLateOnlyAnswers(t *testing.T, w world) {
	w.newNode(t)
	endpoint, client := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.20")
	p := w.newProgrammed(t)
	var socket net.PacketConn
	client.do(t, func() {
		var err error
		socket, err = net.ListenPacket("udp", w.family.as("10.42.0.20:5000"))
		must(t, err)
	})
	t.Cleanup(func() { socket.Close() })
	must(t, socket.SetDeadline(time.Now().Add(patience)))
	send := func(port string) (from string) {
		t.Helper()
		var pod net.PacketConn
		endpoint.do(t, func() {
			var err error
			pod, err = net.ListenPacket("udp", w.family.as("10.42.0.11:"+port))
			must(t, err)
		})
		defer pod.Close()
		if port == "8081" { // The client talks to the pod itself.
			must(t, pod.SetDeadline(time.Now().Add(patience)))
			_, err := socket.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(w.family.as("10.42.0.11:8081"))))
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
	expected := w.flow("10.42.0.20:5000", "10.43.0.80:80", "10.42.0.11:8080")
	direct := w.flow("10.42.0.20:5000", "10.43.0.80:81", "10.42.0.11:8081")
	must(t, p.table.expect([]flow{expected, direct}))
	for _, tc := range []struct{ what, port, want string }{
		{"an answer", "8080", "10.43.0.80:80"},
		{"another port of the endpoint", "9090", "10.42.0.11:9090"},
		{"an answer to what was sent to the endpoint's own address", "8081", "10.42.0.11:8081"},
	} {
		if from := send(tc.port); from != w.family.as(tc.want) {
			t.Errorf("%s comes from %s, want %s", tc.what, from, tc.want)
		}
	}
}

// TestLateAgain: who asks two addresses of one endpoint from one port is one entry of the map, whose other value the kernel would
// refuse, and with it whatever comes in the same batch.
func TestLateAgain(t *testing.T) { inEachWorld(t, testLateAgain) }

func testLateAgain(t *testing.T, w world) {
	w.newNode(t)
	p := w.newProgrammed(t)
	first := w.flow("10.42.0.20:5000", "10.43.0.80:80", "10.42.0.11:8080")
	second := w.flow("10.42.0.20:5000", "10.43.0.81:80", "10.42.0.11:8080")
	other := w.flow("10.42.0.21:5000", "10.43.0.81:80", "10.42.0.11:8080")
	for range 2 {
		must(t, p.table.expect([]flow{first, second}))
		must(t, p.table.expect([]flow{second, other}))
		must(t, p.table.replace(nil)) // Which empties the maps.
	}
	restarted := &table{config: w.config()} // It finds its table and keeps it.
	t.Cleanup(restarted.close)
	_, err := restarted.load()
	must(t, err)
	must(t, restarted.expect([]flow{other}))
}

func (w world) flow(client, dialed, answer string) flow {
	port := func(text string) netip.AddrPort { return netip.MustParseAddrPort(w.family.as(text)) }
	to := port(dialed)
	return flow{frontend{to.Addr(), udp, to.Port()}, port(answer), port(client)}
}
