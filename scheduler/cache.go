package scheduler

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
)

// cluster is what the scheduler knows: each node with the pods that are on it or have been chosen for it. Its owner locks.
type cluster struct {
	nodes  map[string]*nodeInfo
	where  map[types.UID]string // The node of each pod that counts.
	claims map[string]int       // By "namespace/name": how many of those pods use it.
}

// nodeInfo is one node. Its sums are kept, not computed, because every choice reads those of every node.
type nodeInfo struct {
	node      *corev1.Node // Nil while pods name a node that is not there (any more).
	pods      map[types.UID]*corev1.Pod
	requested amounts
	scoring   amounts // As requested, but with a guess for containers that say nothing.
	ports     map[hostPort]int
	picky     int // Pods with required anti-affinity.
}

// amounts are resources: CPU in thousandths, all else in its own unit.
type amounts map[corev1.ResourceName]int64

func newCluster() cluster {
	return cluster{nodes: map[string]*nodeInfo{}, where: map[types.UID]string{}, claims: map[string]int{}}
}

func (c *cluster) info(name string) *nodeInfo {
	if c.nodes[name] == nil {
		c.nodes[name] = &nodeInfo{
			pods: map[types.UID]*corev1.Pod{}, requested: amounts{}, scoring: amounts{}, ports: map[hostPort]int{},
		}
	}
	return c.nodes[name]
}

// sorted returns the nodes that exist, by name.
func (c *cluster) sorted() []*nodeInfo {
	all := slices.DeleteFunc(slices.Collect(maps.Values(c.nodes)), func(n *nodeInfo) bool { return n.node == nil })
	slices.SortFunc(all, func(a, b *nodeInfo) int { return cmp.Compare(a.node.Name, b.node.Name) })
	return all
}

func (c *cluster) has(pod types.UID) bool { _, there := c.where[pod]; return there }

func (c *cluster) putNode(node *corev1.Node) { c.info(node.Name).node = node }

func (c *cluster) removeNode(name string) {
	if n := c.nodes[name]; n != nil {
		n.node = nil
		c.drop(name)
	}
}

// drop forgets a node that does not exist and that no pod names.
func (c *cluster) drop(name string) {
	if n := c.nodes[name]; n.node == nil && len(n.pods) == 0 {
		delete(c.nodes, name)
	}
}

// putPod counts a pod that is on a node, and stops counting one that has finished. A pod without a node that was assumed
// on one stays there: its binding is under way. It says whether something became free.
func (c *cluster) putPod(pod *corev1.Pod) (freed bool) {
	if pod.Spec.NodeName == "" {
		return false
	}
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	was := c.where[pod.UID]
	if was == pod.Spec.NodeName && !finished && c.sameClaims(pod) {
		c.nodes[was].pods[pod.UID] = pod
		return false
	}
	freed = c.removePod(pod.UID)
	if !finished {
		c.assume(pod, pod.Spec.NodeName)
	}
	return freed
}

// sameClaims says whether a pod that is counted claims what it claimed before; its spec hardly ever changes.
func (c *cluster) sameClaims(pod *corev1.Pod) bool {
	before := c.nodes[c.where[pod.UID]].pods[pod.UID]
	return maps.Equal(claims(before, nil), claims(pod, nil))
}

// assume counts a pod on a node.
func (c *cluster) assume(pod *corev1.Pod, node string) {
	n := c.info(node)
	n.pods[pod.UID] = pod
	n.count(pod, 1)
	c.countClaims(pod, 1)
	c.where[pod.UID] = node
}

// forget stops counting a pod whose binding has failed, unless it shows as bound all the same.
func (c *cluster) forget(pod types.UID) (freed bool) {
	name, there := c.where[pod]
	return there && c.nodes[name].pods[pod].Spec.NodeName == "" && c.removePod(pod)
}

// removePod stops counting a pod and says whether it was counted.
func (c *cluster) removePod(pod types.UID) bool {
	name, there := c.where[pod]
	if !there {
		return false
	}
	n := c.nodes[name]
	n.count(n.pods[pod], -1)
	c.countClaims(n.pods[pod], -1)
	delete(n.pods, pod)
	delete(c.where, pod)
	c.drop(name)
	return true
}

func (c *cluster) countClaims(pod *corev1.Pod, times int) {
	keys, _ := claimKeys(pod) // It is a pod.
	for _, key := range keys {
		if c.claims[key] += times; c.claims[key] == 0 {
			delete(c.claims, key)
		}
	}
}

// count adds a pod to the sums, or with -1 takes it off.
func (n *nodeInfo) count(pod *corev1.Pod, times int64) {
	for name, amount := range claims(pod, nil) {
		n.requested[name] += times * amount
	}
	for name, amount := range claims(pod, unsaid()) {
		n.scoring[name] += times * amount
	}
	for _, port := range hostPorts(pod) {
		n.ports[port] += int(times)
		if n.ports[port] == 0 {
			delete(n.ports, port)
		}
	}
	if len(antiAffinityTerms(pod)) > 0 {
		n.picky += int(times)
	}
}

// claims are what the pod's containers request together, what they say nothing of by the given amounts.
func claims(pod *corev1.Pod, unsaid corev1.ResourceList) amounts {
	return asAmounts(resource.PodRequests(pod, resource.PodResourcesOptions{
		UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true, NonMissingContainerRequests: unsaid,
	}))
}

func asAmounts(list corev1.ResourceList) amounts {
	a := amounts{}
	for name, quantity := range list {
		if name == corev1.ResourceCPU {
			a[name] = quantity.MilliValue()
		} else {
			a[name] = quantity.Value()
		}
	}
	return a
}

// conditionPatch sets one condition of the pod and leaves the others, which are the agent's, alone.
func conditionPatch(pod *corev1.Pod, condition corev1.PodCondition) ([]byte, error) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{condition}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the condition %s: %w", condition.Type, err)
	}
	return patch, nil
}
