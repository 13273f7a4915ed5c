package api

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings tells what is valid about an object but hardly meant, or will not be valid for ever. old is what it follows, nil for
// a new object. What makes pods is looked at only where something else is wanted of it than before.
// https://kubernetes.io/docs/reference/using-api/#warnings
func Warnings(obj, old runtime.Object) []string {
	changed := old == nil || metaGeneration(obj) != metaGeneration(old)
	w := &warnings{}
	spec := field.NewPath("spec")
	template := func(at *field.Path, t *corev1.PodTemplateSpec) {
		if changed && t != nil {
			w.podTemplate(at, t)
		}
	}
	switch o := obj.(type) {
	case *corev1.Pod:
		if old == nil { // Afterwards people hardly ever write one.
			w.dnsLabel(o.Name, "the Pod's hostname")
			w.pod(nil, &o.Spec, &o.ObjectMeta)
		}
	case *corev1.PodTemplate:
		template(field.NewPath("template"), &o.Template)
	case *corev1.ReplicationController:
		w.podNames(o.Name, old)
		template(spec.Child("template"), o.Spec.Template)
	case *appsv1.Deployment:
		w.podNames(o.Name, old)
		template(spec.Child("template"), &o.Spec.Template)
	case *appsv1.ReplicaSet:
		w.podNames(o.Name, old)
		template(spec.Child("template"), &o.Spec.Template)
	case *appsv1.DaemonSet:
		template(spec.Child("template"), &o.Spec.Template)
	case *appsv1.StatefulSet:
		template(spec.Child("template"), &o.Spec.Template)
		w.statefulSet(spec, &o.Spec)
	case *batchv1.Job:
		w.podNames(o.Name, old)
		if changed {
			w.job(spec, &o.Spec)
		}
	case *batchv1.CronJob:
		w.podNames(o.Name, old)
		if changed {
			w.job(spec.Child("jobTemplate", "spec"), &o.Spec.JobTemplate.Spec)
		}
	default:
		w.other(obj, old)
	}
	return w.texts
}

func metaGeneration(obj runtime.Object) int64 {
	m, ok := obj.(metav1.Object)
	if !ok {
		return 0
	}
	return m.GetGeneration()
}

// warnings collects them.
type warnings struct{ texts []string }

func (w *warnings) add(on bool, format string, args ...any) {
	if on {
		w.say(format, args...)
	}
}

// say is for what needs a path, which costs more than to look whether there is anything to say.
func (w *warnings) say(format string, args ...any) {
	w.texts = append(w.texts, fmt.Sprintf(format, args...))
}

// other warns of kinds that make no pods.
func (w *warnings) other(obj, old runtime.Object) {
	spec := field.NewPath("spec")
	switch o := obj.(type) {
	case *corev1.Service:
		w.service(o)
	case *corev1.Endpoints:
		w.endpoints(o)
	case *discoveryv1.EndpointSlice:
		if o.AddressType == discoveryv1.AddressTypeFQDN {
			w.say("%s: FQDN endpoints are deprecated", spec.Child("addressType"))
			break
		}
		for i, endpoint := range o.Endpoints {
			w.ips(field.NewPath("endpoints").Index(i).Child("addresses"), endpoint.Addresses)
		}
	case *corev1.Node:
		w.add(o.Spec.ConfigSource != nil, "spec.configSource: the feature is removed")
		w.add(o.Spec.DoNotUseExternalID != "", "spec.externalID: this field is deprecated, and is unused by Kubernetes")
		w.cidrs(spec.Child("podCIDRs"), o.Spec.PodCIDRs)
	case *storagev1.CSIDriver:
		w.add(len(o.Spec.TokenRequests) > 0 && o.Spec.ServiceAccountTokenInSecrets == nil, "spec.serviceAccountTokenInSecrets is unset; "+
			"if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes")
	case *corev1.Secret:
		if o.Type == corev1.SecretTypeTLS {
			_, err := tls.X509KeyPair(o.Data[corev1.TLSCertKey], o.Data[corev1.TLSPrivateKeyKey])
			w.add(err != nil, "%v", err)
		}
	case *corev1.PersistentVolume:
		w.volume(spec, o)
	case *corev1.PersistentVolumeClaim:
		w.add(hasKey(o.Annotations, corev1.BetaStorageClassAnnotation), `%s: deprecated since v1.8; use "storageClassName" attribute instead`,
			field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation))
		w.claim(spec, &o.Spec)
	case *networkingv1.NetworkPolicy:
		w.policy(spec, &o.Spec)
	case *networkingv1.Ingress:
		w.add(old == nil && hasKey(o.Annotations, ingressClassAnnotation) && o.Spec.IngressClassName == nil,
			"annotation %q is deprecated, please use 'spec.ingressClassName' instead", ingressClassAnnotation)
	case *nodev1.RuntimeClass:
		if o.Scheduling != nil {
			for _, key := range slices.Sorted(maps.Keys(o.Scheduling.NodeSelector)) {
				w.add(hasKey(deprecatedNodeLabels, key), "scheduling.nodeSelector: %s", deprecatedNodeLabels[key])
			}
		}
	case *storagev1.StorageClass:
		for i, topology := range o.AllowedTopologies {
			for j, e := range topology.MatchLabelExpressions {
				at := field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions").Index(j)
				w.add(hasKey(deprecatedNodeLabels, e.Key), "%s: %s", at.Child("key"), deprecatedNodeLabels[e.Key])
			}
		}
	}
}

const ingressClassAnnotation = "kubernetes.io/ingress.class"

func hasKey[V any](m map[string]V, key string) bool {
	_, ok := m[key]
	return ok
}

// podNames warns of a name that is no part of a host's name. Only a new object gets a name.
func (w *warnings) podNames(name string, old runtime.Object) {
	if old == nil {
		w.dnsLabel(name, "Pod names and hostnames")
	}
}

func (w *warnings) dnsLabel(name, use string) {
	why := validation.IsDNS1123Label(name)
	w.add(len(why) > 0, "metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", use, why)
}

func (w *warnings) ips(at *field.Path, list []string) {
	for i, ip := range list {
		w.ip(at.Index(i), ip)
	}
}

func (w *warnings) ip(at *field.Path, ip string) {
	w.texts = append(w.texts, validation.GetWarningsForIP(at, ip)...)
}

func (w *warnings) cidrs(at *field.Path, list []string) {
	for i, cidr := range list {
		w.texts = append(w.texts, validation.GetWarningsForCIDR(at.Index(i), strings.TrimSpace(cidr))...)
	}
}

func (w *warnings) service(s *corev1.Service) {
	spec := field.NewPath("spec")
	w.add(hasKey(s.Annotations, corev1.DeprecatedAnnotationTopologyAwareHints), "annotation %s is deprecated, please use %s instead",
		corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode)
	headless := s.Spec.Type == corev1.ServiceTypeClusterIP && s.Spec.ClusterIP == corev1.ClusterIPNone
	if s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone {
		w.ips(spec.Child("clusterIPs"), s.Spec.ClusterIPs)
	}
	external, named := len(s.Spec.ExternalIPs) > 0, s.Spec.Type == corev1.ServiceTypeExternalName
	w.add(headless && s.Spec.LoadBalancerIP != "", "spec.loadBalancerIP is ignored for headless services")
	w.add(headless && external, "spec.externalIPs is ignored for headless services")
	w.add(headless && s.Spec.SessionAffinity != corev1.ServiceAffinityNone, "spec.SessionAffinity is ignored for headless services")
	w.ips(spec.Child("externalIPs"), s.Spec.ExternalIPs)
	w.add(external && !headless && !named, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	if s.Spec.LoadBalancerIP != "" {
		w.ip(spec.Child("loadBalancerIP"), s.Spec.LoadBalancerIP)
	}
	w.cidrs(spec.Child("loadBalancerSourceRanges"), s.Spec.LoadBalancerSourceRanges)
	w.add(named && external, "spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName)
	w.add(!named && s.Spec.ExternalName != "", "spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName)
	w.add(deref(s.Spec.TrafficDistribution) == corev1.ServiceTrafficDistributionPreferClose, "spec.trafficDistribution: %q is deprecated; use %q",
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone)
}

func (w *warnings) endpoints(e *corev1.Endpoints) {
	for i, subset := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		for j, a := range subset.Addresses {
			w.ip(at.Child("addresses").Index(j).Child("ip"), a.IP)
		}
		for j, a := range subset.NotReadyAddresses {
			w.ip(at.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)
		}
	}
}

func (w *warnings) policy(spec *field.Path, p *networkingv1.NetworkPolicySpec) {
	block := func(at *field.Path, peer networkingv1.NetworkPolicyPeer) {
		if peer.IPBlock == nil {
			return
		}
		w.texts = append(w.texts, validation.GetWarningsForCIDR(at.Child("ipBlock", "cidr"), peer.IPBlock.CIDR)...)
		w.cidrs(at.Child("ipBlock", "except"), peer.IPBlock.Except)
	}
	for i, rule := range p.Ingress {
		for j, peer := range rule.From {
			block(spec.Child("ingress").Index(i).Child("from").Index(j), peer)
		}
	}
	for i, rule := range p.Egress {
		for j, peer := range rule.To {
			block(spec.Child("egress").Index(i).Child("to").Index(j), peer)
		}
	}
}

func (w *warnings) volume(spec *field.Path, v *corev1.PersistentVolume) {
	annotations := field.NewPath("metadata", "annotations")
	w.add(hasKey(v.Annotations, corev1.BetaStorageClassAnnotation), `%s: deprecated since v1.8; use "storageClassName" attribute instead`,
		annotations.Key(corev1.BetaStorageClassAnnotation))
	w.add(hasKey(v.Annotations, corev1.MountOptionAnnotation), `%s: deprecated since v1.31; use "mountOptions" attribute instead`,
		annotations.Key(corev1.MountOptionAnnotation))
	w.add(v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle,
		"%s: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.", spec.Child("persistentVolumeReclaimPolicy"))
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		for i, term := range a.Required.NodeSelectorTerms {
			w.nodeTerm(spec.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i), term, false)
		}
	}
	s := &v.Spec.PersistentVolumeSource
	w.removedPlugin(s.CephFS != nil, spec, "cephfs", "v1.28", "v1.31")
	w.removedPlugin(s.PhotonPersistentDisk != nil, spec, "photonPersistentDisk", "v1.11", "v1.16")
	w.removedPlugin(s.ScaleIO != nil, spec, "scaleIO", "v1.16", "v1.22")
	w.removedPlugin(s.StorageOS != nil, spec, "storageOS", "v1.22", "v1.25")
	w.removedPlugin(s.Glusterfs != nil, spec, "glusterfs", "v1.25", "v1.26")
	w.removedPlugin(s.RBD != nil, spec, "rbd", "v1.28", "v1.31")
}

func (w *warnings) removedPlugin(used bool, of *field.Path, plugin, deprecated, gone string) {
	if used {
		w.say("%s: deprecated in %s, non-functional in %s+", of.Child(plugin), deprecated, gone)
	}
}

func (w *warnings) claim(spec *field.Path, c *corev1.PersistentVolumeClaimSpec) {
	w.wholeBytes(spec, "resources.requests", c.Resources.Requests, corev1.ResourceStorage)
	w.wholeBytes(spec, "resources.limits", c.Resources.Limits, corev1.ResourceStorage)
}

func (w *warnings) statefulSet(spec *field.Path, s *appsv1.StatefulSetSpec) {
	for i := range s.VolumeClaimTemplates {
		w.claim(spec.Child("volumeClaimTemplates").Index(i), &s.VolumeClaimTemplates[i].Spec)
	}
	w.add(deref(s.RevisionHistoryLimit) < 0, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
}

func (w *warnings) job(spec *field.Path, s *batchv1.JobSpec) {
	const completions, parallelism = 100_000, 10_000
	w.add(deref(s.CompletionMode) == batchv1.IndexedCompletion && deref(s.Completions) > completions && deref(s.Parallelism) > parallelism,
		"%s: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail", spec)
	w.podTemplate(spec.Child("template"), &s.Template)
}
