package handover

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// want is the state of an endpoint that is waited for.
type want int

const (
	ready want = iota
	terminating
)

// shows reports whether an endpoint is as wanted. A terminating one may still be served, where there is no other; and one of a
// Service that publishes addresses which are not ready is called ready to the end.
func (w want) shows(c *discoveryv1.EndpointConditions) bool {
	isTerminating := c.Terminating != nil && *c.Terminating
	if w == terminating {
		return isTerminating
	}
	return isTerminating || c.Ready == nil || *c.Ready
}

// serviceKeys is the byService index.
func serviceKeys(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
}

// selecting returns the Services whose EndpointSlices have the pod, or are about to.
func (h *Handover) selecting(pod *corev1.Pod) ([]*corev1.Service, error) {
	all, err := h.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var selecting []*corev1.Service
	for _, service := range all {
		if selects(service, pod) {
			selecting = append(selecting, service)
		}
	}
	return selecting, nil
}

// selects reports whether the Service has the pod's address. One without a selector has endpoints of the user's own.
func selects(service *corev1.Service, pod *corev1.Pod) bool {
	if service.Spec.Selector == nil || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return false
	}
	for key, value := range service.Spec.Selector {
		if got, ok := pod.Labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// revisionWith is the revision from which on one Service's slices have the endpoint as wanted; 0 while they do not. While an
// endpoint moves from one slice to another it may be in both, and both must have it so.
func revisionWith(q question, slices []any) (revision uint64) {
	for _, obj := range slices {
		slice := obj.(*discoveryv1.EndpointSlice)
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.TargetRef == nil || e.TargetRef.UID != q.uid {
				continue
			}
			if !q.want.shows(&e.Conditions) {
				return 0
			}
			revision = max(revision, Revision(slice.ResourceVersion))
		}
	}
	return revision
}

// Revision is the number in a resourceVersion, by which what came later can be told; 0 for one that has none.
func Revision(resourceVersion string) uint64 {
	n, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
