package apiserver

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// admit does to a new object what Kubernetes' default admission plugins do: ServiceAccount (the name only: no token is
// mounted before RBAC is enforced), DefaultTolerationSeconds and Priority.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/
func (s *Server) admit(obj runtime.Object) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = "default"
		pod.Spec.DeprecatedServiceAccount = "default"
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerateForAWhile(pod, key)
	}
	return prioritize(pod)
}

const tolerationSeconds = 300

// tolerateForAWhile lets a pod stay on a node that is not well for five minutes, unless it says otherwise itself.
func tolerateForAWhile(pod *corev1.Pod, key string) {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return
		}
	}
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
		Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr[int64](tolerationSeconds),
	})
}

// priorities are the two classes that every cluster has.
// https://kubernetes.io/docs/tasks/administer-cluster/guaranteed-scheduling-critical-addon-pods/
var priorities = map[string]int32{
	"":                        0,
	"system-cluster-critical": 2000000000,
	"system-node-critical":    2000001000,
}

func prioritize(pod *corev1.Pod) error {
	value, ok := priorities[pod.Spec.PriorityClassName]
	if !ok {
		return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, fmt.Errorf("no PriorityClass with name %s was found", pod.Spec.PriorityClassName))
	}
	pod.Spec.Priority = &value
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = ptr(corev1.PreemptLowerPriority)
	}
	return nil
}
