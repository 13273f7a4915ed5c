package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/node/topology"
)

// Kubernetes' defaults: --node-eviction-rate, --secondary-node-eviction-rate, --large-cluster-size-threshold and
// --unhealthy-zone-threshold.
const (
	outageInterval  = 10 * time.Second  // Between two nodes of a zone whose pods are driven out.
	slowInterval    = 100 * time.Second // The same, of a large zone that is partly disrupted.
	largeZone       = 50                // More nodes than that are a large zone.
	unhealthyAtMost = 0.55              // Of a zone's nodes may be so many not ready, before it is partly disrupted.
)

// excludeDisruption is the label of nodes that do not count for how a zone is.
const excludeDisruption = "node.kubernetes.io/exclude-disruption"

// outages gives nodes that are not ready, or silent, the taints that drive their pods out. It goes slowly where many nodes of a
// zone fail, and takes the taints away where no node is ready at all: more likely it is the control plane that is cut off then,
// and there is nowhere to go. What happens with one node alone (its taint goes when it is ready again) is the node loop's.
//
// Source: https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction
type outages struct {
	client kubernetes.Interface
	lister corelisters.NodeLister
}

func newOutages(b *base) error {
	nodes := b.factory.Core().V1().Nodes()
	c := &outages{client: b.client, lister: nodes.Lister()}
	loop := b.loop("outage", 1, c.Reconcile)
	return b.watch(loop, nodes.Informer(), func(any) []string { return []string{"the cluster"} })
}

// Reconcile looks at all nodes together, and asks to be called when the next of them may be tainted.
func (c *outages) Reconcile(ctx context.Context, _ string) (time.Duration, error) {
	nodes, err := c.lister.List(labels.Everything())
	if err != nil {
		return 0, fmt.Errorf("list the nodes: %w", err)
	}
	now := time.Now()
	plan := planOutage(nodes, now)
	var errs []error
	for _, node := range plan.drive {
		errs = append(errs, c.write(ctx, node, append(slices.Clone(node.Spec.Taints), healthTaint(node, now))))
	}
	for _, node := range plan.spare {
		errs = append(errs, c.write(ctx, node, slices.DeleteFunc(slices.Clone(node.Spec.Taints), drives)))
	}
	return plan.again, errors.Join(errs...)
}

func (c *outages) write(ctx context.Context, node *corev1.Node, taints []corev1.Taint) error {
	updated := node.DeepCopy()
	updated.Spec.Taints = taints
	_, err := c.client.CoreV1().Nodes().Update(ctx, updated, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("taint node %s: %w", node.Name, err)
	}
	return nil
}

// outagePlan is what is to be done about nodes that are not ready.
type outagePlan struct {
	drive []*corev1.Node // They get the taint that drives out pods.
	spare []*corev1.Node // They lose it.
	again time.Duration  // When the next one may get it; 0 if there is none, or nobody may.
}

func planOutage(nodes []*corev1.Node, now time.Time) (plan outagePlan) {
	zones := map[string]*zone{}
	for _, node := range nodes {
		key := topology.GetZoneKey(node)
		if zones[key] == nil {
			zones[key] = &zone{}
		}
		zones[key].add(node)
	}
	if allDisrupted(zones) {
		for _, node := range nodes {
			if slices.ContainsFunc(node.Spec.Taints, drives) {
				plan.spare = append(plan.spare, node)
			}
		}
		return plan
	}
	for _, key := range slices.Sorted(maps.Keys(zones)) {
		next, wait := zones[key].next(now)
		if next != nil {
			plan.drive = append(plan.drive, next)
		}
		if wait > 0 && (plan.again == 0 || wait < plan.again) {
			plan.again = wait
		}
	}
	return plan
}

// zone is the nodes of one zone, as far as its health goes.
type zone struct {
	ready, notReady int
	last            time.Time      // When a node was tainted last.
	waiting         []*corev1.Node // Not ready, and not tainted yet.
}

func (z *zone) add(node *corev1.Node) {
	ready := nodeCondition(node.Status.Conditions, corev1.NodeReady)
	if _, excluded := node.Labels[excludeDisruption]; !excluded {
		if ready != nil && ready.Status == corev1.ConditionTrue {
			z.ready++
		} else {
			z.notReady++
		}
	}
	i := slices.IndexFunc(node.Spec.Taints, drives)
	switch {
	case i < 0 && ready != nil && ready.Status != corev1.ConditionTrue:
		z.waiting = append(z.waiting, node)
	case i >= 0 && node.Spec.Taints[i].TimeAdded != nil && node.Spec.Taints[i].TimeAdded.After(z.last):
		z.last = node.Spec.Taints[i].TimeAdded.Time
	}
}

// next is the node of those waiting whose turn it is now, the one that has been so for the longest time; and how long it is until
// the one after it.
func (z *zone) next(now time.Time) (*corev1.Node, time.Duration) {
	interval, ever := evictionInterval(z.ready, z.notReady)
	if !ever || len(z.waiting) == 0 {
		return nil, 0
	}
	if wait := z.last.Add(interval).Sub(now); wait > 0 {
		return nil, min(wait, interval) // Whatever the clocks say.
	}
	since := func(node *corev1.Node) time.Time {
		return nodeCondition(node.Status.Conditions, corev1.NodeReady).LastTransitionTime.Time
	}
	first := slices.MinFunc(z.waiting, func(a, b *corev1.Node) int {
		return cmp.Or(since(a).Compare(since(b)), cmp.Compare(a.Name, b.Name))
	})
	if len(z.waiting) == 1 {
		return first, 0
	}
	return first, interval
}

// zoneState is how a zone is.
type zoneState string

const (
	zoneNormal            zoneState = "Normal"
	zoneFullDisruption    zoneState = "FullDisruption"
	zonePartialDisruption zoneState = "PartialDisruption"
)

// stateOfZone is how a zone with so many nodes is. One with less than three that are not ready is not disrupted in part.
func stateOfZone(ready, notReady int) zoneState {
	switch {
	case ready == 0 && notReady > 0:
		return zoneFullDisruption
	case notReady > 2 && float64(notReady)/float64(ready+notReady) >= unhealthyAtMost:
		return zonePartialDisruption
	}
	return zoneNormal
}

// evictionInterval is the time between two nodes of a zone whose pods are driven out, if they are at all.
func evictionInterval(ready, notReady int) (interval time.Duration, ever bool) {
	if stateOfZone(ready, notReady) != zonePartialDisruption {
		return outageInterval, true
	}
	return slowInterval, ready+notReady > largeZone
}

// allDisrupted says that no zone has a node that is ready.
func allDisrupted(zones map[string]*zone) bool {
	counted := false
	for _, z := range zones {
		if z.ready+z.notReady == 0 {
			continue // All of it is excluded.
		}
		if stateOfZone(z.ready, z.notReady) != zoneFullDisruption {
			return false
		}
		counted = true
	}
	return counted
}

// drives says that a taint is one that drives out the pods of a node that is not well.
func drives(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute && isHealthTaint(&t) }

// isHealthTaint says that a taint tells that a node is not ready, or silent.
func isHealthTaint(t *corev1.Taint) bool {
	return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
}

// healthTaint is the taint that drives pods out of a node that is not ready.
func healthTaint(node *corev1.Node, now time.Time) corev1.Taint {
	key := corev1.TaintNodeNotReady
	if nodeCondition(node.Status.Conditions, corev1.NodeReady).Status == corev1.ConditionUnknown {
		key = corev1.TaintNodeUnreachable
	}
	added := metav1.NewTime(now)
	return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}
}
