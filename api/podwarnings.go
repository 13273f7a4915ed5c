package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// deprecatedNodeLabels are labels of nodes that others have replaced.
var deprecatedNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  "deprecated since v1.9",
	"scheduler.alpha.kubernetes.io/preferAvoidPods": "deprecated since v1.22; use Taints and Tolerations instead",
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

// Annotations of pods from before there were fields, and what is to be said of them.
const (
	seccompOfPod        = "seccomp.security.alpha.kubernetes.io/pod"
	seccompOfContainer  = "container.seccomp.security.alpha.kubernetes.io/"
	appArmorOfContainer = "container.apparmor.security.beta.kubernetes.io/"
	useSeccompField     = `%s: non-functional in v1.27+; use the "seccompProfile" field instead`
	useAppArmorField    = `%s: deprecated since v1.30; use the "appArmorProfile" field instead`
)

var deprecatedAnnotations = []struct{ key, message string }{
	{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
	{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
}

func (w *warnings) podTemplate(at *field.Path, t *corev1.PodTemplateSpec) {
	w.pod(at, &t.Spec, &t.ObjectMeta)
}

// pod warns of a pod, or of a template at a path.
func (w *warnings) pod(at *field.Path, s *corev1.PodSpec, m *metav1.ObjectMeta) {
	spec, annotations := at.Child("spec"), at.Child("metadata", "annotations")
	w.nodeSelection(spec, s)
	for _, d := range deprecatedAnnotations {
		if hasKey(m.Annotations, d.key) {
			w.say("%s: %s", annotations.Key(d.key), d.message)
		}
	}
	for i := range s.Volumes {
		w.podVolume(spec.Child("volumes").Index(i), &s.Volumes[i])
	}
	w.overlappingPaths(s.Volumes)
	w.names(spec, s)
	w.wholeBytes(spec, "overhead", s.Overhead, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)
	if hasKey(m.Annotations, seccompOfPod) {
		w.add(s.SecurityContext == nil || s.SecurityContext.SeccompProfile == nil, useSeccompField, annotations.Key(seccompOfPod))
	}
	eachContainer(spec, s, func(c *corev1.Container, p *field.Path) {
		w.container(annotations, s, m, c)
		w.wholeBytes(p, "resources.limits", c.Resources.Limits, corev1.ResourceMemory)
		w.wholeBytes(p, "resources.requests", c.Resources.Requests, corev1.ResourceMemory)
		w.wholeBytes(p, "resources.limits", c.Resources.Limits, corev1.ResourceEphemeralStorage)
		w.wholeBytes(p, "resources.requests", c.Resources.Requests, corev1.ResourceEphemeralStorage)
		w.hiddenVariables(p, c.Env)
	})
	w.ports(spec, s)
	if deref(s.TerminationGracePeriodSeconds) < 0 {
		w.say("%s: must be >= 0; negative values are invalid and will be treated as 1", spec.Child("terminationGracePeriodSeconds"))
	}
	w.podAffinity(spec, s.Affinity)
	if s.DNSConfig != nil {
		w.ips(spec.Child("dnsConfig", "nameservers"), s.DNSConfig.Nameservers)
	}
	for i, alias := range s.HostAliases {
		w.ip(spec.Child("hostAliases").Index(i).Child("ip"), alias.IP)
	}
}

// eachContainer visits all containers of a pod with their paths.
func eachContainer(spec *field.Path, s *corev1.PodSpec, do func(*corev1.Container, *field.Path)) {
	for i := range s.InitContainers {
		do(&s.InitContainers[i], spec.Child("initContainers").Index(i))
	}
	for i := range s.Containers {
		do(&s.Containers[i], spec.Child("containers").Index(i))
	}
	for i := range s.EphemeralContainers {
		c := corev1.Container(s.EphemeralContainers[i].EphemeralContainerCommon)
		do(&c, spec.Child("ephemeralContainers").Index(i))
	}
}

// nodeSelection warns of labels of nodes that others have replaced, and of constraints that match no pod.
func (w *warnings) nodeSelection(spec *field.Path, s *corev1.PodSpec) {
	for _, key := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		w.add(hasKey(deprecatedNodeLabels, key), "%s: %s", spec.Child("nodeSelector").Key(key), deprecatedNodeLabels[key])
	}
	if s.Affinity != nil && s.Affinity.NodeAffinity != nil {
		a, at := s.Affinity.NodeAffinity, spec.Child("affinity", "nodeAffinity")
		if required := a.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			for i, term := range required.NodeSelectorTerms {
				w.nodeTerm(at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i), term, false)
			}
		}
		for i, term := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"), term.Preference, true)
		}
	}
	for i, c := range s.TopologySpreadConstraints {
		at := spec.Child("topologySpreadConstraints").Index(i)
		w.add(hasKey(deprecatedNodeLabels, c.TopologyKey), "%s: %s is %s", at.Child("topologyKey"), c.TopologyKey, deprecatedNodeLabels[c.TopologyKey])
		w.matchesNothing(at, c.LabelSelector)
	}
}

func (w *warnings) nodeTerm(at *field.Path, term corev1.NodeSelectorTerm, values bool) {
	for i, e := range term.MatchExpressions {
		p := at.Child("matchExpressions").Index(i)
		w.add(hasKey(deprecatedNodeLabels, e.Key), "%s: %s is %s", p.Child("key"), e.Key, deprecatedNodeLabels[e.Key])
		for j, value := range e.Values {
			for _, why := range validation.IsValidLabelValue(value) {
				w.add(values, "%s: %s is invalid, %s", p.Child("values").Index(j), value, why)
			}
		}
	}
}

func (w *warnings) matchesNothing(at *field.Path, s *metav1.LabelSelector) {
	w.add(s == nil, "%s: a null labelSelector results in matching no pod", at.Child("labelSelector"))
}

func (w *warnings) podAffinity(spec *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	terms := func(at *field.Path, required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i, term := range required {
			w.matchesNothing(at.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i), term.LabelSelector)
		}
		for i, term := range preferred {
			w.matchesNothing(at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm"), term.PodAffinityTerm.LabelSelector)
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(spec.Child("affinity", "podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(spec.Child("affinity", "podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// names warns of what stands twice in lists whose entries are told apart by name.
func (w *warnings) names(spec *field.Path, s *corev1.PodSpec) {
	seen := map[string]bool{}
	for i, alias := range s.HostAliases {
		w.add(seen[alias.IP], "%s: duplicate ip %q", spec.Child("hostAliases").Index(i).Child("ip"), alias.IP)
		seen[alias.IP] = true
	}
	seen = map[string]bool{}
	secrets := spec.Child("imagePullSecrets")
	for i, secret := range s.ImagePullSecrets {
		w.add(seen[secret.Name], "%s: duplicate name %q", secrets.Index(i).Child("name"), secret.Name)
		seen[secret.Name] = true
	}
	for i, secret := range s.ImagePullSecrets {
		w.add(secret.Name == "", `%s: invalid empty name ""`, secrets.Index(i).Child("name"))
	}
}

// container warns of profiles that are annotations still.
func (w *warnings) container(annotations *field.Path, s *corev1.PodSpec, m *metav1.ObjectMeta, c *corev1.Container) {
	key := seccompOfContainer + c.Name
	if hasKey(m.Annotations, key) {
		w.add(c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil, useSeccompField, annotations.Key(key))
	}
	key = appArmorOfContainer + c.Name
	if !hasKey(m.Annotations, key) || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
		return
	}
	meant := annotatedProfile(m.Annotations[key])
	same := s.SecurityContext != nil && s.SecurityContext.AppArmorProfile != nil && meant != nil && Same(s.SecurityContext.AppArmorProfile, meant)
	w.add(!same, useAppArmorField, annotations.Key(key))
}

// annotatedProfile is the field that says the same as an AppArmor annotation; nil if it says nothing.
func annotatedProfile(text string) *corev1.AppArmorProfile {
	switch file, local := strings.CutPrefix(text, "localhost/"); {
	case text == "unconfined":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case text == "runtime/default":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case local && file != "":
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &file}
	}
	return nil
}

// wholeBytes warns of amounts in a list that are no whole number of bytes.
func (w *warnings) wholeBytes(at *field.Path, part string, list corev1.ResourceList, names ...corev1.ResourceName) {
	for _, name := range names {
		if value, ok := list[name]; ok && value.MilliValue()%1000 != 0 {
			w.say("%s: fractional byte value %q is invalid, must be an integer", at.Child(part).Key(string(name)), value.String())
		}
	}
}

// hiddenVariables warns of a variable that takes the place of an earlier one without using it.
func (w *warnings) hiddenVariables(container *field.Path, env []corev1.EnvVar) {
	seen := map[string]bool{}
	for i, v := range env {
		ref := "$(" + v.Name + ")"
		uses := v.ValueFrom == nil && v.Value != ref && strings.Contains(v.Value, ref)
		if seen[v.Name] && !uses {
			w.say("%s: hides previous definition of %q, which may be dropped when using apply", container.Child("env").Index(i), v.Name)
		}
		seen[v.Name] = true
	}
}

// ports warns of ports that stand twice, in one container or in several.
func (w *warnings) ports(spec *field.Path, s *corev1.PodSpec) {
	type place struct {
		at   *field.Path
		port corev1.ContainerPort
	}
	places := map[string][]place{}
	eachContainer(spec, s, func(c *corev1.Container, p *field.Path) {
		for i, port := range c.Ports {
			at := p.Child("ports").Index(i)
			w.add(port.HostIP != "" && port.HostPort == 0, "%s: hostIP set without hostPort: %+v", at, port)
			key := fmt.Sprintf("%d/%s", port.ContainerPort, port.Protocol)
			for _, other := range places[key] {
				how := clash(port, other.port)
				w.add(how != "", "%s: %s port definition with %s", at, how, other.at)
			}
			places[key] = append(places[key], place{at, port})
		}
	})
	names := map[string]*field.Path{}
	eachContainer(spec, s, func(c *corev1.Container, p *field.Path) {
		for i, port := range c.Ports {
			at, other := p.Child("ports").Index(i), names[port.Name]
			w.add(other != nil, "%s: duplicate port name %q with %s, services and probes that select ports by name will use %s", at, port.Name, other, other)
			if other == nil && port.Name != "" {
				names[port.Name] = at
			}
		}
	})
}

// clash says how two ports of one number and protocol get into each other's way; "" if they do not.
func clash(a, b corev1.ContainerPort) string {
	switch {
	case a.HostIP == b.HostIP && a.HostPort == b.HostPort:
		return "duplicate"
	case a.HostPort == 0 || b.HostPort == 0:
		return "overlapping"
	case a.HostPort == b.HostPort && (a.HostIP == "") != (b.HostIP == ""):
		return "dangerously ambiguous"
	}
	return ""
}
