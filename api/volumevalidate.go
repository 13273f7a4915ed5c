package api

import (
	"path"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateVolumes also returns the names that containers can mount: those of the volumes that are in order.
func validateVolumes(at *field.Path, volumes []corev1.Volume) (known map[string]bool, errs field.ErrorList) {
	known = map[string]bool{}
	for i, v := range volumes {
		bad := validateVolumeSource(at.Index(i), &v.VolumeSource)
		bad = append(bad, requiredName(at.Index(i).Child("name"), v.Name, validation.IsDNS1123Label)...)
		if known[v.Name] {
			bad = append(bad, field.Duplicate(at.Index(i).Child("name"), v.Name))
		}
		if len(bad) == 0 {
			known[v.Name] = true
		}
		errs = append(errs, bad...)
	}
	return known, errs
}

// validateVolumeSource wants exactly one source. The sources of storage vendors, which only their drivers can judge, are
// taken as they are.
func validateVolumeSource(at *field.Path, v *corev1.VolumeSource) field.ErrorList {
	var errs field.ErrorList
	names := sourceNames(v)
	if len(names) == 0 {
		return field.ErrorList{field.Required(at, "must specify a volume type")}
	}
	for _, name := range names[1:] {
		errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 volume type"))
	}
	switch {
	case len(errs) > 0:
	case v.EmptyDir != nil:
		if limit := v.EmptyDir.SizeLimit; limit != nil && limit.Sign() < 0 {
			errs = append(errs, field.Forbidden(at.Child("emptyDir", "sizeLimit"),
				"SizeLimit field must be a valid resource quantity"))
		}
	case v.HostPath != nil:
		errs = validateHostPath(at.Child("hostPath"), v.HostPath)
	case v.Secret != nil:
		errs = required(at.Child("secret", "secretName"), v.Secret.SecretName)
		errs = append(errs, validateItems(at.Child("secret"), v.Secret.DefaultMode, v.Secret.Items)...)
	case v.ConfigMap != nil:
		errs = required(at.Child("configMap", "name"), v.ConfigMap.Name)
		errs = append(errs, validateItems(at.Child("configMap"), v.ConfigMap.DefaultMode, v.ConfigMap.Items)...)
	case v.DownwardAPI != nil:
		errs = validateMode(at.Child("downwardAPI", "defaultMode"), v.DownwardAPI.DefaultMode)
		errs = append(errs, validateDownwardItems(at.Child("downwardAPI"), v.DownwardAPI.Items)...)
	case v.Projected != nil:
		errs = validateProjected(at.Child("projected"), v.Projected)
	case v.PersistentVolumeClaim != nil:
		errs = required(at.Child("persistentVolumeClaim", "claimName"), v.PersistentVolumeClaim.ClaimName)
	case v.NFS != nil:
		errs = validateNFS(at.Child("nfs"), v.NFS)
	case v.CSI != nil:
		errs = validateDriverName(at.Child("csi", "driver"), v.CSI.Driver)
	case v.Ephemeral != nil:
		errs = validateClaimTemplate(at.Child("ephemeral", "volumeClaimTemplate"), v.Ephemeral.VolumeClaimTemplate)
	case v.Image != nil:
		errs = required(at.Child("image", "reference"), v.Image.Reference)
		errs = append(errs, oneOf(at.Child("image", "pullPolicy"), v.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	}
	return errs
}

// sourceNames are the names of the sources that are set, in the order in which Kubernetes looks: emptyDir first.
func sourceNames(v *corev1.VolumeSource) []string {
	names := setFields(*v)
	if i := slices.Index(names, "emptyDir"); i > 0 {
		names = slices.Insert(slices.Delete(names, i, i+1), 0, "emptyDir")
	}
	return names
}

// setFields are the names, in JSON, of the fields of a struct of pointers that are set.
func setFields(from any) []string {
	var names []string
	v := reflect.ValueOf(from)
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

// validateClaimTemplate checks what a claim is made of that lives as long as its pod.
func validateClaimTemplate(at *field.Path, t *corev1.PersistentVolumeClaimTemplate) field.ErrorList {
	if t == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validateLabels(at.Child("metadata", "labels"), t.Labels)
	errs = append(errs, apivalidation.ValidateAnnotations(t.Annotations, at.Child("metadata", "annotations"))...)
	return append(errs, validateClaimSpec(at.Child("spec"), &t.Spec)...)
}

func validateHostPath(at *field.Path, h *corev1.HostPathVolumeSource) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(at.Child("path"), "")}
	}
	errs := validateNoBacksteps(at.Child("path"), h.Path)
	return append(errs, oneOfOrNone(at.Child("type"), deref(h.Type), corev1.HostPathUnset, corev1.HostPathBlockDev,
		corev1.HostPathCharDev, corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile,
		corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
}

func validateNFS(at *field.Path, n *corev1.NFSVolumeSource) field.ErrorList {
	errs := required(at.Child("server"), n.Server)
	errs = append(errs, required(at.Child("path"), n.Path)...)
	if !path.IsAbs(n.Path) {
		errs = append(errs, field.Invalid(at.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

func validateItems(at *field.Path, mode *int32, items []corev1.KeyToPath) field.ErrorList {
	errs := validateMode(at.Child("defaultMode"), mode)
	for i, item := range items {
		itemAt := at.Child("items").Index(i)
		errs = append(errs, required(itemAt.Child("key"), item.Key)...)
		errs = append(errs, required(itemAt.Child("path"), item.Path)...)
		errs = append(errs, validateFilePath(itemAt.Child("path"), item.Path)...)
		errs = append(errs, validateMode(itemAt.Child("mode"), item.Mode)...)
	}
	return errs
}

func validateDownwardItems(at *field.Path, items []corev1.DownwardAPIVolumeFile) field.ErrorList {
	var errs field.ErrorList
	for _, f := range items { // Without the index, as Kubernetes has it.
		errs = append(errs, required(at.Child("path"), f.Path)...)
		errs = append(errs, validateFilePath(at.Child("path"), f.Path)...)
		errs = append(errs, validateMode(at.Child("mode"), f.Mode)...)
		switch {
		case f.FieldRef != nil && f.ResourceFieldRef != nil:
			errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		case f.FieldRef != nil:
			errs = append(errs, validateFieldRef(at.Child("fieldRef"), f.FieldRef, volumeFields())...)
		case f.ResourceFieldRef != nil && f.ResourceFieldRef.ContainerName == "":
			errs = append(errs, field.Required(at.Child("resourceFieldRef", "containerName"), ""))
		case f.ResourceFieldRef != nil:
			errs = append(errs, validateResourceFieldRef(at.Child("resourceFieldRef"), f.ResourceFieldRef)...)
		default:
			errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
		}
	}
	return errs
}

func validateProjected(at *field.Path, p *corev1.ProjectedVolumeSource) field.ErrorList {
	errs := validateMode(at.Child("defaultMode"), p.DefaultMode)
	files := map[string]bool{}
	add := func(file, owner string) {
		if file != "" && files[file] {
			errs = append(errs, field.Invalid(at, owner, "conflicting duplicate paths"))
		}
		files[file] = true
	}
	for i, s := range p.Sources {
		sourceAt := at.Child("sources").Index(i)
		set := 0
		if s.Secret != nil {
			set++
			errs = append(errs, required(sourceAt.Child("secret", "name"), s.Secret.Name)...)
			errs = append(errs, validateItems(sourceAt.Child("secret"), nil, s.Secret.Items)...)
			for _, item := range s.Secret.Items {
				add(item.Path, s.Secret.Name)
			}
		}
		if s.ConfigMap != nil {
			set++
			errs = append(errs, required(sourceAt.Child("configMap", "name"), s.ConfigMap.Name)...)
			errs = append(errs, validateItems(sourceAt.Child("configMap"), nil, s.ConfigMap.Items)...)
			for _, item := range s.ConfigMap.Items {
				add(item.Path, s.ConfigMap.Name)
			}
		}
		if s.DownwardAPI != nil {
			set++
			errs = append(errs, validateDownwardItems(sourceAt.Child("downwardAPI"), s.DownwardAPI.Items)...)
			for _, item := range s.DownwardAPI.Items {
				add(item.Path, item.Path)
			}
		}
		if t := s.ServiceAccountToken; t != nil {
			set++
			if seconds := deref(t.ExpirationSeconds); seconds < 10*60 {
				errs = append(errs, field.Invalid(sourceAt.Child("serviceAccountToken", "expirationSeconds"), seconds,
					"may not specify a duration less than 10 minutes"))
			}
			errs = append(errs, required(at.Child("path"), t.Path)...)
			errs = append(errs, validateFilePath(at.Child("path"), t.Path)...)
		}
		if set > 1 {
			errs = append(errs, field.Forbidden(sourceAt, "may not specify more than 1 volume type per source"))
		}
	}
	return errs
}

// validateVolumeMounts checks where a container has the pod's volumes, as directories and as devices.
func validateVolumeMounts(at *field.Path, c *corev1.Container, known map[string]bool) field.ErrorList {
	var errs field.ErrorList
	paths := map[string]bool{}
	for i, m := range c.VolumeMounts {
		mountAt := at.Child("volumeMounts").Index(i)
		errs = append(errs, required(mountAt.Child("name"), m.Name)...)
		if !known[m.Name] {
			errs = append(errs, field.NotFound(mountAt.Child("name"), m.Name))
		}
		errs = append(errs, required(mountAt.Child("mountPath"), m.MountPath)...)
		if paths[m.MountPath] {
			errs = append(errs, field.Invalid(mountAt.Child("mountPath"), m.MountPath, "must be unique"))
		}
		paths[m.MountPath] = true
		errs = append(errs, validateMountOptions(at.Child("volumeMounts"), mountAt, &m, c)...)
	}
	for i, d := range c.VolumeDevices {
		deviceAt := at.Child("volumeDevices").Index(i)
		errs = append(errs, required(deviceAt.Child("name"), d.Name)...)
		if !known[d.Name] {
			errs = append(errs, field.NotFound(deviceAt.Child("name"), d.Name))
		}
		errs = append(errs, required(deviceAt.Child("devicePath"), d.DevicePath)...)
		if paths[d.DevicePath] {
			errs = append(errs, field.Invalid(deviceAt.Child("devicePath"), d.DevicePath,
				"must not already exist as a path in volumeMounts"))
		}
	}
	return errs
}

// validateMountOptions is given the paths of the list and of the mount, since Kubernetes names most of these without
// the index.
func validateMountOptions(list, at *field.Path, m *corev1.VolumeMount, c *corev1.Container) field.ErrorList {
	var errs field.ErrorList
	if m.SubPath != "" {
		errs = append(errs, validateRelativePath(list.Child("subPath"), m.SubPath)...)
	}
	if m.SubPathExpr != "" {
		if m.SubPath != "" {
			errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr,
				"subPathExpr and subPath are mutually exclusive"))
		}
		errs = append(errs, validateRelativePath(list.Child("subPathExpr"), m.SubPathExpr)...)
	}
	errs = append(errs, validateRecursiveReadOnly(list.Child("recursiveReadOnly"), m)...)
	if m.MountPropagation == nil {
		return errs
	}
	errs = append(errs, oneOfAll(list.Child("mountPropagation"), *m.MountPropagation, corev1.MountPropagationBidirectional,
		corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)...)
	privileged := c.SecurityContext != nil && deref(c.SecurityContext.Privileged)
	if *m.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
		errs = append(errs, field.Forbidden(list.Child("mountPropagation"),
			"Bidirectional mount propagation is available only to privileged containers"))
	}
	return errs
}

func validateRecursiveReadOnly(at *field.Path, m *corev1.VolumeMount) field.ErrorList {
	switch deref(m.RecursiveReadOnly) {
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
	default:
		return oneOfIfSet(at, m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	}
	var errs field.ErrorList
	if !m.ReadOnly {
		errs = append(errs, field.Forbidden(at, "may only be specified when readOnly is true"))
	}
	if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
		errs = append(errs, field.Forbidden(at, "may only be specified when mountPropagation is None or not specified"))
	}
	return errs
}

func validateMode(at *field.Path, mode *int32) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

// validateRelativePath wants a path that stays below where it starts.
func validateRelativePath(at *field.Path, p string) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(p) {
		errs = append(errs, field.Invalid(at, p, "must be a relative path"))
	}
	return append(errs, validateNoBacksteps(at, p)...)
}

// validateFilePath also keeps off the names that the atomic writing of volumes needs for itself.
func validateFilePath(at *field.Path, p string) field.ErrorList {
	errs := validateRelativePath(at, p)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		errs = append(errs, field.Invalid(at, p, "must not start with '..'"))
	}
	return errs
}

func validateNoBacksteps(at *field.Path, p string) field.ErrorList {
	if slices.Contains(strings.Split(p, "/"), "..") {
		return field.ErrorList{field.Invalid(at, p, "must not contain '..'")}
	}
	return nil
}
