package dns

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many packets go through one system call at most. On a machine that has time it is one or two; when
// questions come faster than they are answered, they share what a system call costs.
const batchSize = 16

// batch is the packets that a socket gives at once, and, in the same memory, the answers that it takes at once. Go has no such
// calls of its own that do without allocating: see recvmmsg(2), sendmmsg(2).
type batch struct {
	conn    syscall.RawConn
	packets [batchSize][maxRequest]byte
	senders [batchSize]unix.RawSockaddrInet6 // Large enough for those of IPv4.
	vectors [batchSize]unix.Iovec
	came    [batchSize]messageHeader
	leaving [batchSize]messageHeader // Those of came that are answered.

	received, answers, sent int
	err                     error
	read, write             func(fd uintptr) bool // Made once, because making them allocates.
}

// messageHeader is struct mmsghdr.
type messageHeader struct {
	unix.Msghdr
	length uint32
}

func newBatch(conn *net.UDPConn) (*batch, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	b := &batch{conn: raw}
	for i := range b.came {
		b.vectors[i].Base = &b.packets[i][0]
		b.came[i].Name = (*byte)(unsafe.Pointer(&b.senders[i]))
		b.came[i].Iov = &b.vectors[i]
		b.came[i].SetIovlen(1)
	}
	b.read, b.write = b.tryRead, b.tryWrite
	return b, nil
}

// receive waits for packets.
func (b *batch) receive() error {
	b.answers, b.err = 0, nil
	for i := range b.came {
		b.came[i].Namelen = unix.SizeofSockaddrInet6
		b.vectors[i].SetLen(maxRequest)
	}
	if err := b.conn.Read(b.read); err != nil {
		return err
	}
	return b.err
}

func (b *batch) tryRead(fd uintptr) (done bool) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.came)), batchSize, 0, 0, 0)
		switch errno {
		case 0:
			b.received = int(n)
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			b.err = os.NewSyscallError("recvmmsg", errno)
			return true
		}
	}
}

// packet is one of those received. What is appended to it stays in the batch's memory.
func (b *batch) packet(i int) []byte { return b.packets[i][:b.came[i].length] }

// from is who sent a packet.
func (b *batch) from(i int) netip.AddrPort {
	sender := &b.senders[i]
	port := (*[2]byte)(unsafe.Pointer(&sender.Port)) // In the order of the network, of IPv4 at the same place.
	addr := netip.AddrFrom16(sender.Addr)
	if sender.Family == unix.AF_INET {
		addr = netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(sender)).Addr)
	} else if sender.Scope_id != 0 {
		addr = addr.WithZone(strconv.FormatUint(uint64(sender.Scope_id), 10))
	}
	return netip.AddrPortFrom(addr, uint16(port[0])<<8|uint16(port[1]))
}

// answer has a reply sent to who sent packet i, in whose memory it is.
func (b *batch) answer(i int, reply []byte) {
	b.vectors[i].SetLen(len(reply))
	b.leaving[b.answers] = b.came[i]
	b.answers++
}

// send sends the answers.
func (b *batch) send() error {
	if b.sent = 0; b.answers == 0 {
		return nil
	}
	return b.conn.Write(b.write)
}

// tryWrite gives up an answer that cannot be sent: who asked has gone, and the others have not.
func (b *batch) tryWrite(fd uintptr) (done bool) {
	for b.sent < b.answers {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.leaving[b.sent])), uintptr(b.answers-b.sent), 0, 0, 0)
		switch errno {
		case 0:
			b.sent += int(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			slog.Debug("write a dns answer", "err", errno)
			b.sent++
		}
	}
	return true
}
