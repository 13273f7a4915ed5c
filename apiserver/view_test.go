package apiserver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	autoscalersV1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
	autoscalersV2 = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
	newEvents     = "/apis/events.k8s.io/v1/namespaces/default/events"
	oldEvents     = "/api/v1/namespaces/default/events"
)

func autoscalerJSON(name string) string {
	return `{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v1","metadata":{"name":"` + name + `"},
		"spec":{"maxReplicas":3,"targetCPUUtilizationPercentage":70,"scaleTargetRef":{"kind":"Deployment","name":"web","apiVersion":"apps/v1"}}}`
}

func newEventJSON(name string) string {
	return `{"kind":"Event","apiVersion":"events.k8s.io/v1","metadata":{"name":"` + name + `"},"eventTime":"2026-01-02T03:04:05.000006Z",
		"reportingController":"example.com/c","reportingInstance":"i","action":"A","reason":"R","type":"Normal","note":"said",
		"regarding":{"kind":"Pod","namespace":"default","name":"p"}}`
}

// An object that was made through either version is one object, seen through both.
func TestViewIsTheSameObject(t *testing.T) {
	s := start(t)
	v1 := parse[autoscalingv1.HorizontalPodAutoscaler](t, s.do(t, "POST", autoscalersV1, autoscalerJSON("a")).want(t, 201))
	if v1.APIVersion != "autoscaling/v1" || *v1.Spec.TargetCPUUtilizationPercentage != 70 || *v1.Spec.MinReplicas != 1 {
		t.Errorf("created: %+v", v1)
	}
	v2 := parse[autoscalingv2.HorizontalPodAutoscaler](t, s.do(t, "GET", autoscalersV2+"/a", "").want(t, 200))
	if v2.UID != v1.UID || v2.ResourceVersion != v1.ResourceVersion || *v2.Spec.Metrics[0].Resource.Target.AverageUtilization != 70 {
		t.Errorf("seen through v2: %+v", v2)
	}
	s.do(t, "POST", autoscalersV2, autoscalerJSON("b")).refused(t, 400, metav1.StatusReasonBadRequest)

	s.do(t, "PATCH", autoscalersV2+"/a", `{"spec":{"behavior":{"scaleDown":{"selectPolicy":"Disabled"}}}}`, "Content-Type", string(types.MergePatchType)).want(t, 200)
	v1 = parse[autoscalingv1.HorizontalPodAutoscaler](t, s.do(t, "GET", autoscalersV1+"/a", "").want(t, 200))
	if !strings.Contains(v1.Annotations["autoscaling.alpha.kubernetes.io/behavior"], `"SelectPolicy":"Disabled"`) || v1.Generation != 2 {
		t.Errorf("v1 after a change through v2: %+v", v1.ObjectMeta)
	}
}

// A patch applies to the form that it was sent to, and what that form does not show is kept.
func TestPatchOfAView(t *testing.T) {
	s := start(t)
	s.do(t, "POST", autoscalersV1, autoscalerJSON("a")).want(t, 201)
	s.do(t, "PATCH", autoscalersV2+"/a/status", `{"status":{"currentReplicas":2,"desiredReplicas":2,"conditions":[{"type":"AbleToScale","status":"True"}]}}`,
		"Content-Type", string(types.MergePatchType)).want(t, 200)
	for kind, body := range map[types.PatchType]string{
		types.JSONPatchType:           `[{"op":"replace","path":"/spec/targetCPUUtilizationPercentage","value":81}]`,
		types.MergePatchType:          `{"spec":{"targetCPUUtilizationPercentage":82}}`,
		types.StrategicMergePatchType: `{"spec":{"targetCPUUtilizationPercentage":83}}`,
	} {
		v1 := parse[autoscalingv1.HorizontalPodAutoscaler](t, s.do(t, "PATCH", autoscalersV1+"/a", body, "Content-Type", string(kind)).want(t, 200))
		if want := fmt.Sprint(*v1.Spec.TargetCPUUtilizationPercentage); !strings.Contains(body, want) {
			t.Errorf("%s: the target is %s", kind, want)
		}
	}
	// A replacement by someone who knows nothing of the newer fields leaves the status alone.
	s.do(t, "PUT", autoscalersV1+"/a", autoscalerJSON("a")).want(t, 200)
	v2 := parse[autoscalingv2.HorizontalPodAutoscaler](t, s.do(t, "GET", autoscalersV2+"/a", "").want(t, 200))
	if len(v2.Status.Conditions) != 1 || v2.Status.CurrentReplicas != 2 || *v2.Spec.Metrics[0].Resource.Target.AverageUtilization != 70 {
		t.Errorf("status %+v, metrics %+v", v2.Status, v2.Spec.Metrics)
	}
	s.do(t, "PATCH", autoscalersV1+"/a/status", `{"status":{"currentReplicas":3,"desiredReplicas":3}}`, "Content-Type", string(types.MergePatchType)).want(t, 200)
	v2 = parse[autoscalingv2.HorizontalPodAutoscaler](t, s.do(t, "GET", autoscalersV2+"/a", "").want(t, 200))
	if len(v2.Status.Conditions) != 1 || v2.Status.CurrentReplicas != 3 {
		t.Errorf("after the status was patched through v1: %+v", v2.Status)
	}
	// What is wrong is said in the words of the stored form, as in Kubernetes.
	s.do(t, "PATCH", autoscalersV1+"/a", `{"spec":{"targetCPUUtilizationPercentage":0}}`, "Content-Type", string(types.MergePatchType)).
		refused(t, 422, metav1.StatusReasonInvalid, "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0")
}

// Lists, tables, metadata and protobuf come in the view's form.
func TestReadsOfAView(t *testing.T) {
	s := start(t)
	s.do(t, "POST", autoscalersV2, `{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v2","metadata":{"name":"a"},"spec":{"maxReplicas":3,
		"scaleTargetRef":{"kind":"Deployment","name":"web","apiVersion":"apps/v1"},"behavior":{"scaleDown":{"selectPolicy":"Disabled"}}}}`).want(t, 201)
	const behavior = "autoscaling.alpha.kubernetes.io/behavior"
	list := parse[autoscalingv1.HorizontalPodAutoscalerList](t, s.do(t, "GET", autoscalersV1, "").want(t, 200))
	if list.Kind != "HorizontalPodAutoscalerList" || list.APIVersion != "autoscaling/v1" || *list.Items[0].Spec.TargetCPUUtilizationPercentage != 80 {
		t.Errorf("list: %+v", list)
	}
	meta := parse[metav1.PartialObjectMetadataList](t, s.do(t, "GET", autoscalersV1, "", "Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").want(t, 200))
	if meta.Items[0].Annotations[behavior] == "" {
		t.Errorf("the metadata lacks the view's annotation: %v", meta.Items[0].Annotations)
	}
	for _, path := range []string{autoscalersV1, autoscalersV1 + "/a"} {
		table := parse[metav1.Table](t, s.do(t, "GET", path+"?includeObject=Object", "", "Accept", acceptTable).want(t, 200))
		if len(table.ColumnDefinitions) != 7 || table.Rows[0].Cells[2] != "cpu: <unknown>/80%" || !strings.Contains(string(table.Rows[0].Object.Raw), `"autoscaling/v1"`) {
			t.Errorf("%s: table %+v", path, table)
		}
	}
	for _, media := range []string{typeJSON, typeProto} {
		c := s.client(t, administrator, media).AutoscalingV1().HorizontalPodAutoscalers("default")
		one, err := c.Get(context.Background(), "a", metav1.GetOptions{})
		if err != nil || *one.Spec.TargetCPUUtilizationPercentage != 80 {
			t.Errorf("%s: %+v, error %v", media, one, err)
		}
		all, err := c.List(context.Background(), metav1.ListOptions{})
		if err != nil || len(all.Items) != 1 || all.Items[0].Annotations[behavior] == "" {
			t.Errorf("%s: %+v, error %v", media, all, err)
		}
	}
	if got := s.do(t, "GET", autoscalersV1+"/a", "", "Accept", typeYAML).want(t, 200); !strings.Contains(string(got.body), "apiVersion: autoscaling/v1\n") {
		t.Errorf("YAML: %s", got.body)
	}
}

// Who watches one form sees what was written through the other.
func TestWatchOfAView(t *testing.T) {
	s := start(t)
	for _, media := range []string{typeJSON, typeProto} {
		t.Run(media, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			c := s.client(t, administrator, media)
			w, err := c.EventsV1().Events("default").Watch(ctx, metav1.ListOptions{FieldSelector: "regarding.name=p,reportingController=example.com/c"})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			s.do(t, "POST", oldEvents, `{"kind":"Event","apiVersion":"v1","metadata":{"name":"other"},"involvedObject":{"namespace":"default","name":"q"}}`).want(t, 201)
			s.do(t, "POST", newEvents, newEventJSON("e")).want(t, 201)
			s.do(t, "PATCH", oldEvents+"/e", `{"message":"more"}`, "Content-Type", string(types.MergePatchType)).want(t, 200)
			s.do(t, "DELETE", oldEvents+"/e", "").want(t, 200)
			s.do(t, "DELETE", oldEvents+"/other", "").want(t, 200)
			for _, want := range []struct {
				kind watch.EventType
				note string
			}{{watch.Added, "said"}, {watch.Modified, "more"}, {watch.Deleted, "more"}} {
				ev, ok := <-w.ResultChan()
				if !ok {
					t.Fatalf("the watch ended before %s", want.kind)
				}
				e, isEvent := ev.Object.(*eventsv1.Event)
				if ev.Type != want.kind || !isEvent || e.Note != want.note || e.Name != "e" {
					t.Errorf("got %s %+v, want %v", ev.Type, ev.Object, want)
				}
			}
		})
	}
}

// Events of both groups are one store, with the strictness and the field selectors of each.
func TestEventsOfBothGroups(t *testing.T) {
	s := start(t)
	made := parse[eventsv1.Event](t, s.do(t, "POST", newEvents, newEventJSON("new")).want(t, 201))
	s.do(t, "POST", oldEvents, `{"kind":"Event","apiVersion":"v1","metadata":{"name":"old"},"involvedObject":{"kind":"Pod","namespace":"default","name":"p"},
		"message":"old news","source":{"component":"c","host":"h"},"count":3,"firstTimestamp":"2026-01-02T03:04:05Z","lastTimestamp":"2026-01-02T03:04:06Z"}`).want(t, 201)
	seen := parse[corev1.Event](t, s.do(t, "GET", oldEvents+"/new", "").want(t, 200))
	if seen.UID != made.UID || seen.Message != "said" || seen.InvolvedObject.Name != "p" || seen.ReportingController != "example.com/c" {
		t.Errorf("the new event seen through v1: %+v", seen)
	}
	old := parse[eventsv1.Event](t, s.do(t, "GET", newEvents+"/old", "").want(t, 200))
	if old.Note != "old news" || old.DeprecatedCount != 3 || old.DeprecatedSource.Host != "h" || old.DeprecatedLastTimestamp.Sub(old.DeprecatedFirstTimestamp.Time) != time.Second {
		t.Errorf("the old event seen through events.k8s.io: %+v", old)
	}
	for path, want := range map[string]int{
		newEvents + "?fieldSelector=regarding.name%3Dp": 2, newEvents + "?fieldSelector=reportingController%3Dexample.com/c": 1,
		oldEvents + "?fieldSelector=involvedObject.name%3Dp": 2, oldEvents + "?fieldSelector=source%3Dc": 1, oldEvents + "?fieldSelector=reportingComponent%3Dexample.com/c": 1,
		"/apis/events.k8s.io/v1/events?limit=1": 1,
	} {
		if got := parse[eventsv1.EventList](t, s.do(t, "GET", path, "").want(t, 200)); len(got.Items) != want {
			t.Errorf("%s: %d events, want %d", path, len(got.Items), want)
		}
	}
	s.do(t, "GET", newEvents+"?fieldSelector=involvedObject.name%3Dp", "").refused(t, 400, metav1.StatusReasonBadRequest, "field label not supported: involvedObject.name")
	s.do(t, "GET", oldEvents+"?fieldSelector=regarding.name%3Dp", "").refused(t, 400, metav1.StatusReasonBadRequest, "field label not supported: regarding.name")

	s.do(t, "POST", newEvents, strings.Replace(newEventJSON("x"), `"eventTime":"2026-01-02T03:04:05.000006Z",`, "", 1)).
		refused(t, 422, metav1.StatusReasonInvalid, "eventTime: Required value")
	s.do(t, "PATCH", newEvents+"/new", `{"note":"changed"}`, "Content-Type", string(types.MergePatchType)).
		refused(t, 422, metav1.StatusReasonInvalid, `message: Invalid value: "changed": field is immutable`)
	s.do(t, "PATCH", newEvents+"/new", `{"series":{"count":2,"lastObservedTime":"2026-01-02T03:04:06.000000Z"}}`, "Content-Type", string(types.StrategicMergePatchType)).want(t, 200)

	s.do(t, "DELETE", newEvents+"?fieldSelector=regarding.name%3Dp", "").want(t, 200)
	if left := parse[corev1.EventList](t, s.do(t, "GET", oldEvents, "").want(t, 200)); len(left.Items) != 0 {
		t.Errorf("%d events are left", len(left.Items))
	}
}

// Pages of a view go on where they were.
func TestPagesOfAView(t *testing.T) {
	s := start(t)
	for i := range 5 {
		s.do(t, "POST", autoscalersV1, autoscalerJSON(fmt.Sprintf("a%d", i))).want(t, 201)
	}
	var names []string
	for next := ""; ; {
		p := parse[autoscalingv1.HorizontalPodAutoscalerList](t, s.do(t, "GET", autoscalersV1+"?limit=2&continue="+next, "").want(t, 200))
		for _, a := range p.Items {
			names = append(names, a.Name)
		}
		if next = p.Continue; next == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "a0 a1 a2 a3 a4" {
		t.Errorf("pages: %s", got)
	}
}
