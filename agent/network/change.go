package network

import (
	"context"
	"net/netip"
)

// What is known of the pods is locked for a moment only; while a pod is changed, which with CNI plugins may take a minute, it is
// that pod alone that waits.

// change waits until nobody else changes the pod, and returns what ends this change.
func (n *Network) change(ctx context.Context, uid string) (end func(), err error) {
	for {
		n.mu.Lock()
		other, busy := n.changing[uid]
		if !busy {
			mine := make(chan struct{})
			n.changing[uid] = mine
			n.mu.Unlock()
			return func() {
				n.mu.Lock()
				defer n.mu.Unlock()
				delete(n.changing, uid)
				close(mine)
			}, nil
		}
		n.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// addressesOf are none for a pod on the host's network.
func (n *Network) addressesOf(uid string) (addrs []netip.Addr, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	addrs, known = n.pods[uid]
	return addrs, known
}

func (n *Network) remember(uid string, addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods[uid] = addrs
}

func (n *Network) nextAddresses() ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.addresses.next()
}

// forgetAddresses forgets a pod, and lets others have its addresses.
func (n *Network) forgetAddresses(uid string, addrs []netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, uid)
	n.addresses.free(addrs)
}
