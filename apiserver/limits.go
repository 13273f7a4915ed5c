package apiserver

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
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

	request time.Duration // How long a client may take to send its body, and to receive its answer.
	frame   time.Duration // How long the client of a watch may take to receive an event.
}

func newLimits() limits {
	return limits{
		reading:  make(chan struct{}, 400),
		changing: make(chan struct{}, 200),
		request:  time.Minute,
		frame:    30 * time.Second,
	}
}

const (
	maxBody   = 3 << 20     // Bytes of a request's body, as in Kubernetes.
	maxObject = 3 << 20 / 2 // Bytes of an object as stored: more, an etcd with its own settings would refuse.
	maxDepth  = 1000        // Levels of lists and objects in JSON.
)

// serve has next answer a request within the limits. Requests that last, such as watches, have no slot and no end set to
// them; what they wait for is bounded where they do it.
func (l *limits) serve(next http.Handler, w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
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
		writeError(w, r, apierrors.NewTooManyRequests("the server has received too many requests and has asked us to try again later", 1))
		return
	}
	_ = control.SetWriteDeadline(time.Now().Add(2 * l.request)) // From when the answer begins there is l.request left, at least.
	if r.Body != http.NoBody {
		_ = control.SetReadDeadline(time.Now().Add(l.request))
		r.Body = &timedBody{r.Body, control}
	}
	next.ServeHTTP(w, r)
}

// timedBody is a body that has to be read by a deadline. The connection reads on behind it, for what comes next, and that
// has other deadlines.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
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
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, apierrors.NewTimeoutError("the request's body did not come in time", 0)
	case err != nil:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("read the request's body: %v", err))
	case len(body) > maxBody:
		return nil, tooLarge
	case isJSON(r.Header.Get("Content-Type")) && tooDeep(body):
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the request's body has more than %d levels", maxDepth))
	}
	return body, nil
}

// isJSON tells the media types of bodies that are JSON: the objects themselves, and all patches but apply.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return contentType == "" || err == nil && (media == typeJSON || strings.HasSuffix(media, "+json"))
}

// tooDeep tells whether JSON has more than maxDepth levels. Decoders look into each level anew, some of them more than once,
// so depth costs more than size. (YAML is bounded by its decoder: in levels, and in what aliases stand for.)
func tooDeep(body []byte) bool {
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
