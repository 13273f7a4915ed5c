package apiserver

import (
	"testing"

	"skiff/api"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Who owns what is the same, whether objects are compared whole or without what is the same in both.
func TestDifferingPartsTellWhoOwnsWhat(t *testing.T) {
	s := start(t)
	s.do(t, "POST", deployments, deploymentJSON("web")).want(t, 201)
	s.createPod(t, "p")
	s.do(t, "POST", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
		`{"metadata":{"name":"h"},"spec":{"maxReplicas":3,"scaleTargetRef":{"kind":"Deployment","name":"web","apiVersion":"apps/v1"}}}`).want(t, 201)
	for _, tt := range []struct {
		name   string
		kind   string
		key    string
		change func(obj runtime.Object)
	}{
		{"nothing", "deployments.apps", "default/web", func(runtime.Object) {}},
		{"a label", "deployments.apps", "default/web", func(obj runtime.Object) { metaOf(obj).SetLabels(map[string]string{"a": "b"}) }},
		{"no labels", "deployments.apps", "default/web", func(obj runtime.Object) { metaOf(obj).SetLabels(nil) }},
		{"a finalizer", "deployments.apps", "default/web", func(obj runtime.Object) { metaOf(obj).SetFinalizers([]string{"example.com/f"}) }},
		{"an image", "deployments.apps", "default/web", func(obj runtime.Object) {
			obj.(*appsv1.Deployment).Spec.Template.Spec.Containers[0].Image = "other"
		}},
		{"one container for another", "deployments.apps", "default/web", func(obj runtime.Object) {
			obj.(*appsv1.Deployment).Spec.Template.Spec.Containers[0].Name = "other"
		}},
		{"a number to a share", "deployments.apps", "default/web", func(obj runtime.Object) {
			surge := intstr.FromInt32(3)
			obj.(*appsv1.Deployment).Spec.Strategy.RollingUpdate.MaxSurge = &surge
		}},
		{"another strategy", "deployments.apps", "default/web", func(obj runtime.Object) {
			obj.(*appsv1.Deployment).Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		}},
		{"a quantity", "pods", "default/p", func(obj runtime.Object) {
			obj.(*corev1.Pod).Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": quantity.MustParse("1")}
		}},
		{"an empty list for none", "pods", "default/p", func(obj runtime.Object) { obj.(*corev1.Pod).Spec.ImagePullSecrets = []corev1.LocalObjectReference{} }},
		{"a time", "pods", "default/p", func(obj runtime.Object) { obj.(*corev1.Pod).Status.StartTime = &metav1.Time{} }},
		{"of a kind with two versions", "horizontalpodautoscalers.autoscaling", "default/h", func(obj runtime.Object) {
			obj.(*autoscalingv2.HorizontalPodAutoscaler).Spec.MaxReplicas = 5
		}},
	} {
		sh := s.shelf(tt.kind)
		of := newOwnership(sh.resource, api.Table(), s.schemas)
		keeper, err := of[""]()
		if err != nil {
			t.Fatal(err)
		}
		old := sh.get(tt.key).obj
		whole, parts := old.DeepCopyObject(), old.DeepCopyObject()
		tt.change(whole)
		tt.change(parts)
		keeper.update(old.DeepCopyObject(), whole, "me")
		if err := of.changed(old, parts, "", "me"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(metaOf(whole).GetManagedFields(), metaOf(parts).GetManagedFields(), cmpopts.IgnoreFields(metav1.ManagedFieldsEntry{}, "Time")); diff != "" {
			t.Errorf("%s: -of whole objects, +of their differing parts:\n%s", tt.name, diff)
		}
		metaOf(whole).SetManagedFields(nil)
		metaOf(parts).SetManagedFields(nil)
		if diff := cmp.Diff(whole, parts); diff != "" {
			t.Errorf("%s: the object itself has changed:\n%s", tt.name, diff)
		}
	}
}
