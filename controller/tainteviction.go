package controller

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"skiff/reconcile"
)

// taintEvictions deletes the pods of a node that do not tolerate one of its taints with the effect NoExecute: at once, or
// when the time is over for which they do.
//
// A pod's time is computed anew each time, from when the taint was added and when the pod came to the node. Kubernetes sets
// timers instead, which begin anew when its controllers do. So does here the time of a taint that does not say when it was
// added (kubectl's do not). A taint that says that a node is not well counts from [nodeGrace] after the controllers began at the
// earliest, even for who does not tolerate it: while they were away the node could not tell them that it is well again.
//
// Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-based-evictions
type taintEvictions struct {
	client kubernetes.Interface
	events record.EventRecorder
	nodes  corelisters.NodeLister
	pods   cache.Indexer
	known  map[string]*expulsion // By node with such taints. One worker, so no lock.
	begun  time.Time             // When the first node was looked at.
}

// expulsion is what is remembered of a node from which pods are driven out.
type expulsion struct {
	seen map[corev1.Taint]time.Time // When each of the taints was first seen; without their timeAdded.
	due  map[types.UID]time.Time    // The pods whose time is not over yet.
}

func newTaintEvictions(b *base, events record.EventRecorder) error {
	core := b.factory.Core().V1()
	c := &taintEvictions{
		client: b.client, events: events, nodes: core.Nodes().Lister(), pods: core.Pods().Informer().GetIndexer(),
		known: map[string]*expulsion{},
	}
	if err := addIndex(core.Pods().Informer(), byNode, podNodeKeys); err != nil {
		return fmt.Errorf("index for the tainteviction loop: %w", err)
	}
	loop := b.loop("tainteviction", 1, c.Reconcile)
	if err := b.watch(loop, core.Nodes().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.watch(loop, core.Pods().Informer(), func(obj any) []string {
		keys, _ := podNodeKeys(obj)
		return keys
	})
}

// Reconcile looks at the pods of one node and asks to be called when the next of them is due.
func (c *taintEvictions) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	now := time.Now()
	if c.begun.IsZero() {
		c.begun = now
	}
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		delete(c.known, name) // Its pods are the lostpod loop's.
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	taints := drivingTaints(node)
	known := c.known[name]
	if len(taints) == 0 && known == nil {
		return 0, nil
	}
	if known == nil {
		known = &expulsion{}
		c.known[name] = known
	}
	pods, err := indexed[*corev1.Pod](c.pods, byNode, name)
	if err != nil {
		return 0, err
	}
	known.see(taints, now)
	due := dueTimes(pods, known.since(taints, c.begun.Add(nodeGrace)))
	c.tellOfReprieve(pods, known.due, due)
	if len(taints) == 0 {
		delete(c.known, name)
		return 0, nil
	}
	again, err := c.evictDue(ctx, node, pods, due, now)
	known.due = due
	return again, err
}

// tellOfReprieve tells of the pods that were to go and may stay.
func (c *taintEvictions) tellOfReprieve(pods []*corev1.Pod, before, after map[types.UID]time.Time) {
	for _, pod := range pods {
		_, was := before[pod.UID]
		if _, is := after[pod.UID]; was && !is && pod.DeletionTimestamp == nil {
			c.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s/%s", pod.Namespace, pod.Name)
		}
	}
}

// evictDue evicts the pods whose time has come and takes them off the list. It returns when the next one's will have.
func (c *taintEvictions) evictDue(ctx context.Context, node *corev1.Node, pods []*corev1.Pod, due map[types.UID]time.Time, now time.Time) (again time.Duration, err error) {
	checked := false
	var errs []error
	for _, pod := range pods {
		at, listed := due[pod.UID]
		if !listed {
			continue
		}
		if left := at.Sub(now); left > 0 {
			if again == 0 || left < again {
				again = left
			}
			continue
		}
		if !checked { // A stale cache must not drive out anybody.
			if still, err := c.stillTainted(ctx, node); err != nil || !still {
				return again, err
			}
			checked = true
		}
		if err := c.evict(ctx, pod); err != nil {
			errs = append(errs, fmt.Errorf("evict pod %s/%s from node %s for its taints: %w", pod.Namespace, pod.Name, node.Name, err))
			continue
		}
		delete(due, pod.UID)
	}
	return again, errors.Join(errs...)
}

// stillTainted asks the API itself whether the node has the taints that the cache shows. If not, the news is on its way.
func (c *taintEvictions) stillTainted(ctx context.Context, node *corev1.Node) (bool, error) {
	live, err := c.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read node %s again: %w", node.Name, err)
	}
	return live.UID == node.UID && equality.Semantic.DeepEqual(drivingTaints(live), drivingTaints(node)), nil
}

// evict marks a pod as disrupted and deletes it, unless it is on its way already or has other tolerations than the cache says.
func (c *taintEvictions) evict(ctx context.Context, pod *corev1.Pod) error {
	pods := c.client.CoreV1().Pods(pod.Namespace)
	live, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case live.UID != pod.UID || live.DeletionTimestamp != nil || !equality.Semantic.DeepEqual(live.Spec.Tolerations, pod.Spec.Tolerations):
		return nil
	}
	if setPodCondition(live, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: live.Generation,
		Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
	}) {
		if _, err := pods.UpdateStatus(ctx, live, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	c.events.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	err = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // It is gone, or another one of its name is there.
		return nil
	}
	return err
}

// drivingTaints are those of a node's taints that are for pods that run there already.
func drivingTaints(node *corev1.Node) (taints []corev1.Taint) {
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, t)
		}
	}
	return taints
}

// see remembers which taints there are, and since when for those that are new.
func (e *expulsion) see(taints []corev1.Taint, now time.Time) {
	seen := map[corev1.Taint]time.Time{}
	for _, t := range taints {
		t.TimeAdded = nil
		seen[t] = now
		if before, known := e.seen[t]; known {
			seen[t] = before
		}
	}
	e.seen = seen
}

// sinceTaint is a taint and from when it counts.
type sinceTaint struct {
	corev1.Taint
	since time.Time
}

// since is from when each of the taints counts: from when it was added, or else was first seen. Those that tell of a node's health
// count from a certain time on.
func (e *expulsion) since(taints []corev1.Taint, healthFrom time.Time) (all []sinceTaint) {
	for _, t := range taints {
		key := t
		key.TimeAdded = nil
		at := e.seen[key]
		if t.TimeAdded != nil && t.TimeAdded.Time.Before(at) {
			at = t.TimeAdded.Time
		}
		if isHealthTaint(&t) && at.Before(healthFrom) {
			at = healthFrom
		}
		all = append(all, sinceTaint{t, at})
	}
	return all
}

// dueTimes says when each of the pods has to go that cannot stay for ever. Those that are going already are not among them.
func dueTimes(pods []*corev1.Pod, taints []sinceTaint) map[types.UID]time.Time {
	due := map[types.UID]time.Time{}
	for _, pod := range pods {
		if at, has := dueTime(pod, taints); has && pod.DeletionTimestamp == nil {
			due[pod.UID] = at
		}
	}
	return due
}

// dueTime is when a pod has to go for the first of the taints that it does not tolerate for ever.
func dueTime(pod *corev1.Pod, taints []sinceTaint) (due time.Time, has bool) {
	for i := range taints {
		at, limited := toleratedUntil(pod, &taints[i])
		if limited && (!has || at.Before(due)) {
			due, has = at, true
		}
	}
	return due, has
}

// toleratedUntil is how long a pod tolerates a taint, if it does not for ever. The first of its tolerations that matches counts.
func toleratedUntil(pod *corev1.Pod, taint *sinceTaint) (at time.Time, limited bool) {
	i := slices.IndexFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
		return t.ToleratesTaint(klog.Background(), &taint.Taint, true)
	})
	if i < 0 {
		return taint.since, true
	}
	seconds := pod.Spec.Tolerations[i].TolerationSeconds
	switch {
	case seconds == nil, *seconds > math.MaxInt64/int64(time.Second):
		return time.Time{}, false
	case *seconds <= 0:
		return taint.since, true
	}
	since := taint.since
	if came := podCame(pod); came.After(since) {
		since = came
	}
	return since.Add(time.Duration(*seconds) * time.Second), true
}

// podCame is when the pod came to its node.
func podCame(pod *corev1.Pod) time.Time {
	if c := podCondition(pod, corev1.PodScheduled); c != nil && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	return pod.CreationTimestamp.Time
}
