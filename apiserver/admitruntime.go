package apiserver

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const runtimeClasses = "runtimeclasses.node.k8s.io"

// admitRuntimeClass gives a pod what its RuntimeClass says of all its pods: what they take beside their containers, and the nodes that
// they can run on. https://kubernetes.io/docs/concepts/containers/runtime-class/
func (s *Server) admitRuntimeClass(pod *corev1.Pod) error {
	class := &nodev1.RuntimeClass{}
	if name := pod.Spec.RuntimeClassName; name != nil {
		it := s.shelf(runtimeClasses).get(*name)
		if it == nil {
			return forbidPod(pod, fmt.Errorf("pod rejected: RuntimeClass %q not found", *name))
		}
		class = it.obj.(*nodev1.RuntimeClass)
	}
	switch {
	case class.Overhead == nil && pod.Spec.Overhead != nil:
		return forbidPod(pod, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	case class.Overhead == nil:
	case len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead):
		return forbidPod(pod, errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
	default:
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if own, ok := pod.Spec.NodeSelector[key]; ok && own != value {
			return forbidPod(pod, fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	for _, t := range class.Scheduling.Tolerations {
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(own corev1.Toleration) bool { return apiequality.Semantic.DeepEqual(own, t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}

func forbidPod(pod *corev1.Pod, why error) error {
	return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, why)
}
