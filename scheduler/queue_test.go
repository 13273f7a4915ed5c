package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Pods are taken by priority, and those of the same as they came.
func TestQueue(t *testing.T) {
	priorities := map[string]int32{"high": 100, "higher": 1000, "low": -5}
	q := &byPriority{priority: func(key string) int32 { return priorities[key] }}
	var got []string
	q.Push("first")
	got = append(got, q.Pop())
	for _, key := range strings.Fields("low second high third higher fourth") {
		q.Push(key)
	}
	for q.Len() > 0 {
		got = append(got, q.Pop())
	}
	if diff := cmp.Diff(strings.Fields("first higher high second third fourth low"), got); diff != "" {
		t.Errorf("the order in which pods are taken (-want +got):\n%s", diff)
	}
}

// When there is room again, it is for those of the highest priority, however long others have waited.
func TestRoomByPriority(t *testing.T) {
	inWorld(t, func(w *world) {
		for i := range 40 {
			pod := aPod(fmt.Sprintf("p%02d cpu=100m", i))
			priority := int32(i * 7 % 40) // Each from 0 to 39 once.
			pod.Spec.Priority = &priority
			if _, err := w.client.CoreV1().Pods("default").Create(w.ctx, pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		w.settle()
		if _, err := w.client.CoreV1().Nodes().Create(w.ctx, aNode("a cpu=1"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		list, err := w.client.CoreV1().Pods("default").List(w.ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		placed := slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return pod.Spec.NodeName == "" })
		if len(placed) != 10 {
			t.Errorf("%d pods are on the node, which has room for 10", len(placed))
		}
		for _, pod := range placed {
			if *pod.Spec.Priority < 30 {
				t.Errorf("pod %s of priority %d has one of 10 places", pod.Name, *pod.Spec.Priority)
			}
		}
	})
}
