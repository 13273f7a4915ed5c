package api

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podStatusSub is the subresource by which a pod's status is written. Who leaves the quality of service out does not mean to change it.
func podStatusSub() Sub {
	sub := statusSub("Pod", "ownerReferences")
	sub.Prepare = func(obj, old runtime.Object) {
		setDefault(&obj.(*corev1.Pod).Status.QOSClass, old.(*corev1.Pod).Status.QOSClass)
	}
	return sub
}

// validatePodStatus holds that a pod's status speaks of addresses that can be, and that a container which ended for good
// does not come back.
func validatePodStatus(p, old *corev1.Pod) field.ErrorList {
	path, s := field.NewPath("status"), &p.Status
	errs := append(validateMirrorUpdate(p, old), nonNegative(path.Child("observedGeneration"), s.ObservedGeneration)...)
	if was := old.Status.QOSClass; was != "" {
		errs = append(errs, immutable(path.Child("qosClass"), s.QOSClass, was)...)
	}
	if s.NominatedNodeName != "" {
		errs = append(errs, invalid(path.Child("nominatedNodeName"), s.NominatedNodeName, apivalidation.NameIsDNSSubdomain(s.NominatedNodeName, false))...)
	}
	for i, c := range s.Conditions {
		if !slices.Contains(podConditions, c.Type) {
			at := path.Child("conditions").Index(i).Child("Type") // Kubernetes' spelling.
			errs = append(errs, invalid(at, string(c.Type), validation.IsQualifiedName(string(c.Type)))...)
		}
	}
	var ips, hostIPs, hadIPs, hadHostIPs []string
	for _, ip := range s.PodIPs {
		ips = append(ips, ip.IP)
	}
	for _, ip := range old.Status.PodIPs {
		hadIPs = append(hadIPs, ip.IP)
	}
	for _, ip := range s.HostIPs {
		hostIPs = append(hostIPs, ip.IP)
	}
	for _, ip := range old.Status.HostIPs {
		hadHostIPs = append(hadHostIPs, ip.IP)
	}
	errs = append(errs, validatePodAddresses(path.Child("podIPs"), s.PodIPs, ips, hadIPs)...)
	if len(hostIPs) > 0 && s.HostIP != hostIPs[0] {
		errs = append(errs, field.Invalid(path.Child("hostIPs").Index(0).Child("ip"), hostIPs[0], "must be equal to `hostIP`"))
	}
	errs = append(errs, validatePodAddresses(path.Child("hostIPs"), s.HostIPs, hostIPs, hadHostIPs)...)
	if restartsAll(old.Spec.Containers) || restartsAll(old.Spec.InitContainers) { // Then no end is the last.
		return errs
	}
	policy := old.Spec.RestartPolicy
	errs = append(errs, validateEnds(path.Child("containerStatuses"), s.ContainerStatuses, old.Status.ContainerStatuses, old.Spec.Containers, policy)...)
	errs = append(errs, validateEnds(path.Child("initContainerStatuses"), s.InitContainerStatuses, old.Status.InitContainerStatuses, old.Spec.InitContainers, policy)...)
	return append(errs, validateEnds(path.Child("ephemeralContainerStatuses"), s.EphemeralContainerStatuses, old.Status.EphemeralContainerStatuses, nil, corev1.RestartPolicyNever)...)
}

// podConditions are those that Kubernetes itself sets; whose name others choose has to be a label's.
var podConditions = []corev1.PodConditionType{
	corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.DisruptionTarget,
	corev1.PodReadyToStartContainers, corev1.AllContainersRestarting, corev1.PodResizePending, corev1.PodResizeInProgress,
}

// validatePodAddresses wants one address of a family. The list is what an error shows.
func validatePodAddresses(path *field.Path, list any, ips, had []string) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, had)...)
	}
	if len(errs) > 0 || len(ips) < 2 {
		return errs
	}
	if len(ips) > 2 || familyOfAddress(ips[0]) == familyOfAddress(ips[1]) {
		errs = append(errs, field.Invalid(path, list, "may specify no more than one IP for each IP family"))
	}
	return errs
}

func familyOfAddress(ip string) corev1.IPFamily {
	if a, err := netip.ParseAddr(ip); err == nil && a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// validateEnds holds that a container which is not to be restarted stays terminated.
func validateEnds(path *field.Path, now, old []corev1.ContainerStatus, containers []corev1.Container, policy corev1.RestartPolicy) field.ErrorList {
	var errs field.ErrorList
	for _, was := range old {
		ended := was.State.Terminated
		if ended == nil || mayRestart(was.Name, containers, policy, ended.ExitCode) {
			continue
		}
		i := slices.IndexFunc(now, func(s corev1.ContainerStatus) bool { return s.Name == was.Name })
		if i >= 0 && now[i].State.Terminated == nil {
			errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

// restartsAll says that a rule may start all containers of the pod again.
func restartsAll(containers []corev1.Container) bool {
	return slices.ContainsFunc(containers, func(c corev1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

// mayRestart goes by the pod's policy, or by the container's own where it has one (a sidecar has Always).
func mayRestart(name string, containers []corev1.Container, policy corev1.RestartPolicy, exitCode int32) bool {
	for _, c := range containers {
		if c.Name != name {
			continue
		}
		if len(c.RestartPolicyRules) > 0 {
			return true
		}
		if c.RestartPolicy != nil {
			policy = corev1.RestartPolicy(*c.RestartPolicy)
		}
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && exitCode != 0
}
