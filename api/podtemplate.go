package api

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podTemplate() *Resource {
	return row(Resource{
		Version: "v1", Name: "podtemplates", Singular: "podtemplate", Kind: "PodTemplate", Namespaced: true,
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Gated:        gatedInPods("template.spec"),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Containers", "string", "The names of the template's containers."),
			column("Images", "string", "The images of the template's containers."),
			column("Pod Labels", "string", "The labels that a pod made from the template has."),
		},
	}, rules[corev1.PodTemplate]{
		Default: func(t *corev1.PodTemplate) { defaultPodSpec(&t.Template.Spec) },
		Validate: func(t *corev1.PodTemplate) field.ErrorList {
			return validatePodTemplate(field.NewPath("template"), &t.Template)
		},
		Wanted: func(t *corev1.PodTemplate) any { return &t.Template },
		Row: func(t *corev1.PodTemplate) []any {
			names, images := containersAndImages(&t.Template)
			return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
		},
	})
}
