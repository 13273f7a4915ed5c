package apiserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// watchOptions say where a watch begins and when it ends.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
type watchOptions struct {
	rev       uint64 // Events after this revision; 0: after now.
	state     bool   // First the objects of now, as additions.
	marked    bool   // Then a bookmark that says that this was all.
	bookmarks bool   // One a minute.
	timeout   time.Duration
}

const bookmarkEvery = time.Minute

func newWatchOptions(in *internalversion.ListOptions) (watchOptions, error) {
	rev, err := parseRevision(in.ResourceVersion)
	if err != nil {
		return watchOptions{}, err
	}
	o := watchOptions{rev: rev, bookmarks: in.AllowWatchBookmarks}
	o.state = ptrOr(in.SendInitialEvents, rev == 0)
	o.marked = ptrOr(in.SendInitialEvents, false) && o.bookmarks
	o.timeout = seconds(ptrOr(in.TimeoutSeconds, 0))
	if o.timeout <= 0 { // As Kubernetes does: spread, so that clients do not all come back at once.
		o.timeout = 30*time.Minute + rand.N(30*time.Minute)
	}
	return o, nil
}

// stream sends the events of a selection to emit until ctx ends, the time is over, emit fails or the watcher is cut off.
// An error is one that the client is to be told of.
func (s *Server) stream(ctx context.Context, sh *shelf, sel selection, o watchOptions, emit func(event, bool) error) error {
	if err := s.reach(ctx, o.rev); err != nil {
		return err
	}
	w, past, err := s.begin(sh, sel, o, emit)
	if w != nil {
		defer sh.unregister(w)
	}
	if err != nil {
		return err
	}
	for _, ev := range past {
		if err := sendView(sel, ev, emit); err != nil {
			return err
		}
	}
	end := time.NewTimer(o.timeout)
	defer end.Stop()
	var bookmark <-chan time.Time
	if o.bookmarks {
		ticker := time.NewTicker(bookmarkEvery)
		defer ticker.Stop()
		bookmark = ticker.C
	}
	for {
		select {
		case ev, ok := <-w.events:
			if !ok {
				return nil
			}
			if err := sendView(sel, ev, emit); err != nil {
				return err
			}
		case <-bookmark:
			sh.bookmark(s.cache, w)
		case <-end.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func sendView(sel selection, ev event, emit func(event, bool) error) error {
	if ev, ok := sel.view(ev); ok {
		return emit(ev, false)
	}
	return nil
}

// begin registers a watcher, emits the objects of now if they are wanted, and returns the events that came before.
func (s *Server) begin(sh *shelf, sel selection, o watchOptions, emit func(event, bool) error) (*watcher, []event, error) {
	if o.rev > 0 && !o.state {
		return sh.watchFrom(o.rev)
	}
	w, now := sh.watchNow(s.cache)
	if !o.state {
		return w, nil, nil
	}
	for _, it := range now.items(sel) {
		if err := emit(event{kind: watch.Added, rev: it.rev, item: it}, false); err != nil {
			return w, nil, err
		}
	}
	if !o.marked {
		return w, nil, nil
	}
	return w, nil, emit(event{kind: watch.Bookmark, rev: now.to}, true)
}

// serveWatch answers with a stream of events.
func (s *Server) serveWatch(w http.ResponseWriter, r *http.Request, sh *shelf, sel selection, in *internalversion.ListOptions) error {
	f, err := negotiateRow(r, sh.resource, "Table", "PartialObjectMetadata")
	if err != nil {
		return err
	}
	o, err := newWatchOptions(in)
	if err != nil {
		return err
	}
	if f.media == typeYAML {
		return notAcceptable(r.Header.Get("Accept")) // YAML documents have no frames.
	}
	run := func(w http.ResponseWriter, r *http.Request) {
		out := &eventWriter{w: w, r: r, server: s, shelf: sh, format: f}
		out.start()
		defer out.end()
		if err := s.stream(r.Context(), sh, sel, o, out.emit); err != nil {
			out.fail(err)
		}
	}
	if wsstream.IsWebSocketRequest(r) {
		watchSocket(w, r, run)
	} else {
		run(w, r)
	}
	return nil
}

// eventWriter writes events as frames of one format.
type eventWriter struct {
	w      http.ResponseWriter
	r      *http.Request
	server *Server
	shelf  *shelf
	format format
	rows   bool        // Whether a table with its column definitions was sent.
	stuck  *time.Timer // Runs while a frame is written, and ends the stream.

	mu   sync.Mutex
	over bool // The handler returns: w must not be used any more.
}

func (e *eventWriter) start() {
	// A deadline for each frame would go twice through the connection's own loop in HTTP/2.
	e.stuck = time.AfterFunc(e.server.limits.frame, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.over {
			_ = http.NewResponseController(e.w).SetWriteDeadline(time.Now())
		}
	})
	e.stuck.Stop()
	media := e.format.media
	if media != typeJSON {
		media += ";stream=watch"
	}
	e.w.Header().Set("Content-Type", media)
	e.w.Header().Set("Cache-Control", "no-cache, private")
	e.w.WriteHeader(http.StatusOK)
	e.flush()
}

// end must be called before the handler returns.
func (e *eventWriter) end() {
	e.stuck.Stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
}

func (e *eventWriter) flush() {
	_ = http.NewResponseController(e.w).Flush()
}

func (e *eventWriter) emit(ev event, initialEnd bool) error {
	body, err := e.object(ev, initialEnd)
	if err != nil {
		return err
	}
	return e.frame(string(ev.kind), body)
}

// object encodes what an event carries.
func (e *eventWriter) object(ev event, initialEnd bool) ([]byte, error) {
	it := ev.item
	if it == nil {
		it = &item{rev: ev.rev, obj: bookmarkObject(e.shelf.resource, ev.rev, initialEnd)}
	}
	switch e.format.as {
	case "Table":
		t, err := newTable(e.shelf.resource, e.r, e.format, []*item{it}, !e.rows)
		if err != nil {
			return nil, err
		}
		e.rows = true
		t.ResourceVersion = it.meta().GetResourceVersion()
		return e.encode(t)
	case "PartialObjectMetadata":
		return e.encode(partial(e.format, it.shown(e.shelf.resource)))
	}
	return it.shown(e.shelf.resource).encoded(e.format.media)
}

func (e *eventWriter) encode(obj runtime.Object) ([]byte, error) {
	var buf bytes.Buffer
	err := encode(&buf, e.format.media, false, obj)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}

// frame writes one event: a line of JSON, or a length and a protobuf message.
func (e *eventWriter) frame(kind string, body []byte) error {
	e.stuck.Reset(e.server.limits.frame)
	defer e.stuck.Stop()
	var err error
	switch e.format.media {
	case typeProto:
		ev := metav1.WatchEvent{Type: kind, Object: runtime.RawExtension{Raw: body}}
		msg, merr := ev.Marshal()
		if merr != nil {
			return merr
		}
		_, err = e.w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...))
	default:
		line := make([]byte, 0, len(body)+40)
		line = fmt.Appendf(line, `{"type":%q,"object":`, kind)
		line = append(append(line, body...), "}\n"...)
		_, err = e.w.Write(line)
	}
	e.flush()
	return err
}

// fail tells the client, in the stream, why it ends.
func (e *eventWriter) fail(err error) {
	status := statusOf(err)
	if status.Code == http.StatusInternalServerError && e.r.Context().Err() != nil {
		return // The client went away.
	}
	if body, err := e.encode(status); err == nil {
		_ = e.frame(string(watch.Error), body)
	}
}
