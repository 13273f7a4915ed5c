package controller

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"
)

var replicationControllerKind = corev1.SchemeGroupVersion.WithKind("ReplicationController")

// newReplicationControllers keeps the pods of ReplicationControllers, the forerunners of ReplicaSets. A loop for ReplicaSets does
// it, to which they are shown as such.
func newReplicationControllers(b *base, events record.EventRecorder, traffic Traffic) error {
	controllers, api := b.factory.Core().V1().ReplicationControllers(), b.client.CoreV1()
	lister := controllers.Lister()
	return keepPods(b, events, traffic, setKind{
		GroupVersionKind: replicationControllerKind,
		noun:             "replication controller",
		informer:         controllers.Informer(),
		get: func(namespace, name string) (*appsv1.ReplicaSet, error) {
			rc, err := lister.ReplicationControllers(namespace).Get(name)
			if err != nil {
				return nil, err
			}
			return asReplicaSet(rc), nil
		},
		list: func(namespace string) (sets []*appsv1.ReplicaSet, err error) {
			all, err := lister.ReplicationControllers(namespace).List(labels.Everything())
			for _, rc := range all {
				sets = append(sets, asReplicaSet(rc))
			}
			return sets, err
		},
		live: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return api.ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		writeStatus: func(ctx context.Context, updated *appsv1.ReplicaSet) error {
			_, err := api.ReplicationControllers(updated.Namespace).UpdateStatus(ctx, asReplicationController(updated), metav1.UpdateOptions{})
			return err
		},
	})
}

// asReplicaSet shows rc as a ReplicaSet that calls itself a ReplicationController. It shares what it points to.
func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	rs := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas: rc.Status.Replicas, FullyLabeledReplicas: rc.Status.FullyLabeledReplicas, ReadyReplicas: rc.Status.ReadyReplicas,
			AvailableReplicas: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	rs.SetGroupVersionKind(replicationControllerKind) // Events are about it.
	if rc.Spec.Template != nil {
		rs.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rs
}

// asReplicationController is the way back, as far as a status needs it.
func asReplicationController(rs *appsv1.ReplicaSet) *corev1.ReplicationController {
	rc := &corev1.ReplicationController{
		ObjectMeta: rs.ObjectMeta,
		Spec: corev1.ReplicationControllerSpec{
			Replicas: rs.Spec.Replicas, MinReadySeconds: rs.Spec.MinReadySeconds,
			Selector: rs.Spec.Selector.MatchLabels, Template: &rs.Spec.Template,
		},
		Status: corev1.ReplicationControllerStatus{
			Replicas: rs.Status.Replicas, FullyLabeledReplicas: rs.Status.FullyLabeledReplicas, ReadyReplicas: rs.Status.ReadyReplicas,
			AvailableReplicas: rs.Status.AvailableReplicas, ObservedGeneration: rs.Status.ObservedGeneration,
		},
	}
	for _, c := range rs.Status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return rc
}
