package clients

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

// testTyped leads an object through its life with a typed client, and looks at what goes over the wire.
func testTyped(t *testing.T, s *server) {
	space := s.space(t)
	config := s.config(t)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	answers := &recorder{}
	config.Wrap(answers.wrap)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps(space)

	made, err := maps.Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "pier-", Labels: map[string]string{"side": "port"}},
		Data:       map[string]string{"boats": "1"}, BinaryData: map[string][]byte{"raw": {0, 255}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: made.ResourceVersion, LabelSelector: "side=port"})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()

	stale := made.DeepCopy()
	made.Data["boats"] = "2"
	if made, err = maps.Update(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Update(t.Context(), stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("the update of an old version ends with %v, want a conflict", err)
	}
	patched, err := maps.Patch(t.Context(), made.Name, types.StrategicMergePatchType, []byte(`{"data":{"boats":"3"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := maps.Get(t.Context(), made.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.ResourceVersion != patched.ResourceVersion || got.Data["boats"] != "3" || string(got.BinaryData["raw"]) != "\x00\xff" {
		t.Errorf("read %v after %v was written", got, patched)
	}
	if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "side=port"}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(t.Context(), made.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after its deletion the object is answered with %v, want not found", err)
	}
	for _, want := range []string{"MODIFIED 2", "MODIFIED 3", "DELETED 3"} {
		event := next(t, watcher)
		seen, ok := event.Object.(*corev1.ConfigMap)
		if !ok || fmt.Sprint(event.Type, " ", seen.Data["boats"]) != want {
			t.Errorf("the watch tells %v, want %s", event, want)
		}
	}
	answers.all(t, "application/vnd.kubernetes.protobuf")
}

// recorder notes the media type of each answer.
type recorder struct {
	mu    sync.Mutex
	types []string
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (a *recorder) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(r)
		if err == nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.types = append(a.types, answer.Header.Get("Content-Type"))
		}
		return answer, err
	})
}

// all fails the test unless there were answers and each was of the media type.
func (a *recorder) all(t *testing.T, media string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, got := range a.types {
		if !strings.HasPrefix(got, media) {
			t.Errorf("an answer came as %s, want %s", got, media)
		}
	}
	if len(a.types) == 0 {
		t.Error("there was no answer")
	}
}

// testContention lets 20 writers count in one object.
func testContention(t *testing.T, s *server) {
	const writers, each = 20, 5
	space := s.space(t)
	maps := s.client(t).CoreV1().ConfigMaps(space)
	counter := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"count": ""}}
	if _, err := maps.Create(t.Context(), counter, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	backoff := wait.Backoff{Steps: writers * each * 10, Duration: time.Millisecond, Jitter: writers}
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range each {
				err := retry.RetryOnConflict(backoff, func() error {
					counter, err := maps.Get(t.Context(), "counter", metav1.GetOptions{})
					if err != nil {
						return err
					}
					counter.Data["count"] += "I"
					_, err = maps.Update(t.Context(), counter, metav1.UpdateOptions{})
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	got, err := maps.Get(t.Context(), "counter", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if count := len(got.Data["count"]); count != writers*each {
		t.Errorf("%d updates are in the object, want %d", count, writers*each)
	}
}

// testApply lets two managers want the same field.
func testApply(t *testing.T, s *server) {
	space := s.space(t)
	maps := s.client(t).CoreV1().ConfigMaps(space)
	want := func(data map[string]string) *applycorev1.ConfigMapApplyConfiguration {
		return applycorev1.ConfigMap("course", space).WithData(data)
	}
	if _, err := maps.Apply(t.Context(), want(map[string]string{"heading": "north", "speed": "5"}), metav1.ApplyOptions{FieldManager: "helm"}); err != nil {
		t.Fatal(err)
	}
	mate := want(map[string]string{"heading": "south", "depth": "9"})
	_, err := maps.Apply(t.Context(), mate, metav1.ApplyOptions{FieldManager: "mate"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "helm": .data.heading`) {
		t.Fatalf("the second manager is told %v, want a conflict over .data.heading", err)
	}
	if status := err.(apierrors.APIStatus).Status(); status.Details == nil || len(status.Details.Causes) != 1 ||
		status.Details.Causes[0].Type != metav1.CauseTypeFieldManagerConflict || status.Details.Causes[0].Field != ".data.heading" {
		t.Errorf("the conflict's details are %v", status.Details)
	}
	forced, err := maps.Apply(t.Context(), mate, metav1.ApplyOptions{FieldManager: "mate", Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if forced.Data["heading"] != "south" || forced.Data["speed"] != "5" || forced.Data["depth"] != "9" {
		t.Errorf("after the forced apply the data is %v", forced.Data)
	}
	extracted, err := applycorev1.ExtractConfigMap(forced, "mate")
	if err != nil {
		t.Fatal(err)
	}
	if len(extracted.Data) != 2 || extracted.Data["heading"] != "south" {
		t.Errorf("the second manager owns %v, want heading and depth", extracted.Data)
	}
	left, err := maps.Apply(t.Context(), want(map[string]string{"depth": "9"}), metav1.ApplyOptions{FieldManager: "mate"})
	if err != nil {
		t.Fatal(err)
	}
	if _, still := left.Data["heading"]; still || left.Data["speed"] != "5" {
		t.Errorf("after its only owner let go of heading the data is %v", left.Data)
	}
}

// json is the same server for clients of objects that have no protobuf.
func (s *server) json(t *testing.T) *rest.Config {
	t.Helper()
	config := s.config(t)
	config.ContentType = "application/json"
	return config
}
