package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// request is a pod to be scheduled, with what is worked out once for all nodes.
type request struct {
	pod      *corev1.Pod
	claims   amounts
	scoring  amounts
	ports    []hostPort
	required nodeaffinity.RequiredNodeAffinity
	affinity affinity
	spread   []spreadRule
	volumes  podVolumes
	blocked  string // Why no node can have it, whichever that is.
	inUse    bool   // One of its claims is another pod's, and may be of one only.
}

// holdVolumes adds what a pod's volumes ask of a node; uses counts the pods that use a claim.
func (r *request) holdVolumes(v *podVolumes, blocked string, uses map[string]int) {
	r.volumes, r.blocked = *v, blocked
	r.inUse = slices.ContainsFunc(v.alone, func(claim string) bool { return uses[claim] > 0 })
}

// newRequest reads a pod. Failure names what in its spec this scheduler cannot honour.
func newRequest(pod *corev1.Pod, namespaces corelisters.NamespaceLister) (r *request, failure string) {
	if field := unsupported(pod); field != "" {
		return nil, fmt.Sprintf("%s is not supported by this scheduler; the pod stays pending", field)
	}
	r = &request{
		pod:      pod,
		claims:   claims(pod, nil),
		scoring:  claims(pod, unsaid()),
		ports:    hostPorts(pod),
		required: nodeaffinity.GetRequiredNodeAffinity(pod),
	}
	var err error
	if r.affinity, err = readAffinity(pod, namespaces); err != nil {
		return nil, err.Error()
	}
	if r.spread, err = readSpread(pod); err != nil {
		return nil, err.Error()
	}
	return r, ""
}

// unsupported is the path of the first field of the pod that would have a say in where it can run but is not understood.
func unsupported(pod *corev1.Pod) string {
	if len(pod.Spec.ResourceClaims) > 0 {
		return "spec.resourceClaims"
	}
	return ""
}

// filter returns why the pod cannot run on the node, in Kubernetes' words; nothing if it can.
type filter func(r *request, n *nodeInfo, all []*nodeInfo) []string

// filters are asked in this order, and the first one that objects speaks for the node. Those that look at one node only
// come first.
func filters() []filter {
	return []filter{
		schedulable, named, tolerated, selected, portsFree, resourcesFit, volumesFit, spreadEvenly, affinityHolds,
	}
}

// feasible returns the nodes that pass all filters, or the message of why there is none.
func feasible(r *request, all []*nodeInfo) (fitting []*nodeInfo, failure string) {
	if len(all) == 0 {
		return nil, "no nodes available to schedule pods"
	}
	if r.blocked != "" {
		return nil, fmt.Sprintf("0/%d nodes are available: %s.", len(all), r.blocked)
	}
	reasons := map[string]int{}
	for _, n := range all {
		objections := objections(r, n, all)
		for _, reason := range objections {
			reasons[reason]++
		}
		if len(objections) == 0 {
			fitting = append(fitting, n)
		}
	}
	if len(fitting) > 0 {
		return fitting, ""
	}
	return nil, failureMessage(len(all), reasons)
}

func objections(r *request, n *nodeInfo, all []*nodeInfo) []string {
	for _, f := range filters() {
		if reasons := f(r, n, all); len(reasons) > 0 {
			return reasons
		}
	}
	return nil
}

// failureMessage counts the nodes by reason: "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable."
func failureMessage(nodes int, reasons map[string]int) string {
	var parts []string
	for reason, count := range maps.All(reasons) {
		parts = append(parts, fmt.Sprintf("%d %s", count, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}

func schedulable(r *request, n *nodeInfo, _ []*nodeInfo) []string {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	if n.node.Spec.Unschedulable && !schedulinghelpers.TolerationsTolerateTaint(klog.Background(), r.pod.Spec.Tolerations, &taint, true) {
		return []string{"node(s) were unschedulable"}
	}
	return nil
}

// named holds the pod to a node that its spec names; such a pod comes here only through a requirement of its own.
func named(r *request, n *nodeInfo, _ []*nodeInfo) []string {
	if r.pod.Spec.NodeName != "" && r.pod.Spec.NodeName != n.node.Name {
		return []string{"node(s) didn't match the requested node name"}
	}
	return nil
}

func tolerated(r *request, n *nodeInfo, _ []*nodeInfo) []string {
	keepsOut := func(t *corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
	}
	if _, found := schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), n.node.Spec.Taints, r.pod.Spec.Tolerations, keepsOut, true); found {
		return []string{"node(s) had untolerated taint(s)"}
	}
	return nil
}

func selected(r *request, n *nodeInfo, _ []*nodeInfo) []string {
	if ok, err := r.required.Match(n.node); err != nil || !ok {
		return []string{"node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

// hostPort is a port of the node that a container takes.
type hostPort struct {
	ip       string // "" and "0.0.0.0" are every address; stored as "0.0.0.0".
	protocol corev1.Protocol
	port     int32
}

const anyIP = "0.0.0.0"

// hostPorts are the ports of the node that the pod takes. Those of init containers count only for sidecars, which run on.
func hostPorts(pod *corev1.Pod) []hostPort {
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	var ports []hostPort
	for _, c := range containers {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			port := hostPort{p.HostIP, p.Protocol, p.HostPort}
			if port.ip == "" {
				port.ip = anyIP
			}
			if port.protocol == "" {
				port.protocol = corev1.ProtocolTCP
			}
			ports = append(ports, port)
		}
	}
	return ports
}

func portsFree(r *request, n *nodeInfo, _ []*nodeInfo) []string {
	for _, want := range r.ports {
		for used := range n.ports {
			if used.port == want.port && used.protocol == want.protocol && (used.ip == want.ip || used.ip == anyIP || want.ip == anyIP) {
				return []string{"node(s) didn't have free ports for the requested pod ports"}
			}
		}
	}
	return nil
}

// resourcesFit compares what is requested with what the node has to give; use does not count.
func resourcesFit(r *request, n *nodeInfo, _ []*nodeInfo) []string {
	var reasons []string
	has := asAmounts(n.node.Status.Allocatable)
	if int64(len(n.pods))+1 > has[corev1.ResourcePods] {
		reasons = append(reasons, "Too many pods")
	}
	for _, name := range slices.Sorted(maps.Keys(r.claims)) {
		if want := r.claims[name]; want > 0 && want > has[name]-n.requested[name] {
			reasons = append(reasons, "Insufficient "+string(name))
		}
	}
	return reasons
}
