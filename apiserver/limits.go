package apiserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// limits bound what clients from outside this process can make the server hold: how many requests it serves at once, and
// for how long. The components in this process, which keep the cluster going, are not behind them.
//
// The numbers are Kubernetes' own (--max-requests-inflight, --max-mutating-requests-inflight, --request-timeout).
// Administrators are bounded like everybody, other than there: they are most of those who ask here.
type limits struct {
	reading, changing chan struct{} // A slot for each request under way that reads, or that changes something.

	senders *senders

	request time.Duration // How long a client may take to send its body, and to receive its answer.
	frame   time.Duration // How long the client of a watch may take to receive an event.

	dropped func(*http.Request) // Told of each request that got no slot.
}

func newLimits() limits {
	return limits{
		reading:  make(chan struct{}, 400),
		changing: make(chan struct{}, 200),
		senders:  &senders{bodies: map[string]int{}},
		request:  time.Minute,
		frame:    30 * time.Second,
	}
}

const (
	maxBody   = 3 << 20     // Bytes of a request's body, as in Kubernetes.
	maxObject = 3 << 20 / 2 // Bytes of an object as stored: more, an etcd with its own settings would refuse.
	usualBody = 64 << 10    // Bytes that are set aside at once for a body that says that it is so long, or longer.
	maxDepth  = 1000        // Levels of lists and objects in JSON, of messages in protobuf.
)

// serve has next answer a request within the limits. Requests that last, such as watches, have no slot and no end set to
// their answers; what they wait for is bounded where they do it. A body has an end in any case: whoever asks is not known
// yet, and the connection is held until the body has been read, whatever the answer was.
func (l *limits) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if r.ContentLength != 0 {
		_ = control.SetReadDeadline(time.Now().Add(l.request))
		r.Body = &timedBody{r.Body, control, l, r.ProtoMajor == 1}
	}
	if longRunning(r) {
		_ = control.SetWriteDeadline(time.Time{}) // That of the request before, on the same connection.
		next.ServeHTTP(w, r)
		return
	}
	slots := l.changing
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		slots = l.reading
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	default:
		l.dropped(r)
		writeError(w, r, tooMany())
		return
	}
	_ = control.SetWriteDeadline(time.Now().Add(2 * l.request)) // From when the answer begins there is l.request left, at least.
	next.ServeHTTP(w, r)
}

// timedBody is a body that has to be read by a deadline. In HTTP/1 that is the connection's, which reads on behind the body, for
// what comes next, and that has other deadlines. In HTTP/2 each body has its own, which says nothing once it has been read.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
	limits  *limits
	shared  bool // Whether the deadline is the connection's.
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF && b.shared {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// untimed gives a body that goes on to a pod or a node its time back: how long it may last is for those to say. The connection
// to them may read on in the body when the request has been answered, and its deadline can not be set any more.
func untimed(r *http.Request) {
	if b, ok := r.Body.(*timedBody); ok {
		_ = b.control.SetReadDeadline(time.Time{})
		r.Body = b.ReadCloser
	}
}

// longRunning tells the requests that last until one of the two ends has had enough.
func longRunning(r *http.Request) bool {
	switch subresourceOf(r.URL.Path) {
	case "log", "exec", "attach", "portforward", "proxy":
		return true
	}
	return r.Method == http.MethodGet && isWatch(r)
}

// subresourceOf finds the subresource that a path names: .../RESOURCE/NAME/SUBRESOURCE.
func subresourceOf(path string) string {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) > 2:
		parts = parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		parts = parts[3:]
	default:
		return ""
	}
	if parts[0] == "namespaces" && len(parts) > 3 {
		parts = parts[2:]
	}
	if len(parts) < 3 {
		return ""
	}
	return parts[2]
}

// senders are the users whose bodies are being read now, and how many of each. Everyone who is somebody may ask what he may
// do, every pod among them: without a bound of each, one of them could hold all slots with bodies that do not come.
type senders struct {
	mu     sync.Mutex
	bodies map[string]int
}

// begin counts one more body of a user, unless there are most of them already.
func (s *senders) begin(user string, most int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bodies[user] >= most {
		return false
	}
	s.bodies[user]++
	return true
}

func (s *senders) end(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bodies[user]--; s.bodies[user] == 0 {
		delete(s.bodies, user)
	}
}

// mayRead holds that a user from outside sends bodies in a quarter of the slots at most. Administrators, who may do
// everything, share one name, and are not counted.
func mayRead(r *http.Request) (done func(), err error) {
	b, ok := r.Body.(*timedBody)
	u, _ := userOf(r)
	if !ok || isAdministrator(u) {
		return func() {}, nil
	}
	if !b.limits.senders.begin(u.Name, max(cap(b.limits.changing)/4, 1)) {
		return nil, tooMany()
	}
	return func() { b.limits.senders.end(u.Name) }, nil
}

func tooMany() error {
	return apierrors.NewTooManyRequests("the server has received too many requests and has asked us to try again later", 1)
}

// readBody reads a request's body within its bounds.
func readBody(r *http.Request) ([]byte, error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
			Message: fmt.Sprintf("the body of the request was in an unknown format - it must not be compressed (Content-Encoding was %q)", coding),
		}}
	}
	tooLarge := apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	if r.ContentLength > maxBody {
		return nil, tooLarge
	}
	done, err := mayRead(r)
	if err != nil {
		return nil, err
	}
	defer done()
	buf := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), usualBody)+bytes.MinRead))
	_, err = buf.ReadFrom(io.LimitReader(r.Body, maxBody+1))
	body := buf.Bytes()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, apierrors.NewTimeoutError("the request's body did not come in time", 0)
	case err != nil:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("read the request's body: %v", err))
	case len(body) > maxBody:
		return nil, tooLarge
	case tooDeep(r.Header.Get("Content-Type"), body):
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the request's body has more than %d levels", maxDepth))
	}
	return body, nil
}

// tooDeep tells whether a body has more than maxDepth levels. Decoders look into each level anew, some of them more than
// once, and the stack has an end, which nothing can recover from. (YAML is bounded by its decoder: in levels, and in what
// aliases stand for.)
func tooDeep(contentType string, body []byte) bool {
	media, _, err := mime.ParseMediaType(contentType)
	switch {
	case contentType == "", err == nil && (media == typeJSON || strings.HasSuffix(media, "+json")):
		return deepJSON(body)
	case err == nil && media == typeProto:
		return deepProto(bytes.TrimPrefix(body, protoMagic), maxDepth)
	}
	return false
}

// deepProto takes every field that can be a message for one: without the kind's description nothing tells it from text.
func deepProto(message []byte, levels int) bool {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return false
		}
		message = message[n:]
		skip := uint64(0)
		switch tag & 7 {
		case 0: // A number of variable length.
			_, n := binary.Uvarint(message)
			if n <= 0 {
				return false
			}
			skip = uint64(n)
		case 1:
			skip = 8
		case 2: // Of a length that comes first.
			length, n := binary.Uvarint(message)
			if n <= 0 || length > uint64(len(message)-n) {
				return false
			}
			message = message[n:]
			if levels == 0 || deepProto(message[:length], levels-1) {
				return true
			}
			skip = length
		case 5:
			skip = 4
		default:
			return false
		}
		if skip > uint64(len(message)) {
			return false
		}
		message = message[skip:]
	}
	return false
}

func deepJSON(body []byte) bool {
	if bytes.Count(body, []byte("{"))+bytes.Count(body, []byte("[")) <= maxDepth {
		return false // Found in a fraction of the time, and true of nearly all.
	}
	depth, quoted := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
