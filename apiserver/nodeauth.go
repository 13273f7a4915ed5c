package apiserver

import (
	"slices"

	"skiff/api"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"
)

// nodeMay is the node restriction: a node reads what pods and services are made of, and writes only what is its own.
// https://kubernetes.io/docs/reference/access-authn-authz/node/
func (s *Server) nodeMay(node string, a attributes) bool {
	read := a.sub != "proxy" && (a.verb == "get" || a.verb == "list" || a.verb == "watch")
	switch a.resource.GroupResource().String() {
	case "nodes":
		return read || a.name == node && (a.sub == "" || a.sub == "status") && (a.verb == "update" || a.verb == "patch") ||
			a.verb == "create" && a.sub == ""
	case "pods":
		if a.sub == "" && (read || a.verb == "create") { // Of mirror pods only: createsOwn.
			return true
		}
		own := s.onNode(node, objectKey(a.namespace, a.name))
		return own && (a.sub == "" && a.verb == "delete" || a.sub == "status" && (a.verb == "update" || a.verb == "patch" || a.verb == "get"))
	case "leases.coordination.k8s.io":
		// Others' may be read: there stands how far their proxies are. In Kubernetes a node reads its own only.
		return a.namespace == "kube-node-lease" && (a.name == node || a.verb == "create" || read)
	case "events", "events.events.k8s.io":
		return a.verb == "create" || a.verb == "patch" || a.verb == "update"
	case "services", "endpointslices.discovery.k8s.io", "namespaces":
		return read
	case "runtimeclasses.node.k8s.io":
		return read && a.sub == ""
	case "configmaps", "secrets":
		return read && a.name != "" && s.usedOn(node, a)
	case "persistentvolumeclaims":
		return a.verb == "get" && a.sub == "" && s.usedOn(node, a)
	case "persistentvolumes":
		return read || a.verb == "patch" && a.sub == "" && s.mayHold(node, a.name)
	case "serviceaccounts":
		return a.verb == "create" && a.sub == "token" && s.usedOn(node, a)
	}
	return false
}

func (s *Server) onNode(node, key string) bool {
	it := s.shelf("pods").get(key)
	return it != nil && nodeNameOf(it) == node
}

func nodeNameOf(it *item) string { return it.obj.(*corev1.Pod).Spec.NodeName }

// usedOn tells whether a pod on the node refers to the ConfigMap, Secret or ServiceAccount that a request is about.
func (s *Server) usedOn(node string, a attributes) bool {
	pods := s.shelf("pods")
	pods.mu.RLock()
	defer pods.mu.RUnlock()
	found := false
	prefix := a.namespace + "/"
	pods.tree.AscendGreaterOrEqual(&item{key: prefix}, func(it *item) bool {
		if it.meta().GetNamespace() != a.namespace {
			return false
		}
		found = nodeNameOf(it) == node && refersTo(it.obj.(*corev1.Pod), a.resource.Kind, a.name)
		return !found
	})
	return found
}

// mayHold tells whether the data of a volume can be on the node.
func (s *Server) mayHold(node, name string) bool {
	v, n := s.shelf("persistentvolumes").get(name), s.shelf("nodes").get(node)
	if v == nil || n == nil {
		return false
	}
	pv := v.obj.(*corev1.PersistentVolume)
	return api.IsLocal(pv) && pv.Spec.NodeAffinity != nil && volume.CheckNodeAffinity(pv, n.meta().GetLabels()) == nil
}

func refersTo(pod *corev1.Pod, kind, name string) bool {
	spec := &pod.Spec
	switch kind {
	case "ServiceAccount":
		return spec.ServiceAccountName == name
	case "PersistentVolumeClaim":
		return slices.Contains(api.ClaimsOf(pod), name)
	}
	secret, configMap := kind == "Secret", kind == "ConfigMap"
	for _, s := range spec.ImagePullSecrets {
		if secret && s.Name == name {
			return true
		}
	}
	for _, v := range spec.Volumes {
		if volumeRefers(&v.VolumeSource, secret, configMap, name) {
			return true
		}
	}
	for _, list := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if envRefers(&list[i], secret, configMap, name) {
				return true
			}
		}
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		if envRefers(&c, secret, configMap, name) {
			return true
		}
	}
	return false
}

func volumeRefers(v *corev1.VolumeSource, secret, configMap bool, name string) bool {
	if secret && v.Secret != nil && v.Secret.SecretName == name || configMap && v.ConfigMap != nil && v.ConfigMap.Name == name {
		return true
	}
	if v.Projected == nil {
		return false
	}
	for _, p := range v.Projected.Sources {
		if secret && p.Secret != nil && p.Secret.Name == name || configMap && p.ConfigMap != nil && p.ConfigMap.Name == name {
			return true
		}
	}
	return false
}

func envRefers(c *corev1.Container, secret, configMap bool, name string) bool {
	for _, f := range c.EnvFrom {
		if secret && f.SecretRef != nil && f.SecretRef.Name == name || configMap && f.ConfigMapRef != nil && f.ConfigMapRef.Name == name {
			return true
		}
	}
	for _, e := range c.Env {
		from := e.ValueFrom
		if from == nil {
			continue
		}
		if secret && from.SecretKeyRef != nil && from.SecretKeyRef.Name == name || configMap && from.ConfigMapKeyRef != nil && from.ConfigMapKeyRef.Name == name {
			return true
		}
	}
	return false
}
