package api

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ephemeralSub adds containers to a pod that runs, to look into it: `kubectl debug`. They come by this way only, and stay until
// the pod goes. https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/
func ephemeralSub() Sub {
	return Sub{
		Name: "ephemeralcontainers", Kind: "Pod", Verbs: []string{"get", "patch", "update"},
		Prepare: func(obj, old runtime.Object) {
			pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
			added := pod.Spec.EphemeralContainers
			keepPod(pod, was)
			pod.Spec.EphemeralContainers = added
			defaultPod(pod)
		},
		Validate: func(obj, old runtime.Object) field.ErrorList {
			pod, was := obj.(*corev1.Pod), old.(*corev1.Pod)
			return append(validatePod(pod), validateEphemeralUpdate(pod, was)...)
		},
	}
}

// keepPod makes of a pod what it was, but for the record of who wrote what.
func keepPod(pod, old *corev1.Pod) {
	fields := pod.ManagedFields
	old.DeepCopyInto(pod)
	pod.ManagedFields = fields
}

// asContainer sees an ephemeral container as any other. The two types have the same fields by promise of the API.
func asContainer(c *corev1.EphemeralContainer) *corev1.Container {
	return (*corev1.Container)(&c.EphemeralContainerCommon)
}

func validateEphemeralContainers(path *field.Path, s *corev1.PodSpec, volumes map[string]bool) field.ErrorList {
	var errs field.ErrorList
	others, taken := map[string]bool{}, map[string]bool{}
	for _, list := range [][]corev1.Container{s.InitContainers, s.Containers} {
		for _, c := range list {
			others[c.Name], taken[c.Name] = true, true
		}
	}
	for i := range s.EphemeralContainers {
		at, e := path.Index(i), &s.EphemeralContainers[i]
		c := asContainer(e)
		errs = append(errs, validateContainer(at, c, volumes)...)
		if c.Name != "" && taken[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		taken[c.Name] = true
		if target := e.TargetContainerName; target != "" && !others[target] {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), target))
		}
		errs = append(errs, validateEphemeralFields(at, c)...)
	}
	return errs
}

// validateEphemeralFields refuses what would need a place in the pod that nobody has kept for it, or a life that it does not have.
func validateEphemeralFields(path *field.Path, c *corev1.Container) field.ErrorList {
	const why = "cannot be set for an Ephemeral Container"
	var errs field.ErrorList
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"ports", len(c.Ports) > 0}, {"resources", !equality.Semantic.DeepEqual(c.Resources, corev1.ResourceRequirements{})},
		{"resizePolicy", len(c.ResizePolicy) > 0}, {"restartPolicy", c.RestartPolicy != nil}, {"restartPolicyRules", len(c.RestartPolicyRules) > 0},
		{"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		{"lifecycle", c.Lifecycle != nil},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), why))
		}
	}
	for i, m := range c.VolumeMounts {
		at := path.Child("volumeMounts").Index(i)
		if m.SubPath != "" {
			errs = append(errs, field.Forbidden(at.Child("subPath"), why))
		}
		if m.SubPathExpr != "" {
			errs = append(errs, field.Forbidden(at.Child("subPathExpr"), why))
		}
	}
	return errs
}

// validateEphemeralUpdate lets ephemeral containers be added, and nothing else. Their order may change: a patch does not keep it.
func validateEphemeralUpdate(pod, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	var errs field.ErrorList
	path := field.NewPath("spec", "ephemeralContainers")
	now := map[string]corev1.EphemeralContainer{}
	for _, c := range pod.Spec.EphemeralContainers {
		now[c.Name] = c
	}
	for _, was := range old.Spec.EphemeralContainers {
		switch c, there := now[was.Name]; {
		case !there:
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		case !equality.Semantic.DeepEqual(was, c):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(was, c))))
		}
	}
	return errs
}
