package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"skiff/reconcile"
)

// lostPodQuarantine is how long a node must be gone before its pods are deleted: it may be about to register again.
const lostPodQuarantine = 40 * time.Second

// lostPods deletes the pods of nodes that no longer exist, or are out of service: no agent is there any more to confirm that they
// have ended.
type lostPods struct {
	client kubernetes.Interface
	nodes  corelisters.NodeLister
	pods   cache.Indexer
	since  map[string]time.Time // By node that is gone and has pods. One worker, so no lock.
}

func newLostPods(b *base) error {
	core := b.factory.Core().V1()
	c := &lostPods{client: b.client, nodes: core.Nodes().Lister(), pods: core.Pods().Informer().GetIndexer(), since: map[string]time.Time{}}
	if err := addIndex(core.Pods().Informer(), byNode, podNodeKeys); err != nil {
		return fmt.Errorf("index for the lostpod loop: %w", err)
	}
	loop := b.loop("lostpod", 1, c.Reconcile)
	if err := b.watch(loop, core.Nodes().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.watch(loop, core.Pods().Informer(), func(obj any) []string {
		keys, _ := podNodeKeys(obj)
		return keys
	})
}

// Reconcile looks at one node name, whether there is such a node or not.
func (c *lostPods) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, err := c.nodes.Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	pods, podsErr := indexed[*corev1.Pod](c.pods, byNode, name)
	if podsErr != nil {
		return 0, podsErr
	}
	if err == nil || len(pods) == 0 {
		delete(c.since, name)
	}
	if err == nil {
		return 0, c.release(ctx, node, pods)
	}
	return c.outlive(ctx, name, pods)
}

// release deletes for good those pods that are to go from a node of which an administrator says that it is out of service: its
// agent will not confirm that they have ended. See
// https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/#non-graceful-node-shutdown
func (c *lostPods) release(ctx context.Context, node *corev1.Node, pods []*corev1.Pod) error {
	ready := nodeCondition(node.Status.Conditions, corev1.NodeReady)
	if !outOfService(node) || ready != nil && ready.Status == corev1.ConditionTrue {
		return nil
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil {
			continue
		}
		if err := c.delete(ctx, pod, nil); err != nil {
			return err
		}
	}
	return nil
}

func outOfService(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// outlive deletes the pods of a node that does not exist, when it has been so for long enough.
func (c *lostPods) outlive(ctx context.Context, node string, pods []*corev1.Pod) (time.Duration, error) {
	if len(pods) == 0 {
		return 0, nil
	}
	since, known := c.since[node]
	if !known {
		since = time.Now()
		c.since[node] = since
	}
	if wait := lostPodQuarantine - time.Since(since); wait > 0 {
		return wait, nil
	}
	if _, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return 0, err // It is there after all; its event is on the way.
	}
	for _, pod := range pods {
		err := c.delete(ctx, pod, &corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
		})
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// delete deletes a pod at once, after telling that it failed, and perhaps why: nobody else will.
func (c *lostPods) delete(ctx context.Context, pod *corev1.Pod, why *corev1.PodCondition) error {
	pods := c.client.CoreV1().Pods(pod.Namespace)
	if !podFinished(pod) {
		failed := pod.DeepCopy()
		failed.Status.Phase = corev1.PodFailed
		if why != nil {
			why.ObservedGeneration = pod.Generation
			setPodCondition(failed, *why)
		}
		if _, err := pods.UpdateStatus(ctx, failed, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("tell that pod %s/%s of node %s, which is lost, failed: %w", pod.Namespace, pod.Name, pod.Spec.NodeName, err)
		}
	}
	now := int64(0)
	options := metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	if err := pods.Delete(ctx, pod.Name, options); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s/%s of node %s, which is lost: %w", pod.Namespace, pod.Name, pod.Spec.NodeName, err)
	}
	return nil
}
