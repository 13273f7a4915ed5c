package proxy

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// TestSCTP sends the first packet of an association, as not every kernel has SCTP itself, to a cluster address and to a node port.
func TestSCTP(t *testing.T) { inEachWorld(t, testSCTP) }

func testSCTP(t *testing.T, w world) {
	w.newNode(t)
	pod, client, outsider := w.newPod(t, "10.42.0.11"), w.newPod(t, "10.42.0.20"), w.newOutsider(t)
	p := w.newProgrammed(t)
	svc, slice := w.service("web", "10.43.0.80"), w.slice("web", "10.42.0.11")
	svc.Spec.Ports = []corev1.ServicePort{{Name: "web", Protocol: corev1.ProtocolSCTP, Port: 80, NodePort: 30080}}
	slice.Ports[0].Protocol = new(corev1.ProtocolSCTP)
	p.rules.Set("default/web", svc, list(slice))
	p.tell()
	in := pod.rawSCTP(t)
	must(t, unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())}))
	for tag, tc := range []struct {
		from *host
		to   string
	}{{client, "10.43.0.80:80"}, {outsider, "192.0.2.1:30080"}} {
		to := netip.MustParseAddrPort(w.family.as(tc.to))
		must(t, unix.Sendto(tc.from.rawSCTP(t), initiation(to.Port(), uint32(tag+1)), 0, socketAddress(to.Addr())))
		buffer := make([]byte, 256)
		n, _, err := unix.Recvfrom(in, buffer, 0)
		if err != nil {
			t.Fatalf("from %s to %s: %v", tc.from.name, tc.to, err)
		}
		packet := buffer[:n]
		if w.family == ipv4 { // Its header comes along.
			packet = packet[4*(packet[0]&0xf):]
		}
		if port := binary.BigEndian.Uint16(packet[2:]); port != 8080 || binary.BigEndian.Uint32(packet[16:]) != uint32(tag+1) {
			t.Errorf("from %s to %s: the pod got %x, want that with port 8080 and tag %d", tc.from.name, tc.to, packet, tag+1)
		}
	}
}

// rawSCTP returns a socket for whole packets of SCTP.
func (h *host) rawSCTP(t *testing.T) (fd int) {
	t.Helper()
	domain := unix.AF_INET
	if h.family == ipv6 {
		domain = unix.AF_INET6
	}
	h.do(t, func() {
		var err error
		fd, err = unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(sctp))
		must(t, err)
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func socketAddress(addr netip.Addr) unix.Sockaddr {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4()}
	}
	return &unix.SockaddrInet6{Addr: addr.As16()}
}

// initiation is a packet with the chunk INIT, RFC 9260.
func initiation(port uint16, tag uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, 5000)
	b = binary.BigEndian.AppendUint16(b, port)
	b = append(b, make([]byte, 8)...)             // The verification tag, which is none yet, and the sum.
	b = append(b, 1, 0, 0, 20)                    // INIT, its flags and length.
	b = binary.BigEndian.AppendUint32(b, tag)     // Of the sender,
	b = binary.BigEndian.AppendUint32(b, 1<<16)   // its window,
	b = append(b, 0, 1, 0, 1, 0, 0, 0, byte(tag)) // streams out and in, and first number.
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}
