package api

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func volumeAttachment() *Resource {
	spec := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	attacher := column("Attacher", "string", spec["attacher"])
	attacher.Format = "name"
	return row(Resource{
		Group: "storage.k8s.io", Version: "v1", Name: "volumeattachments", Singular: "volumeattachment", Kind: "VolumeAttachment",
		Conditional:  true,
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Subs:         []Sub{statusSub("VolumeAttachment", MetadataParts()...)},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			attacher,
			column("PV", "string", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
			column("Node", "string", spec["nodeName"]),
			column("Attached", "boolean", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
			ageColumn(),
		},
	}, rules[storagev1.VolumeAttachment]{
		Default: func(a *storagev1.VolumeAttachment) {
			if s := a.Spec.Source.InlineVolumeSpec; s != nil {
				setDefaultPtr(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
				roundUp(s.Capacity)
			}
		},
		Validate: validateVolumeAttachment,
		ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
			return immutable(field.NewPath("spec"), a.Spec, old.Spec)
		},
		Row: func(a *storagev1.VolumeAttachment) []any {
			return []any{
				a.Name, a.Spec.Attacher, deref(a.Spec.Source.PersistentVolumeName), a.Spec.NodeName, a.Status.Attached,
				age(a.CreationTimestamp.Time),
			}
		},
	})
}

func validateVolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	path, s := field.NewPath("spec"), &a.Spec
	errs := validateDriverName(path.Child("attacher"), s.Attacher)
	at, name, inline := path.Child("source"), s.Source.PersistentVolumeName, s.Source.InlineVolumeSpec
	switch {
	case inline == nil && name == nil:
		errs = append(errs, field.Required(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case inline != nil && name != nil:
		errs = append(errs, field.Forbidden(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case inline != nil:
		errs = append(errs, validateInlineVolume(at.Child("inlineVolumeSpec"), inline)...)
	case *name == "":
		errs = append(errs, field.Required(at.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
	default:
		errs = append(errs, invalid(at.Child("persistentVolumeName"), *name, validation.IsDNS1123Subdomain(*name))...)
	}
	errs = append(errs, invalid(path.Child("nodeName"), s.NodeName, validation.IsDNS1123Subdomain(s.NodeName))...)
	return append(errs, validateAttachmentStatus(field.NewPath("status"), &a.Status)...)
}

// validateInlineVolume checks a volume that was in a pod before CSI took it over: no PersistentVolume stands behind it.
func validateInlineVolume(path *field.Path, s *corev1.PersistentVolumeSpec) field.ErrorList {
	const context = " in the context of inline volumes"
	var errs field.ErrorList
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"claimRef", s.ClaimRef != nil}, {"capacity", len(s.Capacity) > 0}, {"nodeAffinity", s.NodeAffinity != nil},
		{"storageClassName", s.StorageClassName != ""},
	} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), "may not be specified"+context))
		}
	}
	if s.CSI == nil {
		errs = append(errs, field.Required(path.Child("csi"), "has to be specified"+context))
	} else {
		errs = append(errs, validateCSISource(path.Child("csi"), s.CSI)...)
	}
	if len(s.AccessModes) == 0 {
		errs = append(errs, field.Required(path.Child("accessModes"), ""))
	}
	errs = append(errs, validateAccessModes(path.Child("accessModes"), s.AccessModes)...)
	if p := s.PersistentVolumeReclaimPolicy; p != "" && p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.Forbidden(path.Child("persistentVolumeReclaimPolicy"), "may only be Retain"+context))
	}
	if deref(s.VolumeMode) == corev1.PersistentVolumeBlock {
		errs = append(errs, field.Forbidden(path.Child("volumeMode"), "may not specify volumeMode other than Filesystem"+context))
	}
	return errs
}

func validateAttachmentStatus(path *field.Path, s *storagev1.VolumeAttachmentStatus) field.ErrorList {
	const maxMetadata, maxMessage = 256 << 10, 1024
	var errs field.ErrorList
	size := 0
	for name, value := range s.AttachmentMetadata {
		size += len(name) + len(value)
	}
	if size > maxMetadata {
		errs = append(errs, field.TooLong(path.Child("attachmentMetadata"), "", maxMetadata))
	}
	for _, e := range []struct {
		name string
		err  *storagev1.VolumeError
	}{{"attachError", s.AttachError}, {"detachError", s.DetachError}} {
		if e.err == nil {
			continue
		}
		if len(e.err.Message) > maxMessage {
			errs = append(errs, field.TooLong(path.Child(e.name, "message"), "", maxMessage))
		}
		if code := deref(e.err.ErrorCode); code < 0 {
			errs = append(errs, field.Invalid(path.Child(e.name, "errorCode"), code, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	return errs
}
