package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	remotecommandconsts "k8s.io/apimachinery/pkg/util/remotecommand"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// Bounds of a streaming session.
const (
	sessionIdle   = 4 * time.Hour
	sessionCreate = 30 * time.Second // For the client to open its streams.
)

// session runs a command, or joins a process, with the given streams.
type session func(ctx context.Context, streams Streams) error

// serveExec answers `kubectl exec`.
func (a *Agent) serveExec(w http.ResponseWriter, r *http.Request) {
	_, c, err := a.containerOf(r, false)
	if err != nil {
		respondError(w, err)
		return
	}
	command := r.URL.Query()["command"]
	if len(command) == 0 {
		respondError(w, refuse(http.StatusBadRequest, "you must specify at least one command"))
		return
	}
	a.serveSession(w, r, func(ctx context.Context, streams Streams) error {
		status, err := a.runtime.Exec(ctx, c.ID, ExecConfig{Streams: streams, Command: command})
		if err != nil {
			return err
		}
		if status != 0 {
			return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", status), Code: status}
		}
		return nil
	})
}

// serveAttach answers `kubectl attach`.
func (a *Agent) serveAttach(w http.ResponseWriter, r *http.Request) {
	_, c, err := a.containerOf(r, false)
	if err != nil {
		respondError(w, err)
		return
	}
	a.serveSession(w, r, func(ctx context.Context, streams Streams) error { return a.runtime.Attach(ctx, c.ID, streams) })
}

// serveSession speaks SPDY or WebSocket, whichever the client asks for. Both end with a Status on a stream of its own, by which
// the client learns the exit status.
func (a *Agent) serveSession(w http.ResponseWriter, r *http.Request, run session) {
	options, err := streamOptions(r)
	if err != nil {
		respondError(w, err)
		return
	}
	if wsstream.IsWebSocketRequest(r) {
		serveWebSocket(w, r, options, run)
		return
	}
	remotecommand.ServeExec(w, r, spdySession(run), "", "", "", nil, options, sessionIdle, sessionCreate, remotecommandconsts.SupportedStreamingProtocols)
}

// streamOptions reads which streams the client wants. The names are those of the API (stdin=true) or of the kubelet (input=1):
// skiff's API server passes the query on as it came, Kubernetes' translates it.
func streamOptions(r *http.Request) (*remotecommand.Options, error) {
	query := r.URL.Query()
	wants := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			value := query.Get(name)
			return value == "true" || value == "1"
		})
	}
	o := &remotecommand.Options{
		Stdin:  wants("stdin", "input"),
		Stdout: wants("stdout", "output"),
		Stderr: wants("stderr", "error"),
		TTY:    wants("tty"),
	}
	if o.TTY {
		o.Stderr = false // A terminal has one output.
	}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return nil, refuse(http.StatusBadRequest, "you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

// spdySession lets the library's server run a session, command or attached process alike.
type spdySession session

// ExecInContainer implements remotecommand.Executor.
func (run spdySession) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errOut io.WriteCloser,
	tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	streams := Streams{TTY: tty, Resize: sizes(ctx, resize)}
	if in != nil {
		streams.Stdin = in
	}
	if out != nil {
		streams.Stdout = out
	}
	if errOut != nil {
		streams.Stderr = errOut
	}
	return run(ctx, streams)
}

// sizes passes terminal sizes on until ctx ends. No sizes come from a nil channel.
func sizes(ctx context.Context, from <-chan remotecommand.TerminalSize) <-chan Size {
	if from == nil {
		return nil
	}
	to := make(chan Size)
	go func() {
		defer close(to)
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-from:
				if !ok {
					return
				}
				select {
				case to <- Size(size):
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return to
}

// Channels of a WebSocket session, the first byte of each message.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelStatus
	channelResize
	channels
)

// Versions that wsstream has no names for. Those before v4 tell of a failure in words alone, and of success not at all; those
// before v5 cannot say that stdin has ended.
const (
	socketV4       = remotecommandconsts.StreamProtocolV4Name
	socketV4Base64 = "v4." + wsstream.Base64ChannelWebSocketProtocol
	socketV5       = remotecommandconsts.StreamProtocolV5Name
)

// sessionProtocols are the WebSocket protocols of a session. Kubernetes takes a client that names none for one of the first.
func sessionProtocols(options *remotecommand.Options) map[string]wsstream.ChannelProtocolConfig {
	kinds := make([]wsstream.ChannelType, channels)
	for channel, wanted := range map[int]bool{channelStdout: options.Stdout, channelStderr: options.Stderr, channelStatus: true} {
		if wanted {
			kinds[channel] = wsstream.WriteChannel
		}
	}
	for channel, wanted := range map[int]bool{channelStdin: options.Stdin, channelResize: options.TTY} {
		if wanted {
			kinds[channel] = wsstream.ReadChannel
		}
	}
	protocols := wsstream.NewDefaultChannelProtocols(kinds)
	protocols[socketV4Base64] = wsstream.ChannelProtocolConfig{Channels: kinds}
	for _, name := range []string{socketV4, socketV5} {
		protocols[name] = wsstream.ChannelProtocolConfig{Binary: true, Channels: kinds}
	}
	return protocols
}

// openSocket accepts a WebSocket with channels. The caller closes it.
func openSocket(w http.ResponseWriter, r *http.Request, protocols map[string]wsstream.ChannelProtocolConfig) (
	conn *wsstream.Conn, protocol string, streams []io.ReadWriteCloser, err error) {
	conn = wsstream.NewConn(protocols)
	conn.SetIdleTimeout(sessionIdle)
	quiet := klog.NewContext(r.Context(), klog.New(nil)) // The library logs an error for each connection that we close first.
	protocol, streams, err = conn.Open(w, r.WithContext(quiet))
	return conn, protocol, streams, err
}

// serveWebSocket runs a session whose streams are channels of a WebSocket.
func serveWebSocket(w http.ResponseWriter, r *http.Request, options *remotecommand.Options, run session) {
	ctx := r.Context() // Ends when the client goes: see asSession.
	conn, protocol, streams, err := openSocket(w, r, sessionProtocols(options))
	if err != nil {
		return // The handshake has answered.
	}
	defer conn.Close()

	s := Streams{TTY: options.TTY}
	first := streams[channelStatus]
	if options.Stdin {
		s.Stdin = streams[channelStdin]
	}
	if options.Stderr {
		s.Stderr, first = streams[channelStderr], streams[channelStderr]
	}
	if options.Stdout {
		s.Stdout, first = streams[channelStdout], streams[channelStdout]
	}
	if options.TTY {
		s.Resize = decodeSizes(ctx, streams[channelResize])
	}
	_, _ = first.Write(nil) // An empty message on the first channel that we write tells the client that all are open.
	_, _ = streams[channelStatus].Write(encodeStatus(protocol, sessionStatus(run(ctx, s))))
}

// encodeStatus is how a session ended, in the form of the client's protocol.
func encodeStatus(protocol string, status *metav1.Status) []byte {
	switch protocol {
	case socketV4, socketV4Base64, socketV5:
		text, _ := json.Marshal(status) // A Status can always be encoded.
		return text
	}
	return []byte(status.Message)
}

// decodeSizes reads `{"Width":80,"Height":24}` documents until the connection closes.
func decodeSizes(ctx context.Context, from io.Reader) <-chan Size {
	to := make(chan Size)
	go func() {
		defer close(to)
		decoder := json.NewDecoder(from)
		for {
			var size Size
			if decoder.Decode(&size) != nil {
				return
			}
			select {
			case to <- size:
			case <-ctx.Done():
				return
			}
		}
	}()
	return to
}

// sessionStatus is how a session ended, as a client reads it.
func sessionStatus(err error) *metav1.Status {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit) && exit.Exited():
		return &metav1.Status{
			Status: metav1.StatusFailure, Reason: remotecommandconsts.NonZeroExitCodeReason,
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{
				{Type: remotecommandconsts.ExitCodeCauseType, Message: strconv.Itoa(exit.ExitStatus())},
			}},
		}
	}
	return &metav1.Status{
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("error executing command in container: %v", err),
	}
}

// asSession is for requests that take over their connection: it closes the connection when the agent stops, ends the request's
// context when the connection closes, and lets the agent wait for the request.
func (a *Agent) asSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.sessions.Add(1)
		defer a.sessions.Done()
		ctx, gone := context.WithCancel(r.Context())
		defer gone()
		next.ServeHTTP(&takenOver{ResponseWriter: w, ctx: ctx, gone: gone}, r.WithContext(ctx))
	})
}

// takenOver gives its connection away tied to a context.
type takenOver struct {
	http.ResponseWriter
	ctx  context.Context
	gone func()
}

// Hijack implements http.Hijacker.
func (t *takenOver) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(t.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	context.AfterFunc(t.ctx, func() { conn.Close() })
	return &tiedConn{Conn: conn, gone: t.gone}, buffered, nil
}

type tiedConn struct {
	net.Conn
	gone func()
}

func (c *tiedConn) Close() error {
	c.gone() // The client has gone: its process must end.
	return c.Conn.Close()
}
