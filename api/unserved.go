package api

import (
	"fmt"
	"net/netip"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Unserved lists the fields of a pod, or of what makes pods, that ask for what no agent can do yet. The API server warns of
// them, and agents do not start a pod with any: to run without a volume, a limit or a profile that somebody asked for would be
// worse.
func Unserved(obj runtime.Object) []string { return ofPods(obj, unserved) }

// Unheeded lists the fields of a pod, or of what makes pods, that say how things should be and that nothing looks at yet. The API server
// warns of them; the pods run all the same.
func Unheeded(obj runtime.Object) []string { return ofPods(obj, unheeded) }

// ofPods asks for fields of a pod, or of the template in what makes pods.
func ofPods(obj runtime.Object, ask func(*corev1.Pod) []string) []string {
	template := func(at string, t *corev1.PodTemplateSpec) []string {
		if t == nil {
			return nil
		}
		fields := ask(&corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec})
		for i := range fields {
			fields[i] = at + "." + fields[i]
		}
		return fields
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		return ask(o)
	case *corev1.PodTemplate:
		return template("template", &o.Template)
	case *corev1.ReplicationController:
		return template("spec.template", o.Spec.Template)
	case *appsv1.Deployment:
		return template("spec.template", &o.Spec.Template)
	case *appsv1.ReplicaSet:
		return template("spec.template", &o.Spec.Template)
	case *appsv1.StatefulSet:
		return template("spec.template", &o.Spec.Template)
	case *appsv1.DaemonSet:
		return template("spec.template", &o.Spec.Template)
	case *batchv1.Job:
		return template("spec.template", &o.Spec.Template)
	case *batchv1.CronJob:
		return template("spec.jobTemplate.spec.template", &o.Spec.JobTemplate.Spec.Template)
	}
	return nil
}

func unserved(pod *corev1.Pod) []string {
	var fields []string
	add := func(asked bool, format string, args ...any) {
		if asked {
			fields = append(fields, fmt.Sprintf(format, args...))
		}
	}
	spec := &pod.Spec
	add(spec.OS != nil && spec.OS.Name != corev1.Linux, "spec.os.name")
	add(len(spec.ResourceClaims) > 0, "spec.resourceClaims")
	add(spec.SchedulingGroup != nil, "spec.schedulingGroup")
	add(len(spec.EvictionResponders) > 0, "spec.evictionResponders")
	if spec.Resources != nil {
		unservedResources(add, spec.Resources, "spec.resources")
	}
	for i := range spec.Volumes {
		unservedVolume(add, &spec.Volumes[i], fmt.Sprintf("spec.volumes[%d]", i))
	}
	if sc := spec.SecurityContext; sc != nil {
		add(forWindows(sc.WindowsOptions), "spec.securityContext.windowsOptions")
		for i, s := range sc.Sysctls {
			add(!SafeSysctl(pod, s.Name), "spec.securityContext.sysctls[%d] (%s)", i, s.Name)
		}
	}
	for i := range spec.InitContainers {
		unservedContainer(add, pod, &spec.InitContainers[i], fmt.Sprintf("spec.initContainers[%d]", i))
	}
	for i := range spec.Containers {
		unservedContainer(add, pod, &spec.Containers[i], fmt.Sprintf("spec.containers[%d]", i))
	}
	return fields
}

func unheeded(pod *corev1.Pod) []string {
	var fields []string
	add := func(asked bool, format string, args ...any) {
		if asked {
			fields = append(fields, fmt.Sprintf(format, args...))
		}
	}
	spec := &pod.Spec
	if p := spec.PreemptionPolicy; p != nil && (spec.Priority == nil || *spec.Priority > 0) { // Each pod has one; without a priority it means nothing.
		add(*p == corev1.PreemptLowerPriority, "spec.preemptionPolicy (%s)", *p)
	}
	add(spec.AutomountServiceAccountToken != nil && *spec.AutomountServiceAccountToken, "spec.automountServiceAccountToken")
	if a := spec.Affinity; a != nil {
		const preferred = "preferredDuringSchedulingIgnoredDuringExecution"
		add(a.PodAffinity != nil && len(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0, "spec.affinity.podAffinity."+preferred)
		add(a.PodAntiAffinity != nil && len(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0, "spec.affinity.podAntiAffinity."+preferred)
	}
	for i, c := range spec.TopologySpreadConstraints {
		add(c.WhenUnsatisfiable == corev1.ScheduleAnyway, "spec.topologySpreadConstraints[%d] (%s)", i, c.WhenUnsatisfiable)
	}
	return fields
}

// UnservedEphemeral lists what an ephemeral container asks for in vain.
func UnservedEphemeral(pod *corev1.Pod, c *corev1.EphemeralContainer) []string {
	var fields []string
	unservedContainer(func(asked bool, format string, args ...any) {
		if asked {
			fields = append(fields, fmt.Sprintf(format, args...))
		}
	}, pod, asContainer(c), fmt.Sprintf("spec.ephemeralContainers{%s}", c.Name))
	return fields
}

type adder func(asked bool, format string, args ...any)

func unservedContainer(add adder, pod *corev1.Pod, c *corev1.Container, path string) {
	add(len(c.VolumeDevices) > 0, "%s.volumeDevices", path)
	unservedResources(add, &c.Resources, path+".resources")
	for i, m := range c.VolumeMounts {
		add(len(m.BindMountOptions) > 0, "%s.volumeMounts[%d].bindMountOptions", path, i)
	}
	for i, p := range c.Ports {
		add(p.HostPort != 0 && !pod.Spec.HostNetwork && isLoopback(p.HostIP), "%s.ports[%d].hostIP", path, i)
	}
	if sc := c.SecurityContext; sc != nil {
		add(forWindows(sc.WindowsOptions), "%s.securityContext.windowsOptions", path)
	}
}

// unservedResources: an extended resource is counted, by the scheduler, against what the Node's status says that there is. Who put it
// there sees to what it means.
func unservedResources(add adder, r *corev1.ResourceRequirements, path string) {
	add(len(r.Claims) > 0, "%s.claims", path)
}

// forWindows says whether there is anything in what is for Windows: charts write it empty.
func forWindows(w *corev1.WindowsSecurityContextOptions) bool {
	return w != nil && *w != (corev1.WindowsSecurityContextOptions{})
}

// isLoopback reports whether the text is an address that the kernel never routes to a pod.
func isLoopback(text string) bool {
	addr, err := netip.ParseAddr(text)
	return err == nil && addr.IsLoopback()
}

func unservedVolume(add adder, v *corev1.Volume, path string) {
	switch {
	case v.EmptyDir != nil:
		_, huge := HugePagesMedium(v.EmptyDir.Medium)
		add(v.EmptyDir.Medium != corev1.StorageMediumDefault && v.EmptyDir.Medium != corev1.StorageMediumMemory && !huge, "%s.emptyDir.medium", path)
		add(v.EmptyDir.Mode != nil, "%s.emptyDir.mode", path)
	case v.HostPath != nil, v.PersistentVolumeClaim != nil, v.Ephemeral != nil, v.Image != nil:
	case v.ConfigMap != nil:
		unservedOwners(add, path+".configMap", v.ConfigMap.DefaultUser, v.ConfigMap.Items)
	case v.Secret != nil:
		unservedOwners(add, path+".secret", v.Secret.DefaultUser, v.Secret.Items)
	case v.DownwardAPI != nil:
		unservedFieldOwners(add, path+".downwardAPI", v.DownwardAPI.DefaultUser, v.DownwardAPI.Items)
	case v.Projected != nil:
		add(v.Projected.DefaultUser != nil, "%s.projected.defaultUser", path)
		for i, s := range v.Projected.Sources {
			unservedSource(add, fmt.Sprintf("%s.projected.sources[%d]", path, i), &s)
		}
	default:
		add(true, "%s", path)
	}
}

func unservedSource(add adder, path string, s *corev1.VolumeProjection) {
	add(s.ClusterTrustBundle != nil, "%s.clusterTrustBundle", path)
	add(s.PodCertificate != nil, "%s.podCertificate", path)
	add(s.ServiceAccountToken != nil && s.ServiceAccountToken.User != nil, "%s.serviceAccountToken.user", path)
	if s.ConfigMap != nil {
		unservedOwners(add, path+".configMap", nil, s.ConfigMap.Items)
	}
	if s.Secret != nil {
		unservedOwners(add, path+".secret", nil, s.Secret.Items)
	}
	if s.DownwardAPI != nil {
		unservedFieldOwners(add, path+".downwardAPI", nil, s.DownwardAPI.Items)
	}
}

// unservedOwners: files belong to root, or to the group of the pod's volumes. That a pod may name other owners is alpha in Kubernetes.
func unservedOwners(add adder, path string, owner *int64, items []corev1.KeyToPath) {
	add(owner != nil, "%s.defaultUser", path)
	for i, item := range items {
		add(item.User != nil, "%s.items[%d].user", path, i)
	}
}

func unservedFieldOwners(add adder, path string, owner *int64, items []corev1.DownwardAPIVolumeFile) {
	add(owner != nil, "%s.defaultUser", path)
	for i, item := range items {
		add(item.User != nil, "%s.items[%d].user", path, i)
	}
}
