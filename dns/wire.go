package dns

import (
	"encoding/binary"
	"strings"

	"github.com/miekg/dns"
)

// Of a message as it goes over the network (RFC 1035, section 4; RFC 6891 for EDNS).
const (
	headerLen = 12
	maxName   = 255 // Bytes of a name, its length bytes included.
	maxLabel  = 63
	optLen    = 11 // An OPT record without options.

	flagResponse  = 0x80 // In the header's third byte.
	flagOpcode    = 0x78
	flagAuthority = 0x04
	flagTruncated = 0x02
	flagRecursion = 0x01
	flagAvailable = 0x80 // In its fourth.
	flagAuthentic = 0x20
	flagUnchecked = 0x10

	optionCookie = 10
)

// question is what an ordinary packet asks, read without allocating. One is used again and again by who reads packets.
type question struct {
	lower  [maxName + 3]byte // The name, and behind it type and flags: the key of the cache.
	length int               // Of the name.
	rrtype uint16
	flags  byte // What of the header's flags matters to the answer: RD, AD and CD, as bits of flagKey.
	edns   bool
	do     bool // The client wants signatures.
	size   int  // How long an answer over UDP the client can take.
}

// The bits of question.flags.
const (
	wantsRecursion = 1 << iota
	wantsAuthentic
	wantsUnchecked
	wantsSignatures
)

// name is the name asked for, in lower case, as it stands in a packet. It holds until the next parse.
func (q *question) name() []byte { return q.lower[:q.length] }

// key is what tells answers to different questions apart. It holds until the next parse.
func (q *question) key() []byte { return q.lower[:q.length+3] }

// end is where the question ends in its packet.
func (q *question) end() int { return headerLen + q.length + 4 }

// parse reads a packet that holds one question of class IN, and at most EDNS besides. It returns false for all others,
// which are not wrong for that: they are for [dns.Msg] to read.
func (q *question) parse(packet []byte) bool {
	if len(packet) < headerLen || packet[2]&(flagResponse|flagOpcode) != 0 ||
		binary.BigEndian.Uint64(packet[4:])&^1 != 1<<48 { // One question, no answer, no authority, at most one additional record.
		return false
	}
	if !q.parseName(packet[headerLen:]) || len(packet) < q.end() {
		return false
	}
	fixed := packet[headerLen+q.length:]
	if binary.BigEndian.Uint16(fixed[2:]) != dns.ClassINET {
		return false
	}
	q.rrtype = binary.BigEndian.Uint16(fixed)
	q.flags = packet[2]&flagRecursion | packet[3]&flagAuthentic>>4 | packet[3]&flagUnchecked>>2
	q.edns, q.do, q.size = false, false, dns.MinMsgSize
	rest := packet[q.end():]
	if packet[11] == 1 && !q.parseOPT(rest) || packet[11] == 0 && len(rest) > 0 {
		return false
	}
	binary.BigEndian.PutUint16(q.lower[q.length:], q.rrtype)
	q.lower[q.length+2] = q.flags
	return true
}

// parseName copies the name at the beginning of b. A name that refers to another place is not an ordinary question's.
func (q *question) parseName(b []byte) bool {
	for i := 0; i < len(b) && i < maxName; {
		label := int(b[i])
		q.lower[i] = b[i]
		i++
		if label == 0 {
			q.length = i
			return true
		}
		if label > maxLabel || i+label >= min(len(b), maxName) {
			return false
		}
		for end := i + label; i < end; i++ {
			c := b[i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.lower[i] = c
		}
	}
	return false
}

// parseOPT reads b, which is to be an OPT record of version 0 and nothing else. Its options are nothing to us (RFC 7873
// lets a server that does not use cookies pass over them); those that are not well known need a closer look.
func (q *question) parseOPT(b []byte) bool {
	if len(b) < optLen || b[0] != 0 || binary.BigEndian.Uint16(b[1:]) != dns.TypeOPT || b[5] != 0 || b[6] != 0 ||
		int(binary.BigEndian.Uint16(b[9:])) != len(b)-optLen {
		return false
	}
	for options := b[optLen:]; len(options) > 0; {
		if len(options) < 4 || binary.BigEndian.Uint16(options) != optionCookie {
			return false
		}
		length := 4 + int(binary.BigEndian.Uint16(options[2:]))
		if length > len(options) {
			return false
		}
		options = options[length:]
	}
	q.edns, q.do = true, b[7]&0x80 != 0
	if q.do {
		q.flags |= wantsSignatures
	}
	q.size = clampSize(binary.BigEndian.Uint16(b[3:]))
	return true
}

// clampSize is how long an answer a client gets that says by EDNS how long a one it can take.
func clampSize(size uint16) int { return min(max(int(size), dns.MinMsgSize), maxUDPSize) }

// finish turns a question's packet, to which the records of an answer have been appended, into that answer.
func (q *question) finish(packet []byte, flags byte, rcode int, answers, authority, extra int) []byte {
	if q.edns {
		packet = appendOPT(packet, q.do)
		extra++
	}
	packet[2] = flagResponse | flags&^flagAuthentic | packet[2]&flagRecursion
	packet[3] = flagAvailable | flags&flagAuthentic | packet[3]&flagUnchecked | byte(rcode)
	binary.BigEndian.PutUint16(packet[6:], uint16(answers))
	binary.BigEndian.PutUint16(packet[8:], uint16(authority))
	binary.BigEndian.PutUint16(packet[10:], uint16(extra))
	return packet
}

func appendOPT(b []byte, do bool) []byte {
	flags := byte(0)
	if do {
		flags = 0x80
	}
	return append(b, 0, 0, byte(dns.TypeOPT), maxUDPSize>>8, maxUDPSize&0xff, 0, 0, flags, 0, 0, 0)
}

// wireName is a name as it stands in a packet, in lower case. False if it is none.
func wireName(name string) (string, bool) {
	var buf [maxName + 1]byte
	n, err := dns.PackDomainName(strings.ToLower(name), buf[:], 0, nil, false)
	if err != nil || n > maxName {
		return "", false
	}
	return string(buf[:n]), true
}

// textName is the way back.
func textName(wire string) string {
	name, _, err := dns.UnpackDomainName([]byte(wire), 0)
	if err != nil {
		return "."
	}
	return name
}

// parent is a name, as in a packet, without its first label; the root is its own.
func parent[T string | []byte](name T) T {
	if len(name) <= 1 {
		return name
	}
	return name[1+int(name[0]):]
}
