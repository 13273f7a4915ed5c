package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch calls changed whenever somebody else changes the table, from when it returns until stop is called. The kernel tells of
// each change who made it; as long as nobody makes one, nothing wakes up.
func (t *table) watch(changed func()) (stop func(), err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("dial netfilter: %w", err)
	}
	if err := errors.Join(conn.SetReadBuffer(socketBuffer), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("watch changes of nftables: %w", err)
	}
	var wg sync.WaitGroup
	closed := make(chan struct{})
	wg.Go(func() {
		for {
			messages, err := conn.Receive()
			select {
			case <-closed:
				return
			default:
			}
			switch {
			case errors.Is(err, unix.ENOBUFS): // More at once than there was room for.
				changed()
			case err != nil:
				slog.Error("changes of nftables by others are not noticed any more", "err", err)
				return
			}
			for _, m := range messages {
				if m.Header.PID != t.port.Load() && concerns(m, t.config.Table) {
					changed()
					break
				}
			}
		}
	})
	return func() {
		close(closed)
		_ = conn.Close() // It ends Receive.
		wg.Wait()
	}, nil
}

// concerns reports whether a message of nftables is about the table of that name or anything in it.
func concerns(m netlink.Message, table string) bool {
	const (
		familyHeader   = 4 // Bytes before the attributes.
		tableAttribute = 1 // In messages about tables, chains, rules, sets and elements alike.
	)
	if m.Header.Type&0xff == unix.NFT_MSG_NEWGEN || len(m.Data) < familyHeader || m.Data[0] != unix.NFPROTO_INET {
		return false
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[familyHeader:])
	if err != nil {
		return false
	}
	for attributes.Next() {
		if attributes.Type() == tableAttribute {
			return attributes.String() == table
		}
	}
	return false
}

// portOf returns the number by which the kernel knows a netlink socket.
func portOf(conn *netlink.Conn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var port uint32
	var nameErr error
	err = raw.Control(func(fd uintptr) {
		name, err := unix.Getsockname(int(fd))
		if addr, ok := name.(*unix.SockaddrNetlink); ok {
			port = addr.Pid
		}
		nameErr = err
	})
	return port, errors.Join(err, nameErr)
}
