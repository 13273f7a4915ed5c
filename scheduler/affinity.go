package scheduler

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// affinity is what a pod requires of its neighbours: to be with some, and apart from others.
type affinity struct {
	with, apart []term
	namespaces  corelisters.NamespaceLister // For the terms of pods that are there already.
}

// term selects pods: those that selector matches, in the namespaces named or selected.
type term struct {
	topologyKey string
	selector    labels.Selector
	namespaces  []string
	selectsNS   labels.Selector
}

func affinityTerms(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAffinity == nil {
		return nil
	}
	return pod.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
}

func antiAffinityTerms(pod *corev1.Pod) []corev1.PodAffinityTerm {
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.PodAntiAffinity == nil {
		return nil
	}
	return pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
}

func readAffinity(pod *corev1.Pod, namespaces corelisters.NamespaceLister) (affinity, error) {
	a := affinity{namespaces: namespaces}
	var err error
	if a.with, err = readTerms(pod, affinityTerms(pod)); err != nil {
		return a, fmt.Errorf("spec.affinity.podAffinity: %w", err)
	}
	if a.apart, err = readTerms(pod, antiAffinityTerms(pod)); err != nil {
		return a, fmt.Errorf("spec.affinity.podAntiAffinity: %w", err)
	}
	return a, nil
}

func readTerms(pod *corev1.Pod, terms []corev1.PodAffinityTerm) ([]term, error) {
	var out []term
	for _, t := range terms {
		selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("read the label selector: %w", err)
		}
		selectsNS, err := metav1.LabelSelectorAsSelector(t.NamespaceSelector)
		if err != nil {
			return nil, fmt.Errorf("read the namespace selector: %w", err)
		}
		read := term{topologyKey: t.TopologyKey, selector: selector, namespaces: t.Namespaces, selectsNS: selectsNS}
		if len(t.Namespaces) == 0 && t.NamespaceSelector == nil {
			read.namespaces = []string{pod.Namespace}
		}
		out = append(out, read)
	}
	return out, nil
}

func (t term) matches(pod *corev1.Pod, namespaces corelisters.NamespaceLister) bool {
	return t.selector.Matches(labels.Set(pod.Labels)) && (slices.Contains(t.namespaces, pod.Namespace) || t.matchesNamespace(pod.Namespace, namespaces))
}

func (t term) matchesNamespace(name string, namespaces corelisters.NamespaceLister) bool {
	if t.selectsNS.Empty() {
		return true
	}
	ns, err := namespaces.Get(name)
	return err == nil && t.selectsNS.Matches(labels.Set(ns.Labels))
}

// affinityHolds checks the pod's own requirements, and those of the pods that are there already to be apart from it.
//
// Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#inter-pod-affinity-and-anti-affinity.
func affinityHolds(r *request, n *nodeInfo, all []*nodeInfo) []string {
	switch {
	case !r.affinity.companions(r.pod, n, all):
		return []string{"node(s) didn't match pod affinity rules"}
	case r.affinity.strangers(n, all):
		return []string{"node(s) didn't match pod anti-affinity rules"}
	case r.affinity.unwelcome(r.pod, n, all):
		return []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
	}
	return nil
}

// companions says whether, for each term, a pod that matches all terms is in the node's domain. The first pod of a group
// that wants to be together would wait for itself for ever; it may go anywhere that has the domains.
func (a affinity) companions(pod *corev1.Pod, n *nodeInfo, all []*nodeInfo) bool {
	if len(a.with) == 0 {
		return true
	}
	matchesAll := func(p *corev1.Pod) bool {
		return !slices.ContainsFunc(a.with, func(t term) bool { return !t.matches(p, a.namespaces) })
	}
	missing, anywhere := false, false
	for _, t := range a.with {
		domain, ok := n.node.Labels[t.topologyKey]
		if !ok {
			return false
		}
		here := false
		for _, other := range all {
			if !anyPod(other, matchesAll) {
				continue
			}
			anywhere = anywhere || hasLabel(other, t.topologyKey)
			here = here || inDomain(other, t.topologyKey, domain)
		}
		missing = missing || !here
	}
	return !missing || (!anywhere && matchesAll(pod))
}

// strangers says whether a pod that matches one of the anti-affinity terms is in the node's domain.
func (a affinity) strangers(n *nodeInfo, all []*nodeInfo) bool {
	for _, t := range a.apart {
		domain, ok := n.node.Labels[t.topologyKey]
		if !ok {
			continue
		}
		for _, other := range all {
			if inDomain(other, t.topologyKey, domain) && anyPod(other, func(p *corev1.Pod) bool { return t.matches(p, a.namespaces) }) {
				return true
			}
		}
	}
	return false
}

// unwelcome says whether a pod in the node's domain requires to be apart from this one.
func (a affinity) unwelcome(pod *corev1.Pod, n *nodeInfo, all []*nodeInfo) bool {
	for _, other := range all {
		if other.picky == 0 {
			continue
		}
		if anyPod(other, func(there *corev1.Pod) bool {
			terms, err := readTerms(there, antiAffinityTerms(there))
			return err == nil && slices.ContainsFunc(terms, func(t term) bool {
				domain, ok := n.node.Labels[t.topologyKey]
				return ok && inDomain(other, t.topologyKey, domain) && t.matches(pod, a.namespaces)
			})
		}) {
			return true
		}
	}
	return false
}

func anyPod(n *nodeInfo, is func(*corev1.Pod) bool) bool {
	for _, pod := range n.pods {
		if is(pod) {
			return true
		}
	}
	return false
}

func hasLabel(n *nodeInfo, key string) bool { _, ok := n.node.Labels[key]; return ok }

func inDomain(n *nodeInfo, key, domain string) bool {
	value, ok := n.node.Labels[key]
	return ok && value == domain
}
