package api

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// resizeSub changes how much CPU and memory a pod and its containers get while they run. It is the only way to: `kubectl edit
// --subresource=resize`. https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/
func resizeSub() Sub {
	return Sub{
		Name: "resize", Kind: "Pod", Verbs: []string{"get", "patch", "update"},
		Prepare: func(obj, old runtime.Object) {
			pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
			wanted := pod.Spec.DeepCopy()
			keepPod(pod, was)
			pod.Spec.Containers = resized(pod.Spec.Containers, wanted.Containers)
			pod.Spec.InitContainers = resized(pod.Spec.InitContainers, wanted.InitContainers)
			if wanted.Resources != nil {
				pod.Spec.Resources = wanted.Resources
			}
			defaultPod(pod)
			defaultPodResources(pod)
		},
		Validate: func(obj, old runtime.Object) field.ErrorList {
			pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
			return append(validatePod(pod), validateResize(pod, was)...)
		},
	}
}

// resized are a pod's containers with the resources, and the policy of their change, that those wanted have. If those are others, or in
// another order, they are left to validation to tell of.
func resized(containers, wanted []corev1.Container) []corev1.Container {
	if !slices.EqualFunc(containers, wanted, func(a, b corev1.Container) bool { return a.Name == b.Name }) {
		return wanted
	}
	for i := range containers {
		containers[i].Resources, containers[i].ResizePolicy = wanted[i].Resources, wanted[i].ResizePolicy
	}
	return containers
}

// validateResize lets requests and limits of CPU and memory change, and nothing else.
func validateResize(pod, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if qosClass(&pod.Spec) != old.Status.QOSClass {
		errs = append(errs, field.Invalid(spec, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if !resizable(old) {
		errs = append(errs, field.Forbidden(spec, "Pod running on node without support for resize"))
	}
	if pod.Spec.Resources != nil {
		errs = append(errs, validateWholeResize(spec, pod.Spec.Resources, old.Spec.Resources)...)
	}
	now, was := &pod.Spec, &old.Spec
	others := append(validateSameContainers(spec, "containers", now.Containers, was.Containers),
		validateSameContainers(spec, "initContainers", now.InitContainers, was.InitContainers)...)
	if len(others) > 0 {
		return append(errs, others...)
	}
	for i := range now.Containers {
		errs = append(errs, validateContainerResize(spec.Child("containers").Index(i).Child("resources"), &now.Containers[i], &was.Containers[i])...)
	}
	for i := range now.InitContainers {
		errs = append(errs, validateContainerResize(spec.Child("initContainers").Index(i).Child("resources"), &now.InitContainers[i], &was.InitContainers[i])...)
	}
	return errs
}

// validateSameContainers holds that a list of containers has the same ones, in the same order.
func validateSameContainers(spec *field.Path, list string, now, was []corev1.Container) field.ErrorList {
	if len(now) != len(was) {
		return field.ErrorList{field.Forbidden(spec.Child(list), list+" may not be added or removed on resize")}
	}
	var errs field.ErrorList
	for i := range now {
		if now[i].Name != was[i].Name {
			errs = append(errs, field.Forbidden(spec.Child(list).Index(i).Child("name"), list+" may not be renamed or reordered on resize"))
		}
	}
	return errs
}

// validateWholeResize checks the change of what the pod as a whole may have. old may be nil: a pod can be given resources of its own
// as it runs, but they cannot be taken away again.
// https://kubernetes.io/docs/tasks/configure-pod-container/resize-pod-resources/
func validateWholeResize(spec *field.Path, now, old *corev1.ResourceRequirements) field.ErrorList {
	if old == nil {
		old = &corev1.ResourceRequirements{}
	}
	var errs field.ErrorList
	if removed(now.Requests, old.Requests) {
		errs = append(errs, field.Forbidden(spec.Child("resources", "requests"), "pod-level resource requests cannot be removed"))
	}
	if removed(now.Limits, old.Limits) {
		errs = append(errs, field.Forbidden(spec.Child("resources", "limits"), "pod-level resource limits cannot be removed"))
	}
	rest := now.DeepCopy()
	keepSize(rest, old)
	if !equality.Semantic.DeepEqual(rest, old) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

func validateContainerResize(path *field.Path, c, old *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	if removed(c.Resources.Requests, old.Resources.Requests) {
		errs = append(errs, field.Forbidden(path.Child("requests"), "resource requests cannot be removed"))
	}
	if removed(c.Resources.Limits, old.Resources.Limits) {
		errs = append(errs, field.Forbidden(path.Child("limits"), "resource limits cannot be removed"))
	}
	rest := c.DeepCopy()
	keepSize(&rest.Resources, &old.Resources)
	rest.ResizePolicy = old.ResizePolicy
	if !equality.Semantic.DeepEqual(rest, old) {
		errs = append(errs, field.Forbidden(field.NewPath("spec"), "only cpu and memory resources are mutable"))
	}
	return errs
}

// keepSize sets CPU and memory back to what they were.
func keepSize(r, was *corev1.ResourceRequirements) {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		keepAmount(&r.Requests, was.Requests, name)
		keepAmount(&r.Limits, was.Limits, name)
	}
}

// keepAmount sets one amount of a list back to what it was.
func keepAmount(list *corev1.ResourceList, was corev1.ResourceList, name corev1.ResourceName) {
	if amount, had := was[name]; had {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = amount
		return
	}
	delete(*list, name)
}

func removed(now, was corev1.ResourceList) bool {
	for name := range was {
		if _, still := now[name]; !still {
			return true
		}
	}
	return false
}

// resizable tells whether the node that runs a pod says what its containers have: one that does not cannot change it either.
func resizable(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil {
			return c.Resources != nil
		}
	}
	return true
}

// validateResizePolicy wants each resource once, and no restart of what is never restarted.
func validateResizePolicy(path *field.Path, policies []corev1.ContainerResizePolicy, restart corev1.RestartPolicy) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.ResourceName]bool{}
	for i, p := range policies {
		if seen[p.ResourceName] {
			errs = append(errs, field.Duplicate(path.Index(i), p.ResourceName))
		}
		seen[p.ResourceName] = true
		errs = append(errs, oneOf(path, p.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(path, p.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)...)
		if restart == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(path, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}
