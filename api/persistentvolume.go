package api

import (
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func persistentVolume() *Resource {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return row(Resource{
		Version: "v1", Name: "persistentvolumes", Singular: "persistentvolume", Kind: "PersistentVolume",
		ShortNames:   []string{"pv"},
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Subs:         []Sub{statusSub("PersistentVolume")},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Capacity", "string", spec["capacity"]),
			column("Access Modes", "string", spec["accessModes"]),
			column("Reclaim Policy", "string", spec["persistentVolumeReclaimPolicy"]),
			column("Status", "string", status["phase"]),
			column("Claim", "string", spec["claimRef"]),
			column("StorageClass", "string", spec["storageClassName"]),
			column("VolumeAttributesClass", "string", spec["volumeAttributesClassName"]),
			column("Reason", "string", status["reason"]),
			ageColumn(),
			wide("VolumeMode", "string", spec["volumeMode"]),
		},
	}, rules[corev1.PersistentVolume]{
		Default: defaultPersistentVolume,
		PrepareCreate: func(v *corev1.PersistentVolume) {
			now := metav1.Now().Rfc3339Copy()
			v.Status.LastPhaseTransitionTime = &now
		},
		Validate:       validatePersistentVolume,
		ValidateUpdate: validatePersistentVolumeUpdate,
		Row:            printPersistentVolume,
	})
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	setDefault(&v.Status.Phase, corev1.VolumePending)
	setDefault(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	setDefaultPtr(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(v.Spec.Capacity)
	if h := v.Spec.HostPath; h != nil {
		setDefaultPtr(&h.Type, corev1.HostPathUnset)
	}
}

func printPersistentVolume(v *corev1.PersistentVolume) []any {
	phase, claim := string(v.Status.Phase), ""
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	if ref := v.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	size := v.Spec.Capacity[corev1.ResourceStorage]
	return []any{
		v.Name, size.String(), printAccessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		or(v.Annotations[corev1.BetaStorageClassAnnotation], v.Spec.StorageClassName),
		orUnset(v.Spec.VolumeAttributesClassName), v.Status.Reason, age(v.CreationTimestamp.Time), orUnset(v.Spec.VolumeMode),
	}
}

// orUnset is what p points at, or "<unset>".
func orUnset[T ~string](p *T) string {
	if p == nil {
		return "<unset>"
	}
	return string(*p)
}

// printAccessModes shortens access modes, always in the same order: RWO,ROX,RWX,RWOP.
func printAccessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			short = append(short, m.short)
		}
	}
	return strings.Join(short, ",")
}

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	at, s := field.NewPath("spec"), &v.Spec
	var errs field.ErrorList
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(at.Child("accessModes"), ""))
	}
	errs = append(errs, validateAccessModes(at.Child("accessModes"), s.AccessModes)...)
	errs = append(errs, validateCapacity(at.Child("capacity"), s.Capacity)...)
	errs = append(errs, oneOfOrNone(at.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy,
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	if a := s.NodeAffinity; a != nil {
		if a.Required == nil {
			errs = append(errs, field.Required(at.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			errs = append(errs, validateNodeSelector(at.Child("nodeAffinity", "required"), a.Required)...)
		}
	}
	errs = append(errs, validatePersistentSource(at, s)...)
	if h := s.HostPath; h != nil && path.Clean(h.Path) == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		errs = append(errs, invalid(at.Child("storageClassName"), s.StorageClassName, validation.IsDNS1123Subdomain(s.StorageClassName))...)
	}
	errs = append(errs, oneOfIfSet(at.Child("volumeMode"), s.VolumeMode,
		corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, validateAttributesClass(at, s)...)
}

func validateAttributesClass(at *field.Path, s *corev1.PersistentVolumeSpec) field.ErrorList {
	name, nameAt := s.VolumeAttributesClassName, at.Child("volumeAttributesClassName")
	if name == nil {
		return nil
	}
	var errs field.ErrorList
	if *name == "" {
		errs = append(errs, field.Required(nameAt, "an empty string is disallowed"))
	} else {
		errs = append(errs, invalid(nameAt, *name, validation.IsDNS1123Subdomain(*name))...)
	}
	if s.CSI == nil {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return errs
}

// validateAccessModes checks what volumes and claims have alike.
func validateAccessModes(at *field.Path, modes []corev1.PersistentVolumeAccessMode) field.ErrorList {
	supported := []corev1.PersistentVolumeAccessMode{
		corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod,
	}
	var errs field.ErrorList
	alone, others := false, false
	for _, mode := range modes {
		errs = append(errs, oneOfAll(at, mode, supported...)...)
		alone = alone || mode == corev1.ReadWriteOncePod
		others = others || mode != corev1.ReadWriteOncePod && slices.Contains(supported, mode)
	}
	if alone && others {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// validateCapacity wants a size, and nothing else.
func validateCapacity(at *field.Path, capacity corev1.ResourceList) field.ErrorList {
	var errs field.ErrorList
	if len(capacity) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if _, ok := capacity[corev1.ResourceStorage]; !ok || len(capacity) > 1 {
		errs = append(errs, field.NotSupported(at, capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range slices.Sorted(maps.Keys(capacity)) {
		size := capacity[name]
		if size.Value() < 0 {
			errs = append(errs, field.Invalid(at.Key(string(name)), size.Value(), "must be a valid resource quantity"))
		}
		if size.Sign() <= 0 {
			errs = append(errs, field.Invalid(at.Key(string(name)), size.String(), "must be greater than zero"))
		}
	}
	return errs
}

// validatePersistentSource wants one source, and checks those that are not of a single vendor.
func validatePersistentSource(at *field.Path, s *corev1.PersistentVolumeSpec) field.ErrorList {
	names := setFields(s.PersistentVolumeSource)
	if len(names) == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	var errs field.ErrorList
	for _, name := range names[1:] {
		errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 volume type"))
	}
	switch at := at.Child(names[0]); {
	case s.HostPath != nil:
		errs = append(errs, validateHostPath(at, s.HostPath)...)
	case s.NFS != nil:
		errs = append(errs, validateNFS(at, s.NFS)...)
	case s.CSI != nil:
		errs = append(errs, validateCSISource(at, s.CSI)...)
	case s.Local != nil:
		errs = append(errs, required(at.Child("path"), s.Local.Path)...)
		errs = append(errs, validateNoBacksteps(at.Child("path"), s.Local.Path)...)
	}
	if s.Local != nil && s.NodeAffinity == nil {
		errs = append(errs, field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))
	}
	return errs
}

func validateCSISource(at *field.Path, s *corev1.CSIPersistentVolumeSource) field.ErrorList {
	errs := validateDriverName(at.Child("driver"), s.Driver)
	errs = append(errs, required(at.Child("volumeHandle"), s.VolumeHandle)...)
	for _, ref := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", s.ControllerPublishSecretRef}, {"controllerExpandSecretRef", s.ControllerExpandSecretRef},
		{"nodePublishSecretRef", s.NodePublishSecretRef}, {"nodeExpandSecretRef", s.NodeExpandSecretRef},
	} {
		if ref.ref != nil {
			at := at.Child(ref.name)
			errs = append(errs, requiredName(at.Child("name"), ref.ref.Name, validation.IsDNS1123Subdomain)...)
			errs = append(errs, requiredName(at.Child("namespace"), ref.ref.Namespace, validation.IsDNS1123Label)...)
		}
	}
	return errs
}

// validateDriverName checks the name of a CSI driver.
func validateDriverName(at *field.Path, name string) field.ErrorList {
	const maxName = 63
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > maxName {
		errs = append(errs, field.TooLong(at, "", maxName))
	}
	return append(errs, invalid(at, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

// validatePersistentVolumeUpdate keeps where the data is.
func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	now := v.Spec.PersistentVolumeSource.DeepCopy()
	if was := old.Spec.CSI; now.CSI != nil && was != nil && was.ControllerExpandSecretRef == nil {
		now.CSI.ControllerExpandSecretRef = nil // It may be set later, once.
	}
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(now, &old.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			"spec.persistentvolumesource is immutable after creation\n"+diff.Diff(old.Spec.PersistentVolumeSource, *now)))
	}
	errs = append(errs, immutable(field.NewPath("volumeMode"), v.Spec.VolumeMode, old.Spec.VolumeMode)...)
	if was := old.Spec.NodeAffinity; was != nil && !equality.Semantic.DeepEqual(v.Spec.NodeAffinity, was) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), v.Spec.NodeAffinity,
			apivalidation.FieldImmutableErrorMsg+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "volumeAttributesClassName"),
			"update from non-nil value to nil is forbidden"))
	}
	return errs
}
