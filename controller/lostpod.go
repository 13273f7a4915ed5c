package controller

import (
	"context"
	"fmt"
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

// lostPods deletes the pods of nodes that no longer exist: no agent is there any more to confirm that they have ended.
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
func (c *lostPods) Reconcile(ctx context.Context, node string) (time.Duration, error) {
	if _, err := c.nodes.Get(node); !apierrors.IsNotFound(err) {
		delete(c.since, node)
		return 0, err
	}
	pods, err := indexed[*corev1.Pod](c.pods, byNode, node)
	if err != nil {
		return 0, err
	}
	if len(pods) == 0 {
		delete(c.since, node)
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
		if err := c.delete(ctx, pod); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (c *lostPods) delete(ctx context.Context, pod *corev1.Pod) error {
	now := int64(0)
	options := metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %s/%s of node %s, which is gone: %w", pod.Namespace, pod.Name, pod.Spec.NodeName, err)
	}
	return nil
}
