package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"

	"skiff/api"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	informer "k8s.io/client-go/tools/cache"
)

// Components that live in the server's own process are clients like any other, only that their requests need no socket:
// Transport calls the handler, and ListerWatcher feeds informers with the very objects that the server holds.

// Transport is an http.RoundTripper that makes each request as the given user, in memory.
func (s *Server) Transport(u User) http.RoundTripper { return memoryTransport{s.handler, u} }

type memoryTransport struct {
	handler http.Handler
	user    User
}

func (t memoryTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(withUser(req.Context(), t.user))
	in := req.Clone(ctx)
	in.RequestURI = req.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	w := &memoryResponse{header: http.Header{}, body: writer, started: make(chan struct{})}
	go func() { // Ends with the request; closing the response's body cancels it.
		defer cancel()
		err := serveRecovering(t.handler, w, in)
		w.WriteHeader(http.StatusOK)
		_ = writer.CloseWithError(err)
		_ = in.Body.Close()
	}()
	select {
	case <-w.started:
	case <-req.Context().Done():
		cancel()
		_ = reader.CloseWithError(req.Context().Err())
		return nil, req.Context().Err()
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.code, http.StatusText(w.code)), StatusCode: w.code,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &memoryBody{reader, cancel}, ContentLength: -1, Request: req,
	}, nil
}

// serveRecovering does what net/http does for a handler that breaks off its response: the client sees it end too early.
func serveRecovering(h http.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the server broke off its answer: %v", v)
		}
	}()
	h.ServeHTTP(w, r)
	return nil
}

// memoryResponse is the handler's side of a response.
type memoryResponse struct {
	header  http.Header
	body    *io.PipeWriter
	once    sync.Once
	started chan struct{} // Closed when code and sent are set.
	code    int
	sent    http.Header
}

func (w *memoryResponse) Header() http.Header { return w.header }

func (w *memoryResponse) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.started)
	})
}

func (w *memoryResponse) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// Flush is here because streams ask for it; a pipe holds nothing back.
func (w *memoryResponse) Flush() { w.WriteHeader(http.StatusOK) }

type memoryBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *memoryBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// ListerWatcher lists and watches obj's kind for informers in this process. What it gives is shared with the server and
// must not be changed. It panics for a kind that is not in the table.
func (s *Server) ListerWatcher(obj runtime.Object) informer.ListerWatcher {
	kinds, _, err := api.Scheme.ObjectKinds(obj)
	if err != nil {
		panic(err)
	}
	for _, sh := range s.cache.resources {
		if sh.resource.GroupVersionKind() == kinds[0] {
			return &localLister{server: s, shelf: sh}
		}
	}
	panic(fmt.Sprintf("no %s in the table", kinds[0]))
}

// forever is the length of a watch that only its client ends.
const forever = math.MaxInt64

type localLister struct {
	server *Server
	shelf  *shelf
}

// options reads what an informer asks for. All informers of a process share what they list, so they have no selectors.
func (l *localLister) options(in metav1.ListOptions) (*internalversion.ListOptions, error) {
	if in.LabelSelector != "" || in.FieldSelector != "" {
		return nil, errors.New("an informer in the server's process is for all objects of its kind: select in the handler")
	}
	o := &internalversion.ListOptions{}
	return o, internalversion.Convert_v1_ListOptions_To_internalversion_ListOptions(&in, o, nil)
}

func (l *localLister) List(in metav1.ListOptions) (runtime.Object, error) {
	if _, err := l.options(in); err != nil {
		return nil, err
	}
	p := l.shelf.state(l.server.cache).page(selectAll(l.shelf.resource), "", 0)
	list := &sharedList{ListMeta: p.meta(), Items: make([]runtime.Object, 0, len(p.items))}
	for _, it := range p.items {
		list.Items = append(list.Items, it.obj)
	}
	return list, nil
}

func (l *localLister) Watch(in metav1.ListOptions) (watch.Interface, error) {
	o, err := l.options(in)
	if err != nil {
		return nil, err
	}
	opts, err := newWatchOptions(o)
	if err != nil {
		return nil, err
	}
	opts.timeout = forever
	ctx, cancel := context.WithCancel(context.Background())
	w := &localWatch{events: make(chan watch.Event, watchBacklog), cancel: cancel}
	go func() { // Ends with Stop, which informers always call.
		defer close(w.events)
		err := recovered("watch "+l.shelf.resource.Name, func() error {
			return l.server.stream(ctx, l.shelf, selectAll(l.shelf.resource), opts, sinkFunc(func(ev event, initialEnd bool) error {
				return w.send(ctx, l.shelf, ev, initialEnd)
			}))
		})
		if err != nil && ctx.Err() == nil {
			w.put(ctx, watch.Event{Type: watch.Error, Object: statusOf(err)})
		}
	}()
	return w, nil
}

type localWatch struct {
	events chan watch.Event
	cancel context.CancelFunc
}

func (w *localWatch) Stop()                          { w.cancel() }
func (w *localWatch) ResultChan() <-chan watch.Event { return w.events }

func (w *localWatch) send(ctx context.Context, sh *shelf, ev event, initialEnd bool) error {
	if ev.item == nil {
		return w.put(ctx, watch.Event{Type: ev.kind, Object: bookmarkObject(sh.resource, ev.rev, initialEnd)})
	}
	return w.put(ctx, watch.Event{Type: ev.kind, Object: ev.item.obj})
}

func (w *localWatch) put(ctx context.Context, ev watch.Event) error {
	select {
	case w.events <- ev:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sharedList is a list whose items are the server's own objects, so that listing copies nothing.
type sharedList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject makes sharedList a runtime.Object. The items stay shared: nobody may change them.
func (l *sharedList) DeepCopyObject() runtime.Object {
	out := *l
	out.Items = append([]runtime.Object(nil), l.Items...)
	return &out
}
