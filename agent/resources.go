package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"

	"skiff/agent/cgroup"
)

// Kinds of CPU limits: shares and the quota's period are the kernel's defaults for a whole CPU.
const (
	sharesPerCPU = 1024
	minShares    = 2
	quotaPeriod  = 100_000
	minQuota     = 1_000
)

// resourcesOf turns requests and limits into what the kernel understands. A limit that only the pod as a whole has is the
// container's too.
func resourcesOf(pod *v1.Pod, c *v1.Container, nodeMemory int64) Resources {
	request, limit := c.Resources.Requests, c.Resources.Limits
	cpuLimit, memoryLimit := limit.Cpu().MilliValue(), limit.Memory().Value()
	if whole := pod.Spec.Resources; whole != nil {
		orDefault(&cpuLimit, whole.Limits.Cpu().MilliValue())
		orDefault(&memoryLimit, whole.Limits.Memory().Value())
	}
	cpu := request.Cpu().MilliValue()
	if _, asked := request[v1.ResourceCPU]; !asked {
		cpu = limit.Cpu().MilliValue()
	}
	r := Resources{CPUShares: shares(cpu), MemoryLimit: memoryLimit, OOMScoreAdj: oomScore(pod, c, nodeMemory)}
	if cpuLimit > 0 {
		r.CPUPeriod, r.CPUQuota = quotaPeriod, quota(cpuLimit)
	}
	return r
}

func shares(milli int64) uint64 { return uint64(max(milli*sharesPerCPU/1000, minShares)) }

func quota(milli int64) int64 { return max(milli*quotaPeriod/1000, minQuota) }

// oomScore says who dies first when the node's memory is short: those who promised nothing, then those who use more than they
// asked for, Guaranteed pods last. What the pod as a whole asks for beyond its containers counts for all of them alike.
func oomScore(pod *v1.Pod, c *v1.Container, nodeMemory int64) int {
	const guaranteed, bestEffort = -997, 1000
	switch {
	case pod.Spec.PriorityClassName == "system-node-critical" || qosClass(pod) == v1.PodQOSGuaranteed:
		return guaranteed
	case qosClass(pod) == v1.PodQOSBestEffort || nodeMemory <= 0:
		return bestEffort
	}
	request := c.Resources.Requests.Memory().Value()
	if whole := pod.Spec.Resources; whole != nil && len(pod.Spec.Containers) > 0 {
		own := podresource.AggregateContainerRequests(pod, podresource.PodResourcesOptions{})
		request += max(whole.Requests.Memory().Value()-own.Memory().Value(), 0) / int64(len(pod.Spec.Containers))
	}
	score := bestEffort - int(bestEffort*request/nodeMemory)
	return min(max(score, bestEffort+guaranteed), bestEffort-1)
}

// qosClass is the one that the API server gave the pod or, where it gave none, as to a static pod, would have given: what is said of
// the whole pod goes before what its containers say.
func qosClass(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	var all []v1.ResourceRequirements
	if pod.Spec.Resources != nil {
		all = append(all, *pod.Spec.Resources)
	} else {
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			all = append(all, c.Resources)
		}
	}
	asked, guaranteed := false, true
	for _, r := range all {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			limit, limited := r.Limits[name]
			request, requested := r.Requests[name]
			asked = asked || limited || requested
			guaranteed = guaranteed && limited && (!requested || request.Cmp(limit) == 0)
		}
	}
	switch {
	case !asked:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

// The cgroups of pods are laid out by their class, so that those who asked for CPU together have a share before those who did not:
//
//	ROOT/UID               Guaranteed
//	ROOT/burstable/UID     the group has as many shares as its pods ask for
//	ROOT/besteffort/UID    the group has the least that there is
const (
	burstableGroup  = "burstable"
	bestEffortGroup = "besteffort"
)

// podCgroup is the path of a pod's cgroup.
func (a *Agent) podCgroup(pod *v1.Pod) string {
	switch qosClass(pod) {
	case v1.PodQOSBestEffort:
		return a.CgroupRoot + "/" + bestEffortGroup + "/" + string(pod.UID)
	case v1.PodQOSBurstable:
		return a.CgroupRoot + "/" + burstableGroup + "/" + string(pod.UID)
	}
	return a.CgroupRoot + "/" + string(pod.UID)
}

// podLimits is what a pod may use as a whole: what it says itself or, where each of its containers has a limit, these together.
func podLimits(pod *v1.Pod) cgroup.Limits {
	if qosClass(pod) == v1.PodQOSBestEffort {
		return cgroup.Limits{CPUShares: minShares}
	}
	cpuLimited, memoryLimited := true, true
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		cpuLimited = cpuLimited && !c.Resources.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited && !c.Resources.Limits.Memory().IsZero()
	}
	if whole := pod.Spec.Resources; whole != nil {
		cpuLimited = cpuLimited || !whole.Limits.Cpu().IsZero()
		memoryLimited = memoryLimited || !whole.Limits.Memory().IsZero()
	}
	requests, limits := podresource.PodRequests(pod, podresource.PodResourcesOptions{}), podresource.PodLimits(pod, podresource.PodResourcesOptions{})
	l := cgroup.Limits{CPUShares: shares(requests.Cpu().MilliValue())}
	if cpuLimited {
		l.CPUQuota, l.CPUPeriod = quota(limits.Cpu().MilliValue()), quotaPeriod
	}
	if memoryLimited {
		l.Memory = limits.Memory().Value()
	}
	return l
}

// limitPod makes the pod's cgroup, if it is not there, and limits it. While containers that had more than they are to have still
// run, more says that the pod keeps whichever is larger: the kernel lets no group have less than what is in it.
func (a *Agent) limitPod(ctx context.Context, pod *v1.Pod, m *memory, more bool) error {
	limits := podLimits(pod)
	limits.HugePages = a.podHugePages(pod)
	if more && m.limits != nil {
		limits = larger(*m.limits, limits)
	}
	if m.limits != nil && *m.limits == limits {
		return nil
	}
	if err := a.runtime.LimitGroup(ctx, a.podCgroup(pod), limits); err != nil {
		return fmt.Errorf("limit pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	m.limits = &limits
	return a.shares.set(ctx, a)
}

// larger takes of each limit the one that allows more; none allows most.
func larger(a, b cgroup.Limits) cgroup.Limits {
	l := cgroup.Limits{CPUShares: max(a.CPUShares, b.CPUShares), HugePages: b.HugePages} // Those do not change.
	if a.CPUQuota > 0 && b.CPUQuota > 0 {
		l.CPUQuota, l.CPUPeriod = max(a.CPUQuota, b.CPUQuota), quotaPeriod
	}
	if a.Memory > 0 && b.Memory > 0 {
		l.Memory = max(a.Memory, b.Memory)
	}
	return l
}

// groupShares are those that the groups of a class have.
type groupShares struct {
	mu        sync.Mutex
	burstable uint64 // 0: not set yet.
}

// set gives the Burstable pods the shares that they ask for together.
func (g *groupShares) set(ctx context.Context, a *Agent) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	milli := int64(0)
	for _, pod := range a.ownPods() {
		if qosClass(pod) == v1.PodQOSBurstable && !ended(pod) {
			requests := podresource.PodRequests(pod, podresource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true})
			milli += requests.Cpu().MilliValue()
		}
	}
	if g.burstable == 0 {
		if err := a.runtime.LimitGroup(ctx, a.CgroupRoot+"/"+bestEffortGroup, cgroup.Limits{CPUShares: minShares}); err != nil {
			return err
		}
	}
	want := shares(milli)
	if g.burstable == want {
		return nil
	}
	if err := a.runtime.LimitGroup(ctx, a.CgroupRoot+"/"+burstableGroup, cgroup.Limits{CPUShares: want}); err != nil {
		return err
	}
	g.burstable = want
	return nil
}

// ended says that a pod's containers have ended for good.
func ended(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}
