package test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
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
	in   *http2.Framer // Read by one goroutine.

	mu      sync.Mutex // Of all that is sent.
	allowed *sync.Cond // That the server takes more.
	credit  int        // Bytes of bodies that it takes now.
	out     bytes.Buffer
	framer  *http2.Framer
	headers bytes.Buffer
	encoder *hpack.Encoder
	answers map[uint32]*answer
	next    uint32 // The stream that is opened next.
}

// answer is what comes back on one stream.
type answer struct {
	status string
	data   []byte            // What has come, where nobody takes it as it comes.
	each   func(data []byte) // Takes it as it comes, and does not keep it.
	ended  chan struct{}
}

const (
	lightWindow   = 1 << 30   // Of the connection, and of each stream.
	firstCredit   = 65535     // As each connection begins (RFC 9113, section 6.9.2).
	lightBody     = 16 << 10  // A body is one frame.
	lightStreams  = 100       // At once on one connection: kube-apiserver takes no more.
	lightReadSize = 256 << 10 // At once from the connection.
)

// newLightClient makes a connection over TLS; config names who calls and whom it trusts.
func newLightClient(b testing.TB, conn net.Conn, config *tls.Config) *lightClient {
	b.Helper()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	secure := tls.Client(conn, config)
	if err := secure.Handshake(); err != nil {
		b.Fatal(err)
	}
	if protocol := secure.ConnectionState().NegotiatedProtocol; protocol != "h2" {
		b.Fatalf("the server speaks %q, not HTTP/2", protocol)
	}
	l := &lightClient{conn: secure, credit: firstCredit, next: 1, answers: map[uint32]*answer{}}
	l.in = http2.NewFramer(io.Discard, bufio.NewReaderSize(secure, lightReadSize))
	l.in.SetReuseFrames()
	l.in.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	l.framer = http2.NewFramer(&l.out, nil)
	l.encoder = hpack.NewEncoder(&l.headers)
	l.allowed = sync.NewCond(&l.mu)
	l.out.WriteString(http2.ClientPreface)
	l.send(func() {
		_ = l.framer.WriteSettings(http2.Setting{ID: http2.SettingEnablePush}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: lightWindow})
		_ = l.framer.WriteWindowUpdate(0, lightWindow)
	})
	go l.read()
	return l
}

func (l *lightClient) close() { l.conn.Close() }

// send writes frames with one write to the connection. Where that ends, the reader says so.
func (l *lightClient) send(write func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	write()
	l.flush()
}

func (l *lightClient) flush() {
	_, _ = l.conn.Write(l.out.Bytes())
	l.out.Reset()
}

// fail ends all that is waited for.
func (l *lightClient) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, a := range l.answers {
		a.status = err.Error()
		close(a.ended)
		delete(l.answers, id)
	}
}

// begin sends a request; the answer comes from then on. headers are names, in lower case, and values in turn.
func (l *lightClient) begin(a *answer, method, path, body string, headers ...string) {
	if len(body) > lightBody {
		panic("a body of more than one frame")
	}
	a.ended = make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.credit < len(body) {
		l.allowed.Wait()
	}
	l.credit -= len(body)
	id := l.next
	l.next += 2
	l.answers[id] = a
	l.headers.Reset()
	for _, field := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", "localhost"}, {":path", path}} {
		_ = l.encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	if !slices.Contains(headers, "content-type") {
		headers = append(headers, "content-type", jsonType)
	}
	for i := 0; i < len(headers); i += 2 {
		_ = l.encoder.WriteField(hpack.HeaderField{Name: headers[i], Value: headers[i+1]})
	}
	_ = l.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: l.headers.Bytes(), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		_ = l.framer.WriteData(id, true, []byte(body))
	}
	l.flush()
}

// read takes what comes, until the connection ends.
func (l *lightClient) read() {
	unacknowledged := 0
	for {
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
			if unacknowledged += int(f.Length); unacknowledged > lightWindow/2 {
				l.send(func() { _ = l.framer.WriteWindowUpdate(0, uint32(unacknowledged)) })
				unacknowledged = 0
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				l.mu.Lock()
				l.credit += int(f.Increment)
				l.allowed.Broadcast()
				l.mu.Unlock()
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				l.send(func() { _ = l.framer.WriteSettingsAck() })
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				l.send(func() { _ = l.framer.WritePing(true, f.Data) })
			}
		case *http2.RSTStreamFrame:
			panic(fmt.Sprintf("the server broke off a stream: %v", f.ErrCode))
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo { // With that, a server only stops.
				panic(fmt.Sprintf("the server takes no more: %v %s", f.ErrCode, f.DebugData()))
			}
		}
	}
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
		close(a.ended)
	}
}
