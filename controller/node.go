package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"skiff/reconcile"
)

const (
	nodeGrace    = 50 * time.Second // How long a node may be silent before it counts as lost, Kubernetes' node-monitor-grace-period.
	startupGrace = 60 * time.Second // The same for a node that has never said how it is: node-startup-grace-period.
)

// nodes watches over the nodes' heartbeats, which are renewals of a Lease. A node that has been silent for [nodeGrace]
// gets unknown conditions, its pods stop counting as ready, and taints keep new pods away; the taints also follow what
// the node says of itself. Whether its pods are driven out is the outage loop's to say.
//
// Silence is measured on this machine's clock from the moment that a renewal was seen, so a node whose clock is wrong is
// not lost for that; and from the moment that this process began to look, so none is that could not say anything before.
type nodes struct {
	client kubernetes.Interface
	events record.EventRecorder
	lister corelisters.NodeLister
	leases coordinationlisters.LeaseLister
	pods   cache.Indexer

	mu   sync.Mutex
	seen map[string]heartbeat // By node.
}

// heartbeat is the last sign of life of a node and when it was seen.
type heartbeat struct {
	sign metav1.MicroTime
	at   time.Time
}

func newNodes(b *base, events record.EventRecorder) error {
	core, leases := b.factory.Core().V1(), b.factory.Coordination().V1().Leases()
	c := &nodes{
		client: b.client,
		events: events,
		lister: core.Nodes().Lister(),
		leases: leases.Lister(),
		pods:   core.Pods().Informer().GetIndexer(),
		seen:   map[string]heartbeat{},
	}
	if err := addIndex(core.Pods().Informer(), byNode, podNodeKeys); err != nil {
		return fmt.Errorf("index for the node loop: %w", err)
	}
	loop := b.loop("node", 1, c.Reconcile)
	b.needs(core.Pods().Informer())
	if err := b.watch(loop, core.Nodes().Informer(), reconcile.ObjectKey); err != nil {
		return err
	}
	return b.watch(loop, leases.Informer(), func(obj any) []string {
		if lease := obj.(*coordinationv1.Lease); lease.Namespace == corev1.NamespaceNodeLease {
			return []string{lease.Name}
		}
		return nil
	})
}

// Reconcile judges one node and asks to be called when its grace ends.
func (c *nodes) Reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, err := c.lister.Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(name)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	lease, err := c.leases.Leases(corev1.NamespaceNodeLease).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	grace := nodeGrace
	if nodeCondition(node.Status.Conditions, corev1.NodeReady) == nil {
		grace = startupGrace
	}
	silence := c.silence(name, lastSign(node, lease), time.Now())
	if silence >= grace {
		if silence, err = c.confirm(ctx, node, lease, silence); err != nil {
			return 0, err
		}
	}
	if silence >= grace {
		if node, err = c.markLost(ctx, node); err != nil {
			return 0, err
		}
	}
	if err := c.taint(ctx, node); err != nil {
		return 0, err
	}
	return max(0, grace-silence), nil
}

// confirm asks the API itself for the node's Lease before the node is called lost: the cache may be behind, and then so it is for
// all nodes.
func (c *nodes) confirm(ctx context.Context, node *corev1.Node, lease *coordinationv1.Lease, silence time.Duration) (time.Duration, error) {
	if ready := nodeCondition(node.Status.Conditions, corev1.NodeReady); ready != nil && ready.Status == corev1.ConditionUnknown {
		return silence, nil // It is lost already.
	}
	live, err := c.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return silence, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the lease of node %s again: %w", node.Name, err)
	}
	if lease == nil || live.ResourceVersion != lease.ResourceVersion {
		return c.silence(node.Name, lastSign(node, live), time.Now()), nil
	}
	return silence, nil
}

func (c *nodes) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.seen, name)
}

// silence is how long the node's last sign of life is known.
func (c *nodes) silence(name string, sign metav1.MicroTime, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, known := c.seen[name]; known && last.sign.Equal(&sign) {
		return now.Sub(last.at)
	}
	c.seen[name] = heartbeat{sign, now}
	return 0
}

func (c *nodes) markLost(ctx context.Context, node *corev1.Node) (*corev1.Node, error) {
	conditions := lostConditions(node.Status.Conditions, node.CreationTimestamp, time.Now())
	if !equality.Semantic.DeepEqual(conditions, node.Status.Conditions) {
		updated := node.DeepCopy()
		updated.Status.Conditions = conditions
		written, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
		if err != nil {
			return nil, fmt.Errorf("mark node %s lost: %w", node.Name, err)
		}
		if was := nodeCondition(node.Status.Conditions, corev1.NodeReady); was != nil && was.Status == corev1.ConditionTrue {
			c.events.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
		}
		node = written
	}
	pods, err := indexed[*corev1.Pod](c.pods, byNode, node.Name)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		if err := c.markNotReady(ctx, pod); err != nil {
			return nil, err
		}
	}
	return node, nil
}

// markNotReady takes the pod of a lost node out of its Services.
func (c *nodes) markNotReady(ctx context.Context, pod *corev1.Pod) error {
	if !podReady(pod) {
		return nil
	}
	updated := pod.DeepCopy()
	ready := podCondition(updated, corev1.PodReady)
	ready.Status, ready.LastTransitionTime = corev1.ConditionFalse, metav1.Now()
	_, err := c.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark pod %s/%s of a lost node not ready: %w", pod.Namespace, pod.Name, err)
	}
	c.events.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
	return nil
}

func (c *nodes) taint(ctx context.Context, node *corev1.Node) error {
	taints := nodeTaints(node, time.Now())
	if equality.Semantic.DeepEqual(taints, node.Spec.Taints) {
		return nil
	}
	updated := node.DeepCopy()
	updated.Spec.Taints = taints
	if _, err := c.client.CoreV1().Nodes().Update(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("taint node %s: %w", node.Name, err)
	}
	return nil
}

// lastSign is the later of the two heartbeats that a node may send: the renewal of its Lease, and its status.
func lastSign(node *corev1.Node, lease *coordinationv1.Lease) metav1.MicroTime {
	var sign metav1.MicroTime
	if lease != nil && lease.Spec.RenewTime != nil {
		sign = *lease.Spec.RenewTime
	}
	if ready := nodeCondition(node.Status.Conditions, corev1.NodeReady); ready != nil && ready.LastHeartbeatTime.After(sign.Time) {
		sign = metav1.NewMicroTime(ready.LastHeartbeatTime.Time)
	}
	return sign
}

func nodeCondition(conditions []corev1.NodeCondition, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range conditions {
		if conditions[i].Type == kind {
			return &conditions[i]
		}
	}
	return nil
}

// lostConditions are the conditions of a node of which nothing is known any more, or never was.
func lostConditions(conditions []corev1.NodeCondition, created metav1.Time, now time.Time) []corev1.NodeCondition {
	conditions = slices.Clone(conditions)
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		known := nodeCondition(conditions, kind)
		switch {
		case known == nil:
			conditions = append(conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown,
				Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: created, LastTransitionTime: metav1.NewTime(now),
			})
		case known.Status != corev1.ConditionUnknown:
			known.Status, known.LastTransitionTime = corev1.ConditionUnknown, metav1.NewTime(now)
			known.Reason, known.Message = "NodeStatusUnknown", "Kubelet stopped posting node status."
		}
	}
	return conditions
}

// nodeTaints are the taints that the node should have: those of others as they are, and those that say what its
// conditions and spec.unschedulable say. A node that has not said yet whether it is ready keeps the taint that it was created with.
// Which nodes get the taints that drive out pods is decided for all of them together; here such a taint goes, or becomes the other.
//
// Source: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/#taint-nodes-by-condition.
func nodeTaints(node *corev1.Node, now time.Time) []corev1.Taint {
	type rule struct {
		key    string
		effect corev1.TaintEffect
		holds  bool
	}
	is := func(kind corev1.NodeConditionType, status corev1.ConditionStatus) bool {
		c := nodeCondition(node.Status.Conditions, kind)
		return c != nil && c.Status == status
	}
	unsaid := nodeCondition(node.Status.Conditions, corev1.NodeReady) == nil && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeNotReady && t.Effect == corev1.TaintEffectNoSchedule
	})
	notReady, unreachable := is(corev1.NodeReady, corev1.ConditionFalse), is(corev1.NodeReady, corev1.ConditionUnknown)
	driven := slices.ContainsFunc(node.Spec.Taints, drives)
	rules := []rule{
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule, notReady || unsaid},
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute, notReady && driven},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule, unreachable},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute, unreachable && driven},
		{corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule, is(corev1.NodeMemoryPressure, corev1.ConditionTrue)},
		{corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule, is(corev1.NodeDiskPressure, corev1.ConditionTrue)},
		{corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule, is(corev1.NodePIDPressure, corev1.ConditionTrue)},
		{corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule, is(corev1.NodeNetworkUnavailable, corev1.ConditionTrue)},
		{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule, node.Spec.Unschedulable},
	}
	var taints []corev1.Taint
	for _, t := range node.Spec.Taints {
		i := slices.IndexFunc(rules, func(r rule) bool { return r.key == t.Key && r.effect == t.Effect })
		if i >= 0 && !rules[i].holds {
			continue
		}
		if i >= 0 {
			rules[i].holds = false // It is there; keep the time since when.
		}
		taints = append(taints, t)
	}
	for _, r := range rules {
		if r.holds {
			added := metav1.NewTime(now)
			taints = append(taints, corev1.Taint{Key: r.key, Effect: r.effect, TimeAdded: &added})
		}
	}
	return taints
}
