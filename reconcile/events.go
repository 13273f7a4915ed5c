package reconcile

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// Events writes what a component has to tell the user to the API, as Event objects: in the background, equal ones counted
// together, and no more about one object than a person would read. Build it with [NewEvents].
type Events struct {
	broadcaster record.EventBroadcaster
	sink        *sink
}

// NewEvents makes an Events that writes with the given client.
func NewEvents(client kubernetes.Interface) *Events {
	ctx, stop := context.WithCancel(context.Background())
	return &Events{
		broadcaster: record.NewBroadcaster(),
		sink:        &sink{api: client.CoreV1().Events(""), ctx: ctx, stop: stop},
	}
}

// Recorder returns what takes the Events of one component; its name becomes their source.
func (e *Events) Recorder(component string) record.EventRecorder {
	return e.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// Start begins to write; what was told before is lost.
func (e *Events) Start() { e.broadcaster.StartRecordingToSink(e.sink) }

// Stop ends the writing. A request under way is broken off, and none is made afterwards: what is told so late is lost.
func (e *Events) Stop() {
	e.sink.stop()
	e.broadcaster.Shutdown()
	e.sink.mu.Lock() // Wait for the request that was broken off.
	defer e.sink.mu.Unlock()
}

// sink is a record.EventSink that can be shut for good.
type sink struct {
	api  typedcorev1.EventInterface
	ctx  context.Context // Ends with Stop; the interface has no place for it.
	stop context.CancelFunc
	mu   sync.Mutex // Held during a request; there is only one at a time.
}

func (s *sink) write(event *corev1.Event, do func() (*corev1.Event, error)) (*corev1.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return event, nil
	}
	return do()
}

func (s *sink) Create(event *corev1.Event) (*corev1.Event, error) {
	return s.write(event, func() (*corev1.Event, error) { return s.api.CreateWithEventNamespaceWithContext(s.ctx, event) })
}

func (s *sink) Update(event *corev1.Event) (*corev1.Event, error) {
	return s.write(event, func() (*corev1.Event, error) { return s.api.UpdateWithEventNamespaceWithContext(s.ctx, event) })
}

func (s *sink) Patch(event *corev1.Event, patch []byte) (*corev1.Event, error) {
	return s.write(event, func() (*corev1.Event, error) {
		return s.api.PatchWithEventNamespaceWithContext(s.ctx, event, patch)
	})
}
