package api

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func replicaSet() *Resource {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
	return row(Resource{
		Group: "apps", Version: "v1", Name: "replicasets", Singular: "replicaset", Kind: "ReplicaSet",
		ShortNames: []string{"rs"}, Categories: []string{"all"}, Namespaced: true, JudgesWanted: true,
		Verbs: allVerbs(),
		Gated: gatedInPods("spec.template.spec"),
		Subs:  []Sub{scaleSub(), statusSub("ReplicaSet")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Desired", "integer", spec["replicas"]),
			column("Current", "integer", status["replicas"]),
			column("Ready", "integer", status["readyReplicas"]),
			ageColumn(),
			wide("Containers", "string", "The names of the template's containers."),
			wide("Images", "string", "The images of the template's containers."),
			wide("Selector", "string", spec["selector"]),
		},
	}, rules[appsv1.ReplicaSet]{
		ValidateStatus: validateReplicaSetStatus,
		Default: func(r *appsv1.ReplicaSet) {
			defaultPodSpec(&r.Spec.Template.Spec)
			setDefaultPtr(&r.Spec.Replicas, 1)
		},
		Validate: func(r *appsv1.ReplicaSet) field.ErrorList {
			s := &r.Spec
			return validateReplicas(field.NewPath("spec"), s.Replicas, s.MinReadySeconds, s.Selector, &s.Template)
		},
		ValidateUpdate: func(r, old *appsv1.ReplicaSet) field.ErrorList {
			return immutable(field.NewPath("spec", "selector"), r.Spec.Selector, old.Spec.Selector)
		},
		Wanted: func(r *appsv1.ReplicaSet) any { return &r.Spec },
		Scale: func(r *appsv1.ReplicaSet) Scale {
			return Scale{deref(r.Spec.Replicas), r.Status.Replicas, r.Spec.Selector}
		},
		SetReplicas: func(r *appsv1.ReplicaSet, n int32) { r.Spec.Replicas = &n },
		Row: func(r *appsv1.ReplicaSet) []any {
			names, images := containersAndImages(&r.Spec.Template)
			return []any{
				r.Name, int64(deref(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				age(r.CreationTimestamp.Time), names, images, metav1.FormatLabelSelector(r.Spec.Selector),
			}
		},
	})
}
