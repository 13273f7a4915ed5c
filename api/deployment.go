package api

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func deployment() *Resource {
	spec, status := appsv1.DeploymentSpec{}.SwaggerDoc(), appsv1.DeploymentStatus{}.SwaggerDoc()
	return row(Resource{
		Group: "apps", Version: "v1", Name: "deployments", Singular: "deployment", Kind: "Deployment",
		ShortNames: []string{"deploy"}, Categories: []string{"all"}, Namespaced: true, JudgesWanted: true,
		Verbs: allVerbs(),
		Gated: gatedInPods("spec.template.spec"),
		Subs:  []Sub{scaleSub(), statusSub("Deployment", "labels")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Ready", "string", "How many of the wanted pods are ready."),
			column("Up-to-date", "string", status["updatedReplicas"]),
			column("Available", "string", status["availableReplicas"]),
			ageColumn(),
			wide("Containers", "string", "The names of the template's containers."),
			wide("Images", "string", "The images of the template's containers."),
			wide("Selector", "string", spec["selector"]),
		},
	}, rules[appsv1.Deployment]{
		ValidateStatus: validateDeploymentStatus,
		Default:        defaultDeployment,
		Validate:       validateDeployment,
		ValidateUpdate: func(d, old *appsv1.Deployment) field.ErrorList {
			return immutable(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)
		},
		// Its annotations are handed down to the ReplicaSets, so they are a part of what is wanted.
		Wanted: func(d *appsv1.Deployment) any { return []any{d.Spec, d.Annotations} },
		Scale: func(d *appsv1.Deployment) Scale {
			return Scale{deref(d.Spec.Replicas), d.Status.Replicas, d.Spec.Selector}
		},
		SetReplicas: func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n },
		Row:         printDeployment,
	})
}

func defaultDeployment(d *appsv1.Deployment) {
	defaultPodSpec(&d.Spec.Template.Spec)
	setDefaultPtr(&d.Spec.Replicas, 1)
	setDefaultPtr(&d.Spec.RevisionHistoryLimit, 10)
	setDefaultPtr(&d.Spec.ProgressDeadlineSeconds, 600)
	strategy := &d.Spec.Strategy
	setDefault(&strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		setDefaultPtr(&strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		setDefaultPtr(&strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		setDefaultPtr(&strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	path, s := field.NewPath("spec"), &d.Spec
	errs := validateReplicas(path, s.Replicas, s.MinReadySeconds, s.Selector, &s.Template)
	errs = append(errs, validateStrategy(path.Child("strategy"), &s.Strategy)...)
	errs = append(errs, nonNegative(path.Child("revisionHistoryLimit"), deref(s.RevisionHistoryLimit))...)
	if seconds := s.ProgressDeadlineSeconds; seconds != nil {
		at := path.Child("progressDeadlineSeconds")
		errs = append(errs, nonNegative(at, *seconds)...)
		if *seconds <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(at, *seconds, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func printDeployment(d *appsv1.Deployment) []any {
	names, images := containersAndImages(&d.Spec.Template)
	selector := "<invalid>"
	if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil {
		selector = s.String()
	}
	return []any{
		d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, deref(d.Spec.Replicas)),
		int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas), age(d.CreationTimestamp.Time),
		names, images, selector,
	}
}
