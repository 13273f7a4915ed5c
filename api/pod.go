package api

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

func pod() *Resource {
	spec, status := corev1.PodSpec{}.SwaggerDoc(), corev1.PodStatus{}.SwaggerDoc()
	stream := []string{"create", "get"} // POST is SPDY's way to open a stream, GET is WebSocket's.
	return row(Resource{
		Version: "v1", Name: "pods", Singular: "pod", Kind: "Pod", ShortNames: []string{"po"}, Categories: []string{"all"},
		Namespaced:   true,
		ShowsDeleted: true,
		JudgesWanted: true,
		Verbs:        allVerbs(),
		Gated:        gatedInPods("spec"),
		Subs: []Sub{
			{Name: "attach", Kind: "PodAttachOptions", Verbs: stream},
			bindingSub(),
			ephemeralSub(),
			{Name: "eviction", Kind: "Eviction", Group: "policy", Verbs: []string{"create"}},
			{Name: "exec", Kind: "PodExecOptions", Verbs: stream},
			{Name: "log", Kind: "Pod", Verbs: []string{"get"}},
			{Name: "portforward", Kind: "PodPortForwardOptions", Verbs: stream},
			proxySub("PodProxyOptions"),
			resizeSub(),
			podStatusSub(),
		},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Ready", "string", "How many of the pod's containers are ready."),
			column("Status", "string", "What the pod's containers are doing, in one word."),
			column("Restarts", "string", "How often the pod's containers were restarted, and when last."),
			ageColumn(),
			wide("IP", "string", status["podIP"]),
			wide("Node", "string", spec["nodeName"]),
			wide("Nominated Node", "string", status["nominatedNodeName"]),
			wide("Readiness Gates", "string", spec["readinessGates"]),
		},
	}, rules[corev1.Pod]{
		ValidateStatus: validatePodStatus,
		Default:        defaultPod,
		PrepareCreate:  preparePod,
		Validate:       validatePod,
		ValidateCreate: validateNewPod,
		ValidateUpdate: validatePodUpdate,
		Fields: func(p *corev1.Pod) fields.Set {
			return fields.Set{
				"spec.nodeName":            p.Spec.NodeName,
				"spec.restartPolicy":       string(p.Spec.RestartPolicy),
				"spec.schedulerName":       p.Spec.SchedulerName,
				"spec.serviceAccountName":  p.Spec.ServiceAccountName,
				"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
				"status.phase":             string(p.Status.Phase),
				"status.podIP":             p.Status.PodIP,
				"status.podIPs":            strings.Join(podIPs(p), ","),
				"status.nominatedNodeName": p.Status.NominatedNodeName,
			}
		},
		Wanted: func(p *corev1.Pod) any { return &p.Spec },
		Row:    printPod,
	})
}

// preparePod begins a pod's status; how important the pod is to its node depends on its requests and limits.
func preparePod(p *corev1.Pod) {
	defaultPodResources(p)
	mergeLabelKeys(p)
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qosClass(&p.Spec)}
	if len(p.Spec.SchedulingGates) > 0 {
		p.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
}

// qosClass says what the pod's requests and limits of cpu and memory promise: Guaranteed where every container limits
// both and requests as much, BestEffort where none says anything, else Burstable.
func qosClass(s *corev1.PodSpec) corev1.PodQOSClass {
	all := []corev1.ResourceRequirements{}
	if s.Resources != nil {
		all = append(all, *s.Resources) // What is said of the whole pod goes before what its containers say.
	} else {
		for _, c := range slices.Concat(s.InitContainers, s.Containers) {
			all = append(all, c.Resources)
		}
	}
	some, guaranteed := false, true
	for _, r := range all {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			some = some || !request.IsZero() || !limit.IsZero()
			guaranteed = guaranteed && !limit.IsZero() && request.Cmp(limit) == 0
		}
	}
	switch {
	case !some:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func podIPs(p *corev1.Pod) []string {
	var ips []string
	for _, ip := range p.Status.PodIPs {
		ips = append(ips, ip.IP)
	}
	return ips
}
