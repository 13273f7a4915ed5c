package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// servePortForward answers `kubectl port-forward`: SPDY, or the same SPDY inside of a WebSocket.
func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	pod, err := a.podOf(r)
	if err != nil {
		respondError(w, err)
		return
	}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		if w, r, err = tunnel(w, r); err != nil {
			return // The upgrade has answered.
		}
	} else if wsstream.IsWebSocketRequest(r) {
		respondError(w, refuse(http.StatusForbidden, "port-forward over WebSocket needs the protocol %s", portforward.WebsocketsSPDYTunnelingPortForwardV1))
		return
	}
	portforward.ServePortForward(w, r, forwarder{a.network}, pod.Name, string(pod.UID), nil, sessionIdle, sessionCreate, portforward.SupportedProtocols)
}

// forwarder connects streams to ports of a pod.
type forwarder struct{ network Network }

// PortForward implements portforward.PortForwarder. It returns when both directions have ended.
func (f forwarder) PortForward(ctx context.Context, _, uid string, port int32, stream io.ReadWriteCloser) error {
	conn, err := f.network.Dial(ctx, uid, uint16(port))
	if err != nil {
		return fmt.Errorf("connect to port %d of the pod: %w", port, err)
	}
	defer conn.Close()
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		sent <- err
	}()
	_, received := io.Copy(stream, conn)
	if received != nil {
		return received
	}
	select { // The pod has said all; what the client still sends has no reader.
	case err := <-sent:
		return err
	default:
		return nil
	}
}

// tunnel accepts a WebSocket and makes it look like the connection of an SPDY request.
func tunnel(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, error) {
	upgrader := websocket.Upgrader{
		Subprotocols: []string{portforward.WebsocketsSPDYTunnelingPortForwardV1},
		CheckOrigin:  func(*http.Request) bool { return true }, // A client certificate says who asks.
	}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("upgrade to WebSocket: %w", err)
	}
	inner := r.Clone(r.Context())
	inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	inner.Header.Set(httpstream.HeaderUpgrade, "SPDY/3.1")
	inner.Header.Set(httpstream.HeaderProtocolVersion, portforward.ProtocolV1Name)
	return &tunnelWriter{conn: &webSocketConn{Conn: ws.NetConn(), ws: ws}, header: http.Header{}}, inner, nil
}

// tunnelWriter is the ResponseWriter of the request inside: the answer to it was given by the WebSocket's upgrade.
type tunnelWriter struct {
	conn   net.Conn
	header http.Header
}

func (t *tunnelWriter) Header() http.Header         { return t.header }
func (t *tunnelWriter) WriteHeader(int)             {}
func (t *tunnelWriter) Write(p []byte) (int, error) { return len(p), nil }

// Hijack implements http.Hijacker.
func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

// webSocketConn is a stream of bytes over a WebSocket's binary messages.
type webSocketConn struct {
	net.Conn // For addresses and deadlines.
	ws       *websocket.Conn
	message  io.Reader // The one being read.
}

func (c *webSocketConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.ws.NextReader()
			var closed *websocket.CloseError
			if errors.As(err, &closed) {
				return 0, io.EOF
			}
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("port-forward: a WebSocket message that is not binary")
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *webSocketConn) Write(p []byte) (int, error) {
	if err := c.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *webSocketConn) Close() error {
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
	return c.ws.Close()
}
