package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podresource "k8s.io/component-helpers/resource"
)

// validateResources checks names and amounts, and that no more is asked for than is allowed.
func validateResources(path *field.Path, r *corev1.ResourceRequirements) field.ErrorList {
	limits, requests := path.Child("limits"), path.Child("requests")
	errs := validateResourceList(limits, r.Limits)
	errs = append(errs, validateResourceList(requests, r.Requests)...)
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		request := r.Requests[name]
		limit, limited := r.Limits[name]
		switch {
		case !limited && !canOvercommit(name):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		case limited && request.Cmp(limit) != 0 && !canOvercommit(name):
			errs = append(errs, field.Invalid(requests, request.String(),
				fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		case limited && request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, request.String(),
				fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		}
	}
	both := slices.Concat(slices.Collect(maps.Keys(r.Limits)), slices.Collect(maps.Keys(r.Requests)))
	computes := func(name corev1.ResourceName) bool {
		return name == corev1.ResourceCPU || name == corev1.ResourceMemory
	}
	if slices.ContainsFunc(both, isHugePages) && !slices.ContainsFunc(both, computes) {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return errs
}

// validatePodResources checks what is asked for the pod as a whole against what its containers ask for.
func validatePodResources(path *field.Path, s *corev1.PodSpec) field.ErrorList {
	if s.Resources == nil {
		return nil
	}
	errs := validateResources(path, s.Resources)
	if s.Resources.Claims != nil {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	together := podresource.AggregateContainerRequests(&corev1.Pod{Spec: *s}, podresource.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(s.Resources.Requests)) {
		request, sum := s.Resources.Requests[name], together[name]
		if sum.Cmp(request) > 0 {
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(name)), request.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	limits := podresource.AggregateContainerLimits(&corev1.Pod{Spec: *s}, podresource.PodResourcesOptions{})
	for _, name := range slices.Sorted(maps.Keys(s.Resources.Limits)) {
		limit, sum := s.Resources.Limits[name], limits[name]
		if isHugePages(name) && sum.Cmp(limit) > 0 {
			errs = append(errs, field.Invalid(path.Child("limits").Key(string(name)), limit.String(),
				fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", sum.String())))
		}
	}
	for i, c := range s.Containers {
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
			limit := c.Resources.Limits[name]
			if whole, ok := s.Resources.Limits[name]; ok && limit.Cmp(whole) > 0 {
				at := path.Child("containers").Index(i).Key(string(name)).Child("limits") // Kubernetes' path, odd as it is.
				errs = append(errs, field.Invalid(at, limit.String(),
					fmt.Sprintf("must be less than or equal to pod limits of %s", whole.String())))
			}
		}
	}
	return errs
}

func validateResourceList(path *field.Path, list corev1.ResourceList) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(list)) {
		at := path.Key(string(name))
		errs = append(errs, validateResourceName(at, name)...)
		errs = append(errs, validateQuantity(at, name, list[name])...)
		if amount := list[name]; isHugePages(name) {
			if size, ok := HugePageSize(name); !ok || amount.Value()%size != 0 {
				errs = append(errs, field.Invalid(at, amount.String(), fmt.Sprintf("%s is not positive integer multiple of %s", amount.String(), name)))
			}
		}
	}
	return errs
}

// validateAnyResourceName wants the name of something that can be counted, by a container or by a quota.
func validateAnyResourceName(path *field.Path, name corev1.ResourceName) field.ErrorList {
	errs := invalid(path, name, validation.IsQualifiedName(string(name)))
	if len(errs) == 0 && !strings.Contains(string(name), "/") && !isQuotaResource(name) && !isContainerResource(name) {
		errs = append(errs, field.Invalid(path, name, "must be a standard resource type or fully qualified"))
	}
	return errs
}

// validateResourceName wants the name of something that a container can have.
func validateResourceName(path *field.Path, name corev1.ResourceName) field.ErrorList {
	errs := validateAnyResourceName(path, name)
	if strings.Contains(string(name), "/") {
		if strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
			errs = append(errs, field.Invalid(path, name, "doesn't follow extended resource name standard"))
		}
	} else if !isContainerResource(name) {
		errs = append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
	}
	return errs
}

// validateQuantity wants an amount that is not negative, and whole where the thing can't be divided.
func validateQuantity(path *field.Path, name corev1.ResourceName, q resource.Quantity) field.ErrorList {
	var errs field.ErrorList
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(path, q.String(), "must be greater than or equal to 0"))
	}
	if (isExtendedResource(name) || name == corev1.ResourcePods) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, q, "must be an integer"))
	}
	return errs
}

// isContainerResource tells the resources that every node knows.
func isContainerResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return true
	}
	return isHugePages(name)
}

// isQuotaResource tells the names that have a meaning for a namespace's quota, though none for a container.
func isQuotaResource(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
		corev1.ResourceStorage, corev1.ResourceRequestsStorage, corev1.ResourcePods, corev1.ResourceServices,
		corev1.ResourceReplicationControllers, corev1.ResourceQuotas, corev1.ResourceSecrets, corev1.ResourceConfigMaps,
		corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// isExtendedResource tells a resource with a domain of its own: example.com/gpu.
func isExtendedResource(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// canOvercommit tells what may be promised more often than it is there.
func canOvercommit(name corev1.ResourceName) bool {
	return !isExtendedResource(name) && !isHugePages(name)
}
