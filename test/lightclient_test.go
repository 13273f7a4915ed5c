package test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// lightClient is a client that costs little, so that what a benchmark measures on a machine that both share is the server: one
// connection of HTTP/2 (RFC 9113) whose frames it writes and reads as they are, with windows that are seldom renewed. It is to
// net/http's client what h2load is to curl.
type lightClient struct {
	conn net.Conn
	in   *http2.Framer // Read in one goroutine.
	more func() bool   // Whether more than what was read is here, or on its way for certain.

	mu      sync.Mutex // Of all that follows.
	answers map[uint32]*answer
	next    uint32    // The stream that is opened next.
	waiting []request // Those that the server has not allowed yet.
	credit  int       // Bytes of bodies that it allows now.
	out     bytes.Buffer
	framer  *http2.Framer // Writes to out.
	headers bytes.Buffer
	encoder *hpack.Encoder // Writes to headers.
}

// request is what is asked for. headers are names, in lower case, and values in turn.
type request struct {
	method, path, body string
	headers            []string
	answer             *answer
}

// answer is what comes back.
type answer struct {
	status string
	data   []byte            // What has come, where nobody takes it as it comes.
	each   func(data []byte) // Takes it as it comes, and does not keep it.
	ended  func()            // Is called at the end by the goroutine that reads: it does not wait, and may queue.
}

const (
	lightWindow   = 1 << 30   // Of the connection, and of each stream.
	firstCredit   = 65535     // As each connection begins (RFC 9113, section 6.9.2).
	lightBody     = 16 << 10  // A body is one frame.
	lightStreams  = 100       // At once on one connection: kube-apiserver takes no more.
	lightReadSize = 256 << 10 // At once from the socket: many records of TLS.
)

// newLightClient makes a connection over TLS; config names who calls and whom it trusts.
func newLightClient(b testing.TB, conn net.Conn, config *tls.Config) *lightClient {
	b.Helper()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	ahead := bufio.NewReaderSize(conn, lightReadSize)
	secure := tls.Client(readAhead{conn, ahead}, config)
	if err := secure.Handshake(); err != nil {
		b.Fatal(err)
	}
	if protocol := secure.ConnectionState().NegotiatedProtocol; protocol != "h2" {
		b.Fatalf("the server speaks %q, not HTTP/2", protocol)
	}
	frames := bufio.NewReader(secure)
	l := &lightClient{conn: secure, answers: map[uint32]*answer{}, next: 1, credit: firstCredit}
	l.more = func() bool { return ahead.Buffered()+frames.Buffered() > 0 }
	l.in = http2.NewFramer(io.Discard, frames)
	l.in.SetReuseFrames()
	l.in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	l.framer = http2.NewFramer(&l.out, nil)
	l.encoder = hpack.NewEncoder(&l.headers)
	l.out.WriteString(http2.ClientPreface)
	_ = l.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: lightWindow})
	_ = l.framer.WriteWindowUpdate(0, lightWindow)
	l.flush()
	go l.read()
	return l
}

func (l *lightClient) close() { l.conn.Close() }

// readAhead is a connection that is read in large parts.
type readAhead struct {
	net.Conn
	ahead *bufio.Reader
}

func (r readAhead) Read(p []byte) (int, error) { return r.ahead.Read(p) }

// flush sends all that is queued, with one write. Where the connection has ended, the reader says so.
func (l *lightClient) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out.Len() > 0 {
		_, _ = l.conn.Write(l.out.Bytes())
		l.out.Reset()
	}
}

// queue makes frames of a request, to be sent with what else is, at the next flush.
func (l *lightClient) queue(r request) {
	if len(r.body) > lightBody {
		panic("a body of more than one frame")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, r)
	l.encode()
}

// encode makes frames of the requests that the server allows.
func (l *lightClient) encode() {
	for len(l.waiting) > 0 && len(l.waiting[0].body) <= l.credit {
		r := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.credit -= len(r.body)
		l.answers[l.next] = r.answer
		l.headers.Reset()
		l.field(":method", r.method)
		l.field(":scheme", "https")
		l.field(":authority", "localhost")
		l.field(":path", r.path)
		if !slices.Contains(r.headers, "content-type") {
			l.field("content-type", jsonType)
		}
		if r.body != "" {
			l.field("content-length", strconv.Itoa(len(r.body)))
		}
		for i := 0; i < len(r.headers); i += 2 {
			l.field(r.headers[i], r.headers[i+1])
		}
		_ = l.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: l.next, BlockFragment: l.headers.Bytes(), EndHeaders: true, EndStream: r.body == ""})
		if r.body != "" {
			_ = l.framer.WriteData(l.next, true, []byte(r.body))
		}
		l.next += 2
	}
}

func (l *lightClient) field(name, value string) {
	_ = l.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
}

// flood makes requests, so many at once, as long as there is a next one, and returns when all are answered. Where several answers
// come together, the requests after them leave together.
func (l *lightClient) flood(atOnce int, next func() (r request, more bool)) {
	var all sync.WaitGroup
	var begin func()
	begin = func() {
		r, more := next()
		if !more {
			return
		}
		all.Add(1)
		r.answer = &answer{}
		r.answer.ended = func() {
			r.must()
			begin()
			all.Done()
		}
		l.queue(r)
	}
	for range atOnce {
		begin()
	}
	l.flush()
	all.Wait()
}

// must panics, from whatever goroutine, if the answer is that of a failure.
func (r request) must() {
	if !strings.HasPrefix(r.answer.status, "2") {
		panic(fmt.Sprintf("%s %s: %s %s", r.method, r.path, r.answer.status, r.answer.data))
	}
}

// fail ends all that is waited for.
func (l *lightClient) fail(err error) {
	l.mu.Lock()
	answers := l.answers
	l.answers = nil
	l.mu.Unlock()
	for _, a := range answers {
		a.status = err.Error()
		a.end()
	}
}

func (a *answer) end() {
	if a.ended != nil {
		a.ended()
	}
}

// read takes what comes, until the connection ends.
func (l *lightClient) read() {
	for taken := 0; ; {
		if !l.more() {
			l.flush()
		}
		frame, err := l.in.ReadFrame()
		if err != nil {
			l.fail(err)
			return
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			l.take(f.StreamID, f.StreamEnded(), func(a *answer) {
				if status := f.PseudoValue("status"); status != "" { // Trailers have none.
					a.status = status
				}
			})
		case *http2.DataFrame:
			l.take(f.StreamID, f.StreamEnded(), func(a *answer) {
				if a.each != nil {
					a.each(f.Data())
				} else {
					a.data = append(a.data, f.Data()...)
				}
			})
			if taken += int(f.Length); taken > lightWindow/2 {
				l.reply(func() { _ = l.framer.WriteWindowUpdate(0, uint32(taken)) })
				taken = 0
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				l.reply(func() {
					l.credit += int(f.Increment)
					l.encode()
				})
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				l.reply(func() { _ = l.framer.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				l.reply(func() { _ = l.framer.WritePing(true, f.Data) })
			}
		case *http2.RSTStreamFrame:
			if l.awaits(f.StreamID) { // Otherwise it wants no more of a request that it has answered.
				panic(fmt.Sprintf("the server broke off a stream: %v", f.ErrCode))
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo { // With that, a server only stops.
				panic(fmt.Sprintf("the server takes no more: %v %s", f.ErrCode, f.DebugData()))
			}
		}
	}
}

func (l *lightClient) awaits(stream uint32) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[stream] != nil
}

// reply queues frames of the reader's.
func (l *lightClient) reply(write func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	write()
}

// take hands a part to the answer that it belongs to.
func (l *lightClient) take(stream uint32, ended bool, part func(a *answer)) {
	l.mu.Lock()
	a := l.answers[stream]
	if ended {
		delete(l.answers, stream)
	}
	l.mu.Unlock()
	part(a)
	if ended {
		a.end()
	}
}
