package apiserver

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
)

// A node that has been broken into must not draw work to itself that is meant for others: it writes what is its own
// (nodeauth.go), and of that not what the scheduler, controllers and Services go by.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction

// nodeOf is the node that makes a request, if one does.
func nodeOf(r *http.Request) (name string, ok bool) {
	u, _ := userOf(r)
	name, ok = strings.CutPrefix(u.Name, nodePrefix)
	return name, ok && !isAdministrator(u)
}

// createsOwn holds that a node which creates a Node or its Lease creates its own, as the path does not say which it is, and
// that it does not call itself what it may not.
func (h *resource) createsOwn(r *http.Request, obj runtime.Object) error {
	node, ok := nodeOf(r)
	if pod, is := obj.(*corev1.Pod); ok && is {
		return mirrorsOwn(node, pod)
	}
	if !ok || h.Kind != "Node" && h.Kind != "Lease" {
		return nil
	}
	name := metaOf(obj).GetName()
	if name != node {
		return apierrors.NewForbidden(h.GroupResource(), name, fmt.Errorf("node %q is not allowed to create %s %q", node, h.Name, name))
	}
	if h.Kind != "Node" {
		return nil
	}
	if keys := reservedLabels(metaOf(obj).GetLabels(), nil); len(keys) > 0 {
		return apierrors.NewForbidden(h.GroupResource(), name, fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(keys, ", ")))
	}
	return nil
}

// mirrorsOwn holds that the pods which a node creates are mirrors of such as it runs anyway, and that they give it nothing: a node may
// read the Secrets that its pods name.
func mirrorsOwn(node string, pod *corev1.Pod) error {
	refuse := func(format string, args ...any) error {
		return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf(format, args...))
	}
	owned := len(pod.OwnerReferences) == 1 && pod.OwnerReferences[0].Kind == "Node" && pod.OwnerReferences[0].Name == node
	switch _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; {
	case !mirror:
		return refuse("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	case pod.Spec.NodeName != node:
		return refuse("node %q can only create pods with spec.nodeName set to itself", node)
	case !owned:
		return refuse("node %q can only create pods with an owner reference set to itself", node)
	case pod.Spec.ServiceAccountName != "", pod.Spec.DeprecatedServiceAccount != "", len(pod.Spec.ImagePullSecrets) > 0, refersToObjects(&pod.Spec):
		return refuse("node %q can not create pods that reference secrets, configmaps, service accounts or claims", node)
	}
	return nil
}

// refersToObjects tells whether a pod names objects of the API that are read on its behalf.
func refersToObjects(spec *corev1.PodSpec) bool {
	for _, v := range spec.Volumes {
		if v.Secret != nil || v.ConfigMap != nil || v.PersistentVolumeClaim != nil || v.Ephemeral != nil ||
			v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool { return p.DownwardAPI == nil }) {
			return true
		}
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		refers := slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool {
			return e.ValueFrom != nil && (e.ValueFrom.SecretKeyRef != nil || e.ValueFrom.ConfigMapKeyRef != nil)
		})
		if refers || len(c.EnvFrom) > 0 {
			return true
		}
	}
	return false
}

// restricted is a change that is refused where a node makes it and may not.
func (h *resource) restricted(r *http.Request, sub string, f change) change {
	node, ok := nodeOf(r)
	if !ok {
		return f
	}
	return func(old runtime.Object) (runtime.Object, error) {
		obj, err := f(old)
		if err != nil {
			return nil, err
		}
		if err := nodeMayChange(node, sub, old, obj); err != nil {
			return nil, apierrors.NewForbidden(h.GroupResource(), metaOf(old).GetName(), err)
		}
		return obj, nil
	}
}

// nodeMayChange judges what a node makes of its Node, or of a pod's status. Of what is written through the status, only what
// can change that way counts.
func nodeMayChange(node, sub string, old, obj runtime.Object) error {
	switch old := old.(type) {
	case *corev1.Pod:
		if !maps.Equal(old.Labels, obj.(*corev1.Pod).Labels) {
			return fmt.Errorf("node %q cannot update labels through pod status", node)
		}
	case *corev1.PersistentVolume:
		if !onlyFinalizer(old, obj.(*corev1.PersistentVolume), api.LocalFinalizer) {
			return fmt.Errorf("node %q can only say whether it holds data of a persistent volume", node)
		}
	case *corev1.Node:
		next := obj.(*corev1.Node)
		switch keys := reservedLabels(next.Labels, old.Labels); {
		case sub == "" && !equality.Semantic.DeepEqual(next.Spec.Taints, old.Spec.Taints):
			return fmt.Errorf("node %q is not allowed to modify taints", node)
		case !equality.Semantic.DeepEqual(next.OwnerReferences, old.OwnerReferences):
			return fmt.Errorf("node %q is not allowed to modify ownerReferences", node)
		case len(keys) > 0:
			return errors.New("is not allowed to modify labels: " + strings.Join(keys, ", "))
		}
	}
	return nil
}

// onlyFinalizer tells whether two states of a volume differ in nothing but that finalizer.
func onlyFinalizer(old, next *corev1.PersistentVolume, finalizer string) bool {
	strip := func(v *corev1.PersistentVolume) *corev1.PersistentVolume {
		v = v.DeepCopy()
		v.ManagedFields, v.ResourceVersion = nil, ""
		v.Finalizers = slices.DeleteFunc(v.Finalizers, func(f string) bool { return f == finalizer })
		return v
	}
	return equality.Semantic.DeepEqual(strip(old), strip(next))
}

// reservedLabels are the keys, in order, in which two sets of labels differ and that are not a node's to set.
func reservedLabels(a, b map[string]string) []string {
	reserved := map[string]bool{}
	for _, labels := range []map[string]string{a, b} {
		for key := range labels {
			now, isIn := a[key]
			before, wasIn := b[key]
			if (isIn != wasIn || now != before) && !nodeMayLabel(key) {
				reserved[key] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(reserved))
}

// nodeMayLabel tells whether a node may give its Node a label: any, but those of Kubernetes that others set.
func nodeMayLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok || !within(domain, "kubernetes.io") && !within(domain, "k8s.io") {
		return true
	}
	switch key {
	case corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable, "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
		corev1.LabelInstanceType, corev1.LabelInstanceTypeStable, corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
		corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion:
		return true
	}
	return within(domain, corev1.LabelNamespaceSuffixKubelet) || within(domain, corev1.LabelNamespaceSuffixNode)
}

// within tells whether a domain is the other one, or below it.
func within(domain, other string) bool {
	return domain == other || strings.HasSuffix(domain, "."+other)
}
