package controller

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// runKubelets plays the agents: every pod that is pending soon runs and is ready. Pods are not on a node, so that they go as
// soon as they are deleted.
func (c *cluster) runKubelets(workers int) {
	c.add(func(ctx context.Context) (stop func()) { return c.runPretended(ctx, workers) })
}

func (c *cluster) runPretended(ctx context.Context, workers int) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactory(c.client, 0)
	queue := workqueue.NewTyped[string]()
	add := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok && pod.Status.Phase == corev1.PodPending {
			queue.Add(pod.Namespace + "/" + pod.Name)
		}
	}
	pods := factory.Core().V1().Pods()
	_, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }})
	c.must(err)
	factory.Start(ctx.Done())
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for {
				key, shutdown := queue.Get()
				if shutdown {
					return
				}
				namespace, name, _ := cache.SplitMetaNamespaceKey(key)
				if pod, err := pods.Lister().Pods(namespace).Get(name); err == nil && pod.DeletionTimestamp == nil {
					if err := c.setPod(ctx, pod, corev1.PodRunning, true); err != nil {
						queue.Add(key)
					}
				}
				queue.Done(key)
			}
		})
	}
	return func() {
		cancel()
		queue.ShutDown()
		running.Wait()
		factory.Shutdown()
	}
}

// setPod writes how a pod is. One that is gone is no error.
func (c *cluster) setPod(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, ready bool) error {
	pod = pod.DeepCopy()
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	pod.Status.Phase = phase
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()}}
	_, err := c.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || ctx.Err() != nil {
		return nil
	}
	return err
}
