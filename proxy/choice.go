package proxy

import "fmt"

// A choice tells the rules how to choose an endpoint for a new connection. As one number it is what the map of frontends holds;
// there is a chain for each that is in use, so the number of rules depends on how many sizes and kinds of Service there are, not
// on how many Services.
//
//	bits 0 to 12: number of endpoints    bits 13 to 29: seconds that a client keeps its endpoint    bits 30 and 31: kind
type choice uint32

// The kinds of choice.
const (
	kindPlain      = 0 // Clients keep their addresses.
	kindMasquerade = 1 // Clients get the address of the node.
	kindOutside    = 2 // Clients are outside and keep their addresses; the endpoints are those in slots from outsideSlots on.
)

// Two choices are none.
const (
	refuse choice = 0
	drop   choice = 0xffff // More endpoints than maxEndpoints.
)

// outsideSlots is the first slot of a frontend's endpoints for clients outside, where they have their own.
const outsideSlots = 1 << 16

func newChoice(count int, sticky uint32, kind uint32) choice {
	if count == 0 {
		return refuse // Whoever asks.
	}
	return choice(uint32(count) | sticky<<13 | kind<<30)
}

func (c choice) count() uint32  { return uint32(c) & (1<<13 - 1) }
func (c choice) sticky() uint32 { return uint32(c) >> 13 & (1<<17 - 1) }
func (c choice) kind() uint32   { return uint32(c) >> 30 }

// slots returns the slots to choose from: the first one, and how many. None for refuse and drop.
func (c choice) slots() (first, n uint32) {
	switch {
	case c == drop:
		return 0, 0
	case c.kind() == kindOutside:
		return outsideSlots, c.count()
	}
	return 0, c.count()
}

// String is how the choice's chain is called, after the name of its map.
func (c choice) String() string {
	name := fmt.Sprint(c.count())
	switch c.kind() {
	case kindMasquerade:
		name += "-masquerade"
	case kindOutside:
		name += "-outside"
	}
	if c.sticky() > 0 {
		name += fmt.Sprintf("-sticky-%d", c.sticky())
	}
	return name
}
