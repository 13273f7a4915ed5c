package apiserver

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/watch"
)

// However many watch, the bytes of an event are made once, and those of its object are a part of them.
func TestEventsAreEncodedOnce(t *testing.T) {
	s := start(t)
	s.createPod(t, "p")
	stored := s.shelf("pods").get("default/p")
	for _, media := range []string{typeJSON, typeProto} {
		it := &item{key: stored.key, rev: stored.rev, obj: stored.obj}
		frame := func(kind watch.EventType) []byte {
			t.Helper()
			b, err := it.frame(media, kind)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		alone, err := it.encoded(media)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []watch.EventType{watch.Added, watch.Modified} {
			want, err := newFrame(media, kind, alone)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, frame(kind)); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", media, kind, diff)
			}
			if once, again := frame(kind), frame(kind); &once[0] != &again[0] {
				t.Errorf("%s, %s: two watchers get two copies", media, kind)
			}
			if got, err := it.encoded(media); err != nil || !bytes.Equal(got, alone) {
				t.Errorf("%s, after %s: the object alone is %q, %v; want %q", media, kind, got, err, alone)
			}
		}
		if body := map[string]func() ([]byte, error){typeJSON: it.jsonBytes, typeProto: it.protoBytes}[media]; !isPart(body, frame(watch.Modified)) {
			t.Errorf("%s: the object's bytes are there twice", media)
		}
	}
}

// isPart tells whether the bytes are a part of the frame's own.
func isPart(of func() ([]byte, error), frame []byte) bool {
	body, err := of()
	if err != nil {
		return false
	}
	for i := range frame {
		if &frame[i] == &body[0] {
			return true
		}
	}
	return false
}

// writes notes each write of an answer.
type writes struct {
	*httptest.ResponseRecorder
	all []string
}

func (w *writes) Write(b []byte) (int, error) {
	w.all = append(w.all, string(b))
	return len(b), nil
}

// Events that wait for each other are written together, where each is not a message of its own, and none is held when no other
// waits.
func TestEventsThatFollowEachOtherGoTogether(t *testing.T) {
	s := start(t)
	for _, single := range []bool{false, true} {
		to := &writes{ResponseRecorder: httptest.NewRecorder()}
		w := &eventWriter{w: to, r: httptest.NewRequest(http.MethodGet, configMapsPath+"?watch=1", nil), server: s.Server, shelf: s.shelf("configmaps"), format: format{media: typeJSON}, single: single}
		w.start()
		var lines []string
		for rev := range uint64(3) {
			if err := w.emit(event{kind: watch.Bookmark, rev: rev + 1}, false); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, fmt.Sprintf(`{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"%d"}}}`+"\n", rev+1))
		}
		if err := w.flush(); err != nil {
			t.Fatal(err)
		}
		want := lines
		if !single {
			want = []string{lines[0] + lines[1] + lines[2]}
		}
		if diff := cmp.Diff(want, to.all); diff != "" {
			t.Errorf("single %v (-want +got):\n%s", single, diff)
		}
		w.end()
	}
}
