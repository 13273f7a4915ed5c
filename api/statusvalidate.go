package api

import (
	"net"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A status is written by a controller, and a broken one misleads all others: the numbers in it must fit together.

// count is a number in a status, and the field that it is in.
type count struct {
	name  string
	value int64
}

// nonNegatives wants all counts of a status to be none or more.
func nonNegatives(path *field.Path, counts ...count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, nonNegative(path.Child(c.name), c.value)...)
	}
	return errs
}

// within wants each of the parts to be no more than the whole, which the message names.
func within(path *field.Path, whole int32, message string, parts ...count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range parts {
		if c.value > int64(whole) {
			errs = append(errs, field.Invalid(path.Child(c.name), int32(c.value), message))
		}
	}
	return errs
}

// growing holds that a count of collisions never gets less: names are made of it.
func growing(path *field.Path, now, old *int32) field.ErrorList {
	if now != nil && *now < 0 {
		return nonNegative(path, *now)
	}
	if old != nil && (now == nil || *now < *old) {
		return field.ErrorList{field.Invalid(path, deref(now), "cannot be decremented")}
	}
	return nil
}

const (
	tooManyForReplicas = "cannot be greater than status.replicas"
	tooManyForReady    = "cannot be greater than readyReplicas"
)

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	path, s := field.NewPath("status"), &d.Status
	updated, ready := count{"updatedReplicas", int64(s.UpdatedReplicas)}, count{"readyReplicas", int64(s.ReadyReplicas)}
	available := count{"availableReplicas", int64(s.AvailableReplicas)}
	errs := nonNegatives(path, count{"observedGeneration", s.ObservedGeneration}, count{"replicas", int64(s.Replicas)},
		updated, ready, available, count{"unavailableReplicas", int64(s.UnavailableReplicas)},
		count{"terminatingReplicas", int64(deref(s.TerminatingReplicas))})
	errs = append(errs, within(path, s.Replicas, tooManyForReplicas, updated, ready, available)...)
	errs = append(errs, within(path, s.ReadyReplicas, tooManyForReady, available)...)
	return append(errs, growing(path.Child("collisionCount"), s.CollisionCount, old.Status.CollisionCount)...)
}

func validateReplicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	s := &r.Status
	return validateReplicaCounts(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, deref(s.TerminatingReplicas), s.ObservedGeneration)
}

func validateReplicationControllerStatus(r, _ *corev1.ReplicationController) field.ErrorList {
	s := &r.Status
	return validateReplicaCounts(s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, 0, s.ObservedGeneration)
}

func validateReplicaCounts(replicas, fullyLabeled, ready, available, terminating int32, generation int64) field.ErrorList {
	path := field.NewPath("status")
	parts := []count{{"fullyLabeledReplicas", int64(fullyLabeled)}, {"readyReplicas", int64(ready)}, {"availableReplicas", int64(available)}}
	errs := nonNegatives(path, slices.Concat([]count{{"replicas", int64(replicas)}}, parts,
		[]count{{"terminatingReplicas", int64(terminating)}, {"observedGeneration", generation}})...)
	errs = append(errs, within(path, replicas, tooManyForReplicas, parts...)...)
	return append(errs, within(path, ready, tooManyForReady, parts[2])...)
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	path, s := field.NewPath("status"), &d.Status
	errs := nonNegatives(path, count{"currentNumberScheduled", int64(s.CurrentNumberScheduled)},
		count{"numberMisscheduled", int64(s.NumberMisscheduled)}, count{"desiredNumberScheduled", int64(s.DesiredNumberScheduled)},
		count{"numberReady", int64(s.NumberReady)}, count{"observedGeneration", s.ObservedGeneration},
		count{"updatedNumberScheduled", int64(s.UpdatedNumberScheduled)}, count{"numberAvailable", int64(s.NumberAvailable)},
		count{"numberUnavailable", int64(s.NumberUnavailable)})
	return append(errs, growing(path.Child("collisionCount"), s.CollisionCount, old.Status.CollisionCount)...)
}

func validateStatefulSetStatus(d, old *appsv1.StatefulSet) field.ErrorList {
	path, s := field.NewPath("status"), &d.Status
	parts := []count{{"readyReplicas", int64(s.ReadyReplicas)}, {"currentReplicas", int64(s.CurrentReplicas)},
		{"updatedReplicas", int64(s.UpdatedReplicas)}, {"availableReplicas", int64(s.AvailableReplicas)}}
	errs := nonNegatives(path, slices.Concat([]count{{"replicas", int64(s.Replicas)}}, parts, []count{{"observedGeneration", s.ObservedGeneration}})...)
	errs = append(errs, within(path, s.Replicas, tooManyForReplicas, parts...)...)
	errs = append(errs, within(path, s.ReadyReplicas, "cannot be greater than status.readyReplicas", parts[3])...)
	return append(errs, growing(path.Child("collisionCount"), s.CollisionCount, old.Status.CollisionCount)...)
}

func validateAutoscalerStatus(a, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	return nonNegatives(field.NewPath("status"), count{"currentReplicas", int64(a.Status.CurrentReplicas)},
		count{"desiredReplicas", int64(a.Status.DesiredReplicas)})
}

func validateBudgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	path, s := field.NewPath("status"), &b.Status
	errs := metav1validation.ValidateConditions(s.Conditions, path.Child("conditions"))
	return append(errs, nonNegatives(path, count{"disruptionsAllowed", int64(s.DisruptionsAllowed)}, count{"currentHealthy", int64(s.CurrentHealthy)},
		count{"desiredHealthy", int64(s.DesiredHealthy)}, count{"expectedPods", int64(s.ExpectedPods)})...)
}

// validateNamespaceStatus holds that a namespace's phase says whether it is being deleted.
func validateNamespaceStatus(n, _ *corev1.Namespace) field.ErrorList {
	path, phase := field.NewPath("status", "Phase"), n.Status.Phase // Kubernetes' spelling.
	switch deleting := !n.DeletionTimestamp.IsZero(); {
	case !deleting && phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case deleting && phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}

func validateServiceStatus(s, old *corev1.Service) field.ErrorList {
	path := field.NewPath("status", "loadBalancer", "ingress")
	ingress := s.Status.LoadBalancer.Ingress
	if len(ingress) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(old.Status.LoadBalancer.Ingress) == 0 {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is LoadBalancer")}
	}
	var had []string
	for _, i := range old.Status.LoadBalancer.Ingress {
		had = append(had, i.IP)
	}
	var errs field.ErrorList
	for i := range ingress {
		at, one := path.Index(i), &ingress[i]
		errs = append(errs, validateBalancerAddress(at, one.IP, one.Hostname, had)...)
		switch mode := one.IPMode; {
		case one.IP != "" && mode == nil:
			errs = append(errs, field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))
		case one.IP == "" && mode != nil:
			errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		case mode != nil:
			errs = append(errs, oneOf(at.Child("ipMode"), *mode, corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
	}
	return errs
}

func validateIngressStatus(i, old *networkingv1.Ingress) field.ErrorList {
	var had []string
	for _, one := range old.Status.LoadBalancer.Ingress {
		had = append(had, one.IP)
	}
	var errs field.ErrorList
	for n, one := range i.Status.LoadBalancer.Ingress {
		errs = append(errs, validateBalancerAddress(field.NewPath("status", "loadBalancer", "ingress").Index(n), one.IP, one.Hostname, had)...)
	}
	return errs
}

// validateBalancerAddress checks where a load balancer is. An address that was there already may be written as it was.
func validateBalancerAddress(at *field.Path, ip, hostname string, had []string) field.ErrorList {
	var errs field.ErrorList
	if ip != "" {
		errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), ip, true, had)...)
	}
	if hostname != "" {
		errs = append(errs, invalid(at.Child("hostname"), hostname, validation.IsDNS1123Subdomain(hostname))...)
		if net.ParseIP(hostname) != nil {
			errs = append(errs, field.Invalid(at.Child("hostname"), hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}
