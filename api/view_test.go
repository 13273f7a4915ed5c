package api

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

func viewAs(t *testing.T, gvk schema.GroupVersionKind) *Resource {
	t.Helper()
	rows := Table()
	i := slices.IndexFunc(rows, func(r *Resource) bool { return r.GroupVersionKind() == gvk })
	if i < 0 || rows[i].View == nil {
		t.Fatalf("the table has no view %s", gvk)
	}
	return rows[i]
}

// wholeAutoscaler has everything that autoscaling/v1 has no field for.
const wholeAutoscaler = `
kind: HorizontalPodAutoscaler
apiVersion: autoscaling/v2
metadata: {name: a, annotations: {mine: kept}}
spec:
  minReplicas: 2
  maxReplicas: 5
  scaleTargetRef: {kind: Deployment, name: web, apiVersion: apps/v1}
  metrics:
  - type: Object
    object:
      describedObject: {kind: Ingress, name: main, apiVersion: networking.k8s.io/v1}
      metric: {name: hits, selector: {matchLabels: {verb: GET}}}
      target: {type: Value, value: 2k}
  - type: Object
    object:
      describedObject: {kind: Ingress, name: main}
      metric: {name: hits}
      target: {type: AverageValue, averageValue: "7"}
  - type: Pods
    pods: {metric: {name: packets}, target: {type: AverageValue, averageValue: 1k}}
  - type: External
    external: {metric: {name: queue, selector: {matchLabels: {q: a}}}, target: {type: Value, value: "30"}}
  - type: ContainerResource
    containerResource: {name: cpu, container: app, target: {type: Utilization, averageUtilization: 60}}
  - type: Resource
    resource: {name: memory, target: {type: AverageValue, averageValue: 100Mi}}
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}
  behavior:
    scaleUp: {stabilizationWindowSeconds: 3, selectPolicy: Max, tolerance: 50m, policies: [{type: Pods, value: 4, periodSeconds: 15}]}
    scaleDown: {selectPolicy: Disabled}
status:
  observedGeneration: 3
  currentReplicas: 2
  desiredReplicas: 4
  lastScaleTime: "2026-01-02T03:04:05Z"
  currentMetrics:
  - type: Resource
    resource: {name: cpu, current: {averageUtilization: 55, averageValue: 110m}}
  - type: Pods
    pods: {metric: {name: packets}, current: {averageValue: "9"}}
  - type: Object
    object: {describedObject: {kind: Ingress, name: main}, metric: {name: hits}, current: {value: "10"}}
  - type: External
    external: {metric: {name: queue}, current: {value: "10", averageValue: "5"}}
  - type: ContainerResource
    containerResource: {name: cpu, container: app, current: {averageUtilization: 1, averageValue: 1m}}
  conditions:
  - {type: AbleToScale, status: "True", reason: Ready, message: ok, lastTransitionTime: "2026-01-02T03:04:05Z"}
`

// What autoscaling/v1 has no field for goes through it in annotations, and comes back as it was.
func TestAutoscalerViewLosesNothing(t *testing.T) {
	r := viewAs(t, schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler"})
	stored := parse(t, r.Stored(), wholeAutoscaler)
	shown := r.Show(stored)
	back, err := r.Store(shown)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(format(t, stored), format(t, back)); diff != "" {
		t.Errorf("through autoscaling/v1 and back (-want +got):\n%s", diff)
	}
	text := format(t, shown)
	for _, part := range []string{
		"targetCPUUtilizationPercentage: 70", "currentCPUUtilizationPercentage: 55", "mine: kept",
		// The names in this annotation are not JSON's, for the sake of older servers.
		`autoscaling.alpha.kubernetes.io/behavior: '{"ScaleUp":{"StabilizationWindowSeconds":3,"SelectPolicy":"Max","Policies":[{"Type":"Pods","Value":4,"PeriodSeconds":15}],"Tolerance":"50m"},`,
		`autoscaling.alpha.kubernetes.io/conditions: '[{"type":"AbleToScale","status":"True"`,
	} {
		if !strings.Contains(text, part) {
			t.Errorf("the view lacks %s in:\n%s", part, text)
		}
	}
	if a := stored.(*autoscalingv2.HorizontalPodAutoscaler).Annotations; len(a) != 1 {
		t.Errorf("showing changed the stored object's annotations: %v", a)
	}
}

// Annotations that are no JSON are passed over, and without any metric the default is CPU.
func TestAutoscalerViewOfLittle(t *testing.T) {
	r := viewAs(t, schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "HorizontalPodAutoscaler"})
	shown := r.New()
	err := yaml.UnmarshalStrict([]byte(`
metadata: {annotations: {autoscaling.alpha.kubernetes.io/metrics: "{", autoscaling.alpha.kubernetes.io/behavior: "[]"}}
spec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: web}}`), shown)
	if err != nil {
		t.Fatal(err)
	}
	obj, err := r.Store(shown)
	if err != nil {
		t.Fatal(err)
	}
	r.Default(obj)
	a := obj.(*autoscalingv2.HorizontalPodAutoscaler)
	if len(a.Annotations) != 0 || a.Spec.Behavior != nil {
		t.Errorf("annotations %v, behavior %v", a.Annotations, a.Spec.Behavior)
	}
	if want := []autoscalingv2.MetricSpec{cpuUtilization(80)}; !cmp.Equal(want, a.Spec.Metrics) {
		t.Errorf("metrics are %v, want %v", a.Spec.Metrics, want)
	}
}

// Any event comes back from its other form as it was.
func TestEventViewLosesNothing(t *testing.T) {
	r := viewAs(t, schema.GroupVersionKind{Group: "events.k8s.io", Version: "v1", Kind: "Event"})
	for seed := range uint64(100) {
		stored := random(r, seed)
		stored.GetObjectKind().SetGroupVersionKind(r.Stored().GroupVersionKind())
		back, err := r.Store(r.Show(stored))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(stored, back); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
}

func TestEventViewValidation(t *testing.T) {
	r := viewAs(t, schema.GroupVersionKind{Group: "events.k8s.io", Version: "v1", Kind: "Event"})
	whole := func(change string) *corev1.Event {
		obj := parse(t, r.Stored(), `{metadata: {name: e, namespace: default}, eventTime: "2026-01-02T03:04:05.000006Z", type: Normal, reason: R, action: A,
			reportingComponent: example.com/c, reportingInstance: i, involvedObject: {kind: Pod, namespace: default, name: p}}`)
		if err := yaml.UnmarshalStrict([]byte(change), obj); err != nil {
			t.Fatal(err)
		}
		return obj.(*corev1.Event)
	}
	create := func(e *corev1.Event) field.ErrorList { return append(r.Validate(e), r.ValidateCreate(e)...) }
	update := func(e *corev1.Event) field.ErrorList {
		return append(r.Validate(e), r.ValidateUpdate(e, whole(`{}`))...)
	}
	for _, tc := range []struct {
		name, change string
		check        func(*corev1.Event) field.ErrorList
		want         []string
	}{
		{"whole", `{}`, create, nil},
		{"old form", `{eventTime: null, type: x, count: 2, source: {host: h}, firstTimestamp: "2026-01-02T03:04:05Z", lastTimestamp: "2026-01-02T03:04:05Z"}`, create, []string{
			`eventTime: Required value`, `type: Invalid value: "": has invalid value: x`, `firstTimestamp: Invalid value: "": needs to be unset`,
			`lastTimestamp: Invalid value: "": needs to be unset`, `count: Invalid value: "": needs to be unset`, `source: Invalid value: "": needs to be unset`,
		}},
		{"nobody reports", `{reportingComponent: ""}`, create, []string{`reportingController: Required value`}},
		{"series of one", `{series: {count: 1}}`, create, []string{
			`series.count: Invalid value: "": should be at least 2`, `series.lastObservedTime: Required value`}},
		{"nothing", `{}`, update, nil},
		{"series goes on", `{series: {count: 2, lastObservedTime: "2026-01-02T03:04:06.000000Z"}}`, update, nil},
		{"another story", `{message: m, reason: S}`, update, []string{
			`reason: Invalid value: "S": field is immutable`, `message: Invalid value: "m": field is immutable`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, err := range tc.check(whole(tc.change)) {
				got = append(got, err.Error())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A view's object is shared with what is stored: what the server sets of its own on the one must not reach the other.
func TestViewsDoNotShareMetadata(t *testing.T) {
	for _, r := range Table() {
		if r.View == nil {
			continue
		}
		stored := r.Stored().New()
		shown := r.Show(stored)
		shown.(metav1.ObjectMetaAccessor).GetObjectMeta().SetResourceVersion("7")
		if rv := stored.(metav1.ObjectMetaAccessor).GetObjectMeta().GetResourceVersion(); rv != "" {
			t.Errorf("%s: the stored object has resourceVersion %q too", r.GroupVersionKind(), rv)
		}
	}
}
