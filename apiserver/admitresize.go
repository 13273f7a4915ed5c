package apiserver

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	podresource "k8s.io/component-helpers/resource"
)

// admitChange does to a change of an object, or of a part of it, what Kubernetes' default admission plugins do.
func (s *Server) admitChange(obj, old runtime.Object, sub string) error {
	switch sub {
	case "":
		return s.admitGrowth(obj, old)
	case "resize":
		return s.admitResize(obj.(*corev1.Pod), old.(*corev1.Pod))
	}
	return nil
}

// admitResize holds that a pod asks for no more than its node could ever give: the admission plugin PodResizeValidator.
func (s *Server) admitResize(pod, old *corev1.Pod) error {
	if pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	it := s.shelf("nodes").get(pod.Spec.NodeName)
	if it == nil {
		return forbidPod(pod, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	node := it.obj.(*corev1.Node)
	if system, told := node.Labels[corev1.LabelOSStable]; told && system != "linux" {
		return becauseOf("UnsupportedPlatform", forbidPod(pod, fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, system)))
	}
	requests, most := podresource.PodRequests(pod, podresource.PodResourcesOptions{}), node.Status.Allocatable
	var short []string
	if r, m := requests.Cpu(), most.Cpu(); r.Cmp(*m) > 0 {
		short = append(short, fmt.Sprintf("cpu, requested: %d, allocatable: %d", r.MilliValue(), m.MilliValue()))
	}
	if r, m := requests.Memory(), most.Memory(); r.Cmp(*m) > 0 {
		short = append(short, fmt.Sprintf("memory, requested: %d, allocatable: %d", r.Value(), m.Value()))
	}
	if len(short) > 0 {
		return becauseOf("NodeCapacity", forbidPod(pod, fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(short, "; "))))
	}
	return nil
}

// becauseOf adds to a refusal a cause that programs can tell it by.
func becauseOf(cause metav1.CauseType, refusal error) error {
	var status *apierrors.StatusError
	if errors.As(refusal, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return refusal
}
