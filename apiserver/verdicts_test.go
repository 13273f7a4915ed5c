package apiserver

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Pods that have the same to be judged by are judged twice; another annotation or spec is judged for itself, and what is invalid is
// judged each time.
func TestVerdicts(t *testing.T) {
	var v verdicts
	judged := 0
	verdict := func(errs ...*field.Error) func() field.ErrorList {
		return func() field.ErrorList { judged++; return errs }
	}
	wrong := field.Required(field.NewPath("spec"), "")
	other := alikePod("other", "web:1", "100m")
	other.Annotations["a"], other.Labels, other.Status.Phase = "1", nil, corev1.PodRunning
	annotated := alikePod("annotated", "web:1", "100m")
	annotated.Annotations["a"] = "2"
	for _, tc := range []struct {
		pod    *corev1.Pod
		judge  func() field.ErrorList
		judged int // Since the beginning.
		errs   int
	}{
		{alikePod("one", "web:1", "100m"), verdict(wrong), 1, 1},
		{alikePod("one", "web:1", "100m"), verdict(), 2, 0},
		{alikePod("two", "web:1", "100m"), verdict(), 3, 0},
		{other, verdict(wrong), 3, 0},
		{alikePod("image", "web:2", "100m"), verdict(wrong), 4, 1},
		{annotated, verdict(wrong), 5, 1},
		{&corev1.Pod{}, verdict(wrong), 6, 1},
	} {
		stored, err := marshalStored(tc.pod)
		if err != nil {
			t.Fatal(err)
		}
		if errs := v.pod(stored, tc.judge); len(errs) != tc.errs || judged != tc.judged {
			t.Errorf("%s: %v, and %d were judged; want %d errors and %d", tc.pod.Name, errs, judged, tc.errs, tc.judged)
		}
	}
}

// What decides whether a pod is valid can all be read in its stored form, in annotations and spec, but for the one thing that follows.
func TestVerdictsAreOfTheStoredForm(t *testing.T) {
	row, rnd := podRow(), rand.New(rand.NewPCG(1, 2))
	texts := func(p *corev1.Pod) (all []string) {
		for _, err := range row.Validate(p) {
			all = append(all, err.Error())
		}
		slices.Sort(all) // Of maps they come in any order.
		return all
	}
	for n := range 300 {
		pod := someObject(row, rnd).(*corev1.Pod)
		row.Default(pod)
		pod.Spec.Resources = nil
		stored, err := marshalStored(pod)
		if err != nil {
			t.Fatal(err)
		}
		var back, bare corev1.Pod
		if err := back.Unmarshal(stored); err != nil {
			t.Fatal(err)
		}
		bare.Annotations, bare.Spec = back.Annotations, back.Spec
		if diff := cmp.Diff(texts(pod), texts(&bare)); diff != "" {
			t.Fatalf("pod %d (-given +as stored):\n%s", n, diff)
		}
	}
}

// A list of claims of a whole pod may not even be there: the stored form of such a pod is that of a valid one.
func TestNoClaimsOfPods(t *testing.T) {
	s := start(t)
	pod := func(name, claims string) answer {
		return s.do(t, "POST", podsPath, `{"metadata":{"name":"`+name+`"},"spec":{"resources":{"requests":{"cpu":"1"}`+claims+`},"containers":[{"name":"c","image":"i"}]}}`)
	}
	pod("one", "").want(t, 201)
	pod("one-more", "").want(t, 201)
	pod("two", `,"claims":[]`).refused(t, 422, metav1.StatusReasonInvalid, "claims may not be set for Resources at pod-level")
}
