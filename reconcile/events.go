package reconcile

import (
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
	return &Events{
		broadcaster: record.NewBroadcaster(),
		sink:        &sink{api: &typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")}},
	}
}

// Recorder returns what takes the Events of one component; its name becomes their source.
func (e *Events) Recorder(component string) record.EventRecorder {
	return e.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// Start begins to write; what was told before is lost.
func (e *Events) Start() { e.broadcaster.StartRecordingToSink(e.sink) }

// Stop ends the writing. A request under way is waited for, and none is made afterwards: what is told so late is lost.
func (e *Events) Stop() {
	e.sink.mu.Lock()
	e.sink.stopped = true
	e.sink.mu.Unlock()
	e.broadcaster.Shutdown()
}

// sink is a record.EventSink that can be shut for good.
type sink struct {
	api     record.EventSink
	mu      sync.Mutex // Held during a request; there is only one at a time.
	stopped bool
}

func (s *sink) write(event *corev1.Event, do func() (*corev1.Event, error)) (*corev1.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return event, nil
	}
	return do()
}

func (s *sink) Create(event *corev1.Event) (*corev1.Event, error) {
	return s.write(event, func() (*corev1.Event, error) { return s.api.Create(event) })
}

func (s *sink) Update(event *corev1.Event) (*corev1.Event, error) {
	return s.write(event, func() (*corev1.Event, error) { return s.api.Update(event) })
}

func (s *sink) Patch(event *corev1.Event, patch []byte) (*corev1.Event, error) {
	return s.write(event, func() (*corev1.Event, error) { return s.api.Patch(event, patch) })
}
