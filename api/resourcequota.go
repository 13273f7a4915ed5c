package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func resourceQuota() *Resource {
	return row(Resource{
		Version: "v1", Name: "resourcequotas", Singular: "resourcequota", Kind: "ResourceQuota", Idle: true, ShortNames: []string{"quota"},
		Namespaced:   true,
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Subs:         []Sub{statusSub("ResourceQuota")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Request", "string", "How much is asked for or there, and how much may be."),
			column("Limit", "string", "How high the limits are together, and how high they may be."),
			ageColumn(),
		},
	}, rules[corev1.ResourceQuota]{
		ValidateStatus: validateQuotaStatus,
		Default: func(q *corev1.ResourceQuota) {
			roundUp(q.Spec.Hard)
			roundUp(q.Status.Hard)
			roundUp(q.Status.Used)
		},
		Validate:       validateResourceQuota,
		ValidateUpdate: validateResourceQuotaUpdate,
		Row: func(q *corev1.ResourceQuota) []any {
			requests, limits := printQuota(&q.Status)
			return []any{q.Name, requests, limits, age(q.CreationTimestamp.Time)}
		},
	})
}

func printQuota(s *corev1.ResourceQuotaStatus) (requests, limits string) {
	var r, l []string
	for _, name := range slices.Sorted(maps.Keys(s.Hard)) {
		used, hard := s.Used[name], s.Hard[name]
		text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(string(name), "limits.") {
			l = append(l, text)
		} else {
			r = append(r, text)
		}
	}
	return strings.Join(r, ", "), strings.Join(l, ", ")
}

func validateResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	path, s := field.NewPath("spec"), &q.Spec
	errs := validateQuotaAmounts(path.Child("hard"), s.Hard)
	errs = append(errs, validateScopes(path.Child("scopes"), s)...)
	return append(errs, validateScopeSelector(path.Child("scopeSelector", "matchExpressions"), s)...)
}

func validateQuotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	path := field.NewPath("status")
	return append(validateQuotaAmounts(path.Child("hard"), q.Status.Hard), validateQuotaAmounts(path.Child("used"), q.Status.Used)...)
}

func validateQuotaAmounts(path *field.Path, list corev1.ResourceList) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(list)) {
		at, amount := path.Key(string(name)), list[name]
		errs = append(errs, validateAnyResourceName(at, name)...)
		if !strings.Contains(string(name), "/") && !hasQuota(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for quota"))
		}
		if amount.Sign() < 0 {
			errs = append(errs, field.Invalid(at, amount.String(), "must be greater than or equal to 0"))
		}
		if (isExtendedResource(name) || isCounted(name)) && amount.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(at, amount, "must be an integer"))
		}
	}
	return errs
}

// hasQuota tells the names without a domain that a quota may bound.
func hasQuota(name corev1.ResourceName) bool {
	return name != corev1.ResourceStorage && (isQuotaResource(name) || isContainerResource(name))
}

// isCounted tells the names that stand for objects, of which there are no parts.
func isCounted(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return false
}

func validateScopes(path *field.Path, s *corev1.ResourceQuotaSpec) field.ErrorList {
	var errs field.ErrorList
	for _, scope := range s.Scopes {
		if !isScope(scope) {
			errs = append(errs, field.Invalid(path, s.Scopes, "unsupported scope"))
		}
		for range outOfScope(scope, s.Hard) {
			errs = append(errs, field.Invalid(path, s.Scopes, "unsupported scope applied to resource"))
		}
	}
	if contradict(s.Scopes) {
		errs = append(errs, field.Invalid(path, s.Scopes, "conflicting scopes"))
	}
	return errs
}

func validateScopeSelector(path *field.Path, s *corev1.ResourceQuotaSpec) field.ErrorList {
	if s.ScopeSelector == nil {
		return nil
	}
	var errs field.ErrorList
	var scopes []corev1.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		scopes = append(scopes, r.ScopeName)
		if !isScope(r.ScopeName) {
			errs = append(errs, field.Invalid(path.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		for range outOfScope(r.ScopeName, s.Hard) {
			errs = append(errs, field.Invalid(path, s.ScopeSelector, "unsupported scope applied to resource"))
		}
		hasValues := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
		if isScope(r.ScopeName) && !hasValues && r.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(path.Child("operator"), r.Operator,
				"must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, "+
					"ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(path.Child("values"),
					"must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) != 0 {
				errs = append(errs, field.Invalid(path.Child("values"), r.Values,
					"must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
		}
	}
	if contradict(scopes) {
		errs = append(errs, field.Invalid(path, s.Scopes, "conflicting scopes"))
	}
	return errs
}

func isScope(scope corev1.ResourceQuotaScope) bool {
	switch scope {
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating,
		corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass:
		return true
	}
	return false
}

// outOfScope are the bounded resources to which a scope does not apply: most scopes are kinds of pods.
func outOfScope(scope corev1.ResourceQuotaScope, hard corev1.ResourceList) []corev1.ResourceName {
	if !isScope(scope) {
		return nil
	}
	var out []corev1.ResourceName
	for _, name := range slices.Sorted(maps.Keys(hard)) {
		if !hasQuota(name) {
			continue
		}
		fits := false
		switch scope {
		case corev1.ResourceQuotaScopeBestEffort:
			fits = name == corev1.ResourcePods
		case corev1.ResourceQuotaScopeVolumeAttributesClass:
			fits = name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
		default:
			switch name {
			case corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU,
				corev1.ResourceLimitsMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory:
				fits = true
			}
		}
		if !fits {
			out = append(out, name)
		}
	}
	return out
}

// contradict tells scopes that no pod can have together.
func contradict(scopes []corev1.ResourceQuotaScope) bool {
	has := func(s corev1.ResourceQuotaScope) bool { return slices.Contains(scopes, s) }
	return has(corev1.ResourceQuotaScopeBestEffort) && has(corev1.ResourceQuotaScopeNotBestEffort) ||
		has(corev1.ResourceQuotaScopeTerminating) && has(corev1.ResourceQuotaScopeNotTerminating)
}

func validateResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	same := maps.Equal(scopeSet(q), scopeSet(old))
	if same {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg)}
}

func scopeSet(q *corev1.ResourceQuota) map[corev1.ResourceQuotaScope]bool {
	set := map[corev1.ResourceQuotaScope]bool{}
	for _, s := range q.Spec.Scopes {
		set[s] = true
	}
	return set
}
