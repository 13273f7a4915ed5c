package api

import (
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func replicationController() *Resource {
	spec, status := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	return row(Resource{
		Version: "v1", Name: "replicationcontrollers", Singular: "replicationcontroller", Kind: "ReplicationController", Orphans: true,
		ShortNames: []string{"rc"}, Categories: []string{"all"}, Namespaced: true,
		Verbs: allVerbs(),
		Gated: gatedInPods("spec.template.spec"),
		Subs:  []Sub{scaleSub(), statusSub("ReplicationController")},
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
	}, rules[corev1.ReplicationController]{
		ValidateStatus: validateReplicationControllerStatus,
		Default:        defaultReplicationController,
		Validate:       validateReplicationController,
		Fields: func(r *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
		},
		Wanted: func(r *corev1.ReplicationController) any { return &r.Spec },
		Scale: func(r *corev1.ReplicationController) Scale {
			return Scale{deref(r.Spec.Replicas), r.Status.Replicas, &metav1.LabelSelector{MatchLabels: r.Spec.Selector}}
		},
		SetReplicas: func(r *corev1.ReplicationController, n int32) { r.Spec.Replicas = &n },
		Row: func(r *corev1.ReplicationController) []any {
			var names, images string
			if r.Spec.Template != nil {
				names, images = containersAndImages(r.Spec.Template)
			}
			return []any{
				r.Name, int64(deref(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				age(r.CreationTimestamp.Time), names, images, labels.FormatLabels(r.Spec.Selector),
			}
		},
	})
}

// defaultReplicationController takes selector and labels from the template where they are not given.
func defaultReplicationController(r *corev1.ReplicationController) {
	setDefaultPtr(&r.Spec.Replicas, 1)
	if r.Spec.Template == nil {
		return
	}
	defaultPodSpec(&r.Spec.Template.Spec)
	if len(r.Spec.Selector) == 0 {
		r.Spec.Selector = maps.Clone(r.Spec.Template.Labels)
	}
	if len(r.Labels) == 0 {
		r.Labels = maps.Clone(r.Spec.Template.Labels)
	}
}

func validateReplicationController(r *corev1.ReplicationController) field.ErrorList {
	path, s := field.NewPath("spec"), &r.Spec
	template := path.Child("template")
	errs := nonNegative(path.Child("minReadySeconds"), s.MinReadySeconds)
	if len(s.Selector) == 0 {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	errs = append(errs, nonNegative(path.Child("replicas"), deref(s.Replicas))...)
	if s.Template == nil {
		return append(errs, field.Required(template, ""))
	}
	errs = append(errs, validateTemplateLabels(template, s.Template, labels.SelectorFromSet(s.Selector))...)
	errs = append(errs, validatePodTemplate(template, s.Template)...)
	return append(errs, validateEndless(template.Child("spec"), &s.Template.Spec, "ReplicationController")...)
}
