package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/reconcile"
)

// deployments moves each Deployment to its present template: it makes a ReplicaSet for it, and shifts replicas from the
// old ReplicaSets to the new one within the bounds of the strategy. How many go where is decided in rollout.go, what
// makes a ReplicaSet the new one in revision.go, and what the status says in progress.go.
type deployments struct {
	client kubernetes.Interface
	events record.EventRecorder
	loop   *reconcile.Loop
	lister appslisters.DeploymentLister
	setsOf appslisters.ReplicaSetLister
	sets   cache.Indexer
	pods   cache.Indexer
}

var deploymentKind = appsv1.SchemeGroupVersion.WithKind("Deployment")

func newDeployments(b *base, events record.EventRecorder) error {
	apps, pods := b.factory.Apps().V1(), b.factory.Core().V1().Pods()
	c := &deployments{
		client: b.client,
		events: events,
		lister: apps.Deployments().Lister(),
		setsOf: apps.ReplicaSets().Lister(),
		sets:   apps.ReplicaSets().Informer().GetIndexer(),
		pods:   pods.Informer().GetIndexer(),
	}
	c.loop = b.loop("deployment", 5, c.Reconcile)
	for _, informer := range []cache.SharedIndexInformer{apps.ReplicaSets().Informer(), pods.Informer()} {
		if err := addIndex(informer, byController, controllerKeys); err != nil {
			return fmt.Errorf("index for the deployment loop: %w", err)
		}
	}
	if err := b.watch(c.loop, apps.Deployments().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	if err := b.watch(c.loop, apps.ReplicaSets().Informer(), c.keysOf); err != nil {
		return err
	}
	// Strategy Recreate waits for the last old pod to be gone, which no ReplicaSet's status tells.
	return b.handle(pods.Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: c.podGone})
}

// keysOf names the Deployment that controls a ReplicaSet or, for one of nobody, those that might adopt it.
func (c *deployments) keysOf(obj any) []string {
	rs := obj.(*appsv1.ReplicaSet)
	return keysOf(rs, deploymentKind.Kind, c.lister.Deployments(rs.Namespace).List,
		func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector })
}

func (c *deployments) podGone(obj any) {
	pod := obj.(*corev1.Pod)
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != replicaSetKind.Kind {
		return
	}
	rs, err := c.setsOf.ReplicaSets(pod.Namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return
	}
	for _, key := range c.keysOf(rs) {
		c.loop.Add(key)
	}
}

// rollout is one call's view of a Deployment. The status of d is a copy that the steps change and that is written last.
type rollout struct {
	d       *appsv1.Deployment
	new     *appsv1.ReplicaSet // Nil while there is none with d's template.
	old     []*appsv1.ReplicaSet
	was     appsv1.DeploymentStatus // As it was read, but for conditions that have been written since.
	revised bool                    // d has a revision that is not written yet.
	time    time.Time
}

func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.new == nil {
		return r.old
	}
	return append(slices.Clone(r.old), r.new)
}

// Reconcile takes one Deployment a step further and writes its status. The step's own effects bring the next call.
func (c *deployments) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	cached, err := c.lister.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	r := &rollout{d: cached.DeepCopy(), was: cached.Status, time: time.Now()}
	sets, err := c.claimSets(ctx, r.d)
	if err != nil {
		return 0, err
	}
	r.new, r.old = splitSets(r.d, sets)
	notePaused(r)
	switch {
	case r.d.DeletionTimestamp != nil:
	case resizes(r):
		err = c.resize(ctx, r)
	case r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		err = c.recreate(ctx, r)
	default:
		err = c.roll(ctx, r)
	}
	if err != nil {
		return 0, err
	}
	return c.finish(ctx, r)
}

// resize follows a change of spec.replicas, which is not a rollout and happens while paused, too.
func (c *deployments) resize(ctx context.Context, r *rollout) error {
	if err := c.updateNew(ctx, r, false); err != nil {
		return err
	}
	if err := c.scaleAll(ctx, r, resized(r)); err != nil {
		return err
	}
	if r.d.Spec.Paused {
		return c.cleanUp(ctx, r)
	}
	return nil
}

// roll is the strategy RollingUpdate: a step up, or else a step down.
func (c *deployments) roll(ctx context.Context, r *rollout) error {
	if err := c.updateNew(ctx, r, true); err != nil {
		return err
	}
	if size := newSize(r); size != *r.new.Spec.Replicas {
		return c.scaleAll(ctx, r, map[string]int32{r.new.Name: size})
	}
	if err := c.scaleAll(ctx, r, oldSizes(r)); err != nil {
		return err
	}
	if complete(r.d, r.d.Status) {
		return c.cleanUp(ctx, r)
	}
	return nil
}

// recreate is the strategy Recreate: the new ReplicaSet gets its pods when the last old pod has ended.
func (c *deployments) recreate(ctx context.Context, r *rollout) error {
	if err := c.updateNew(ctx, r, false); err != nil {
		return err
	}
	zero := map[string]int32{}
	for _, rs := range r.old {
		if *rs.Spec.Replicas > 0 {
			zero[rs.Name] = 0
		}
	}
	if len(zero) > 0 {
		return c.scaleAll(ctx, r, zero)
	}
	if left, err := c.oldPodsLeft(r); err != nil || left {
		return err
	}
	if err := c.updateNew(ctx, r, true); err != nil {
		return err
	}
	if err := c.scaleAll(ctx, r, map[string]int32{r.new.Name: *r.d.Spec.Replicas}); err != nil {
		return err
	}
	if complete(r.d, r.d.Status) {
		return c.cleanUp(ctx, r)
	}
	return nil
}

// oldPodsLeft asks the statuses of the old ReplicaSets, too: their controller may know of a pod that this one's cache does not
// show yet.
func (c *deployments) oldPodsLeft(r *rollout) (bool, error) {
	for _, rs := range r.old {
		if rs.Status.Replicas > 0 {
			return true, nil
		}
		pods, err := indexed[*corev1.Pod](c.pods, byController, string(rs.UID))
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return !podFinished(p) }) {
			return true, nil
		}
	}
	return false, nil
}

// finish writes what has become of the rollout, and asks for a call when its deadline ends.
func (c *deployments) finish(ctx context.Context, r *rollout) (time.Duration, error) {
	rolling := r.d.DeletionTimestamp == nil && !resizes(r)
	r.d.Status = deploymentStatus(r, rolling)
	if err := c.writeStatus(ctx, r); err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	return untilDeadline(r), nil
}

// writeStatus writes the Deployment's status and annotations, if they are not what was read or written last. An annotation
// that goes with the status is not a change of what is wanted, and starts no generation.
func (c *deployments) writeStatus(ctx context.Context, r *rollout) error {
	if !r.revised && equality.Semantic.DeepEqual(r.was, r.d.Status) {
		return nil
	}
	updated, err := c.client.AppsV1().Deployments(r.d.Namespace).UpdateStatus(ctx, r.d, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write the status of deployment %s/%s: %w", r.d.Namespace, r.d.Name, err)
	}
	r.d.ResourceVersion, r.revised, r.was.Conditions = updated.ResourceVersion, false, slices.Clone(r.d.Status.Conditions)
	return nil
}

// claimSets returns the ReplicaSets that d controls, after adopting and releasing.
func (c *deployments) claimSets(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of deployment %s/%s: %w", d.Namespace, d.Name, err)
	}
	found, err := indexed[*appsv1.ReplicaSet](c.sets, byController, string(d.UID))
	if err != nil {
		return nil, err
	}
	orphans, err := indexed[*appsv1.ReplicaSet](c.sets, byController, orphanKey(d.Namespace))
	if err != nil {
		return nil, err
	}
	alive := func(ctx context.Context) error {
		live, err := c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		return sameAlive(d, live)
	}
	patch := func(ctx context.Context, name string, kind types.PatchType, patch []byte) error {
		_, err := c.client.AppsV1().ReplicaSets(d.Namespace).Patch(ctx, name, kind, patch, metav1.PatchOptions{})
		return err
	}
	return claim(ctx, d, *metav1.NewControllerRef(d, deploymentKind), selector, append(found, orphans...), alive, patch)
}

// updateNew brings the new ReplicaSet's annotations up to date, or makes it if there is none and create says so. The
// Deployment's revision, and that its rollout has begun, are written before the next step, which may fail: the call after
// that finds the ReplicaSet there, and could not tell from when on its deadline counts.
func (c *deployments) updateNew(ctx context.Context, r *rollout, create bool) error {
	switch {
	case r.new != nil:
		want := withRevision(r.d, r.new, maxRevision(r.old)+1)
		if want != nil {
			updated, err := c.client.AppsV1().ReplicaSets(r.d.Namespace).Update(ctx, want, metav1.UpdateOptions{})
			if err != nil {
				return fmt.Errorf("update replica set %s/%s: %w", want.Namespace, want.Name, err)
			}
			r.new = updated
		}
		noteFound(r)
	case create:
		if err := c.createNew(ctx, r); err != nil {
			return err
		}
	default:
		return nil
	}
	noteRevision(r)
	return c.writeStatus(ctx, r)
}

func (c *deployments) createNew(ctx context.Context, r *rollout) error {
	rs := newReplicaSet(r.d, maxRevision(r.old)+1)
	*rs.Spec.Replicas = firstSize(r)
	rs.Annotations = sizeAnnotations(rs.Annotations, r.d)
	sets := c.client.AppsV1().ReplicaSets(r.d.Namespace)
	created, err := sets.Create(ctx, rs, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		created, err = sets.Get(ctx, rs.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read replica set %s/%s: %w", rs.Namespace, rs.Name, err)
		}
		if metav1.IsControlledBy(created, r.d) && sameTemplate(&created.Spec.Template, &r.d.Spec.Template) {
			r.new = created // It is ours, and only the cache did not know.
			return nil
		}
		return c.avoidCollision(ctx, r, rs.Name)
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return fmt.Errorf("create replica set %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	if err != nil {
		noteCreateFailure(r, rs.Name, err)
		c.events.Eventf(r.d, corev1.EventTypeWarning, reasonFailed, "Failed to create new replica set %q: %v", rs.Name, err)
		if werr := c.writeStatus(ctx, r); werr != nil { // No more than that: finish would call it a lack of progress.
			return werr
		}
		return fmt.Errorf("create replica set %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	r.new = created
	if *created.Spec.Replicas > 0 {
		c.events.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", created.Name, *created.Spec.Replicas)
	}
	noteCreated(r)
	return nil
}

// avoidCollision counts a hash that another ReplicaSet's name has already, so that the next call makes another hash.
func (c *deployments) avoidCollision(ctx context.Context, r *rollout, name string) error {
	count := int32(1)
	if r.d.Status.CollisionCount != nil {
		count = *r.d.Status.CollisionCount + 1
	}
	r.d.Status.CollisionCount = &count
	if _, err := c.client.AppsV1().Deployments(r.d.Namespace).UpdateStatus(ctx, r.d, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("count a hash collision of deployment %s/%s: %w", r.d.Namespace, r.d.Name, err)
	}
	return fmt.Errorf("create replica set %s/%s: another one has this name; taking the next hash", r.d.Namespace, name)
}

// noteRevision copies the new ReplicaSet's revision to the Deployment.
func noteRevision(r *rollout) {
	if revision := r.new.Annotations[revisionAnnotation]; r.d.Annotations[revisionAnnotation] != revision {
		metav1.SetMetaDataAnnotation(&r.d.ObjectMeta, revisionAnnotation, revision)
		r.revised = true
	}
}

// scaleAll gives the named ReplicaSets their sizes, and with it the Deployment's own size as an annotation, by which its
// next change is noticed.
func (c *deployments) scaleAll(ctx context.Context, r *rollout, sizes map[string]int32) error {
	for _, rs := range r.all() {
		size, named := sizes[rs.Name]
		if !named {
			continue
		}
		before := *rs.Spec.Replicas
		annotations := sizeAnnotations(rs.Annotations, r.d)
		if size == before && equality.Semantic.DeepEqual(annotations, rs.Annotations) {
			continue
		}
		want := rs.DeepCopy()
		*want.Spec.Replicas, want.Annotations = size, annotations
		updated, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Update(ctx, want, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("scale replica set %s/%s from %d to %d: %w", rs.Namespace, rs.Name, before, size, err)
		}
		r.replace(updated)
		if size != before {
			c.events.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", direction(before, size), rs.Name, before, size)
		}
	}
	return nil
}

// replace puts a ReplicaSet as just written in the place of the one that was read.
func (r *rollout) replace(updated *appsv1.ReplicaSet) {
	if r.new != nil && r.new.Name == updated.Name {
		r.new = updated
	}
	for i, rs := range r.old {
		if rs.Name == updated.Name {
			r.old[i] = updated
		}
	}
}

func direction(before, after int32) string {
	if after > before {
		return "up"
	}
	return "down"
}

// cleanUp deletes the oldest ReplicaSets beyond the history that the Deployment keeps. It is called when no rollout is under
// way: until then the old ones are what can be gone back to.
func (c *deployments) cleanUp(ctx context.Context, r *rollout) error {
	for _, rs := range beyondHistory(r.d, r.old) {
		options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(rs.UID))}
		err := c.client.AppsV1().ReplicaSets(rs.Namespace).Delete(ctx, rs.Name, options)
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete old replica set %s/%s: %w", rs.Namespace, rs.Name, err)
		}
	}
	return nil
}
