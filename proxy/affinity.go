package proxy

import (
	"fmt"
	"time"

	"github.com/google/nftables/expr"
)

// A Service with session affinity sends a client where its connection before went. The rules remember that by themselves, in
// a map of their own: frontend . client -> pin, which stands for an endpoint. A pin is worth what the map of pinned endpoints says:
// when an endpoint goes, its element there goes, and the next connection of each of its clients finds a new one. So nothing has
// to be cleaned up, and a change costs the same however many clients there are.
//
// The pin travels from map to map as the packet's priority, of which only the first packet of a connection sees anything, and
// which forwarding sets anew: the mark has a meaning for routing. Registers would do, but see vmap.

// affinityMap names that map of a family. The proxy neither reads nor writes it.
func affinityMap(f family) string { return f.named("affinity") }

// maxClients bounds it. When it is full, further clients get any endpoint each time.
const maxClients = 1 << 17

// stickyRules send a client to the endpoint that it had, or choose one for it and remember that.
func stickyRules(m verdictMap, c choice) []rule {
	again := useAgain(m, c)
	// The last look is for a client whose two first connections came at once: both go where the first to be remembered went.
	return []rule{again, forgetPin(m), rememberNew(m, c), again}
}

// useAgain goes to the client's endpoint, if it is known and still there, and remembers that for another while.
func useAgain(m verdictMap, c choice) rule {
	f := m.family
	front, load := m.front()
	client, loadClient := clientKey(m)
	text, update := updateAffinity(m, c)
	return rule{
		fmt.Sprintf("meta priority set %s map @%s %s dnat %s to %s . meta priority map @%s", client, affinityMap(f), text, f.header(), front, pinned.named(f)),
		join(f.is(), loadClient, lookup(affinityMap(f)), setPriority(result()), update,
			load, priority(f.behindFront()), lookup(pinned.named(f)), dnat(f)),
	}
}

// forgetPin is for a client whose endpoint is gone: the kernel would keep the pin that it has.
func forgetPin(m verdictMap) rule {
	client, load := clientKey(m)
	return rule{
		fmt.Sprintf("delete @%s { %s : meta priority }", affinityMap(m.family), client),
		join(m.family.is(), load, priority(result()),
			&expr.Dynset{SrcRegKey: reg(0), SrcRegData: result(), SetName: affinityMap(m.family), Operation: dynsetDelete}),
	}
}

func rememberNew(m verdictMap, c choice) rule {
	f := m.family
	front, load := m.front()
	first, n := c.slots()
	drawText, draw := numgen(f.behindFront(), n, first)
	text, update := updateAffinity(m, c)
	return rule{
		fmt.Sprintf("meta priority set %s . %s map @%s %s", front, drawText, pins.named(f), text),
		join(f.is(), load, draw, lookup(pins.named(f)), setPriority(result()), update),
	}
}

func updateAffinity(m verdictMap, c choice) (string, []expr.Any) {
	in, timeout := affinityMap(m.family), time.Duration(c.sticky())*time.Second
	client, load := clientKey(m)
	return fmt.Sprintf("update @%s { %s timeout %s : meta priority }", in, client, nftDuration(timeout)),
		join(load, priority(result()), &expr.Dynset{SrcRegKey: reg(0), SrcRegData: result(), SetName: in, Operation: dynsetUpdate, Timeout: timeout})
}

// The operations of a statement that changes a set; package unix does not have the second.
const (
	dynsetUpdate = 1
	dynsetDelete = 2
)

// clientKey loads the frontend and the client into the first registers.
func clientKey(m verdictMap) (text string, load []expr.Any) {
	front, load := m.front()
	return front + " . " + m.family.header() + " saddr", append(load, m.family.source(m.family.behindFront()))
}

func priority(to uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyPRIORITY, Register: to} }

func setPriority(from uint32) expr.Any {
	return &expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: from}
}

// nftDuration writes whole seconds as nft does.
func nftDuration(d time.Duration) string {
	text := ""
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := d / unit.size; n > 0 {
			text += fmt.Sprintf("%d%s", n, unit.name)
			d -= n * unit.size
		}
	}
	return text
}
