package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch calls changed whenever somebody else changes the table, from when it returns until stop is called. The kernel tells of
// each change who made it; as long as nobody makes one, nothing wakes up.
func (t *table) watch(changed func()) (stop func(), err error) {
	w, err := newWatcher(changed)
	if err != nil {
		return nil, fmt.Errorf("watch changes of nftables: %w", err)
	}
	set := func(w *watcher) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.watcher = w
	}
	set(w)
	var wg sync.WaitGroup
	closed := make(chan struct{})
	wg.Go(func() { t.listen(w, closed) })
	return func() {
		set(nil)
		close(closed)
		w.close()
		wg.Wait()
	}, nil
}

// listen tells the watcher's owner of changes until closed is.
func (t *table) listen(w *watcher, closed <-chan struct{}) {
	for {
		messages, err := w.conn.Receive()
		select {
		case <-closed:
			return
		default:
		}
		switch {
		case errors.Is(err, unix.ENOBUFS): // More at once than there was room for.
			w.changed()
		case err != nil:
			slog.Error("changes of nftables by others are not noticed any more", "err", err)
			return
		}
		for _, m := range messages {
			if m.Header.PID != t.port.Load() && concerns(m, t.config.Table) {
				w.changed()
				break
			}
		}
	}
}

// A watcher hears of changes, and can ask whether there were any.
type watcher struct {
	conn, asker *netlink.Conn
	changed     func()
}

func newWatcher(changed func()) (*watcher, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	asker, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	w := &watcher{conn, asker, changed}
	if err := errors.Join(conn.SetReadBuffer(socketBuffer), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// close ends Receive, too.
func (w *watcher) close() {
	_ = w.conn.Close() // Nothing was written.
	_ = w.asker.Close()
}

// largeBatch is the number of elements from which on the watch had better not listen: the kernel writes a message of some kilobytes
// about each, which takes as long as everything else.
const largeBatch = 1000

// flush sends the batch, which changes so many elements, without the watch where there are many. Every batch makes a generation of
// the kernel's rules: if this one makes more than one, somebody else has sent one meanwhile.
func (t *table) flush(conn *nftables.Conn, elements int) error {
	if t.watcher == nil || elements < largeBatch {
		return conn.Flush()
	}
	before, err := generation(t.watcher.asker)
	if err != nil {
		return err
	}
	if err := t.watcher.conn.LeaveGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("stop listening: %w", err)
	}
	err = conn.Flush()
	if err := errors.Join(err, t.watcher.conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		return err
	}
	after, err := generation(t.watcher.asker)
	if err == nil && after != before+1 {
		t.watcher.changed()
	}
	return err
}

// generation returns the number of the kernel's rules, which each batch raises.
func generation(asker *netlink.Conn) (uint32, error) {
	const kind = unix.NFNL_SUBSYS_NFTABLES << 8
	answers, err := asker.Execute(netlink.Message{
		Header: netlink.Header{Type: kind | unix.NFT_MSG_GETGEN, Flags: netlink.Request}, Data: make([]byte, familyHeader)})
	if err != nil {
		return 0, fmt.Errorf("ask for the generation of rules: %w", err)
	}
	for _, m := range answers {
		if m.Header.Type != kind|unix.NFT_MSG_NEWGEN || len(m.Data) < familyHeader {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(m.Data[familyHeader:])
		if err != nil {
			return 0, fmt.Errorf("read the generation of rules: %w", err)
		}
		for attributes.Next() {
			if b := attributes.Bytes(); attributes.Type() == unix.NFTA_GEN_ID && len(b) == 4 {
				return binary.BigEndian.Uint32(b), nil
			}
		}
	}
	return 0, errors.New("the kernel does not say the generation of rules")
}

// familyHeader is how many bytes a message has before its attributes.
const familyHeader = 4

// concerns reports whether a message of nftables is about the table of that name or anything in it.
func concerns(m netlink.Message, table string) bool {
	const tableAttribute = 1 // In messages about tables, chains, rules, sets and elements alike.
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
