package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/reconcile"
)

// burst is how many pods one call creates or deletes at most.
const burst = 500

// replicaSets keeps as many pods of each ReplicaSet as its spec says.
//
// The cache of pods lags behind what the controller itself has just done, so it counts the pods that it still expects to
// see come and go, and touches none before it has seen them all; see [expectations].
type replicaSets struct {
	client   kubernetes.Interface
	events   record.EventRecorder
	loop     *reconcile.Loop
	lister   appslisters.ReplicaSetLister
	sets     cache.Indexer
	pods     cache.Indexer
	traffic  Traffic
	expected expectations
}

// Traffic knows to which pods requests are sent.
type Traffic interface {
	// Arriving says what does not send requests yet to a pod that is ready, although it is to; "" for nothing. Unless it is
	// nothing, again is called when it has become that.
	Arriving(pod *corev1.Pod, again func()) (why string)
}

// arrivalTime is after how long a pod that is ready counts as available although requests do not come to it. The API keeps
// whole seconds, so that it is two or three.
const arrivalTime = 3 * time.Second

var replicaSetKind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

func newReplicaSets(b *base, events record.EventRecorder, traffic Traffic) error {
	sets, pods := b.factory.Apps().V1().ReplicaSets(), b.factory.Core().V1().Pods()
	c := &replicaSets{
		client:  b.client,
		events:  events,
		lister:  sets.Lister(),
		sets:    sets.Informer().GetIndexer(),
		pods:    pods.Informer().GetIndexer(),
		traffic: traffic,
	}
	c.loop = b.loop("replicaset", 5, c.Reconcile)
	for _, informer := range []cache.SharedIndexInformer{sets.Informer(), pods.Informer()} {
		if err := addIndex(informer, byController, controllerKeys); err != nil {
			return fmt.Errorf("index for the replicaset loop: %w", err)
		}
	}
	if err := b.watch(c.loop, sets.Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.handle(pods.Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.podCame(obj.(*corev1.Pod)) },
		UpdateFunc: func(before, after any) {
			c.podChanged(before.(*corev1.Pod))
			c.podChanged(after.(*corev1.Pod))
		},
		DeleteFunc: func(obj any) { c.podGone(obj.(*corev1.Pod)) },
	})
}

func (c *replicaSets) podCame(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil { // The first list after a restart holds pods that are on their way out.
		c.podGone(pod)
		return
	}
	created := metav1.GetControllerOfNoCopy(pod) != nil // Not a pod of nobody, which a set may only adopt.
	for _, key := range c.keysOf(pod) {
		if created {
			c.expected.came(key)
		}
		c.loop.Add(key)
	}
}

func (c *replicaSets) podChanged(pod *corev1.Pod) {
	for _, key := range c.keysOf(pod) {
		if pod.DeletionTimestamp != nil {
			c.expected.gone(key, pod.UID)
		}
		c.loop.Add(key)
	}
}

func (c *replicaSets) podGone(pod *corev1.Pod) {
	for _, key := range c.keysOf(pod) {
		c.expected.gone(key, pod.UID)
		c.loop.Add(key)
	}
}

// keysOf names the ReplicaSet that controls the pod or, for a pod of nobody, those that might adopt it.
func (c *replicaSets) keysOf(pod *corev1.Pod) []string {
	return keysOf(pod, replicaSetKind.Kind, c.lister.ReplicaSets(pod.Namespace).List,
		func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector })
}

// Reconcile creates or deletes pods of one ReplicaSet and writes its status.
func (c *replicaSets) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	rs, err := c.lister.ReplicaSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expected.forget(key)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// Ask before reading the cache: what is seen in between may only make it too careful.
	settled, wait := c.expected.settled(key, time.Now())
	pods, err := c.claimPods(ctx, rs)
	if err != nil {
		return 0, err
	}
	active := slices.DeleteFunc(slices.Clone(pods), func(p *corev1.Pod) bool { return !podActive(p) })

	var failure error
	if settled && rs.DeletionTimestamp == nil {
		wait = 0
		failure = c.scale(ctx, key, rs, active)
	}
	arrived := func(pod *corev1.Pod) bool {
		return c.traffic == nil || c.traffic.Arriving(pod, func() { c.loop.Add(key) }) == ""
	}
	status, next := replicaSetStatus(rs, pods, failure, time.Now(), arrived)
	if err := c.writeStatus(ctx, rs, status); err != nil {
		return 0, err
	}
	if next > 0 && (wait == 0 || next < wait) {
		wait = next
	}
	return wait, failure
}

// claimPods returns the pods that rs controls, after adopting and releasing.
func (c *replicaSets) claimPods(ctx context.Context, rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of replica set %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	found, err := indexed[*corev1.Pod](c.pods, byController, string(rs.UID))
	if err != nil {
		return nil, err
	}
	orphans, err := indexed[*corev1.Pod](c.pods, byController, orphanKey(rs.Namespace))
	if err != nil {
		return nil, err
	}
	found = append(found, slices.DeleteFunc(orphans, podFinished)...)
	alive := func(ctx context.Context) error {
		live, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return sameAlive(rs, live)
	}
	patch := func(ctx context.Context, name string, kind types.PatchType, patch []byte) error {
		_, err := c.client.CoreV1().Pods(rs.Namespace).Patch(ctx, name, kind, patch, metav1.PatchOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	return claim(ctx, rs, *metav1.NewControllerRef(rs, replicaSetKind), selector, found, alive, patch)
}

// scale creates the pods that are missing or deletes those too many.
func (c *replicaSets) scale(ctx context.Context, key string, rs *appsv1.ReplicaSet, active []*corev1.Pod) error {
	diff := int(*rs.Spec.Replicas) - len(active)
	switch {
	case diff > 0:
		return c.create(ctx, key, rs, min(diff, burst))
	case diff < 0:
		related, err := c.relatedPods(rs)
		if err != nil {
			return err
		}
		return c.remove(ctx, key, rs, podsToDelete(active, related, min(-diff, burst), time.Now()))
	}
	return nil
}

func (c *replicaSets) create(ctx context.Context, key string, rs *appsv1.ReplicaSet, n int) error {
	pod := podFromTemplate(rs)
	c.expected.creations(key, n, time.Now())
	created, err := slowStart(n, func() error {
		got, err := c.client.CoreV1().Pods(rs.Namespace).Create(ctx, pod.DeepCopy(), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", got.Name)
		return nil
	})
	for range n - created { // Those will not come.
		c.expected.came(key)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // Nothing can be created there any more, and soon this ReplicaSet is gone as well.
	}
	if err != nil {
		c.events.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return failedCreate{err}
	}
	return nil
}

func (c *replicaSets) remove(ctx context.Context, key string, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	c.expected.deletions(key, pods, time.Now())
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, pod := range pods {
		wg.Go(func() {
			options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
			err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
			switch {
			case err == nil:
				c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
			case apierrors.IsNotFound(err):
				c.expected.gone(key, pod.UID)
			default:
				c.expected.gone(key, pod.UID)
				c.events.Eventf(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
				errs[i] = failedDelete{err}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// relatedPods are the active pods of all ReplicaSets that have rs's owner. During a rollout the old and the new set's
// pods should not leave the same node crowded.
func (c *replicaSets) relatedPods(rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	siblings := []*appsv1.ReplicaSet{rs}
	if owner := metav1.GetControllerOfNoCopy(rs); owner != nil {
		var err error
		if siblings, err = indexed[*appsv1.ReplicaSet](c.sets, byController, string(owner.UID)); err != nil {
			return nil, err
		}
	}
	var related []*corev1.Pod
	for _, s := range siblings {
		pods, err := indexed[*corev1.Pod](c.pods, byController, string(s.UID))
		if err != nil {
			return nil, err
		}
		related = append(related, slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return !podActive(p) })...)
	}
	return related, nil
}

func (c *replicaSets) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if equality.Semantic.DeepEqual(rs.Status, status) {
		return nil
	}
	updated := rs.DeepCopy()
	updated.Status = status
	_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of replica set %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	return nil
}

// failedCreate and failedDelete tell the two reasons of the condition ReplicaFailure apart.
type (
	failedCreate struct{ error }
	failedDelete struct{ error }
)

// podFromTemplate makes the pod that rs wants one more of; the API server completes its name.
func podFromTemplate(rs *appsv1.ReplicaSet) *corev1.Pod {
	t := rs.Spec.Template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    rs.Name + "-",
			Namespace:       rs.Namespace,
			Labels:          maps.Clone(t.Labels),
			Annotations:     maps.Clone(t.Annotations),
			Finalizers:      slices.Clone(t.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, replicaSetKind)},
		},
		Spec: t.Spec,
	}
}

// slowStart calls do n times, in parallel batches of 1, 2, 4, ..., and stops after the batch in which a call fails: what
// fails once (a quota, an invalid template) fails for all, and need not fail n times. It returns how many succeeded and
// the first error.
func slowStart(n int, do func() error) (succeeded int, err error) {
	for size := 1; succeeded < n; size *= 2 {
		errs := make([]error, min(size, n-succeeded))
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = do() })
		}
		wg.Wait()
		for _, e := range errs {
			if e == nil {
				succeeded++
			} else if err == nil {
				err = e
			}
		}
		if err != nil {
			return succeeded, err
		}
	}
	return succeeded, nil
}

// replicaSetStatus counts the pods, and says when a pod becomes available by time alone (0: none will). A pod that its Services
// do not send requests to yet is not available, however ready: a rollout that takes an old pod away for it would leave fewer.
func replicaSetStatus(rs *appsv1.ReplicaSet, pods []*corev1.Pod, failure error, now time.Time, arrived func(*corev1.Pod) bool) (status appsv1.ReplicaSetStatus, next time.Duration) {
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	minReady := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	terminating := int32(0)
	status = appsv1.ReplicaSetStatus{
		ObservedGeneration:  rs.Generation,
		Conditions:          replicaFailure(rs.Status.Conditions, failure, now),
		TerminatingReplicas: &terminating,
	}
	for _, pod := range pods {
		if podFinished(pod) {
			continue
		}
		if pod.DeletionTimestamp != nil {
			terminating++
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if podReady(pod) {
			status.ReadyReplicas++
		}
		available, wait := podAvailable(pod, minReady, now)
		if available && !arrived(pod) {
			wait = untilReadyFor(pod, arrivalTime, now)
			available = wait <= 0
		}
		if available {
			status.AvailableReplicas++
		} else if wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	return status, next
}

// replicaFailure is the condition ReplicaFailure, which is there only while pods cannot be created or deleted.
func replicaFailure(conditions []appsv1.ReplicaSetCondition, failure error, now time.Time) []appsv1.ReplicaSetCondition {
	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	if failure == nil {
		return slices.DeleteFunc(slices.Clone(conditions), isFailure)
	}
	if slices.ContainsFunc(conditions, isFailure) {
		return conditions
	}
	reason := "FailedCreate"
	if _, deleting := failure.(failedDelete); deleting {
		reason = "FailedDelete"
	}
	return append(slices.Clone(conditions), appsv1.ReplicaSetCondition{
		Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason, Message: failure.Error(),
		LastTransitionTime: metav1.NewTime(now),
	})
}
