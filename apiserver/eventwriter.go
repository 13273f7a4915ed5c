package apiserver

import (
	"bufio"
	"bytes"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// eventWriter writes events as frames of one format. What comes at once goes at once: a frame is held until the next is there
// or none waits, and those that follow each other are put together.
type eventWriter struct {
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	server  *Server
	shelf   *shelf
	format  format
	single  bool        // Whether each frame is a message of its own.
	rows    bool        // Whether a table with its column definitions was sent.
	stuck   *time.Timer // Runs while frames are written, and ends the stream.

	held   []byte        // The newest frame, which is not written yet.
	joined *bufio.Writer // Those before it that wait for it; nil if there are none.

	mu   sync.Mutex
	over bool // The handler returns: w must not be used any more.
}

func (e *eventWriter) start() {
	e.control = http.NewResponseController(e.w)
	// A deadline for each frame would go twice through the connection's own loop in HTTP/2.
	e.stuck = time.AfterFunc(e.server.limits.frame, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.over {
			_ = e.control.SetWriteDeadline(time.Now())
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
	_ = e.control.Flush()
}

// end must be called before the handler returns.
func (e *eventWriter) end() {
	e.stuck.Stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
}

func (e *eventWriter) emit(ev event, initialEnd bool) error {
	frame, err := e.frame(ev, initialEnd)
	if err != nil {
		return err
	}
	return e.write(frame)
}

// write writes the frame before this one, and holds this one.
func (e *eventWriter) write(frame []byte) error {
	if e.single {
		if err := e.flush(); err != nil {
			return err
		}
	}
	if e.held != nil {
		if e.joined == nil {
			e.joined = bufio.NewWriterSize(e.w, gathered)
		}
		e.stuck.Reset(e.server.limits.frame)
		if _, err := e.joined.Write(e.held); err != nil {
			return err
		}
	}
	e.held = frame
	return nil
}

// flush sends all frames.
func (e *eventWriter) flush() error {
	if e.held == nil {
		return nil
	}
	e.stuck.Reset(e.server.limits.frame)
	defer e.stuck.Stop()
	held, joined := e.held, e.joined
	e.held, e.joined = nil, nil
	var err error
	if joined == nil {
		_, err = e.w.Write(held)
	} else {
		_, _ = joined.Write(held) // It remembers what goes wrong.
		err = joined.Flush()
	}
	_ = e.control.Flush()
	return err
}

// frame is an event as it reads on the wire.
func (e *eventWriter) frame(ev event, initialEnd bool) ([]byte, error) {
	it := ev.item
	if it == nil {
		it = &item{rev: ev.rev, obj: bookmarkObject(e.shelf.resource, ev.rev, initialEnd)}
	}
	media := e.format.media
	switch e.format.as {
	case "Table":
		t, err := newTable(e.shelf.resource, e.r, e.format, []*item{it}, !e.rows)
		if err != nil {
			return nil, err
		}
		e.rows = true
		t.ResourceVersion = it.meta().GetResourceVersion()
		return encodedFrame(media, ev.kind, t)
	case "PartialObjectMetadata":
		return encodedFrame(media, ev.kind, partial(e.format, it.shown(e.shelf.resource)))
	}
	return it.shown(e.shelf.resource).frame(media, ev.kind)
}

func encodedFrame(media string, kind watch.EventType, obj runtime.Object) ([]byte, error) {
	var buf bytes.Buffer
	if err := encode(&buf, media, false, obj); err != nil {
		return nil, err
	}
	return newFrame(media, kind, bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

// fail tells the client, in the stream, why it ends.
func (e *eventWriter) fail(err error) {
	status := statusOf(err)
	if status.Code == http.StatusInternalServerError && e.r.Context().Err() != nil {
		return // The client went away.
	}
	if frame, err := encodedFrame(e.format.media, watch.Error, status); err == nil && e.write(frame) == nil {
		_ = e.flush()
	}
}
