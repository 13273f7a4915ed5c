package apiserver

import (
	"context"
	"fmt"
	"slices"
	"time"

	"skiff/api"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func ptrOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func ptr[T any](v T) *T { return &v }

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// admit does to a new object what Kubernetes' default admission plugins do: ServiceAccount (the name, which must be one, and the
// secrets for pulling images; no token is mounted before RBAC is enforced), DefaultTolerationSeconds, Priority, PodTopologyLabels,
// RuntimeClass, DefaultStorageClass, StorageObjectInUseProtection, TaintNodesByCondition and DefaultIngressClass. A request for a
// certificate gets the name of who makes it.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
func (s *Server) admit(ctx context.Context, obj runtime.Object) error {
	switch o := obj.(type) {
	case *corev1.Pod:
		return s.admitPod(o)
	case *schedulingv1.PriorityClass:
		return s.onlyDefault(o)
	case *corev1.PersistentVolumeClaim:
		s.admitClaim(o)
	case *corev1.PersistentVolume:
		protect(o, api.VolumeProtection)
	case *storagev1.VolumeAttributesClass:
		protect(o, api.AttributesClassProtection)
	case *corev1.Node:
		taintNew(o)
	case *networkingv1.Ingress:
		if _, has := o.Annotations["kubernetes.io/ingress.class"]; !has && o.Spec.IngressClassName == nil {
			o.Spec.IngressClassName = s.newest("ingressclasses.networking.k8s.io", api.IsDefaultIngressClass)
		}
	case *certificatesv1.CertificateSigningRequest:
		signRequest(ctx, o)
	}
	return nil
}

// newest is the name of the youngest object that is of that kind, the first by name of several; nil where there is none.
func (s *Server) newest(resource string, is func(metav1.Object) bool) *string {
	var name *string
	var born time.Time
	sh := s.shelf(resource)
	for _, it := range sh.state(s.cache).items(selectAll(sh.resource)) {
		if m := it.meta(); is(m) && (name == nil || m.GetCreationTimestamp().After(born)) {
			name, born = ptr(m.GetName()), m.GetCreationTimestamp().Time
		}
	}
	return name
}

// taintNew keeps pods from a new node until the controllers have seen that it is ready.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#taintnodesbycondition
func taintNew(n *corev1.Node) {
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		n.Spec.Taints = append(n.Spec.Taints, taint)
	}
}

// signRequest says whose request it is, whatever the request says itself.
func signRequest(ctx context.Context, c *certificatesv1.CertificateSigningRequest) {
	u, _ := ctx.Value(userKey{}).(User)
	c.Spec.Username, c.Spec.Groups, c.Spec.UID, c.Spec.Extra = u.Name, u.Groups, u.UID, nil
	for key, values := range u.Extra {
		if c.Spec.Extra == nil {
			c.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		c.Spec.Extra[key] = values
	}
}

func (s *Server) admitPod(pod *corev1.Pod) error {
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; pod.Spec.ServiceAccountName == "" && !mirror { // A node's own pod is nobody to the API.
		pod.Spec.ServiceAccountName = "default"
		pod.Spec.DeprecatedServiceAccount = "default"
	}
	if err := s.checkAccount(pod); err != nil {
		return err
	}
	s.lendPullSecrets(pod)
	addLabels(pod, s.topologyOf(pod.Spec.NodeName))
	tolerateForAWhile(pod)
	if err := s.admitRuntimeClass(pod); err != nil {
		return err
	}
	return s.prioritize(pod)
}

// checkAccount refuses a pod that names a ServiceAccount which is not there. The default one may still be on its way: nothing hangs
// on it as long as no token is mounted.
func (s *Server) checkAccount(pod *corev1.Pod) error {
	name := pod.Spec.ServiceAccountName
	if name == "" || name == "default" || s.shelf("serviceaccounts").get(objectKey(pod.Namespace, name)) != nil {
		return nil
	}
	return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf("error looking up service account %s/%s: serviceaccount %q not found", pod.Namespace, name, name))
}

// lendPullSecrets gives a pod that names no secrets for pulling images those of its ServiceAccount. The image of a static pod is
// its node's business.
func (s *Server) lendPullSecrets(pod *corev1.Pod) {
	if len(pod.Spec.ImagePullSecrets) > 0 || metav1.HasAnnotation(pod.ObjectMeta, corev1.MirrorPodAnnotationKey) {
		return
	}
	if it := s.shelf("serviceaccounts").get(objectKey(pod.Namespace, pod.Spec.ServiceAccountName)); it != nil {
		pod.Spec.ImagePullSecrets = slices.Clone(it.obj.(*corev1.ServiceAccount).ImagePullSecrets)
	}
}

// admitUpdate completes a pod that is written anew by somebody who does not know what was added to it at its creation. The
// class of a pod's priority may be another one by now: it keeps the priority that it was given.
func admitUpdate(obj, old runtime.Object) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	was := &old.(*corev1.Pod).Spec
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = was.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = was.PreemptionPolicy
	}
	tolerateForAWhile(pod)
}

// topologyOf is where a node says it is, for its pods to know: the labels that the admission plugin PodTopologyLabels copies.
func (s *Server) topologyOf(node string) map[string]string {
	it := s.shelf("nodes").get(node)
	if it == nil {
		return nil
	}
	where := map[string]string{}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if value, ok := it.meta().GetLabels()[key]; ok {
			where[key] = value
		}
	}
	return where
}

// addLabels gives a pod the labels whose keys it does not have.
func addLabels(pod *corev1.Pod, labels map[string]string) {
	for key, value := range labels {
		if _, has := pod.Labels[key]; !has {
			metav1.SetMetaDataLabel(&pod.ObjectMeta, key, value)
		}
	}
}

const tolerationSeconds = 300

// tolerateForAWhile lets a pod stay on a node that is not well for five minutes, unless it says otherwise itself.
func tolerateForAWhile(pod *corev1.Pod) {
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerate(pod, key)
	}
}

func tolerate(pod *corev1.Pod, key string) {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return
		}
	}
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
		Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr[int64](tolerationSeconds),
	})
}

// prioritize resolves a pod's priority class, or the class that is the default of the cluster. Without either the
// priority is 0. https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
func (s *Server) prioritize(pod *corev1.Pod) error {
	class := s.defaultPriority()
	if name := pod.Spec.PriorityClassName; name != "" {
		it := s.shelf(priorityClasses).get(name)
		if it == nil {
			return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf("no PriorityClass with name %s was found", name))
		}
		class = it.obj.(*schedulingv1.PriorityClass)
	}
	if said := pod.Spec.Priority; said != nil && *said != class.Value {
		return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf("the integer value of priority (%d) must not be provided "+
			"in pod spec; priority admission controller computed %d from the given PriorityClass name", *said, class.Value))
	}
	policy := ptrOr(class.PreemptionPolicy, corev1.PreemptLowerPriority)
	if said := pod.Spec.PreemptionPolicy; said != nil && *said != policy {
		return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf("the string value of PreemptionPolicy (%s) must not be "+
			"provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *said, policy))
	}
	pod.Spec.PriorityClassName = class.Name
	pod.Spec.Priority = ptr(class.Value)
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

const priorityClasses = "priorityclasses.scheduling.k8s.io"

// defaultPriority is the class of pods that name none: of several that say they are it, the lowest.
func (s *Server) defaultPriority() *schedulingv1.PriorityClass {
	lowest := &schedulingv1.PriorityClass{}
	classes := s.shelf(priorityClasses)
	for _, it := range classes.state(s.cache).items(selectAll(classes.resource)) {
		class := it.obj.(*schedulingv1.PriorityClass)
		if class.GlobalDefault && (lowest.Name == "" || class.Value < lowest.Value) {
			lowest = class
		}
	}
	return lowest
}

// onlyDefault keeps a second class from being made the default.
func (s *Server) onlyDefault(class *schedulingv1.PriorityClass) error {
	if other := s.defaultPriority(); class.GlobalDefault && other.Name != "" && other.Name != class.Name {
		return apierrors.NewForbidden(schedulingv1.Resource("priorityclasses"), class.Name,
			fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
	}
	return nil
}
