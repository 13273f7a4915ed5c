package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"skiff/pki"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Who sends a URL or headers that are too long is told so, in both versions of HTTP, and one that is just long is served. In
// HTTP/2 a single field that is longer than all may be ends the connection.
func TestLongHeaders(t *testing.T) {
	config, address := startWeb(t)
	for _, tc := range []struct {
		name        string
		url, header int
		one, two    string // The answers in HTTP/1.1 and HTTP/2.
	}{
		{"a long URL", 50 << 10, 0, "200", "200"},
		{"long headers", 0, 50 << 10, "200", "200"},
		{"a URL that is too long", 100 << 10, 0, "431", "closed"},
		{"headers that are too long", 0, 100 << 10, "431", "closed"},
		{"both together too long", 50 << 10, 50 << 10, "431", "431"},
	} {
		path, header := "/"+strings.Repeat("u", tc.url), strings.Repeat("h", tc.header)
		t.Run(tc.name, func(t *testing.T) {
			if got := ask(t, dialWeb(t, config, address, "http/1.1"), path, header); got != tc.one {
				t.Errorf("HTTP/1.1 answers %s, want %s", got, tc.one)
			}
			if got := askFrames(t, dialWeb(t, config, address, "h2"), path, header); got != tc.two {
				t.Errorf("HTTP/2 answers %s, want %s", got, tc.two)
			}
		})
	}
}

// startWeb starts the HTTPS server, with a handler to which every path is well.
func startWeb(t *testing.T) (*tls.Config, string) {
	t.Helper()
	p := &plane{whereabouts: &whereabouts{}, settings: settings{
		options: options{dirs: dirs{data: t.TempDir()}, nodeName: "n1"}, address: netip.MustParseAddr("192.0.2.1"), serviceRanges: ranges{netip.MustParsePrefix("10.43.0.0/16")},
	}}
	var err error
	if p.ca, err = pki.EnsureCA(p.pki()); err != nil {
		t.Fatal(err)
	}
	web, err := p.web()
	if err != nil {
		t.Fatal(err)
	}
	web.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- web.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		web.Close()
		<-ended
	})
	return &tls.Config{RootCAs: p.ca.Pool(), ServerName: "127.0.0.1"}, listener.Addr().String()
}

func dialWeb(t *testing.T, config *tls.Config, address, protocol string) net.Conn {
	t.Helper()
	config = config.Clone()
	config.NextProtos = []string{protocol}
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// ask makes a request in HTTP/1.1 and returns the answer's code.
func ask(t *testing.T, conn net.Conn, path, header string) string {
	t.Helper()
	go fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", path, header) // The server need not read to the end.
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return fmt.Sprint(resp.StatusCode)
}

// askFrames makes a request in HTTP/2, frame by frame: Go's own client would not send what the server says is too long.
func askFrames(t *testing.T, conn net.Conn, path, header string) (code string) {
	t.Helper()
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", path}, {"x-long", header}} {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	const frame = 16 << 10
	first := block.Next(frame)
	if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndStream: true, EndHeaders: block.Len() == 0}); err != nil {
		t.Fatal(err)
	}
	for block.Len() > 0 {
		next := block.Next(frame)
		if err := framer.WriteContinuation(1, block.Len() == 0, next); err != nil {
			t.Fatal(err)
		}
	}
	decoder := hpack.NewDecoder(4<<10, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			code = f.Value
		}
	})
	for code == "" {
		read, err := framer.ReadFrame()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("no answer")
			}
			return "closed"
		}
		if headers, ok := read.(*http2.HeadersFrame); ok {
			if _, err := decoder.Write(headers.HeaderBlockFragment()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return code
}
