package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/reconcile"
)

// burst is how many pods one call creates or deletes at most.
const burst = 500

// replicaSets keeps as many pods of each ReplicaSet as its spec says, or of each ReplicationController, which is the same thing
// under an older name; see [setKind].
//
// The cache of pods lags behind what the controller itself has just done, so it counts the pods that it still expects to
// see come and go, and touches none before it has seen them all; see [expectations].
type replicaSets struct {
	kind     setKind
	client   kubernetes.Interface
	events   record.EventRecorder
	loop     *reconcile.Loop
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

// setKind is what a kind of object must offer to have its pods kept. Each object is seen in the form of a ReplicaSet, which is
// read only.
type setKind struct {
	schema.GroupVersionKind
	noun     string // In errors.
	informer cache.SharedIndexInformer
	get      func(namespace, name string) (*appsv1.ReplicaSet, error)
	list     func(namespace string) ([]*appsv1.ReplicaSet, error)
	// live asks the API instead of the cache.
	live        func(ctx context.Context, namespace, name string) (metav1.Object, error)
	writeStatus func(ctx context.Context, updated *appsv1.ReplicaSet) error
	// terminating is whether the status counts pods that are being deleted.
	terminating bool
	// siblings are the UIDs of all objects of the kind that a controller owns. nil: nothing owns several.
	siblings func(owner types.UID) ([]types.UID, error)
}

var replicaSetKind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

func newReplicaSets(b *base, events record.EventRecorder, traffic Traffic) error {
	sets := b.factory.Apps().V1().ReplicaSets()
	lister, indexer, api := sets.Lister(), sets.Informer().GetIndexer(), b.client.AppsV1()
	if err := addIndex(sets.Informer(), byController, controllerKeys); err != nil {
		return fmt.Errorf("index for the replicaset loop: %w", err)
	}
	return keepPods(b, events, traffic, setKind{
		GroupVersionKind: replicaSetKind,
		noun:             "replica set",
		informer:         sets.Informer(),
		terminating:      true,
		get: func(namespace, name string) (*appsv1.ReplicaSet, error) {
			return lister.ReplicaSets(namespace).Get(name)
		},
		list: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			return lister.ReplicaSets(namespace).List(labels.Everything())
		},
		live: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return api.ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		writeStatus: func(ctx context.Context, updated *appsv1.ReplicaSet) error {
			_, err := api.ReplicaSets(updated.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
			return err
		},
		siblings: func(owner types.UID) (uids []types.UID, err error) {
			found, err := indexed[*appsv1.ReplicaSet](indexer, byController, string(owner))
			for _, rs := range found {
				uids = append(uids, rs.UID)
			}
			return uids, err
		},
	})
}

// keepPods enters a loop that keeps the pods of a kind.
func keepPods(b *base, events record.EventRecorder, traffic Traffic, kind setKind) error {
	pods := b.factory.Core().V1().Pods()
	c := &replicaSets{kind: kind, client: b.client, events: events, pods: pods.Informer().GetIndexer(), traffic: traffic}
	name := strings.ToLower(kind.Kind)
	c.loop = b.loop(name, 5, c.Reconcile)
	if err := addIndex(pods.Informer(), byController, controllerKeys); err != nil {
		return fmt.Errorf("index for the %s loop: %w", name, err)
	}
	if err := b.watch(c.loop, kind.informer, reconcile.ObjectKey); err != nil {
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
	owner := metav1.GetControllerOfNoCopy(pod)
	for _, key := range c.keysOf(pod) {
		if owner != nil { // Not a pod of nobody, which a set may only adopt.
			c.expected.came(key, owner.UID)
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
	list := func(labels.Selector) ([]*appsv1.ReplicaSet, error) { return c.kind.list(pod.Namespace) }
	return keysOf(pod, c.kind.Kind, list, func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector })
}

// Reconcile creates or deletes pods of one ReplicaSet and writes its status.
func (c *replicaSets) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	rs, err := c.kind.get(namespace, name)
	if apierrors.IsNotFound(err) {
		c.expected.forget(key)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	// Ask before reading the cache: what is seen in between may only make it too careful.
	settled, wait := c.expected.settled(key, rs.UID, time.Now())
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
	if !c.kind.terminating {
		status.TerminatingReplicas = nil
	}
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
		return nil, fmt.Errorf("read the selector of %s %s/%s: %w", c.kind.noun, rs.Namespace, rs.Name, err)
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
		live, err := c.kind.live(ctx, rs.Namespace, rs.Name)
		if err != nil {
			return err
		}
		return sameAlive(rs, live)
	}
	patch := func(ctx context.Context, name string, kind types.PatchType, patch []byte) error {
		_, err := c.client.CoreV1().Pods(rs.Namespace).Patch(ctx, name, kind, patch, metav1.PatchOptions{})
		return err
	}
	return claim(ctx, rs, *metav1.NewControllerRef(rs, c.kind.GroupVersionKind), selector, found, alive, patch)
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
	pod := podFromTemplate(rs, c.kind.GroupVersionKind)
	c.expected.creations(key, rs.UID, n, time.Now())
	created, err := slowStart(n, func() error {
		got, err := c.client.CoreV1().Pods(rs.Namespace).Create(ctx, pod.DeepCopy(), metav1.CreateOptions{})
		switch {
		case err == nil:
			c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", got.Name)
		case !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			c.events.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	})
	for range n - created { // Those will not come.
		c.expected.came(key, rs.UID)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // Nothing can be created there any more, and soon this ReplicaSet is gone as well.
	}
	if err != nil {
		return failedCreate{err}
	}
	return nil
}

func (c *replicaSets) remove(ctx context.Context, key string, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	c.expected.deletions(key, rs.UID, pods, time.Now())
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
				errs[i] = failedDelete{fmt.Errorf("unable to delete pods: %w", err)}
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
	siblings := []types.UID{rs.UID}
	if owner := metav1.GetControllerOfNoCopy(rs); owner != nil && c.kind.siblings != nil {
		var err error
		if siblings, err = c.kind.siblings(owner.UID); err != nil {
			return nil, err
		}
	}
	var related []*corev1.Pod
	for _, uid := range siblings {
		pods, err := indexed[*corev1.Pod](c.pods, byController, string(uid))
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
	if err := c.kind.writeStatus(ctx, updated); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status of %s %s/%s: %w", c.kind.noun, rs.Namespace, rs.Name, err)
	}
	return nil
}

// failedCreate and failedDelete tell the two reasons of the condition ReplicaFailure apart.
type (
	failedCreate struct{ error }
	failedDelete struct{ error }
)

// podFromTemplate makes the pod that rs wants one more of; the API server completes its name.
func podFromTemplate(rs *appsv1.ReplicaSet, kind schema.GroupVersionKind) *corev1.Pod {
	t := rs.Spec.Template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    rs.Name + "-",
			Namespace:       rs.Namespace,
			Labels:          maps.Clone(t.Labels),
			Annotations:     maps.Clone(t.Annotations),
			Finalizers:      slices.Clone(t.Finalizers),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, kind)},
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
