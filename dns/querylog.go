package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// queryLog shows answers to those who want to see them now. While nobody does, it costs one look at a pointer.
type queryLog struct {
	readers atomic.Pointer[[]*logReader]

	mu sync.Mutex // Of changes to readers.
}

// maxLogReaders bounds how many read at the same time; each has its own buffer of lines.
const (
	maxLogReaders = 16
	logBuffer     = 1024
)

// logReader gets one of every so many answers to its clients. Who reads too slowly misses lines; no answer waits for it.
type logReader struct {
	clients []netip.Addr // All if there are none.
	every   uint64
	seen    atomic.Uint64
	lines   chan string
}

func (r *logReader) wants(client netip.Addr) bool {
	if len(r.clients) > 0 && !slices.Contains(r.clients, client) {
		return false
	}
	return (r.seen.Add(1)-1)%r.every == 0
}

// read begins to read; stop ends it. False if too many do.
func (l *queryLog) read(clients []netip.Addr, every uint64) (r *logReader, stop func(), ok bool) {
	r = &logReader{clients: clients, every: max(every, 1), lines: make(chan string, logBuffer)}
	l.mu.Lock()
	defer l.mu.Unlock()
	var readers []*logReader
	if now := l.readers.Load(); now != nil {
		readers = *now
	}
	if len(readers) >= maxLogReaders {
		return nil, nil, false
	}
	readers = append(slices.Clone(readers), r)
	l.readers.Store(&readers)
	return r, func() { l.remove(r) }, true
}

func (l *queryLog) remove(r *logReader) {
	l.mu.Lock()
	defer l.mu.Unlock()
	readers := slices.DeleteFunc(slices.Clone(*l.readers.Load()), func(other *logReader) bool { return other == r })
	if len(readers) == 0 {
		l.readers.Store(nil)
		return
	}
	l.readers.Store(&readers)
}

// show hands an answer to those who want it, and returns how many could not take it.
func (l *queryLog) show(client netip.Addr, reply []byte, from origin, took time.Duration) (dropped int) {
	readers := l.readers.Load()
	if readers == nil {
		return 0
	}
	line := ""
	for _, r := range *readers {
		if !r.wants(client) {
			continue
		}
		if line == "" {
			line = logLine(time.Now(), client, reply, from, took)
		}
		select {
		case r.lines <- line:
		default:
			dropped++
		}
	}
	return dropped
}

// logLine is a line of the log: when, who, what, and what came of it.
func logLine(now time.Time, client netip.Addr, reply []byte, from origin, took time.Duration) string {
	name, rrtype := "?", "?"
	if len(reply) > headerLen {
		if text, end, err := dns.UnpackDomainName(reply, headerLen); err == nil && end+2 <= len(reply) {
			name, rrtype = text, dns.Type(binary.BigEndian.Uint16(reply[end:])).String()
		}
	}
	return fmt.Sprintf("%s %v %s %s %s %d answers, %d bytes, from %v, %v\n", now.UTC().Format("15:04:05.000"), client, name, rrtype,
		rcodeName(int(reply[3]&0xf)), binary.BigEndian.Uint16(reply[6:]), len(reply), from, took.Round(time.Microsecond))
}
