package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadRule is a topology spread constraint that must hold (whenUnsatisfiable: DoNotSchedule).
type spreadRule struct {
	topologyKey  string
	maxSkew      int
	minDomains   int
	selector     labels.Selector
	ignoreTaints bool
	ignoreNodes  bool // Whether nodes that the pod's own node affinity excludes count as domains.
}

func readSpread(pod *corev1.Pod) ([]spreadRule, error) {
	var rules []spreadRule
	for i, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("spec.topologySpreadConstraints[%d].labelSelector: %w", i, err)
		}
		rule := spreadRule{
			topologyKey:  c.TopologyKey,
			maxSkew:      int(c.MaxSkew),
			minDomains:   1,
			selector:     selector,
			ignoreTaints: c.NodeTaintsPolicy == nil || *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyIgnore,
			ignoreNodes:  c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore,
		}
		if c.MinDomains != nil {
			rule.minDomains = int(*c.MinDomains)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

const spreadReason = "node(s) didn't match pod topology spread constraints"

// spreadEvenly checks, for each rule, that the pod would not make the node's domain hold more than maxSkew pods above the
// emptiest domain.
//
// Source: https://kubernetes.io/docs/concepts/scheduling-eviction/topology-spread-constraints/.
func spreadEvenly(r *request, n *nodeInfo, all []*nodeInfo) []string {
	for _, rule := range r.spread {
		domain, ok := n.node.Labels[rule.topologyKey]
		if !ok {
			return []string{spreadReason + " (missing required label)"}
		}
		counts := rule.count(r, all)
		fewest := 0
		if len(counts) >= rule.minDomains {
			fewest = -1
			for _, count := range counts {
				if fewest < 0 || count < fewest {
					fewest = count
				}
			}
			fewest = max(fewest, 0)
		}
		itself := 0
		if rule.selector.Matches(labels.Set(r.pod.Labels)) {
			itself = 1
		}
		if counts[domain]+itself-fewest > rule.maxSkew {
			return []string{spreadReason}
		}
	}
	return nil
}

// count returns the number of pods in each domain of the nodes that the pod may count on.
func (s spreadRule) count(r *request, all []*nodeInfo) map[string]int {
	counts := map[string]int{}
	for _, n := range all {
		lacksKey := slices.ContainsFunc(r.spread, func(other spreadRule) bool { return !hasLabel(n, other.topologyKey) })
		if lacksKey || (!s.ignoreNodes && len(selected(r, n, nil)) > 0) || (!s.ignoreTaints && len(tolerated(r, n, nil)) > 0) {
			continue
		}
		domain := n.node.Labels[s.topologyKey]
		counts[domain] += 0 // A domain without pods counts, too.
		for _, pod := range n.pods {
			if pod.Namespace == r.pod.Namespace && pod.DeletionTimestamp == nil && s.selector.Matches(labels.Set(pod.Labels)) {
				counts[domain]++
			}
		}
	}
	return counts
}
