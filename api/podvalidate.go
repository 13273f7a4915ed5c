package api

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validatePod(p *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateMirror(field.NewPath("metadata", "annotations"), p.Annotations, &p.Spec)
	errs = append(errs, validatePodSpec(path, &p.Spec)...)
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	errs = append(errs, validateImageSpaces(path.Child("containers"), p.Spec.Containers)...)
	return append(errs, validateImageSpaces(path.Child("initContainers"), p.Spec.InitContainers)...)
}

// validateNewPod finds what a pod may come to have, but not begin with.
func validateNewPod(p *corev1.Pod) field.ErrorList {
	if len(p.Spec.EphemeralContainers) > 0 {
		return field.ErrorList{field.Forbidden(field.NewPath("spec", "ephemeralContainers"), "cannot be set on create")}
	}
	return nil
}

// validateImageSpaces holds for pods only: in templates an image of blanks has always been let through.
func validateImageSpaces(path *field.Path, containers []corev1.Container) field.ErrorList {
	var errs field.ErrorList
	for i, c := range containers {
		if c.Image != strings.TrimSpace(c.Image) {
			errs = append(errs, field.Invalid(path.Index(i).Child("image"), c.Image, "must not have leading or trailing whitespace"))
		}
	}
	return errs
}

// validatePodSpec checks a pod's spec, or that of a template.
func validatePodSpec(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	volumes, errs := validateVolumes(path.Child("volumes"), s.Volumes)
	errs = append(errs, validateContainers(path.Child("containers"), s, volumes)...)
	errs = append(errs, validateInitContainers(path.Child("initContainers"), s, volumes)...)
	errs = append(errs, validateEphemeralContainers(path.Child("ephemeralContainers"), s, volumes)...)
	errs = append(errs, validateEnvFiles(path, s)...)
	errs = append(errs, validatePodResources(path.Child("resources"), s)...)
	errs = append(errs, validateResources(path.Child("overhead"), &corev1.ResourceRequirements{Limits: s.Overhead})...)
	errs = append(errs, validateResourceClaims(path, s)...)
	errs = append(errs, oneOf(path.Child("restartPolicy"), s.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, validateLabels(path.Child("nodeSelector"), s.NodeSelector)...)
	errs = append(errs, validatePodSecurity(path, s)...)
	errs = append(errs, validateDNS(path, s)...)
	errs = append(errs, validatePodNames(path, s)...)
	errs = append(errs, validateAffinity(path.Child("affinity"), s.Affinity)...)
	errs = append(errs, validateSpread(path.Child("topologySpreadConstraints"), s.TopologySpreadConstraints)...)
	errs = append(errs, validateTolerations(path.Child("tolerations"), s.Tolerations)...)
	for i, alias := range s.HostAliases {
		at := path.Child("hostAliases").Index(i)
		errs = append(errs, validateIP(at.Child("ip"), alias.IP)...)
		for j, name := range alias.Hostnames {
			errs = append(errs, invalid(at.Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain(name))...)
		}
	}
	for i, gate := range s.ReadinessGates {
		at, name := path.Child("readinessGates").Index(i).Child("conditionType"), string(gate.ConditionType)
		errs = append(errs, invalid(at, name, validation.IsQualifiedName(name))...)
	}
	var gates []string
	for i, gate := range s.SchedulingGates {
		gates = append(gates, gate.Name)
		errs = append(errs, invalid(path.Child("schedulingGates").Index(i), gate.Name, validation.IsQualifiedName(gate.Name))...)
	}
	errs = append(errs, unique(path.Child("schedulingGates"), gates, "")...)
	if n := s.ActiveDeadlineSeconds; n != nil && (*n < 1 || *n > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *n,
			validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	if s.PreemptionPolicy != nil {
		errs = append(errs, oneOf(path.Child("preemptionPolicy"), *s.PreemptionPolicy,
			corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if s.OS != nil {
		errs = append(errs, required(path.Child("os", "name"), string(s.OS.Name))...)
		errs = append(errs, oneOfOrNone(path.Child("os"), s.OS.Name, corev1.Linux, corev1.Windows)...)
		if s.OS.Name == corev1.Linux {
			errs = append(errs, validateNoWindows(path, s)...)
		}
	}
	return errs
}

// validateNoWindows keeps what only Windows has from a pod that says that it is for Linux.
func validateNoWindows(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	const why = "windows options cannot be set for a linux pod"
	var errs field.ErrorList
	if c := s.SecurityContext; c != nil && c.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(path.Child("securityContext", "windowsOptions"), why))
	}
	for _, list := range []struct {
		field string
		all   []corev1.Container
	}{{"initContainers", s.InitContainers}, {"containers", s.Containers}} {
		for i, c := range list.all {
			if c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil {
				errs = append(errs, field.Forbidden(path.Child(list.field).Index(i).Child("securityContext", "windowsOptions"), why))
			}
		}
	}
	return errs
}

// validatePodNames checks every name in a pod that is that of another object, or of the pod's host.
func validatePodNames(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	for _, n := range []struct {
		field, value string
		check        func(string) []string
	}{
		{"serviceAccountName", s.ServiceAccountName, validation.IsDNS1123Subdomain},
		{"nodeName", s.NodeName, validation.IsDNS1123Subdomain},
		{"hostname", s.Hostname, validation.IsDNS1123Label},
		{"subdomain", s.Subdomain, validation.IsDNS1123Label},
		{"priorityClassName", s.PriorityClassName, validation.IsDNS1123Subdomain},
		{"runtimeClassName", deref(s.RuntimeClassName), validation.IsDNS1123Subdomain},
		{"hostnameOverride", deref(s.HostnameOverride), validation.IsDNS1123Subdomain},
	} {
		if n.value != "" {
			errs = append(errs, invalid(path.Child(n.field), n.value, n.check(n.value))...)
		}
	}
	const maxHostname = 64
	if at, name := path.Child("hostnameOverride"), s.HostnameOverride; name != nil {
		if deref(s.SetHostnameAsFQDN) {
			errs = append(errs, field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
		}
		if s.HostNetwork {
			errs = append(errs, field.Forbidden(at, "may not be specified when hostNetwork is true"))
		}
		if len(*name) > maxHostname {
			errs = append(errs, field.TooLong(at, "", maxHostname))
		}
	}
	return errs
}

func validateDNS(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	const maxServers, maxSearches, maxSearchLength = 3, 32, 2048
	errs := oneOf(path.Child("dnsPolicy"), s.DNSPolicy, corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst,
		corev1.DNSDefault, corev1.DNSNone)
	at, c := path.Child("dnsConfig"), s.DNSConfig
	if c == nil {
		if s.DNSPolicy == corev1.DNSNone {
			errs = append(errs, field.Required(at, "must provide `dnsConfig` when `dnsPolicy` is None"))
		}
		return errs
	}
	if s.DNSPolicy == corev1.DNSNone && len(c.Nameservers) == 0 {
		errs = append(errs, field.Required(at.Child("nameservers"),
			"must provide at least one DNS nameserver when `dnsPolicy` is None"))
	}
	if len(c.Nameservers) > maxServers {
		errs = append(errs, field.Invalid(at.Child("nameservers"), c.Nameservers,
			fmt.Sprintf("must not have more than %d nameservers", maxServers)))
	}
	for i, ip := range c.Nameservers {
		errs = append(errs, validateIP(at.Child("nameservers").Index(i), ip)...)
	}
	if len(c.Searches) > maxSearches {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches,
			fmt.Sprintf("must not have more than %d search paths", maxSearches)))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchLength {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches,
			fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchLength)))
	}
	for i, name := range c.Searches {
		if name != "." {
			name = strings.TrimSuffix(name, ".")
			errs = append(errs, invalid(at.Child("searches").Index(i), name, validation.IsDNS1123SubdomainWithUnderscore(name))...)
		}
	}
	for i, option := range c.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func validatePodSecurity(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	if s.HostPID && deref(s.ShareProcessNamespace) {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), true,
			"ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	own := s.HostUsers != nil && !*s.HostUsers
	for _, c := range []struct {
		field string
		all   []corev1.Container
	}{{"initContainers", s.InitContainers}, {"containers", s.Containers}} {
		for i := range c.all {
			sc := c.all[i].SecurityContext
			if sc != nil && deref(sc.ProcMount) == corev1.UnmaskedProcMount && !own {
				errs = append(errs, field.Invalid(path.Child(c.field).Index(i).Child("securityContext", "procMount"), sc.ProcMount,
					"`hostUsers` must be false to use `Unmasked`"))
			}
		}
	}
	if own { // A user namespace of its own shares nothing with the node.
		for _, f := range []struct {
			name string
			set  bool
		}{{"hostNetwork", s.HostNetwork}, {"HostPID", s.HostPID}, {"HostIPC", s.HostIPC}} {
			if f.set {
				errs = append(errs, field.Forbidden(path.Child(f.name), "when `hostUsers` is false"))
			}
		}
	}
	if c := s.SecurityContext; c != nil {
		at := path.Child("securityContext")
		errs = append(errs, validateIDs(at, c.RunAsUser, c.RunAsGroup)...)
		if c.FSGroup != nil {
			errs = append(errs, invalid(at.Child("fsGroup"), *c.FSGroup, validation.IsValidGroupID(*c.FSGroup))...)
		}
		for i, group := range c.SupplementalGroups {
			errs = append(errs, invalid(at.Child("supplementalGroups").Index(i), group, validation.IsValidGroupID(group))...)
		}
		errs = append(errs, validateSysctls(at.Child("sysctls"), s)...)
		errs = append(errs, oneOfIfSet(at.Child("fsGroupChangePolicy"), c.FSGroupChangePolicy,
			corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
		errs = append(errs, validateSeccomp(at.Child("seccompProfile"), c.SeccompProfile)...)
		errs = append(errs, validateAppArmor(at.Child("appArmorProfile"), c.AppArmorProfile)...)
		errs = append(errs, oneOfIfSet(at.Child("supplementalGroupsPolicy"), c.SupplementalGroupsPolicy,
			corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
		errs = append(errs, oneOfIfSet(at.Child("seLinuxChangePolicy"), c.SELinuxChangePolicy,
			corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)...)
		errs = append(errs, validateWindows(at, c.WindowsOptions)...)
	}
	return append(errs, validateHostProcess(path, s)...)
}

func validateAppArmor(path *field.Path, p *corev1.AppArmorProfile) field.ErrorList {
	const maxName = 4095
	if p == nil {
		return nil
	}
	if p.Type == "" {
		return field.ErrorList{field.Required(path.Child("type"), "type is required when appArmorProfile is set")}
	}
	errs := oneOf(path.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost,
		corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	at, name := path.Child("localhostProfile"), deref(p.LocalhostProfile)
	switch local := p.Type == corev1.AppArmorProfileTypeLocalhost; {
	case local && strings.TrimSpace(name) != name:
		errs = append(errs, field.Invalid(at, name, "must not be padded with whitespace"))
	case local && name == "":
		errs = append(errs, field.Required(at, "must be set when AppArmor type is Localhost"))
	case local && len(name) > maxName:
		errs = append(errs, field.TooLong(at, "", maxName))
	case !local && p.LocalhostProfile != nil && len(errs) == 0:
		errs = append(errs, field.Invalid(at, p.LocalhostProfile, "can only be set when AppArmor type is Localhost"))
	}
	return errs
}

func validateIDs(path *field.Path, user, group *int64) field.ErrorList {
	var errs field.ErrorList
	if user != nil {
		errs = append(errs, invalid(path.Child("runAsUser"), *user, validation.IsValidUserID(*user))...)
	}
	if group != nil {
		errs = append(errs, invalid(path.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))...)
	}
	return errs
}

func validateSeccomp(path *field.Path, p *corev1.SeccompProfile) field.ErrorList {
	if p == nil {
		return nil
	}
	if p.Type == "" {
		return field.ErrorList{field.Required(path.Child("type"), "type is required when seccompProfile is set")}
	}
	errs := oneOf(path.Child("type"), p.Type, corev1.SeccompProfileTypeLocalhost,
		corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	at := path.Child("localhostProfile")
	switch local := p.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && p.LocalhostProfile == nil:
		errs = append(errs, field.Required(at, "must be set when seccomp type is Localhost"))
	case local:
		errs = append(errs, validateRelativePath(at, *p.LocalhostProfile)...)
	case p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(at, p, "can only be set when seccomp type is Localhost"))
	}
	return errs
}
