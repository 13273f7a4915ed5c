package api

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestUnserved(t *testing.T) {
	for field, change := range map[string]func(*corev1.Pod){
		"": func(p *corev1.Pod) { // As charts write it.
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{}, WindowsOptions: &corev1.WindowsSecurityContextOptions{},
				Sysctls: []corev1.Sysctl{{Name: "net.ipv4.tcp_slow_start_after_idle"}, {Name: "net/ipv4/tcp_notsent_lowat"}}}
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Level: "s0"}, WindowsOptions: &corev1.WindowsSecurityContextOptions{}}
		},
		"spec.containers[0].ports[0].hostIP": func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, HostIP: "127.0.0.1"}}
		},
		"spec.schedulingGroup": func(p *corev1.Pod) { p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{} },
		"spec.volumes[1]": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{
				{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}},
				{VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}},
			}
		},
		"spec.securityContext.sysctls[1] (kernel.msgmax)": func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net/ipv4/tcp_syncookies"}, {Name: "kernel.msgmax"}}}
		},
		"spec.securityContext.sysctls[0] (net.ipv4.tcp_rmem)": func(p *corev1.Pod) { // It would be the node's.
			p.Spec.HostNetwork = true
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.ipv4.tcp_rmem"}, {Name: "kernel.shm_rmid_forced"}}}
		},
		"spec.containers[0].resources.claims": func(p *corev1.Pod) {
			one := resource.MustParse("1")
			p.Spec.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: one}}
			p.Spec.Containers[0].Resources.Claims = []corev1.ResourceClaim{{Name: "c"}}
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"hugepages-2Mi": one, "example.com/dongle": one, corev1.ResourceEphemeralStorage: one}
		},
		"spec.volumes[0].emptyDir.medium": func(p *corev1.Pod) {
			for _, medium := range []corev1.StorageMedium{"Drum", corev1.StorageMediumHugePages, "HugePages-2Mi"} {
				p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}}})
			}
		},
		"spec.containers[0].volumeMounts[0].bindMountOptions": func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{BindMountOptions: []string{"noexec"}}}
		},
		"spec.volumes[0].secret.items[0].user spec.volumes[1].emptyDir.mode spec.volumes[2].configMap.defaultUser spec.volumes[3].downwardAPI.items[0].user" +
			" spec.volumes[4].projected.sources[0].serviceAccountToken.user": func(p *corev1.Pod) {
			id, mode := int64(5), int32(0o700)
			for _, source := range []corev1.VolumeSource{
				{Secret: &corev1.SecretVolumeSource{Items: []corev1.KeyToPath{{User: &id}}}},
				{EmptyDir: &corev1.EmptyDirVolumeSource{Mode: &mode}},
				{ConfigMap: &corev1.ConfigMapVolumeSource{DefaultUser: &id}},
				{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{User: &id}}}},
				{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{User: &id}}}}},
			} {
				p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{VolumeSource: source})
			}
		},
		"spec.schedulingGroup spec.evictionResponders": func(p *corev1.Pod) {
			p.Spec.SchedulingGroup, p.Spec.EvictionResponders = &corev1.PodSchedulingGroup{}, []corev1.EvictionResponder{{}}
		},
		"spec.volumes[0].projected.sources[1].podCertificate": func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}, {PodCertificate: &corev1.PodCertificateProjection{}},
			}}}}}
		},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
		change(pod)
		if got := strings.Join(Unserved(pod), " "); got != field {
			t.Errorf("unserved fields %q, want %q", got, field)
		}
	}
	pod := corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}, SchedulingGroup: &corev1.PodSchedulingGroup{}}}
	for _, tc := range []struct {
		obj  runtime.Object
		want string
	}{
		{&appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: pod}}, "spec.template.spec.schedulingGroup"},
		{&corev1.PodTemplate{Template: pod}, "template.spec.schedulingGroup"},
		{&batchv1.CronJob{Spec: batchv1.CronJobSpec{JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pod}}}},
			"spec.jobTemplate.spec.template.spec.schedulingGroup"},
		{&corev1.ReplicationController{}, ""},
		{&corev1.ConfigMap{}, ""},
	} {
		if got := strings.Join(Unserved(tc.obj), " "); got != tc.want {
			t.Errorf("unserved fields of a %T: %q, want %q", tc.obj, got, tc.want)
		}
	}
}
