package controller

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// aTaint reads a taint with the effect NoExecute from words like "gpu=broken".
func aTaint(words string) corev1.Taint {
	key, value, _ := strings.Cut(words, "=")
	return corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffectNoExecute}
}

// tolerating gives a pod tolerations, read from words like "gpu", which is for any value and for ever, "gpu=broken" or "gpu:60"; "*" is
// every taint.
func tolerating(pod *corev1.Pod, words string) *corev1.Pod {
	for _, word := range strings.Fields(words) {
		what, seconds, limited := strings.Cut(word, ":")
		key, value, valued := strings.Cut(what, "=")
		t := corev1.Toleration{Key: key, Value: value, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if valued {
			t.Operator = corev1.TolerationOpEqual
		}
		if key == "*" {
			t.Key = ""
		}
		if limited {
			n, err := strconv.ParseInt(seconds, 10, 64)
			if err != nil {
				panic(err)
			}
			t.TolerationSeconds = &n
		}
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
	}
	return pod
}

// early is a pod from before a bubble's time.
func early(words string) *corev1.Pod {
	pod := aPod(words)
	pod.CreationTimestamp = metav1.Time{}
	return pod
}

// The taint is there since noon. The pod came an hour before unless its words say otherwise.
func TestHowLongAPodToleratesATaint(t *testing.T) {
	for _, tc := range []struct {
		name, tolerations, taints string
		age                       string
		want                      string // After noon; "never" for always tolerated.
	}{
		{"none", "", "gpu", "1h", "0s"},
		{"another key", "disk", "gpu", "1h", "0s"},
		{"another value", "gpu=new", "gpu=broken", "1h", "0s"},
		{"any value", "gpu", "gpu=broken", "1h", "never"},
		{"the value", "gpu=broken", "gpu=broken", "1h", "never"},
		{"every taint, as a static pod", "*", "gpu disk", "1h", "never"},
		{"for a minute", "gpu:60", "gpu", "1h", "1m0s"},
		{"for no time", "gpu:0", "gpu", "1h", "0s"},
		{"for less than no time", "gpu:-5", "gpu", "1h", "0s"},
		{"for longer than can be counted", "gpu:9223372036854775807", "gpu", "1h", "never"},
		{"the first that matches counts", "gpu:60 gpu", "gpu", "1h", "1m0s"},
		{"the least of two taints", "gpu:60 disk:30", "gpu disk", "1h", "30s"},
		{"one taint of two", "gpu:60", "gpu disk", "1h", "0s"},
		{"one of two for ever", "gpu:60 disk", "gpu disk", "1h", "1m0s"},
		{"came after the taint", "gpu:60", "gpu", "-10s", "1m10s"},
		{"came after the taint, not tolerating it", "", "gpu", "-10s", "0s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var taints []sinceTaint
			for _, words := range strings.Fields(tc.taints) {
				taints = append(taints, sinceTaint{aTaint(words), noon})
			}
			got := "never"
			if at, has := dueTime(tolerating(aPod("p age="+tc.age), tc.tolerations), taints); has {
				got = at.Sub(noon).String()
			}
			if got != tc.want {
				t.Errorf("goes at %s, want %s", got, tc.want)
			}
		})
	}
}

// A taint counts from when it was added or first seen, but one of a node's health not from before the controllers could know better.
func TestWhenATaintCounts(t *testing.T) {
	added := func(taint corev1.Taint, ago time.Duration) corev1.Taint {
		at := metav1.NewTime(noon.Add(-ago))
		taint.TimeAdded = &at
		return taint
	}
	taints := []corev1.Taint{
		aTaint("unknown"), added(aTaint("old"), time.Hour), added(aTaint("future"), -time.Hour),
		added(aTaint(corev1.TaintNodeUnreachable), time.Hour), added(aTaint(corev1.TaintNodeNotReady), -time.Hour),
	}
	e := &expulsion{}
	e.see(taints, noon)
	e.see(taints, noon.Add(time.Minute)) // Again changes nothing.
	var got []string
	for _, taint := range e.since(taints, noon.Add(nodeGrace)) {
		got = append(got, taint.Key+" "+taint.since.Sub(noon).String())
	}
	want := []string{"unknown 0s", "old -1h0m0s", "future 0s", "node.kubernetes.io/unreachable 50s", "node.kubernetes.io/not-ready 50s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after noon (-want +got):\n%s", diff)
	}
}

func (w *world) taint(node string, taints ...corev1.Taint) {
	w.Helper()
	n, err := w.client.CoreV1().Nodes().Get(w.ctx, node, metav1.GetOptions{})
	w.must(err)
	n.Spec.Taints = taints
	_, err = w.client.CoreV1().Nodes().Update(w.ctx, n, metav1.UpdateOptions{})
	w.must(err)
	w.settle()
}

func (w *world) left() (names []string) {
	w.Helper()
	for _, pod := range w.pods("") {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return names
}

func (w *world) wantLeft(when string, want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, w.left()); diff != "" {
		w.Errorf("pods %s (-want +got):\n%s", when, diff)
	}
}

func (w *world) wantTold(want ...string) {
	w.Helper()
	told := w.told()
	slices.Sort(told)
	if diff := cmp.Diff(want, told); diff != "" {
		w.Errorf("Events (-want +got):\n%s", diff)
	}
}

// A taint drives out who does not tolerate it: at once, or when the time is over; nobody after it is gone.
func TestTaintEviction(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	inWorld(t, newTaintEvictions, func(w *world) {
		w.wantLeft("before", "elsewhere", "forever", "longer", "minute", "plain", "seconds")
		w.taint("a", corev1.Taint{Key: "gpu", Effect: corev1.TaintEffectNoSchedule})
		w.wantLeft("when new ones stay away", "elsewhere", "forever", "longer", "minute", "plain", "seconds")
		w.wantTold()

		w.taint("a", aTaint("gpu"))
		w.wantLeft("at once", "elsewhere", "forever", "longer", "minute", "seconds")
		w.wantTold("Normal TaintManagerEviction Marking for deletion Pod default/plain")
		time.Sleep(20 * time.Second)
		w.settle()
		w.wantLeft("after 20 s", "elsewhere", "forever", "longer", "minute")
		w.wantTold("Normal TaintManagerEviction Marking for deletion Pod default/seconds")

		patient := w.pods("")[slices.Index(w.left(), "longer")]
		_, err := w.client.CoreV1().Pods("default").Update(w.ctx, tolerating(&patient, "*"), metav1.UpdateOptions{}) // Comes second.
		w.must(err)
		patient.Spec.Tolerations = patient.Spec.Tolerations[1:]
		_, err = w.client.CoreV1().Pods("default").Update(w.ctx, &patient, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		w.wantTold("Normal TaintManagerEviction Cancelling deletion of Pod default/longer")

		w.taint("a")
		w.wantTold("Normal TaintManagerEviction Cancelling deletion of Pod default/minute")
		time.Sleep(time.Hour)
		w.wantLeft("an hour after the taint went", "elsewhere", "forever", "longer", "minute")

		w.taint("a", aTaint("gpu"))
		w.must(w.client.CoreV1().Pods("default").Delete(w.ctx, "minute", metav1.DeleteOptions{}))
		time.Sleep(time.Hour)
		w.wantLeft("in the end", "elsewhere", "forever", "longer")
		w.wantTold()
	}, node, early("plain"), tolerating(early("forever"), "gpu"), tolerating(early("minute"), "gpu:60"), tolerating(early("seconds"), "gpu:10"),
		tolerating(early("longer"), "gpu:90"), early("elsewhere node=b"))
}

// A restart of the controllers neither prolongs the time of a taint that says when it was added, nor is held against a node that
// could not say that it is well.
func TestTaintFromBeforeTheStart(t *testing.T) {
	with := func(name string, taint corev1.Taint) *corev1.Node {
		added := metav1.NewTime(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-50 * time.Second)) // A bubble's time begins then.
		taint.TimeAdded = &added
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{taint}}}
	}
	inWorld(t, newTaintEvictions, func(w *world) {
		w.settle()
		w.wantLeft("at the start", "hand60", "lost0", "lost60")
		time.Sleep(10 * time.Second)
		w.settle()
		w.wantLeft("after 10 s", "lost0", "lost60")
		time.Sleep(30 * time.Second)
		w.wantLeft("after 40 s", "lost0", "lost60")
		time.Sleep(10 * time.Second)
		w.settle()
		w.wantLeft("after 50 s", "lost60")
		time.Sleep(time.Minute)
		w.settle()
		w.wantLeft("after 110 s")
	}, with("a", aTaint("gpu")), with("b", aTaint(corev1.TaintNodeUnreachable)),
		tolerating(early("hand60"), "gpu:60"), early("lost0 node=b"), tolerating(early("lost60 node=b"), corev1.TaintNodeUnreachable+":60"))
}

// An evicted pod is marked for whoever asks why it ended, and has its time to end.
func TestTaintEvictionIsGraceful(t *testing.T) {
	c := startCluster(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	_, err := c.client.CoreV1().Nodes().Create(c.ctx, node, metav1.CreateOptions{})
	c.must(err)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	c.eventually("the pod is there", func() string { // Its account is made first.
		_, err := c.client.CoreV1().Pods("default").Create(c.ctx, pod, metav1.CreateOptions{})
		if err != nil {
			return err.Error()
		}
		return ""
	})
	_, err = c.client.CoreV1().Nodes().Patch(c.ctx, "a", "application/strategic-merge-patch+json",
		[]byte(`{"spec":{"taints":[{"key":"gpu","effect":"NoExecute"}]}}`), metav1.PatchOptions{})
	c.must(err)
	c.eventually("the pod is on its way", func() string {
		pod, err := c.client.CoreV1().Pods("default").Get(c.ctx, "p", metav1.GetOptions{})
		c.must(err)
		if pod.DeletionTimestamp == nil {
			return "it is not"
		}
		why := podCondition(pod, corev1.DisruptionTarget)
		if why == nil || why.Status != corev1.ConditionTrue || why.Reason != "DeletionByTaintManager" || why.Message != "Taint manager: deleting due to NoExecute taint" {
			c.Errorf("it goes with the condition %+v", why)
		}
		if grace := pod.DeletionGracePeriodSeconds; grace == nil || *grace != 30 {
			c.Errorf("it has a grace period of %v", grace)
		}
		return ""
	})
}
