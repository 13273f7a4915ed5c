package api

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func daemonSet() *Resource {
	spec, status := appsv1.DaemonSetSpec{}.SwaggerDoc(), appsv1.DaemonSetStatus{}.SwaggerDoc()
	return row(Resource{
		Group: "apps", Version: "v1", Name: "daemonsets", Singular: "daemonset", Kind: "DaemonSet", Idle: true,
		ShortNames: []string{"ds"}, Categories: []string{"all"}, Namespaced: true, JudgesWanted: true,
		Verbs: allVerbs(),
		Gated: gatedInPods("spec.template.spec"),
		Subs:  []Sub{statusSub("DaemonSet")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Desired", "integer", status["desiredNumberScheduled"]),
			column("Current", "integer", status["currentNumberScheduled"]),
			column("Ready", "integer", status["numberReady"]),
			column("Up-to-date", "integer", status["updatedNumberScheduled"]),
			column("Available", "integer", status["numberAvailable"]),
			column("Node Selector", "string", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
			ageColumn(),
			wide("Containers", "string", "The names of the template's containers."),
			wide("Images", "string", "The images of the template's containers."),
			wide("Selector", "string", spec["selector"]),
		},
	}, rules[appsv1.DaemonSet]{
		ValidateStatus: validateDaemonSetStatus,
		Default:        defaultDaemonSet,
		PrepareCreate:  func(d *appsv1.DaemonSet) { setTemplateGeneration(d, max(1, templateGeneration(d))) },
		PrepareUpdate:  countTemplate,
		Validate:       validateDaemonSet,
		ValidateUpdate: func(d, old *appsv1.DaemonSet) field.ErrorList {
			return immutable(field.NewPath("spec", "selector"), d.Spec.Selector, old.Spec.Selector)
		},
		Wanted: func(d *appsv1.DaemonSet) any { return &d.Spec },
		Row: func(d *appsv1.DaemonSet) []any {
			names, images := containersAndImages(&d.Spec.Template)
			s := &d.Status
			return []any{
				d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
				int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable),
				labels.FormatLabels(d.Spec.Template.Spec.NodeSelector), age(d.CreationTimestamp.Time),
				names, images, metav1.FormatLabelSelector(d.Spec.Selector),
			}
		},
	})
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	setTemplateGeneration(d, templateGeneration(d))
	defaultPodSpec(&d.Spec.Template.Spec)
	setDefaultPtr(&d.Spec.RevisionHistoryLimit, 10)
	strategy := &d.Spec.UpdateStrategy
	setDefault(&strategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if strategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		setDefaultPtr(&strategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		setDefaultPtr(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		setDefaultPtr(&strategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
}

// templateGeneration counts the changes of the template alone, in an annotation: a field of an older API version that
// clients still read. It is 0 where it is not there or no number.
func templateGeneration(d *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func setTemplateGeneration(d *appsv1.DaemonSet, n int64) {
	metav1.SetMetaDataAnnotation(&d.ObjectMeta, appsv1.DeprecatedTemplateGeneration, strconv.FormatInt(n, 10))
}

func countTemplate(d, old *appsv1.DaemonSet) {
	n := templateGeneration(old)
	if !equality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(d, n)
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	path, s := field.NewPath("spec"), &d.Spec
	template := path.Child("template")
	errs := validateSelector(path.Child("selector"), s.Selector)
	if parsed, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !parsed.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), s.Template.Labels,
			"`selector` does not match template `labels`"))
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, validatePodTemplate(template, &s.Template)...)
	errs = append(errs, validateEndless(template.Child("spec"), &s.Template.Spec, "DaemonSet")...)
	errs = append(errs, nonNegative(path.Child("minReadySeconds"), s.MinReadySeconds)...)
	errs = append(errs, validateDaemonSetStrategy(path.Child("updateStrategy"), &s.UpdateStrategy)...)
	return append(errs, nonNegative(path.Child("revisionHistoryLimit"), deref(s.RevisionHistoryLimit))...)
}

// validateDaemonSetStrategy wants room for a change, in one way: one pod less, or one pod more on a node.
func validateDaemonSetStrategy(path *field.Path, s *appsv1.DaemonSetUpdateStrategy) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return field.ErrorList{field.NotSupported(path, s, []appsv1.DaemonSetUpdateStrategyType{
			appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType,
		})}
	}
	r, at := s.RollingUpdate, path.Child("rollingUpdate")
	unavailableAt, surgeAt := at.Child("maxUnavailable"), at.Child("maxSurge")
	unavailable, errs := validateNumberOrPercent(unavailableAt, *r.MaxUnavailable)
	surge, surgeErrs := validateNumberOrPercent(surgeAt, *r.MaxSurge)
	errs = append(errs, surgeErrs...)
	errs = append(errs, atMostAll(unavailableAt, *r.MaxUnavailable)...)
	errs = append(errs, atMostAll(surgeAt, *r.MaxSurge)...)
	switch {
	case unavailable != 0 && surge != 0:
		errs = append(errs, field.Invalid(surgeAt, *r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case unavailable == 0 && surge == 0:
		errs = append(errs, field.Required(unavailableAt, "cannot be 0 when maxSurge is 0"))
	}
	return errs
}
