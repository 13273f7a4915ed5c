package controller

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
)

func lostPodLoop(b *base, _ record.EventRecorder) error { return newLostPods(b) }

// TestLostPods promises that the pods of a node that is deleted go after the quarantine.
func TestLostPods(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	inWorld(t, lostPodLoop, func(w *world) {
		w.must(w.client.CoreV1().Nodes().Delete(w.ctx, "a", metav1.DeleteOptions{}))
		time.Sleep(30 * time.Second)
		if n := len(w.pods("")); n != 1 {
			t.Errorf("%d pods 30 s after the node was deleted, want 1", n)
		}
		time.Sleep(20 * time.Second)
		w.settle()
		if n := len(w.pods("")); n != 0 {
			t.Errorf("%d pods 50 s after the node was deleted, want 0", n)
		}
		if told := w.toldOfPods(); !slices.Equal(told, []string{"p Failed DeletionByPodGC"}) {
			t.Errorf("told %q, want that p failed and why", told)
		}
	}, node, aPod("p node=a"))
}

// toldOfPods is what was written to the statuses of pods, or was to be, of one that had gone by then.
func (w *world) toldOfPods() (told []string) {
	for _, action := range w.client.Actions() {
		if update, ok := action.(clienttesting.UpdateAction); ok && action.Matches("update", "pods/status") {
			pod := update.GetObject().(*corev1.Pod)
			text := pod.Name + " " + string(pod.Status.Phase)
			if c := podCondition(pod, corev1.DisruptionTarget); c != nil {
				text += " " + c.Reason
			}
			told = append(told, text)
		}
	}
	return slices.Compact(told)
}

// Who says that a node is out of service knows that nothing runs there: what was to go from it goes, and the rest stays, as long as
// the node is not ready.
func TestNodeOutOfService(t *testing.T) {
	node := aNode("a Unknown")
	inWorld(t, lostPodLoop, func(w *world) {
		w.settle()
		w.wantLeft("that are to go from a silent node", "done", "going", "staying")
		node, err := w.client.CoreV1().Nodes().Get(w.ctx, "a", metav1.GetOptions{})
		w.must(err)
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
		ready := nodeCondition(node.Status.Conditions, corev1.NodeReady)
		ready.Status = corev1.ConditionTrue
		node, err = w.client.CoreV1().Nodes().Update(w.ctx, node, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		w.wantLeft("of a node that is said to be out of service and is ready", "done", "going", "staying")
		nodeCondition(node.Status.Conditions, corev1.NodeReady).Status = corev1.ConditionUnknown
		_, err = w.client.CoreV1().Nodes().Update(w.ctx, node, metav1.UpdateOptions{})
		w.must(err)
		w.settle()
		w.wantLeft("of a node that is out of service", "staying")
		if told := w.toldOfPods(); !slices.Equal(told, []string{"going Failed"}) {
			t.Errorf("told %q, want that going failed", told)
		}
	}, node, aPod("going deleted"), aPod("done deleted phase=Succeeded"), aPod("staying"))
}
