package apiserver

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/net/websocket"
)

// What is read as it comes, a watch or a log, a client can also have as WebSocket messages: browsers read no other stream.
// (Streams both ways, such as exec, are the agent's, and pass through.)

// serveSocket answers with a WebSocket in the first of the client's protocols that is one of ours; the first of ours is for
// those who name none. The context given to stream ends when the client goes.
func serveSocket(w http.ResponseWriter, r *http.Request, protocols []string, stream func(ctx context.Context, conn *websocket.Conn)) {
	choose := func(config *websocket.Config, _ *http.Request) error {
		if len(config.Protocol) == 0 {
			return nil
		}
		i := slices.IndexFunc(config.Protocol, func(p string) bool { return slices.Contains(protocols, p) })
		if i < 0 {
			return fmt.Errorf("requested protocol(s) are not supported: %v; supports %v", config.Protocol, protocols)
		}
		config.Protocol = config.Protocol[i : i+1]
		return nil
	}
	handle := func(conn *websocket.Conn) {
		_ = conn.SetDeadline(time.Time{}) // That of the HTTP server.
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go func() { // Ends with the connection, which is closed after this function.
			defer cancel()
			_ = recovered("read a WebSocket", func() error {
				_, err := io.Copy(io.Discard, conn)
				return err
			})
		}()
		stream(ctx, conn)
	}
	websocket.Server{Handshake: choose, Handler: handle}.ServeHTTP(w, r)
}

// watchSocket runs a watch with a message for each event.
func watchSocket(w http.ResponseWriter, r *http.Request, watch func(w http.ResponseWriter, r *http.Request)) {
	serveSocket(w, r, nil, func(ctx context.Context, conn *websocket.Conn) {
		watch(&socketResponse{conn, http.Header{}}, r.WithContext(ctx))
	})
}

// logSocket sends a log, in bytes or in base64 for clients that read only text. As in Kubernetes, an empty message is first.
func (s *Server) logSocket(w http.ResponseWriter, r *http.Request, log io.ReadCloser) {
	serveSocket(w, r, []string{"binary.k8s.io", "base64.binary.k8s.io"}, func(ctx context.Context, conn *websocket.Conn) {
		defer context.AfterFunc(ctx, func() { log.Close() })()
		text := slices.Contains(conn.Config().Protocol, "base64.binary.k8s.io")
		send := func(b []byte) error {
			_ = conn.SetWriteDeadline(time.Now().Add(s.limits.frame))
			if text {
				return websocket.Message.Send(conn, base64.StdEncoding.EncodeToString(b))
			}
			return websocket.Message.Send(conn, b)
		}
		err := send(nil)
		buf := make([]byte, 4<<10)
		for err == nil {
			var n int
			n, err = log.Read(buf)
			if n > 0 {
				if sendErr := send(buf[:n]); sendErr != nil {
					return
				}
			}
		}
	})
}

// socketResponse sends each Write as a message. The HTTP response is over by then, so it has no code and headers.
type socketResponse struct {
	conn   *websocket.Conn
	header http.Header
}

func (s *socketResponse) Header() http.Header { return s.header }
func (s *socketResponse) WriteHeader(int)     {}
func (s *socketResponse) Flush()              {}

func (s *socketResponse) Write(message []byte) (int, error) {
	s.conn.PayloadType = websocket.TextFrame
	if s.header.Get("Content-Type") != typeJSON {
		s.conn.PayloadType = websocket.BinaryFrame
	}
	return s.conn.Write(message)
}

// SetWriteDeadline is for http.ResponseController.
func (s *socketResponse) SetWriteDeadline(at time.Time) error { return s.conn.SetWriteDeadline(at) }
