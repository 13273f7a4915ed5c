package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// maxForwards is how many ports a client can ask for at once: each has two channels, and the number of a channel is a byte.
const maxForwards = 128

// servePortForward answers `kubectl port-forward`: SPDY, or the same SPDY inside of a WebSocket. Other clients have the ports
// as channels of a WebSocket, named in the query.
func (a *Agent) servePortForward(w http.ResponseWriter, r *http.Request) {
	pod, err := a.podOf(r)
	if err != nil {
		respondError(w, err)
		return
	}
	var options *portforward.V4Options
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		if w, r, err = tunnel(w, r); err != nil {
			return // The upgrade has answered.
		}
	} else if options, err = forwardOptions(r); err != nil {
		respondError(w, err)
		return
	}
	to := forwarder{a.network, r.Context()}
	portforward.ServePortForward(w, r, to, pod.Name, string(pod.UID), options, sessionIdle, sessionCreate, portforward.SupportedProtocols)
}

// forwardOptions reads the ports of a WebSocket request. An SPDY request names none: each of its streams does.
// Their name is that of the API (ports=80) or of the kubelet (port=80).
func forwardOptions(r *http.Request) (*portforward.V4Options, error) {
	query := r.URL.Query()
	read := r.Clone(r.Context())
	read.URL.RawQuery = url.Values{portforward.PortHeader: append(query["ports"], query["port"]...)}.Encode()
	options, err := portforward.NewV4Options(read)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	if len(options.Ports) > maxForwards {
		return nil, refuse(http.StatusBadRequest, "at most %d ports can be forwarded at once", maxForwards)
	}
	return options, nil
}

// forwarder connects streams to ports of a pod.
type forwarder struct {
	network Network
	session context.Context // Ends when the client goes, which the library does not tell of a WebSocket.
}

// PortForward implements portforward.PortForwarder. It returns when both directions have ended.
func (f forwarder) PortForward(ctx context.Context, _, uid string, port int32, stream io.ReadWriteCloser) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.session, cancel)()
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
