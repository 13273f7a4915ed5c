package api

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/node/util/sysctl"
)

// Kernel parameters of a pod: https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/

const maxSysctl = 253

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

func validateSysctls(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, p := range s.SecurityContext.Sysctls {
		at := path.Index(i).Child("name")
		switch {
		case p.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(p.Name) > maxSysctl || !sysctlName.MatchString(p.Name):
			errs = append(errs, field.Invalid(at, p.Name, fmt.Sprintf("must have at most %d characters and match regex %s", maxSysctl, sysctlName)))
		case seen[p.Name]:
			errs = append(errs, field.Duplicate(at, p.Name))
		}
		seen[p.Name] = true
		switch of, _, _ := sysctl.GetNamespace(p.Name); {
		case s.HostNetwork && of == sysctl.NetNamespace:
			errs = append(errs, field.Invalid(at, p.Name, "may not be specified when 'hostNetwork' is true"))
		case s.HostIPC && of == sysctl.IPCNamespace:
			errs = append(errs, field.Invalid(at, p.Name, "may not be specified when 'hostIPC' is true"))
		}
	}
	return errs
}

// SafeSysctl says whether a kernel parameter belongs to the pod's own namespaces and harms nobody else: Kubernetes' safe set. The
// others it allows only where the node's administrator says so, which nobody can say here yet.
func SafeSysctl(pod *corev1.Pod, name string) bool {
	switch strings.ReplaceAll(name, "/", ".") {
	case "kernel.shm_rmid_forced":
		return !pod.Spec.HostIPC
	case "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start",
		"net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
		"net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem", "net.ipv4.tcp_slow_start_after_idle",
		"net.ipv4.tcp_notsent_lowat":
		return !pod.Spec.HostNetwork
	}
	return false
}
