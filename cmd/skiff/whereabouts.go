package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"skiff/pki"

	"github.com/vishvananda/netlink"
)

// whereabouts are where others reach this machine. That may change while a server runs: DHCP, another network, a cable that comes later.
// Whatever names an address is told.
type whereabouts struct {
	mu    sync.Mutex
	now   settings
	moved bool // Since the start.
	tell  []func(settings)
}

// follow has tell called with the settings whenever an address in them has changed since the start; one call after the other.
func (w *whereabouts) follow(tell func(settings)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell = append(w.tell, tell)
	if w.moved {
		tell(w.now)
	}
}

// look compares the settings with the machine.
func (w *whereabouts) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now.located()
	if now.address == w.now.address && slices.Equal(now.addresses, w.now.addresses) {
		return
	}
	slog.Info("this machine has other addresses", "before", join(w.now.addresses), "now", join(now.addresses))
	w.now, w.moved = now, true
	for _, tell := range w.tell {
		tell(now)
	}
}

// Of what the kernel tells, much comes together.
const (
	settleTime   = 200 * time.Millisecond
	listenPause  = time.Second // When the kernel has told faster than anybody listened.
	updatesAhead = 64
)

// run looks whenever the kernel tells of a change, until ctx ends.
func (w *whereabouts) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.listen(ctx); err != nil {
			slog.Warn("changes of this machine's addresses may go unseen", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(listenPause):
		}
	}
}

// listen looks once, and then after each change that may matter, until ctx ends or the kernel breaks off.
func (w *whereabouts) listen(ctx context.Context) error {
	done := make(chan struct{})
	defer close(done)
	addrs, routes := make(chan netlink.AddrUpdate, updatesAhead), make(chan netlink.RouteUpdate, updatesAhead)
	broken := func(err error) { slog.Debug("listen to the kernel's addresses and routes", "err", err) }
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: broken}); err != nil {
		return err
	}
	if err := netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: broken}); err != nil {
		return err
	}
	settled := time.NewTimer(0)
	defer settled.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-settled.C:
			w.look()
		case u, ok := <-addrs:
			if !ok {
				return nil
			}
			if addr, _ := netip.AddrFromSlice(u.LinkAddress.IP); w.ours(addr.Unmap()) {
				settled.Reset(settleTime)
			}
		case u, ok := <-routes:
			if !ok {
				return nil
			}
			if isDefault(u.Route) { // Those of pods come and go.
				settled.Reset(settleTime)
			}
		}
	}
}

// ours says whether an address can be one of the machine's, and not of the cluster's.
func (w *whereabouts) ours(addr netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return addr.IsGlobalUnicast() && !w.now.clusterRanges.contains(addr) && !w.now.serviceRanges.contains(addr)
}

// serverTLS is how a server listens: always with a certificate for the names and addresses that the machine has at the time.
func (p *plane) serverTLS(issue func(hosts []string) (pki.Pair, error)) (*tls.Config, error) {
	certified := func(s settings) (*tls.Config, error) {
		pair, err := issue(s.serverHosts())
		if err != nil {
			return nil, err
		}
		return p.ca.ServerTLS(pair)
	}
	config, err := certified(p.settings)
	if err != nil {
		return nil, err
	}
	var now atomic.Pointer[tls.Certificate]
	now.Store(&config.Certificates[0])
	p.whereabouts.follow(func(s settings) {
		fresh, err := certified(s)
		if err != nil {
			slog.Warn("the certificate does not have this machine's new addresses", "err", err)
			return
		}
		now.Store(&fresh.Certificates[0])
	})
	config.Certificates = nil
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return now.Load(), nil }
	return config, nil
}
