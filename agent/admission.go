package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresource "k8s.io/component-helpers/resource"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"skiff/api"
)

// A pod comes to a node by the scheduler, which has seen that it fits, or by whoever has written the node's name into it, who may not
// have. So the node looks for itself before a pod begins; one that it cannot have fails. The words are the kubelet's.
// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename

// admission of new pods, one at a time.
type admission struct {
	mu sync.Mutex
	in map[types.UID]bool // Let in by this process; of others the status tells that they have begun.
}

func (d *admission) forget(uid string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.in, types.UID(uid))
}

// refuses is why a new pod cannot run on this node, nil if it can. A pod is judged once.
func (a *Agent) refuses(ctx context.Context, pod *v1.Pod, m *memory) *failure {
	if m.judged {
		return m.refused
	}
	m.judged = true
	for _, check := range []func() *failure{
		func() *failure { return a.refusesAppArmor(pod) },
		func() *failure { return refusesSystem(pod) },
		func() *failure { return refusesSysctl(pod) },
		func() *failure { return a.refusesPlace(ctx, pod) },
		func() *failure { return a.refusesRoom(pod) },
	} {
		if m.refused = check(); m.refused != nil {
			break
		}
	}
	return m.refused
}

// refusesSystem: a pod may say which operating system it is for.
func refusesSystem(pod *v1.Pod) *failure {
	if pod.Spec.OS == nil || pod.Spec.OS.Name == v1.Linux {
		return nil
	}
	return &failure{reason: "PodOSNotSupported", message: "Failed to admit pod as the OS field doesn't match node OS", rejected: true}
}

// refusesSysctl: of kernel parameters a pod may set those that harm nobody else.
func refusesSysctl(pod *v1.Pod) *failure {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		if !api.SafeSysctl(pod, s.Name) {
			return &failure{reason: "SysctlForbidden", message: fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name), rejected: true}
		}
	}
	return nil
}

// refusesPlace: nobody has looked at the node's labels and taints for a pod that the scheduler has not seen.
func (a *Agent) refusesPlace(ctx context.Context, pod *v1.Pod) *failure {
	scheduled := conditionOf(pod.Status.Conditions, v1.PodScheduled)
	required := len(pod.Spec.NodeSelector) > 0 || pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil
	if scheduled != nil && scheduled.Status == v1.ConditionTrue || !required && a.isStatic(pod) {
		return nil
	}
	node, err := a.client.CoreV1().Nodes().Get(ctx, a.NodeName, metav1.GetOptions{})
	if err != nil { // A static pod may be first of all.
		node = &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: a.NodeName, Labels: a.labels()}}
	}
	if fits, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !fits {
		return &failure{reason: "NodeAffinity", message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector", rejected: true}
	}
	drivesOut := func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }
	if _, found := schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, drivesOut, true); found && !a.isStatic(pod) {
		return &failure{reason: "TaintToleration", message: "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate", rejected: true}
	}
	return nil
}

// refusesRoom says what the node has not enough of for a pod beside those that have begun.
func (a *Agent) refusesRoom(pod *v1.Pod) *failure {
	a.admitted.mu.Lock()
	defer a.admitted.mu.Unlock()
	others := slices.DeleteFunc(a.ownPods(), func(p *v1.Pod) bool {
		return p.UID == pod.UID || ended(p) || p.Status.StartTime == nil && !a.admitted.in[p.UID]
	})
	refused := lacks(pod, others, a.allocatable())
	if a.critical(pod) { // Others are evicted for it, if need be.
		refused = nil
	}
	if refused == nil && slices.ContainsFunc(others, func(p *v1.Pod) bool { return portsCollide(pod, p) }) {
		refused = &failure{reason: "NodePorts", message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports", rejected: true}
	}
	if refused == nil {
		a.admitted.in[pod.UID] = true
	}
	return refused
}

// lacks compares what pods ask for with what there is. Resources that the node does not know are others' to count.
func lacks(pod *v1.Pod, others []*v1.Pod, allocatable v1.ResourceList) *failure {
	short := func(name v1.ResourceName, want, used, most int64) *failure {
		return &failure{reason: "OutOf" + string(name), rejected: true,
			message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, want, used, most)}
	}
	if n, most := int64(len(others)), allocatable.Pods().Value(); most > 0 && n >= most {
		return short(v1.ResourcePods, 1, n, most)
	}
	wants, used := podresource.PodRequests(pod, podresource.PodResourcesOptions{}), requestsOf(others)
	for _, name := range slices.Sorted(maps.Keys(wants)) {
		if _, known := allocatable[name]; !known {
			continue
		}
		if want, u, most := amountOf(wants, name), amountOf(used, name), amountOf(allocatable, name); want > 0 && want > most-u {
			return short(name, want, u, most)
		}
	}
	return nil
}

// amountOf is a resource in the unit that it is told in: processors in thousandths.
func amountOf(list v1.ResourceList, name v1.ResourceName) int64 {
	amount := list[name]
	if name == v1.ResourceCPU {
		return amount.MilliValue()
	}
	return amount.Value()
}

// portsCollide says whether two pods want the same port of the node.
func portsCollide(pod, other *v1.Pod) bool {
	every := func(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
	taken := nodePorts(other)
	return slices.ContainsFunc(nodePorts(pod), func(p v1.ContainerPort) bool {
		return slices.ContainsFunc(taken, func(t v1.ContainerPort) bool {
			return p.HostPort == t.HostPort && strings.EqualFold(string(p.Protocol), string(t.Protocol)) &&
				(p.HostIP == t.HostIP || every(p.HostIP) || every(t.HostIP))
		})
	})
}

// nodePorts are the ports of the node that a pod takes for all of its life.
func nodePorts(pod *v1.Pod) []v1.ContainerPort {
	var ports []v1.ContainerPort
	for _, c := range sizedContainers(pod) {
		if initContainer(pod, c.Name) && !isSidecar(c) {
			continue
		}
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ports = append(ports, p)
			}
		}
	}
	return ports
}

func initContainer(pod *v1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == name })
}
