package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func limitRange() *Resource {
	return row(Resource{
		Version: "v1", Name: "limitranges", Singular: "limitrange", Kind: "LimitRange", Idle: true, ShortNames: []string{"limits"},
		Namespaced: true,
		Verbs:      allVerbs(), CreatedByPut: true,
		Columns: []metav1.TableColumnDefinition{nameColumn(), createdColumn()},
	}, rules[corev1.LimitRange]{
		Default: func(l *corev1.LimitRange) {
			for i := range l.Spec.Limits {
				defaultLimits(&l.Spec.Limits[i])
			}
		},
		PrepareCreate: func(l *corev1.LimitRange) { setDefault(&l.Name, string(l.UID)) }, // The only kind that needs no name.
		Validate:      validateLimitRange,
		Row:           func(l *corev1.LimitRange) []any { return []any{l.Name, created(l)} },
	})
}

// defaultLimits fills in what a container gets that says nothing: the most that it may have as its limit, and of that,
// or else of the least, its request.
func defaultLimits(l *corev1.LimitRangeItem) {
	for _, list := range []corev1.ResourceList{l.Max, l.Min, l.Default, l.DefaultRequest, l.MaxLimitRequestRatio} {
		roundUp(list)
	}
	if l.Type != corev1.LimitTypeContainer {
		return
	}
	fill := func(list *corev1.ResourceList, from corev1.ResourceList) {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		for name, value := range from {
			if _, ok := (*list)[name]; !ok {
				(*list)[name] = value.DeepCopy()
			}
		}
	}
	fill(&l.Default, l.Max)
	fill(&l.DefaultRequest, l.Default)
	fill(&l.DefaultRequest, l.Min)
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		at, limit := field.NewPath("spec", "limits").Index(i), &l.Spec.Limits[i]
		errs = append(errs, validateLimitType(at.Child("type"), limit.Type)...)
		if seen[limit.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), limit.Type))
		}
		seen[limit.Type] = true
		errs = append(errs, validateLimitNames(at, limit)...)
		for _, name := range limitNames(limit) {
			errs = append(errs, validateLimit(at, limit, name)...)
		}
	}
	return errs
}

func validateLimitType(path *field.Path, kind corev1.LimitType) field.ErrorList {
	if errs := invalid(path, kind, validation.IsQualifiedName(string(kind))); len(errs) > 0 {
		return errs
	}
	switch kind {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	if strings.Contains(string(kind), "/") {
		return nil
	}
	return field.ErrorList{field.Invalid(path, kind, "must be a standard limit type or fully qualified")}
}

// limitNames are all resources that the limit speaks of. Of a whole pod there are no defaults.
func limitNames(l *corev1.LimitRangeItem) []corev1.ResourceName {
	names := map[corev1.ResourceName]bool{}
	lists := []corev1.ResourceList{l.Max, l.Min, l.MaxLimitRequestRatio}
	if l.Type != corev1.LimitTypePod {
		lists = append(lists, l.Default, l.DefaultRequest)
	}
	for _, list := range lists {
		for name := range list {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func validateLimitNames(path *field.Path, l *corev1.LimitRangeItem) field.ErrorList {
	var errs field.ErrorList
	ofPod := l.Type == corev1.LimitTypePod
	check := validateAnyResourceName
	if ofPod || l.Type == corev1.LimitTypeContainer {
		check = validateResourceName
	}
	for _, list := range []struct {
		name      string
		list      corev1.ResourceList
		isDefault bool
	}{
		{"max", l.Max, false}, {"min", l.Min, false}, {"default", l.Default, true}, {"defaultRequest", l.DefaultRequest, true},
		{"maxLimitRequestRatio", l.MaxLimitRequestRatio, false},
	} {
		at := path.Child(list.name)
		if list.isDefault && ofPod {
			if len(list.list) > 0 {
				errs = append(errs, field.Forbidden(at, "may not be specified when `type` is 'Pod'"))
			}
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(list.list)) {
			errs = append(errs, check(at.Key(string(name)), name)...)
		}
	}
	_, hasMin := l.Min[corev1.ResourceStorage]
	_, hasMax := l.Max[corev1.ResourceStorage]
	if l.Type == corev1.LimitTypePersistentVolumeClaim && !hasMin && !hasMax {
		errs = append(errs, field.Required(path.Child("limits"),
			"either minimum or maximum storage value is required, but neither was provided"))
	}
	return errs
}

// validateLimit wants what is said of one resource to agree: min, default request, default limit, max, in this order.
func validateLimit(path *field.Path, l *corev1.LimitRangeItem, name corev1.ResourceName) field.ErrorList {
	get := func(list corev1.ResourceList) *resource.Quantity {
		if q, ok := list[name]; ok {
			return &q
		}
		return nil
	}
	least, most, ratio := get(l.Min), get(l.Max), get(l.MaxLimitRequestRatio)
	var limit, request *resource.Quantity
	if l.Type != corev1.LimitTypePod {
		limit, request = get(l.Default), get(l.DefaultRequest)
	}
	var errs field.ErrorList
	inOrder := func(child string, blamed *resource.Quantity, aName string, a *resource.Quantity, bName string, b *resource.Quantity) {
		if a != nil && b != nil && a.Cmp(*b) > 0 {
			errs = append(errs, field.Invalid(path.Child(child).Key(string(name)), blamed,
				fmt.Sprintf("%s value %s is greater than %s value %s", aName, a, bName, b)))
		}
	}
	inOrder("min", least, "min", least, "max", most)
	inOrder("defaultRequest", request, "min", least, "default request", request)
	inOrder("defaultRequest", request, "default request", request, "max", most)
	inOrder("defaultRequest", request, "default request", request, "default limit", limit)
	inOrder("default", least, "min", least, "default", limit)
	inOrder("default", most, "default", limit, "max", most)
	if ratio != nil {
		errs = append(errs, validateRatio(path.Child("maxLimitRequestRatio").Key(string(name)), ratio, least, most)...)
	}
	if !canOvercommit(name) && limit != nil && request != nil && limit.Cmp(*request) != 0 {
		errs = append(errs, field.Invalid(path.Child("defaultRequest").Key(string(name)), request,
			fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit, request, name)))
	}
	return errs
}

// validateRatio wants a limit that may be so many times the request to be possible between min and max.
func validateRatio(path *field.Path, ratio, least, most *resource.Quantity) field.ErrorList {
	var errs field.ErrorList
	if ratio.Cmp(resource.MustParse("1")) < 0 {
		errs = append(errs, field.Invalid(path, ratio, fmt.Sprintf("ratio %s is less than 1", ratio)))
	}
	if least == nil || most == nil {
		return errs
	}
	if widest := most.AsApproximateFloat64() / least.AsApproximateFloat64(); ratio.AsApproximateFloat64() > widest {
		errs = append(errs, field.Invalid(path, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio, widest)))
	}
	return errs
}
