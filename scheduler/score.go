package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// unsaid is what a container that requests nothing is taken to need when nodes are compared, so that many such pods do
// not all go to one node.
func unsaid() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(100, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(200<<20, resource.BinarySI),
	}
}

// best returns the node with the highest score, the first by name among equals. There is at least one.
func best(r *request, fitting []*nodeInfo) *nodeInfo {
	if len(fitting) == 1 {
		return fitting[0]
	}
	preferred := relative(fitting, func(n *nodeInfo) float64 { return preference(r.pod, n) })
	shunned := relative(fitting, func(n *nodeInfo) float64 { return shunning(r.pod, n) })
	var chosen *nodeInfo
	highest := math.Inf(-1)
	for i, n := range fitting {
		// Kubernetes' weights.
		score := leastAllocated(r, n) + balanced(r, n) + imageHere(r.pod, n) + 2*preferred[i] + 3*(100-shunned[i])
		if score > highest {
			chosen, highest = n, score
		}
	}
	return chosen
}

// relative scales what a function says of the nodes so that the highest is 100.
func relative(nodes []*nodeInfo, of func(*nodeInfo) float64) []float64 {
	scores, most := make([]float64, len(nodes)), 0.0
	for i, n := range nodes {
		scores[i] = of(n)
		most = max(most, scores[i])
	}
	for i := range scores {
		if most > 0 {
			scores[i] *= 100 / most
		}
	}
	return scores
}

// fractions are the parts of the node's CPU and memory that would be taken with the pod on it.
func fractions(r *request, n *nodeInfo) (cpu, memory float64) {
	has := asAmounts(n.node.Status.Allocatable)
	part := func(name corev1.ResourceName) float64 {
		if has[name] <= 0 {
			return 1
		}
		return min(1, float64(n.scoring[name]+r.scoring[name])/float64(has[name]))
	}
	return part(corev1.ResourceCPU), part(corev1.ResourceMemory)
}

// leastAllocated is 0 for a full node and 100 for an empty one.
func leastAllocated(r *request, n *nodeInfo) float64 {
	cpu, memory := fractions(r, n)
	return 100 * ((1 - cpu) + (1 - memory)) / 2
}

// balanced is 100 where CPU and memory are taken to the same part, less the further apart they are.
func balanced(r *request, n *nodeInfo) float64 {
	cpu, memory := fractions(r, n)
	return 100 * (1 - math.Abs(cpu-memory)/2)
}

// Sizes between which having an image counts for more and more, per container.
const (
	imageMin = 23 << 20
	imageMax = 1000 << 20
)

// imageHere is 0 to 100 by the size of the pod's images that the node has already.
func imageHere(pod *corev1.Pod, n *nodeInfo) float64 {
	var size float64
	for _, container := range pod.Spec.Containers {
		for _, image := range n.node.Status.Images {
			for _, name := range image.Names {
				if name == container.Image {
					size += float64(image.SizeBytes)
				}
			}
		}
	}
	low, high := float64(imageMin), float64(imageMax)*float64(max(1, len(pod.Spec.Containers)))
	return 100 * (min(max(size, low), high) - low) / (high - low)
}

// preference is the sum of the weights of the preferred node affinity terms that the node matches.
func preference(pod *corev1.Pod, n *nodeInfo) float64 {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil {
		return 0
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return 0 // A preference that cannot be read prefers nothing.
	}
	return float64(terms.Score(n.node))
}

// shunning is the number of the node's taints that ask pods like this one to stay away if they can.
func shunning(pod *corev1.Pod, n *nodeInfo) float64 {
	var count float64
	for i := range n.node.Spec.Taints {
		taint := &n.node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule && !schedulinghelpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, taint, true) {
			count++
		}
	}
	return count
}
