package scheduler

import (
	"container/heap"

	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
)

// byPriority is a queue of pods' keys: of higher priority first, and of the same in the order in which they came.
//
// Source: https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/#effect-of-pod-priority-on-scheduling-order
type byPriority struct {
	priority func(key string) int32
	waiting  waitingPods
	came     int // How many ever did.
}

var _ workqueue.Queue[string] = (*byPriority)(nil)

// Touch is of no use: a pod's priority never changes.
func (*byPriority) Touch(string) {}

func (q *byPriority) Push(key string) {
	q.came++
	heap.Push(&q.waiting, waitingPod{key, q.priority(key), q.came})
}

func (q *byPriority) Len() int { return len(q.waiting) }

func (q *byPriority) Pop() string { return heap.Pop(&q.waiting).(waitingPod).key }

type waitingPod struct {
	key      string
	priority int32
	came     int
}

// waitingPods is a heap.
type waitingPods []waitingPod

func (w waitingPods) Len() int      { return len(w) }
func (w waitingPods) Swap(i, j int) { w[i], w[j] = w[j], w[i] }
func (w *waitingPods) Push(x any)   { *w = append(*w, x.(waitingPod)) }

func (w waitingPods) Less(i, j int) bool {
	if w[i].priority != w[j].priority {
		return w[i].priority > w[j].priority
	}
	return w[i].came < w[j].came
}

func (w *waitingPods) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

// priorityOf is that of the pod of a key, 0 if there is none.
func (s *Scheduler) priorityOf(key string) int32 {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	pod, err := s.pods.Pods(namespace).Get(name)
	if err != nil {
		return 0
	}
	return schedulinghelpers.PodPriority(pod)
}
