package api

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func persistentVolumeClaim() *Resource {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return row(Resource{
		Version: "v1", Name: "persistentvolumeclaims", Singular: "persistentvolumeclaim", Kind: "PersistentVolumeClaim",
		ShortNames: []string{"pvc"}, Namespaced: true,
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Subs:         []Sub{statusSub("PersistentVolumeClaim")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", status["phase"]),
			column("Volume", "string", spec["volumeName"]),
			column("Capacity", "string", status["capacity"]),
			column("Access Modes", "string", status["accessModes"]),
			column("StorageClass", "string", spec["storageClassName"]),
			column("VolumeAttributesClass", "string", spec["volumeAttributesClassName"]),
			ageColumn(),
			wide("VolumeMode", "string", spec["volumeMode"]),
		},
	}, rules[corev1.PersistentVolumeClaim]{
		ValidateStatus: validateClaimStatus,
		Default:        defaultPersistentVolumeClaim,
		PrepareCreate: func(c *corev1.PersistentVolumeClaim) {
			prepareDataSource(&c.Spec, &corev1.PersistentVolumeClaimSpec{})
		},
		PrepareUpdate: func(c, old *corev1.PersistentVolumeClaim) { prepareDataSource(&c.Spec, &old.Spec) },
		Validate: func(c *corev1.PersistentVolumeClaim) field.ErrorList {
			return validateClaimSpec(field.NewPath("spec"), &c.Spec)
		},
		ValidateUpdate: validateClaimUpdate,
		Row:            printPersistentVolumeClaim,
	})
}

func defaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	setDefault(&c.Status.Phase, corev1.ClaimPending)
	setDefaultPtr(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(c.Spec.Resources.Limits)
	roundUp(c.Spec.Resources.Requests)
	roundUp(c.Status.Capacity)
	roundUp(c.Status.AllocatedResources)
}

// prepareDataSource keeps the two forms of a claim's source the same. The older form knows claims and snapshots only;
// anything else in it has always been dropped without a word.
func prepareDataSource(s, old *corev1.PersistentVolumeClaimSpec) {
	if ref := s.DataSourceRef; ref != nil && deref(ref.Namespace) != "" && (old.DataSourceRef == nil || deref(old.DataSourceRef.Namespace) == "") {
		s.DataSourceRef = nil // A source in another namespace is behind a feature gate.
	}
	if from := s.DataSource; from != nil && s.DataSourceRef == nil && old.DataSource == nil && old.DataSourceRef == nil {
		group := deref(from.APIGroup)
		isClaim := group == "" && from.Kind == "PersistentVolumeClaim"
		isSnapshot := group == "snapshot.storage.k8s.io" && from.Kind == "VolumeSnapshot"
		if !isClaim && !isSnapshot {
			s.DataSource = nil
		}
	}
	switch from, ref := s.DataSource, s.DataSourceRef; {
	case from != nil && ref == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: from.APIGroup, Kind: from.Kind, Name: from.Name}
	case from == nil && ref != nil && deref(ref.Namespace) == "":
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

func printPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity, modes := "", ""
	if c.Spec.VolumeName != "" {
		size := c.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = size.String(), printAccessModes(c.Status.AccessModes)
	}
	return []any{
		c.Name, phase, c.Spec.VolumeName, capacity, modes, claimClass(c), orUnset(c.Spec.VolumeAttributesClassName),
		age(c.CreationTimestamp.Time), orUnset(c.Spec.VolumeMode),
	}
}

// claimClass is the storage class of a claim; an annotation was its first place.
func claimClass(c *corev1.PersistentVolumeClaim) string {
	if class, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return deref(c.Spec.StorageClassName)
}

// validateClaimSpec checks a claim, or a StatefulSet's template of one.
func validateClaimSpec(path *field.Path, s *corev1.PersistentVolumeClaimSpec) field.ErrorList {
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(path.Child("accessModes"), "at least 1 access mode is required"))
	}
	if s.Selector != nil {
		errs = append(errs, validateSelector(path.Child("selector"), s.Selector)...)
	}
	errs = append(errs, validateAccessModes(path.Child("accessModes"), s.AccessModes)...)
	at := path.Child("resources").Key(string(corev1.ResourceStorage))
	switch size, ok := s.Resources.Requests[corev1.ResourceStorage]; {
	case !ok:
		errs = append(errs, field.Required(at, ""))
	case size.Sign() <= 0:
		errs = append(errs, field.Invalid(at, size.String(), "must be greater than zero"))
	}
	for _, class := range []struct {
		name  string
		value *string
	}{{"storageClassName", s.StorageClassName}, {"volumeAttributesClassName", s.VolumeAttributesClassName}} {
		if name := deref(class.value); name != "" {
			errs = append(errs, invalid(path.Child(class.name), name, validation.IsDNS1123Subdomain(name))...)
		}
	}
	errs = append(errs, oneOfIfSet(path.Child("volumeMode"), s.VolumeMode,
		corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, validateDataSources(path, s)...)
}

func validateClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", c.Status.Capacity}, {"allocatedResources", c.Status.AllocatedResources}} {
		for _, name := range slices.Sorted(maps.Keys(list.list)) {
			errs = append(errs, validateQuantity(field.NewPath("status", list.name).Key(string(name)), name, list.list[name])...)
		}
	}
	return errs
}

func validateDataSources(path *field.Path, s *corev1.PersistentVolumeClaimSpec) field.ErrorList {
	var errs field.ErrorList
	check := func(at *field.Path, group *string, kind, name string) {
		errs = append(errs, required(at.Child("name"), name)...)
		errs = append(errs, required(at.Child("kind"), kind)...)
		if g := deref(group); g != "" {
			errs = append(errs, invalid(at.Child("apiGroup"), g, validation.IsDNS1123Subdomain(g))...)
		} else if kind != "PersistentVolumeClaim" {
			errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
		}
	}
	from, ref := s.DataSource, s.DataSourceRef
	if from != nil {
		check(path.Child("dataSource"), from.APIGroup, from.Kind, from.Name)
	}
	if ref == nil {
		return errs
	}
	check(path.Child("dataSourceRef"), ref.APIGroup, ref.Kind, ref.Name)
	elsewhere := deref(ref.Namespace)
	if elsewhere != "" {
		errs = append(errs, invalid(path.Child("dataSourceRef", "namespace"), elsewhere, validation.IsDNS1123Label(elsewhere))...)
	}
	same := from == nil || equality.Semantic.DeepEqual(from.APIGroup, ref.APIGroup) && from.Kind == ref.Kind && from.Name == ref.Name
	switch at := path.Child("dataSource"); {
	case elsewhere != "" && from != nil:
		errs = append(errs, field.Invalid(path, at, "may not be specified when dataSourceRef.namespace is specified"))
	case !same:
		errs = append(errs, field.Invalid(path, at, "must match dataSourceRef"))
	}
	return errs
}

// validateClaimUpdate lets a claim be bound, once, and a bound claim grow, change its attributes, and take back a growth
// that failed.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	const storage = corev1.ResourceStorage
	path := field.NewPath("spec")
	now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	prepareDataSource(was, was)
	if was.VolumeName == "" {
		was.VolumeName = now.VolumeName
	}
	if takesDefaultClass(c, old) {
		was.StorageClassName = now.StorageClassName
	}
	if c.Status.Phase == corev1.ClaimBound {
		if now.Resources.Requests != nil {
			now.Resources.Requests[storage] = was.Resources.Requests[storage]
		}
		now.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	var errs field.ErrorList
	if had, has := old.Annotations[corev1.BetaStorageClassAnnotation], c.Annotations[corev1.BetaStorageClassAnnotation]; had != has {
		errs = append(errs, immutable(field.NewPath("metadata", "annotations").Key(corev1.BetaStorageClassAnnotation), has, had)...)
	}
	if !equality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf("spec is immutable after creation except resources.requests and "+
			"volumeAttributesClassName for bound claims\n%v", diff.Diff(*was, *now))))
	}
	size, before, real := c.Spec.Resources.Requests[storage], old.Spec.Resources.Requests[storage], old.Status.Capacity[storage]
	if size.Cmp(before) < 0 && size.Cmp(real) <= 0 {
		errs = append(errs, field.Forbidden(path.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, immutable(field.NewPath("volumeMode"), c.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if old.Status.CurrentVolumeAttributesClassName != nil {
		at, text := path.Child("volumeAttributesClassName"), "is forbidden when status.currentVolumeAttributesClassName is not nil"
		switch name := c.Spec.VolumeAttributesClassName; {
		case name == nil && old.Spec.VolumeAttributesClassName != nil:
			errs = append(errs, field.Forbidden(at, "update to nil "+text))
		case name != nil && *name == "" && deref(old.Spec.VolumeAttributesClassName) != "":
			errs = append(errs, field.Forbidden(at, "update to empty string "+text))
		}
	}
	return errs
}

// takesDefaultClass tells a claim without class that is given the default one, which there was not when it was made.
func takesDefaultClass(c, old *corev1.PersistentVolumeClaim) bool {
	now := c.Spec.StorageClassName
	annotation, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	return old.Spec.StorageClassName == nil && now != nil && (!annotated || *now == annotation)
}
