package api

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateContainers is given the names of the volumes that can be mounted.
func validateContainers(path *field.Path, s *corev1.PodSpec, volumes map[string]bool) field.ErrorList {
	if len(s.Containers) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	var names []string
	for i, c := range s.Containers {
		at := path.Index(i)
		names = append(names, c.Name)
		errs = append(errs, validateContainer(at, &c, volumes)...)
		errs = append(errs, validateProbes(at, &c, s.TerminationGracePeriodSeconds)...)
		errs = append(errs, validateRestartRules(at, &c)...)
		errs = append(errs, validateResizePolicy(at.Child("resizePolicy"), c.ResizePolicy, s.RestartPolicy)...)
		if s.HostNetwork {
			errs = append(errs, validateHostNetworkPorts(at.Child("ports"), c.Ports)...)
		}
	}
	errs = append(errs, unique(path, names, "name")...)
	return append(errs, validateHostPortConflicts(path, s.Containers)...)
}

// validateInitContainers checks containers that run one after the other before the others start; one that stays, a
// sidecar, has probes and a lifecycle as the others have.
func validateInitContainers(path *field.Path, s *corev1.PodSpec, volumes map[string]bool) field.ErrorList {
	var errs field.ErrorList
	taken := map[string]bool{}
	for _, c := range s.Containers {
		taken[c.Name] = true
	}
	for i, c := range s.InitContainers {
		at := path.Index(i)
		errs = append(errs, validateContainer(at, &c, volumes)...)
		errs = append(errs, validateRestartRules(at, &c)...)
		errs = append(errs, validateResizePolicy(at.Child("resizePolicy"), c.ResizePolicy, s.RestartPolicy)...)
		if c.Name != "" && taken[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		taken[c.Name] = true
		errs = append(errs, validateHostPortConflicts(path, []corev1.Container{c})...)
		for j, p := range c.ResizePolicy {
			if p.RestartPolicy == corev1.RestartContainer && !isSidecar(&c) {
				errs = append(errs, field.Invalid(path.Index(i).Child("resizePolicy").Index(j).Child("restartPolicy"), p.RestartPolicy,
					"must not be set to 'RestartContainer' for non-sidecar initContainers"))
			}
		}
		if isSidecar(&c) {
			errs = append(errs, validateProbes(at, &c, s.TerminationGracePeriodSeconds)...)
			continue
		}
		for _, f := range []struct {
			name string
			set  bool
		}{
			{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil},
			{"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
	}
	return errs
}

// validateContainer checks what containers of all sorts have.
func validateContainer(path *field.Path, c *corev1.Container, volumes map[string]bool) field.ErrorList {
	errs := requiredName(path.Child("name"), c.Name, validation.IsDNS1123Label)
	errs = append(errs, required(path.Child("image"), c.Image)...)
	errs = append(errs, oneOf(path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, validateContainerPorts(path.Child("ports"), c.Ports)...)
	errs = append(errs, validateEnv(path.Child("env"), c.Env)...)
	errs = append(errs, validateEnvFrom(path.Child("envFrom"), c.EnvFrom)...)
	errs = append(errs, validateVolumeMounts(path, c, volumes)...)
	errs = append(errs, oneOf(path.Child("imagePullPolicy"), c.ImagePullPolicy,
		corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, validateResources(path.Child("resources"), &c.Resources)...)
	return append(errs, validateSecurityContext(path.Child("securityContext"), c.SecurityContext)...)
}

func validateContainerPorts(path *field.Path, ports []corev1.ContainerPort) field.ErrorList {
	var errs field.ErrorList
	var names []string
	for i, p := range ports {
		at := path.Index(i)
		names = append(names, p.Name)
		if p.Name != "" {
			errs = append(errs, invalid(at.Child("name"), p.Name, validation.IsValidPortName(p.Name))...)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, validatePort(at.Child("containerPort"), p.ContainerPort)...)
		}
		if p.HostPort != 0 {
			errs = append(errs, validatePort(at.Child("hostPort"), p.HostPort)...)
		}
		errs = append(errs, validateProtocol(at.Child("protocol"), p.Protocol)...)
	}
	return append(errs, unique(path, names, "name")...)
}

// validateHostNetworkPorts wants a port of the node to be the container's own where they share the network. In a
// template the host port may be left out: it is filled in when the pod is made.
func validateHostNetworkPorts(path *field.Path, ports []corev1.ContainerPort) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		if p.HostPort != 0 && p.HostPort != p.ContainerPort {
			errs = append(errs, field.Invalid(path.Index(i).Child("hostPort"), p.HostPort,
				"must match `containerPort` when `hostNetwork` is true"))
		}
	}
	return errs
}

func validateHostPortConflicts(path *field.Path, containers []corev1.Container) field.ErrorList {
	var errs field.ErrorList
	taken := map[string]bool{}
	for i, c := range containers {
		for j, p := range c.Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken[key] {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken[key] = true
		}
	}
	return errs
}

// validateRestartRules checks a container's own restart policy, which goes before the pod's.
func validateRestartRules(path *field.Path, c *corev1.Container) field.ErrorList {
	const maxRules, maxCodes = 20, 255
	at, rulesAt := path.Child("restartPolicy"), path.Child("restartPolicyRules")
	if c.RestartPolicy == nil {
		if len(c.RestartPolicyRules) > 0 {
			return field.ErrorList{field.Required(at, "must specify restartPolicy when restart rules are used")}
		}
		return nil
	}
	errs := oneOf(at, *c.RestartPolicy, corev1.ContainerRestartPolicyAlways,
		corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)
	if n := len(c.RestartPolicyRules); n > maxRules {
		errs = append(errs, field.TooMany(rulesAt, n, maxRules))
	}
	for i, rule := range c.RestartPolicyRules {
		ruleAt := rulesAt.Index(i)
		errs = append(errs, oneOf(ruleAt.Child("action"), rule.Action, corev1.ContainerRestartRuleActionRestart,
			corev1.ContainerRestartRuleActionRestartAllContainers)...)
		codes := rule.ExitCodes
		if codes == nil {
			errs = append(errs, field.Required(ruleAt.Child("exitCodes"), "must be specified"))
			continue
		}
		errs = append(errs, oneOf(ruleAt.Child("exitCodes", "operator"), codes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(codes.Values); n > maxCodes {
			errs = append(errs, field.TooMany(ruleAt.Child("exitCodes", "values"), n, maxCodes))
		}
	}
	return errs
}

func validateSecurityContext(path *field.Path, c *corev1.SecurityContext) field.ErrorList {
	if c == nil {
		return nil
	}
	errs := validateIDs(path, c.RunAsUser, c.RunAsGroup)
	errs = append(errs, oneOfIfSet(path.Child("procMount"), c.ProcMount,
		corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
	errs = append(errs, validateSeccomp(path.Child("seccompProfile"), c.SeccompProfile)...)
	errs = append(errs, validateAppArmor(path.Child("appArmorProfile"), c.AppArmorProfile)...)
	errs = append(errs, validateWindows(path, c.WindowsOptions)...)
	if c.AllowPrivilegeEscalation == nil || *c.AllowPrivilegeEscalation {
		return errs
	}
	if deref(c.Privileged) {
		errs = append(errs, field.Invalid(path, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
	}
	if c.Capabilities != nil && slices.Contains(c.Capabilities.Add, "CAP_SYS_ADMIN") {
		errs = append(errs, field.Invalid(path, c,
			"cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
	}
	return errs
}
