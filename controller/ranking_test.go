package controller

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// aPod reads a pod from words like "web-1 node=a phase=Pending ready=5m age=1h restarts=2 cost=-1". By default it is
// running on node a, not ready, an hour old.
func aPod(words string) *corev1.Pod {
	fields := strings.Fields(words)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fields[0], Namespace: "default", UID: types.UID(fields[0]), CreationTimestamp: metav1.NewTime(noon.Add(-time.Hour))},
		Spec:       corev1.PodSpec{NodeName: "a"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "node":
			pod.Spec.NodeName = value
		case "phase":
			pod.Status.Phase = corev1.PodPhase(value)
		case "ready":
			since := metav1.NewTime(noon.Add(-duration(value)))
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: since}}
		case "age":
			pod.CreationTimestamp = metav1.NewTime(noon.Add(-duration(value)))
		case "restarts":
			n, _ := strconv.Atoi(value)
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: int32(n)}}
		case "init", "sidecar": // Restarts of such a container.
			container := corev1.Container{Name: key}
			if key == "sidecar" {
				always := corev1.ContainerRestartPolicyAlways
				container.RestartPolicy = &always
			}
			n, _ := strconv.Atoi(value)
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, container)
			pod.Status.InitContainerStatuses = append(pod.Status.InitContainerStatuses, corev1.ContainerStatus{Name: key, RestartCount: int32(n)})
		case "cost":
			pod.Annotations = map[string]string{corev1.PodDeletionCost: value}
		case "ip":
			pod.Status.PodIP, pod.Status.PodIPs = value, []corev1.PodIP{{IP: value}}
		case "deleted":
			now := metav1.NewTime(noon)
			pod.DeletionTimestamp = &now
		default:
			panic(fmt.Sprintf("a pod has no %q", key))
		}
	}
	return pod
}

func duration(s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(err)
	}
	return d
}

// TestPodsToDelete holds the order in which Kubernetes chooses: in each case the first pod goes before the second.
func TestPodsToDelete(t *testing.T) {
	tests := []struct{ name, first, second string }{
		{"not on a node", "b node= phase=Pending", "a phase=Pending"},
		{"pending", "b phase=Pending", "a"},
		{"unknown before running", "b phase=Unknown", "a"},
		{"not ready", "b", "a ready=1h"},
		{"cheaper", "b ready=1h cost=1", "a ready=1h cost=2"},
		{"negative cost", "b ready=1h cost=-5", "a ready=1h"},
		{"a cost that is no number is none", "b ready=1h cost=-5", "a ready=1h cost=much"},
		{"ready for a shorter time", "b ready=1m", "a ready=1h"},
		{"more restarts", "b ready=1h restarts=3", "a ready=1h restarts=1"},
		{"more restarts of a sidecar", "b ready=1h restarts=1 sidecar=2", "a ready=1h restarts=1 sidecar=1 init=9"},
		{"restarts of a container weigh more", "b ready=1h restarts=2", "a ready=1h restarts=1 sidecar=9"},
		{"younger", "b ready=1h age=2h", "a ready=1h age=20h"},
		{"about the same age goes by chance", "a ready=1h age=30h", "b ready=1h age=28h"},
		{"phase weighs more than cost", "b phase=Pending cost=9", "a cost=1"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			first, second := aPod(tc.first), aPod(tc.second)
			for _, active := range [][]*corev1.Pod{{first, second}, {second, first}} {
				if got := podsToDelete(active, active[:0], 1, noon); len(got) != 1 || got[0] != first {
					t.Errorf("deletes %s of (%s) and (%s), want the first", got[0].Name, tc.first, tc.second)
				}
			}
		})
	}
	t.Run("more neighbours on the node", func(t *testing.T) {
		alone, crowded := aPod("a node=x ready=1h"), aPod("b node=y ready=1h")
		related := []*corev1.Pod{alone, crowded, aPod("other node=y")}
		if got := podsToDelete([]*corev1.Pod{alone, crowded}, related, 1, noon); got[0] != crowded {
			t.Errorf("deletes %s, want the one whose node has another pod of the owner", got[0].Name)
		}
	})
}
