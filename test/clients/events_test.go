package clients

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record"
)

// testEvents tells news by the recorders of both API groups, and reads each in the other.
func testEvents(t *testing.T, s *server) {
	space := s.space(t)
	client := s.client(t)
	ship, err := client.CoreV1().ConfigMaps(space).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "ship"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	defer broadcaster.Shutdown()
	if err := broadcaster.StartRecordingToSinkWithContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	lookout := broadcaster.NewRecorder(scheme.Scheme, "lookout")
	sight := func() { lookout.Eventf(ship, nil, corev1.EventTypeNormal, "Land", "Sighting", "land %s", "ahead") }
	sight()
	core := func() (*corev1.Event, error) {
		list, err := client.CoreV1().Events(space).List(t.Context(), metav1.ListOptions{
			FieldSelector: "involvedObject.name=ship,involvedObject.uid=" + string(ship.UID) + ",reason=Land,reportingComponent=lookout"})
		if err != nil {
			return nil, err
		}
		if len(list.Items) != 1 {
			return nil, fmt.Errorf("there are %d events of land, want 1", len(list.Items))
		}
		return &list.Items[0], nil
	}
	eventually(t, func() error { _, err := core(); return err })
	sight() // The same again makes a series of the one.
	eventually(t, func() error {
		event, err := core()
		if err == nil && (event.Series == nil || event.Series.Count != 2) {
			err = fmt.Errorf("the event's series is %v", event.Series)
		}
		return err
	})
	if event, err := core(); err != nil || event.Message != "land ahead" || event.Action != "Sighting" || event.ReportingController != "lookout" {
		t.Errorf("in the core group the event is %v (%v)", event, err)
	}

	old := record.NewBroadcaster(record.WithContext(t.Context()))
	defer old.Shutdown()
	old.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	cook := old.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "galley"})
	for range 3 {
		cook.Event(ship, corev1.EventTypeWarning, "Hungry", "no fish")
	}
	eventually(t, func() error {
		list, err := client.EventsV1().Events(space).List(t.Context(), metav1.ListOptions{FieldSelector: "regarding.name=ship,type=Warning"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 || !complains(list.Items[0]) {
			return fmt.Errorf("in events.k8s.io the warnings are %v", list.Items)
		}
		return nil
	})
}

func complains(e eventsv1.Event) bool {
	return e.Note == "no fish" && e.Reason == "Hungry" && e.DeprecatedCount == 3 && e.DeprecatedSource.Component == "galley"
}
