package apiserver

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// watchOptions say where a watch begins and when it ends.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
type watchOptions struct {
	rev       uint64 // Events after this revision; 0: after now.
	state     bool   // First the objects of now, as additions.
	marked    bool   // Then a bookmark that says that this was all.
	bookmarks bool   // One a minute, and one before the end.
	timeout   time.Duration
}

// Kubernetes' own. Who begins anew after the end of a watch does so at the last revision that it was told: the bookmark before the
// end spares it the events that were for others.
const (
	bookmarkEvery     = time.Minute
	bookmarkBeforeEnd = 2 * time.Second
)

func newWatchOptions(in *internalversion.ListOptions) (watchOptions, error) {
	rev, err := parseRevision(in.ResourceVersion)
	if err != nil {
		return watchOptions{}, unclassified(err)
	}
	if rev == 0 && in.Continue != "" { // Such a watch begins as a list does.
		return watchOptions{}, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", field.ErrorList{
			field.Forbidden(field.NewPath("resourceVersionMatch"), "resourceVersionMatch is forbidden when continue is provided"),
		})
	}
	o := watchOptions{rev: rev, bookmarks: in.AllowWatchBookmarks}
	o.state = ptrOr(in.SendInitialEvents, rev == 0)
	o.marked = o.state && o.bookmarks
	o.timeout = seconds(ptrOr(in.TimeoutSeconds, 0))
	if o.timeout == 0 { // As Kubernetes does: spread, so that clients do not all come back at once.
		o.timeout = 30*time.Minute + rand.N(30*time.Minute)
	}
	return o, nil
}

// sink is where the events of a watch go.
type sink interface {
	// emit takes the next. The end of the objects that there were at the beginning is a bookmark of its own.
	emit(ev event, initialEnd bool) error
	// flush is called when no other event waits: what was taken must be on its way then.
	flush() error
}

// sinkFunc is a sink that holds nothing back.
type sinkFunc func(ev event, initialEnd bool) error

func (f sinkFunc) emit(ev event, initialEnd bool) error { return f(ev, initialEnd) }
func (f sinkFunc) flush() error                         { return nil }

// stream sends the events of a selection to out until ctx ends, the time is over, out fails or the watcher is cut off.
// An error is one that the client is to be told of.
func (s *Server) stream(ctx context.Context, sh *shelf, sel selection, o watchOptions, out sink) error {
	if o.timeout < 0 { // Over before it began.
		return tooLate()
	}
	if err := s.reach(ctx, o.rev); err != nil {
		return err
	}
	w, past, err := s.begin(sh, sel, o, out)
	if w != nil {
		defer sh.unregister(w)
	}
	if err != nil {
		return err
	}
	for _, ev := range past {
		if err := sendView(sel, ev, out); err != nil {
			return err
		}
	}
	return s.follow(ctx, sh, sel, o, w, out)
}

// follow sends what comes to a watcher.
func (s *Server) follow(ctx context.Context, sh *shelf, sel selection, o watchOptions, w *watcher, out sink) error {
	end := time.NewTimer(o.timeout)
	defer end.Stop()
	var bookmark, last <-chan time.Time
	if o.bookmarks {
		ticker := time.NewTicker(bookmarkEvery)
		defer ticker.Stop()
		bookmark = ticker.C
	}
	if before := o.timeout - bookmarkBeforeEnd; o.bookmarks && before > 0 {
		timer := time.NewTimer(before)
		defer timer.Stop()
		last = timer.C
	}
	for {
		if len(w.events) == 0 {
			if err := out.flush(); err != nil {
				return err
			}
		}
		select {
		case ev, ok := <-w.events:
			if !ok {
				return out.flush()
			}
			if err := sendView(sel, ev, out); err != nil {
				return err
			}
		case <-bookmark:
			sh.bookmark(s.cache, w)
		case <-last:
			sh.bookmark(s.cache, w)
		case <-end.C:
			return out.flush()
		case <-ctx.Done():
			return nil
		}
	}
}

func sendView(sel selection, ev event, out sink) error {
	if ev, ok := sel.view(ev); ok {
		return out.emit(ev, false)
	}
	return nil
}

// begin registers a watcher, emits the objects of now if they are wanted, and returns the events that came before.
func (s *Server) begin(sh *shelf, sel selection, o watchOptions, out sink) (*watcher, []event, error) {
	if o.rev > 0 && !o.state {
		return sh.watchFrom(o.rev)
	}
	w, now := sh.watchNow(s.cache)
	if !o.state {
		return w, nil, nil
	}
	for _, it := range now.items(sel) {
		if err := out.emit(event{kind: watch.Added, rev: it.rev, item: it}, false); err != nil {
			return w, nil, err
		}
	}
	if !o.marked {
		return w, nil, nil
	}
	return w, nil, out.emit(event{kind: watch.Bookmark, rev: now.to}, true)
}

// tooLate is the last event of a watch that has no time at all.
func tooLate() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError,
		Message: context.DeadlineExceeded.Error(),
	}}
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
		return notAcceptable(typeJSON+";stream=watch", typeProto+";stream=watch") // YAML documents have no frames.
	}
	socket := wsstream.IsWebSocketRequest(r)
	run := func(w http.ResponseWriter, r *http.Request) {
		out := &eventWriter{w: w, r: r, server: s, shelf: sh, format: f, single: socket}
		out.start()
		defer out.end()
		if err := s.stream(r.Context(), sh, sel, o, out); err != nil {
			out.fail(err)
		}
	}
	if socket {
		watchSocket(w, r, run)
	} else {
		run(w, r)
	}
	return nil
}
