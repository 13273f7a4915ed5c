package controller

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	"skiff/reconcile"
)

// disruptionTimeout is how long an evicted pod may take to be seen leaving. After that it counts as one that stays.
const disruptionTimeout = 2 * time.Minute

// disruptions keeps the books of PodDisruptionBudgets: how many of a budget's pods are healthy, and how many may go. The API
// server spends from that when a pod is to be evicted, and writes down whose eviction it has granted.
//
// Source: https://kubernetes.io/docs/tasks/run-application/configure-pdb/
type disruptions struct {
	client       kubernetes.Interface
	budgets      policylisters.PodDisruptionBudgetLister
	pods         corelisters.PodLister
	deployments  appslisters.DeploymentLister
	replicaSets  appslisters.ReplicaSetLister
	statefulSets appslisters.StatefulSetLister
	controllers  corelisters.ReplicationControllerLister
	events       record.EventRecorder
}

func newDisruptions(b *base, events record.EventRecorder) error {
	core, apps, budgets := b.factory.Core().V1(), b.factory.Apps().V1(), b.factory.Policy().V1().PodDisruptionBudgets()
	c := &disruptions{
		client: b.client, budgets: budgets.Lister(), pods: core.Pods().Lister(), deployments: apps.Deployments().Lister(),
		replicaSets: apps.ReplicaSets().Lister(), statefulSets: apps.StatefulSets().Lister(),
		controllers: core.ReplicationControllers().Lister(), events: events,
	}
	for _, owners := range []cache.SharedIndexInformer{
		apps.Deployments().Informer(), apps.ReplicaSets().Informer(), apps.StatefulSets().Informer(), core.ReplicationControllers().Informer(),
	} {
		b.needs(owners)
	}
	loop := b.loop("disruption", 1, c.Reconcile)
	if err := b.watch(loop, budgets.Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.watch(loop, core.Pods().Informer(), c.guarding)
}

// guarding names the budgets that a pod counts for.
func (c *disruptions) guarding(obj any) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	budgets, err := c.budgets.PodDisruptionBudgets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	var keys []string
	for _, budget := range budgets {
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.Labels)) {
			keys = append(keys, budget.Namespace+"/"+budget.Name)
		}
	}
	return keys
}

// Reconcile writes the status of one budget.
func (c *disruptions) Reconcile(ctx context.Context, key string) (time.Duration, error) {
	namespace, name, _ := cache.SplitMetaNamespaceKey(key)
	budget, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	count, err := c.count(budget, time.Now())
	if err != nil {
		count.status = closed(budget, err)
	}
	if equality.Semantic.DeepEqual(count.status, budget.Status) {
		return count.again, nil
	}
	switch {
	case err != nil:
		c.events.Event(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed",
			fmt.Sprintf("Failed to calculate the number of expected pods: %v", err))
	case count.unmanaged:
		c.events.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %s) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", metav1.FormatLabelSelector(budget.Spec.Selector))
	}
	next := budget.DeepCopy()
	next.Status = count.status
	if _, err := c.client.PolicyV1().PodDisruptionBudgets(namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return 0, fmt.Errorf("write the status of pod disruption budget %s: %w", key, err)
	}
	return count.again, nil
}

// podCount is how it stands with a budget's pods.
type podCount struct {
	status    policyv1.PodDisruptionBudgetStatus
	unmanaged bool          // Some of them have no owner that says how many there are to be, and that matters.
	again     time.Duration // Until one whose eviction was granted has had its time. Zero: there is none.
}

func (c *disruptions) count(budget *policyv1.PodDisruptionBudget, now time.Time) (podCount, error) {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return podCount{}, err
	}
	pods, err := c.pods.Pods(budget.Namespace).List(selector)
	if err != nil {
		return podCount{}, err
	}
	expected, unmanaged := int32(len(pods)), false
	if needsScale(&budget.Spec) {
		if expected, unmanaged, err = c.expected(pods); err != nil {
			return podCount{}, err
		}
	}
	desired, err := desiredHealthy(&budget.Spec, expected)
	if err != nil {
		return podCount{}, err
	}
	leaving, again := stillLeaving(budget.Status.DisruptedPods, pods, now)
	next := budget.DeepCopy()
	next.Status = policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: budget.Generation, DisruptedPods: leaving, Conditions: next.Status.Conditions,
		ExpectedPods: expected, DesiredHealthy: desired, CurrentHealthy: healthy(pods, leaving),
	}
	// A budget without pods allows nothing, so that the first pods to come are guarded before they have been counted.
	if s := &next.Status; expected > 0 {
		s.DisruptionsAllowed = max(s.CurrentHealthy-s.DesiredHealthy, 0)
	}
	poddisruptionbudget.UpdateDisruptionAllowedCondition(next)
	return podCount{next.Status, unmanaged, again}, nil
}

// needsScale says whether the budget is a share of the pods that there should be, not of those that there are.
func needsScale(s *policyv1.PodDisruptionBudgetSpec) bool {
	return s.MaxUnavailable != nil || s.MinAvailable != nil && s.MinAvailable.Type == intstr.String
}

// desiredHealthy is how many pods must be healthy. Parts of a pod are rounded up, as the documentation has it.
func desiredHealthy(s *policyv1.PodDisruptionBudgetSpec, expected int32) (int32, error) {
	switch {
	case s.MaxUnavailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(s.MaxUnavailable, int(expected), true)
		return max(expected-int32(n), 0), err
	case s.MinAvailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(s.MinAvailable, int(expected), true)
		return int32(n), err
	}
	return 0, nil
}

// stillLeaving are those of the pods whose eviction was granted that have not begun to go and may yet.
func stillLeaving(granted map[string]metav1.Time, pods []*corev1.Pod, now time.Time) (leaving map[string]metav1.Time, again time.Duration) {
	for _, pod := range pods {
		at, ok := granted[pod.Name]
		left := at.Add(disruptionTimeout).Sub(now)
		if !ok || pod.DeletionTimestamp != nil || left < 0 {
			continue
		}
		if leaving == nil {
			leaving = map[string]metav1.Time{}
		}
		leaving[pod.Name] = at
		if again == 0 || left < again {
			again = left + time.Millisecond // When it is over.
		}
	}
	return leaving, again
}

// healthy counts the pods that are ready and stay.
func healthy(pods []*corev1.Pod, leaving map[string]metav1.Time) (n int32) {
	for _, pod := range pods {
		if _, leaves := leaving[pod.Name]; !leaves && pod.DeletionTimestamp == nil && podReady(pod) {
			n++
		}
	}
	return n
}

// closed is the status of a budget that could not be counted: nothing may go.
func closed(budget *policyv1.PodDisruptionBudget, why error) policyv1.PodDisruptionBudgetStatus {
	status := *budget.Status.DeepCopy()
	status.DisruptionsAllowed = 0
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: why.Error(), ObservedGeneration: status.ObservedGeneration,
	})
	return status
}

// expected sums up how many pods the owners of the given ones want. A pod of nobody counts for nothing.
func (c *disruptions) expected(pods []*corev1.Pod) (n int32, unmanaged bool, err error) {
	known := map[types.UID]bool{} // Controllers of pods.
	scale := map[types.UID]int32{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = true
			continue
		}
		if known[ref.UID] {
			continue
		}
		known[ref.UID] = true
		uid, replicas, err := c.scaleOf(pod.Namespace, ref)
		if apierrors.IsNotFound(err) || err == nil && replicas == nil {
			err = fmt.Errorf("found no controllers for pod %q", pod.Name)
		}
		if err != nil {
			return 0, false, err
		}
		scale[uid] = *replicas
	}
	for _, replicas := range scale {
		n += replicas
	}
	return n, unmanaged, nil
}

// scaleOf finds who says how many pods there are to be, and how many: for pods of a Deployment's ReplicaSet it is the
// Deployment, all of whose ReplicaSets share the one number. No number: that owner is not there any more.
func (c *disruptions) scaleOf(namespace string, ref *metav1.OwnerReference) (types.UID, *int32, error) {
	switch gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind); gvk.GroupKind().String() {
	case "ReplicationController":
		rc, err := c.controllers.ReplicationControllers(namespace).Get(ref.Name)
		return scaleBy(ref, rc, err, func(rc *corev1.ReplicationController) *int32 { return rc.Spec.Replicas })
	case "StatefulSet.apps":
		set, err := c.statefulSets.StatefulSets(namespace).Get(ref.Name)
		return scaleBy(ref, set, err, func(set *appsv1.StatefulSet) *int32 { return set.Spec.Replicas })
	case "Deployment.apps":
		d, err := c.deployments.Deployments(namespace).Get(ref.Name)
		return scaleBy(ref, d, err, func(d *appsv1.Deployment) *int32 { return d.Spec.Replicas })
	case "ReplicaSet.apps":
		rs, err := c.replicaSets.ReplicaSets(namespace).Get(ref.Name)
		if err == nil && rs.UID == ref.UID {
			if owner := metav1.GetControllerOfNoCopy(rs); owner != nil && owner.Kind == "Deployment" {
				return c.scaleOf(namespace, owner)
			}
		}
		return scaleBy(ref, rs, err, func(rs *appsv1.ReplicaSet) *int32 { return rs.Spec.Replicas })
	default:
		resource, _ := meta.UnsafeGuessKindToResource(gvk)
		return "", nil, fmt.Errorf("%s does not implement the scale subresource", resource.GroupResource())
	}
}

// scaleBy is the number that an owner wants, if it is the one referred to.
func scaleBy[T metav1.Object](ref *metav1.OwnerReference, owner T, err error, replicas func(T) *int32) (types.UID, *int32, error) {
	if err != nil || owner.GetUID() != ref.UID {
		return "", nil, err
	}
	return owner.GetUID(), replicas(owner), nil
}
