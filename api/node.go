package api

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func node() *Resource {
	info, status := corev1.NodeSystemInfo{}.SwaggerDoc(), corev1.NodeStatus{}.SwaggerDoc()
	return row(Resource{
		Version: "v1", Name: "nodes", Singular: "node", Kind: "Node", ShortNames: []string{"no"},
		StatusOnCreate: true,
		Verbs:          allVerbs(),
		Gated:          []string{"spec.configSource", "spec.podPreemptionPolicy", "status.config"},
		Subs:           []Sub{proxySub("NodeProxyOptions"), statusSub("Node")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", "The status of the node"),
			column("Roles", "string", "The roles of the node"),
			ageColumn(),
			column("Version", "string", info["kubeletVersion"]),
			wide("Internal-IP", "string", status["addresses"]),
			wide("External-IP", "string", status["addresses"]),
			wide("OS-Image", "string", info["osImage"]),
			wide("Kernel-Version", "string", info["kernelVersion"]),
			wide("Container-Runtime", "string", info["containerRuntimeVersion"]),
		},
	}, rules[corev1.Node]{
		ValidateStatus: validateNodeStatus,
		Default:        defaultNode,
		Validate:       validateNode,
		ValidateUpdate: validateNodeUpdate,
		Fields: func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		},
		Row: printNode,
	})
}

// defaultNode has a node that does not say otherwise give all it has to pods, and keeps podCIDR and podCIDRs[0] the same: where
// both are there and differ, podCIDR counts.
func defaultNode(n *corev1.Node) {
	switch one, all := n.Spec.PodCIDR, n.Spec.PodCIDRs; {
	case one != "" && (len(all) == 0 || all[0] != one):
		n.Spec.PodCIDRs = []string{one}
	case len(all) > 0:
		n.Spec.PodCIDR = all[0]
	}
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	roundUp(n.Status.Capacity)
	roundUp(n.Status.Allocatable)
}

func printNode(n *corev1.Node) []any {
	info := n.Status.NodeInfo
	kernel := or(info.KernelVersion, "<unknown>")
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{
		n.Name, nodeStatus(n), or(strings.Join(nodeRoles(n), ","), "<none>"), age(n.CreationTimestamp.Time), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		or(info.OSImage, "<unknown>"), kernel, or(info.ContainerRuntimeVersion, "<unknown>"),
	}
}

// nodeStatus is "Ready", "NotReady" or "Unknown", and whether the node is cordoned.
func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if c.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

// nodeRoles are read from the two labels that say them: node-role.kubernetes.io/ROLE and kubernetes.io/role=ROLE.
func nodeRoles(n *corev1.Node) []string {
	var roles []string
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles = append(roles, v)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return "<none>"
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateTaints(field.NewPath("metadata", "taints"), n.Spec.Taints) // Kubernetes' path, though they are in spec.
	for _, list := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range slices.Sorted(maps.Keys(list.list)) {
			errs = append(errs, validateQuantity(field.NewPath("status", list.name, string(name)), name, list.list[name])...)
		}
	}
	for i, cidr := range n.Spec.PodCIDRs {
		at := field.NewPath("spec", "podCIDRs").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, cidr, true, nil)...)
	}
	if ranges := n.Spec.PodCIDRs; len(ranges) > 2 || len(ranges) == 2 && ofOneFamily(ranges[0], ranges[1]) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "podCIDRs"), ranges, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

// validateNodeStatus checks what a node says of itself.
func validateNodeStatus(n, _ *corev1.Node) field.ErrorList {
	errs := validateNode(n)
	for i, address := range n.Status.Addresses {
		if slices.Contains(n.Status.Addresses[:i], address) {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), address))
		}
	}
	return errs
}

func validateTaints(path *field.Path, taints []corev1.Taint) field.ErrorList {
	var errs field.ErrorList
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, at.Child("key"))...)
		if messages := validation.IsValidLabelValue(t.Value); len(messages) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(messages, ";")))
		}
		errs = append(errs, validateTaintEffect(at.Child("effect"), t.Effect)...)
		if slices.ContainsFunc(taints[:i], func(o corev1.Taint) bool { return o.MatchTaint(&t) }) {
			twice := field.Duplicate(at, t)
			twice.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, twice)
		}
	}
	return errs
}

// validateNodeUpdate keeps what a node was given once: its range of pod addresses, its name at the provider.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(path.Child("podCIDRs"), `node updates may not change podCIDR except from "" to valid`))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(path.Child("externalID"), "may not be updated"))
	}
	if had := old.Spec.ProviderID; had != "" && n.Spec.ProviderID != had {
		text := "field cannot be modified once set"
		if n.Spec.ProviderID == "" {
			text = "field cannot be cleared once set"
		}
		errs = append(errs, field.Invalid(path.Child("providerID"), nil, text))
	}
	return errs
}
