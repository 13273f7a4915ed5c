package apiserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/google/btree"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// watchOptions are a watch request's parameters.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
type watchOptions struct {
	rev       uint64 // 0: begin with the state of now, as additions.
	bookmarks bool
	initial   bool // sendInitialEvents: the state of now as additions, ended by a marked bookmark.
	timeout   time.Duration
}

const bookmarkEvery = time.Minute

func parseWatch(query url.Values) (watchOptions, error) {
	var o watchOptions
	var err error
	if o.rev, err = parseRevision(query.Get("resourceVersion")); err != nil {
		return o, err
	}
	seconds, err := intParam(query, "timeoutSeconds")
	if err != nil {
		return o, err
	}
	o.timeout = time.Duration(seconds) * time.Second
	if seconds == 0 { // As Kubernetes does: spread, so that clients do not all come back at once.
		o.timeout = 30*time.Minute + rand.N(30*time.Minute)
	}
	o.bookmarks = query.Get("allowWatchBookmarks") == "true" || query.Get("allowWatchBookmarks") == "1"
	match := query.Get("resourceVersionMatch")
	switch query.Get("sendInitialEvents") {
	case "true", "1":
		if match != string(metav1.ResourceVersionMatchNotOlderThan) {
			return o, apierrors.NewBadRequest("sendInitialEvents: resourceVersionMatch=NotOlderThan is required with it")
		}
		if !o.bookmarks {
			return o, apierrors.NewBadRequest("sendInitialEvents: allowWatchBookmarks=true is required with it")
		}
		o.initial = true
	case "":
		if match != "" {
			return o, apierrors.NewBadRequest("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
		}
	}
	return o, nil
}

// stream sends the events of a selection to emit until ctx ends, the time is over, emit fails or the watcher is cut off.
// An error is one that the client is to be told of.
func (s *Server) stream(ctx context.Context, sh *shelf, sel selection, o watchOptions, emit func(event, bool) error) error {
	w, past, err := s.begin(sh, o, func(tree *btree.BTreeG[*item], rev uint64) error {
		for _, it := range s.slice(sh, tree, rev, sel, "", 0).items {
			if err := emit(event{kind: watch.Added, rev: it.rev, item: it}, false); err != nil {
				return err
			}
		}
		if o.initial {
			return emit(event{kind: watch.Bookmark, rev: rev}, true)
		}
		return nil
	})
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

// begin registers a watcher, and has told what was there before its first event.
func (s *Server) begin(sh *shelf, o watchOptions, state func(*btree.BTreeG[*item], uint64) error) (*watcher, []event, error) {
	if err := s.reach(context.Background(), o.rev); err != nil {
		return nil, nil, err
	}
	if o.rev > 0 && !o.initial {
		return sh.watchFrom(o.rev)
	}
	w, tree, rev := sh.watchNow(s.cache)
	return w, nil, state(tree, rev)
}

// serveWatch answers with a stream of events.
func (s *Server) serveWatch(w http.ResponseWriter, r *http.Request, sh *shelf, sel selection) error {
	f, err := negotiate(r, "Table", "PartialObjectMetadata")
	if err != nil {
		return err
	}
	o, err := parseWatch(r.URL.Query())
	if err != nil {
		return err
	}
	if err := s.reach(r.Context(), o.rev); err != nil {
		return err
	}
	if f.media == typeYAML {
		return notAcceptable(r.Header.Get("Accept")) // YAML documents have no frames.
	}
	out := &eventWriter{w: w, r: r, server: s, shelf: sh, format: f}
	out.start()
	if err := s.stream(r.Context(), sh, sel, o, out.emit); err != nil {
		out.fail(err)
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
	rows   bool // Whether a table with its column definitions was sent.
}

func (e *eventWriter) start() {
	media := e.format.media
	if media != typeJSON {
		media += ";stream=watch"
	}
	e.w.Header().Set("Content-Type", media)
	e.w.Header().Set("Cache-Control", "no-cache, private")
	e.w.WriteHeader(http.StatusOK)
	e.flush()
}

// How long a client may take to receive a frame before it counts as gone.
const frameTimeout = 30 * time.Second

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
		items := []*item{it}
		if ev.kind == watch.Bookmark {
			items = nil
		}
		t, err := newTable(e.shelf.resource, e.r, items, !e.rows)
		if err != nil {
			return nil, err
		}
		e.rows = true
		t.ResourceVersion = it.meta().GetResourceVersion()
		return e.encode(t)
	case "PartialObjectMetadata":
		return e.encode(partial(it))
	}
	return it.encoded(e.format.media)
}

func (e *eventWriter) encode(obj runtime.Object) ([]byte, error) {
	var buf bytes.Buffer
	err := encode(&buf, e.format.media, false, obj)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), err
}

// frame writes one event: a line of JSON, or a length and a protobuf message.
func (e *eventWriter) frame(kind string, body []byte) error {
	control := http.NewResponseController(e.w)
	_ = control.SetWriteDeadline(time.Now().Add(frameTimeout))
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }() // HTTP/2 ends a stream whose deadline passes while it is idle.
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
