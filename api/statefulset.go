package api

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func statefulSet() *Resource {
	return row(Resource{
		Group: "apps", Version: "v1", Name: "statefulsets", Singular: "statefulset", Kind: "StatefulSet", Idle: true,
		ShortNames: []string{"sts"}, Categories: []string{"all"}, Namespaced: true, JudgesWanted: true,
		Verbs:        allVerbs(),
		Gated:        gatedInPods("spec.template.spec"),
		Subs:         []Sub{scaleSub(), statusSub("StatefulSet")},
		ValidateName: apivalidation.NameIsDNSLabel,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Ready", "string", "How many of the wanted pods are ready."),
			ageColumn(),
			wide("Containers", "string", "The names of the template's containers."),
			wide("Images", "string", "The images of the template's containers."),
		},
	}, rules[appsv1.StatefulSet]{
		ValidateStatus: validateStatefulSetStatus,
		Default:        defaultStatefulSet,
		Validate:       validateStatefulSet,
		ValidateUpdate: validateStatefulSetUpdate,
		Wanted:         func(s *appsv1.StatefulSet) any { return &s.Spec },
		Scale: func(s *appsv1.StatefulSet) Scale {
			return Scale{deref(s.Spec.Replicas), s.Status.Replicas, s.Spec.Selector}
		},
		SetReplicas: func(s *appsv1.StatefulSet, n int32) { s.Spec.Replicas = &n },
		Row: func(s *appsv1.StatefulSet) []any {
			names, images := containersAndImages(&s.Spec.Template)
			return []any{
				s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, deref(s.Spec.Replicas)), age(s.CreationTimestamp.Time),
				names, images,
			}
		},
	})
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	defaultPodSpec(&s.Spec.Template.Spec)
	setDefault(&s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	strategy := &s.Spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		setDefaultPtr(&strategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if r := strategy.RollingUpdate; r != nil && strategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		setDefaultPtr(&r.Partition, 0)
		setDefaultPtr(&r.MaxUnavailable, intstr.FromInt32(1))
	}
	setDefaultPtr(&s.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	setDefault(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setDefault(&s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	setDefaultPtr(&s.Spec.Replicas, 1)
	setDefaultPtr(&s.Spec.RevisionHistoryLimit, 10)
	for i := range s.Spec.VolumeClaimTemplates {
		claim := &s.Spec.VolumeClaimTemplates[i]
		claim.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
		defaultPersistentVolumeClaim(claim)
	}
}

func validateStatefulSet(set *appsv1.StatefulSet) field.ErrorList {
	path, s := field.NewPath("spec"), &set.Spec
	var errs field.ErrorList
	if p := s.PodManagementPolicy; p != appsv1.OrderedReadyPodManagement && p != appsv1.ParallelPodManagement {
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), p, fmt.Sprintf("must be '%s' or '%s'",
			appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)))
	}
	errs = append(errs, validateStatefulSetStrategy(path.Child("updateStrategy"), &s.UpdateStrategy)...)
	if policy := s.PersistentVolumeClaimRetentionPolicy; policy != nil {
		at := path.Child("persistentVolumeClaimRetentionPolicy")
		errs = append(errs, validateRetention(at.Child("whenDeleted"), policy.WhenDeleted)...)
		errs = append(errs, validateRetention(at.Child("whenScaled"), policy.WhenScaled)...)
	}
	for i := range s.VolumeClaimTemplates {
		at := path.Child("volumeClaimTemplates").Index(i).Child("spec")
		errs = append(errs, validateClaimSpec(at, &s.VolumeClaimTemplates[i].Spec)...)
	}
	errs = append(errs, nonNegative(path.Child("replicas"), deref(s.Replicas))...)
	errs = append(errs, nonNegative(path.Child("minReadySeconds"), s.MinReadySeconds)...)
	if s.Ordinals != nil {
		errs = append(errs, nonNegative(path.Child("ordinals.start"), s.Ordinals.Start)...)
	}
	if s.ServiceName != "" {
		errs = append(errs, invalid(path.Child("serviceName"), s.ServiceName, validation.IsDNS1123Label(s.ServiceName))...)
	}
	parsed, selectorErrs := validateOwnSelector(path.Child("selector"), s.Selector, "statefulset")
	errs = append(errs, selectorErrs...)
	if parsed == nil {
		return errs
	}
	template := templateWithClaims(s)
	at := path.Child("template")
	errs = append(errs, validateTemplateLabels(at, template, parsed)...)
	errs = append(errs, validatePodTemplate(at, template)...)
	return append(errs, validateEndless(at.Child("spec"), &template.Spec, "StatefulSet")...)
}

// templateWithClaims is the template as it is when a pod is made from it: each claim is a volume, and the names that
// the controller gives are not those of the template.
func templateWithClaims(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := s.Template.DeepCopy()
	t.Spec.Hostname, t.Spec.Subdomain = "", ""
	var volumes []corev1.Volume
	claimed := map[string]bool{}
	for _, claim := range s.VolumeClaimTemplates {
		if claimed[claim.Name] {
			continue
		}
		claimed[claim.Name] = true
		volumes = append(volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			// The claim's real name begins with that of the template, too.
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name},
		}})
	}
	for _, v := range t.Spec.Volumes {
		if !claimed[v.Name] {
			volumes = append(volumes, v)
		}
	}
	t.Spec.Volumes = volumes
	return t
}

func validateRetention(path *field.Path, policy appsv1.PersistentVolumeClaimRetentionPolicyType) field.ErrorList {
	return oneOfAll(path, policy,
		appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
}

func validateStatefulSetStrategy(path *field.Path, s *appsv1.StatefulSetUpdateStrategy) field.ErrorList {
	at := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(at, s.RollingUpdate,
				fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
	default:
		return field.ErrorList{field.Invalid(path, s, fmt.Sprintf("must be '%s' or '%s'",
			appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))}
	}
	if s.RollingUpdate == nil {
		return nil
	}
	errs := nonNegative(at.Child("partition"), deref(s.RollingUpdate.Partition))
	if unavailable := s.RollingUpdate.MaxUnavailable; unavailable != nil {
		at := at.Child("maxUnavailable")
		n, numberErrs := validateNumberOrPercent(at, *unavailable)
		errs = append(errs, numberErrs...)
		if n == 0 {
			errs = append(errs, field.Invalid(at, *unavailable, "cannot be 0"))
		}
		errs = append(errs, atMostAll(at, *unavailable)...)
	}
	return errs
}

// validateStatefulSetUpdate keeps what the pods and claims that are there already were made from.
func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	path := field.NewPath("spec")
	errs := immutable(path.Child("selector"), s.Spec.Selector, old.Spec.Selector)
	errs = append(errs, immutable(path.Child("volumeClaimTemplates"), s.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates)...)
	errs = append(errs, immutable(path.Child("serviceName"), s.Spec.ServiceName, old.Spec.ServiceName)...)
	return append(errs, immutable(path.Child("podManagementPolicy"), s.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy)...)
}
