package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/reconcile"
)

// namespaces empties namespaces that are being deleted, of all kinds that the API server has, and then lets them go by
// taking the finalizer "kubernetes" off their spec. Pods go first, and the rest when the last of them has gone: one that still
// runs may need what else is there, a NetworkPolicy that protects it above all.
//
// Source: https://kep.k8s.io/5080.
type namespaces struct {
	client kubernetes.Interface
	lister corelisters.NamespaceLister
	kinds  anyKind
}

func newNamespaces(b *base) error {
	core := b.factory.Core().V1()
	c := &namespaces{client: b.client, lister: core.Namespaces().Lister(), kinds: anyKind{b.client.Discovery()}}
	loop := b.loop("namespace", 5, c.Reconcile)
	if err := b.watch(loop, core.Namespaces().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	// Pods take their time to end; the last one's end is what a namespace mostly waits for.
	return b.handle(core.Pods().Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if use, err := inUse(c.lister, obj.(*corev1.Pod).Namespace); err == nil && !use {
			loop.Add(obj.(*corev1.Pod).Namespace)
		}
	}})
}

// Reconcile deletes what is in one namespace that is being deleted, and says in its conditions what still remains.
func (c *namespaces) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	ns, err := c.lister.Get(name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return 0, nil
	}
	left := c.empty(ctx, name)
	ns, err = c.writeConditions(ctx, ns, left)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("write the status of namespace %s: %w", name, err)
	}
	if err := errors.Join(left.discovery, left.content); err != nil {
		return 0, fmt.Errorf("empty namespace %s: %w", name, err)
	}
	if len(left.objects) > 0 {
		return left.wait, nil
	}
	done := ns.DeepCopy()
	done.Spec.Finalizers = slices.DeleteFunc(done.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := c.client.CoreV1().Namespaces().Finalize(ctx, done, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return 0, fmt.Errorf("finalize namespace %s: %w", name, err)
	}
	return 0, nil
}

// remains is what is left of a namespace after all has been told to go.
type remains struct {
	discovery  error          // Not all kinds are known.
	content    error          // Not all could be deleted.
	objects    map[string]int // By "resource.group".
	finalizers map[string]int // By finalizer.
	wait       time.Duration  // After which to look again.
}

// empty deletes all objects in a namespace; while there are pods only those. What does not go at once is counted.
func (c *namespaces) empty(ctx context.Context, namespace string) remains {
	left := remains{objects: map[string]int{}, finalizers: map[string]int{}}
	resources, err := c.kinds.deletable()
	left.discovery = err
	var errs []error
	for _, r := range resources {
		objects, err := c.emptyOf(ctx, r, namespace)
		if err != nil {
			errs = append(errs, fmt.Errorf("delete all %s: %w", r.gvr.GroupResource(), err))
		}
		left.count(r.gvr.Resource+"."+r.gvr.Group, objects)
		if r.gvr == podResource && (err != nil || len(objects) > 0) {
			break
		}
	}
	left.content = errors.Join(errs...)
	return left
}

// emptyOf deletes all objects of a kind and returns those that remain.
func (c *namespaces) emptyOf(ctx context.Context, r deletableResource, namespace string) ([]metav1.PartialObjectMetadata, error) {
	objects, err := c.kinds.list(ctx, r.gvr, namespace)
	if err != nil || len(objects) == 0 {
		return nil, gone(err)
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if r.atOnce {
		if err := c.kinds.delete(ctx, r.gvr, namespace, "", options); err != nil {
			return nil, gone(err)
		}
	} else {
		for _, obj := range objects {
			if err := c.kinds.delete(ctx, r.gvr, namespace, obj.Name, options); gone(err) != nil {
				return nil, err
			}
		}
	}
	objects, err = c.kinds.list(ctx, r.gvr, namespace)
	return objects, gone(err)
}

// gone drops the error of a thing that is not there, as it should be.
func gone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (r *remains) count(kind string, objects []metav1.PartialObjectMetadata) {
	for _, obj := range objects {
		r.objects[kind]++
		for _, finalizer := range obj.Finalizers {
			r.finalizers[finalizer]++
		}
		grace := time.Duration(0)
		if obj.DeletionGracePeriodSeconds != nil {
			grace = time.Duration(*obj.DeletionGracePeriodSeconds) * time.Second
		}
		// A pod's end is an event, and this only the fallback for it. Other kinds wait for a finalizer.
		r.wait = max(r.wait, grace/2+time.Second)
	}
}

func (c *namespaces) writeConditions(ctx context.Context, ns *corev1.Namespace, left remains) (*corev1.Namespace, error) {
	updated := ns.DeepCopy()
	updated.Status.Phase = corev1.NamespaceTerminating
	updated.Status.Conditions = namespaceConditions(ns.Status.Conditions, left, time.Now())
	if equality.Semantic.DeepEqual(updated.Status, ns.Status) {
		return ns, nil
	}
	if len(left.objects) == 0 && left.discovery == nil && left.content == nil && len(ns.Status.Conditions) == 0 {
		return ns, nil // It goes with the next request; nobody would read the conditions.
	}
	return c.client.CoreV1().Namespaces().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
}

// namespaceConditions says in Kubernetes' words how far the deletion is.
func namespaceConditions(conditions []corev1.NamespaceCondition, left remains, now time.Time) []corev1.NamespaceCondition {
	conditions = slices.Clone(conditions)
	set := func(kind corev1.NamespaceConditionType, bad bool, badReason, badMessage, reason, message string) {
		c := corev1.NamespaceCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(now)}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, badReason, badMessage
		}
		i := slices.IndexFunc(conditions, func(old corev1.NamespaceCondition) bool { return old.Type == kind })
		if i < 0 {
			conditions = append(conditions, c)
			return
		}
		if conditions[i].Status == c.Status {
			c.LastTransitionTime = conditions[i].LastTransitionTime
		}
		conditions[i] = c
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, left.discovery != nil, "DiscoveryFailed", fmt.Sprintf("Discovery failed for some groups: %v", left.discovery),
		"ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, left.content != nil, "ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types: %v", left.content),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(left.objects) > 0, "SomeResourcesRemain",
		"Some resources are remaining: "+counted(left.objects, "%s has %d resource instances"),
		"ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(left.finalizers) > 0, "SomeFinalizersRemain",
		"Some content in the namespace has finalizers remaining: "+counted(left.finalizers, "%s in %d resource instances"),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return conditions
}

func counted(counts map[string]int, format string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf(format, name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
