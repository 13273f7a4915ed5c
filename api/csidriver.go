package api

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func csiDriver() *Resource {
	spec := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return row(Resource{
		Group: "storage.k8s.io", Version: "v1", Name: "csidrivers", Singular: "csidriver", Kind: "CSIDriver",
		Conditional:  true,
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("AttachRequired", "boolean", spec["attachRequired"]),
			column("PodInfoOnMount", "boolean", spec["podInfoOnMount"]),
			column("StorageCapacity", "boolean", spec["storageCapacity"]),
			column("TokenRequests", "string", spec["tokenRequests"]),
			column("RequiresRepublish", "boolean", spec["requiresRepublish"]),
			column("Modes", "string", spec["volumeLifecycleModes"]),
			ageColumn(),
		},
	}, rules[storagev1.CSIDriver]{
		Default:  defaultCSIDriver,
		Validate: validateCSIDriver,
		ValidateUpdate: func(d, old *storagev1.CSIDriver) field.ErrorList {
			path, s, o := field.NewPath("spec"), &d.Spec, &old.Spec
			errs := immutable(path.Child("attachedRequired"), s.AttachRequired, o.AttachRequired) // Kubernetes' spelling.
			return append(errs, immutable(path.Child("volumeLifecycleModes"), s.VolumeLifecycleModes, o.VolumeLifecycleModes)...)
		},
		Row: printCSIDriver,
	})
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	setDefaultPtr(&s.AttachRequired, true)
	for _, flag := range []**bool{
		&s.PodInfoOnMount, &s.StorageCapacity, &s.RequiresRepublish, &s.SELinuxMount, &s.PreventPodSchedulingIfMissing,
	} {
		setDefaultPtr(flag, false)
	}
	setDefaultPtr(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}

func printCSIDriver(d *storagev1.CSIDriver) []any {
	s := &d.Spec
	var audiences, modes []string
	for _, t := range s.TokenRequests {
		audiences = append(audiences, t.Audience)
	}
	for _, m := range s.VolumeLifecycleModes {
		modes = append(modes, string(m))
	}
	tokens := strings.Join(audiences, ",")
	if s.TokenRequests == nil {
		tokens = "<unset>"
	}
	return []any{
		d.Name, deref(s.AttachRequired), deref(s.PodInfoOnMount), deref(s.StorageCapacity), tokens, deref(s.RequiresRepublish),
		or(strings.Join(modes, ","), "<none>"), age(d.CreationTimestamp.Time),
	}
}

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	const minPeriod, minLife, maxLife = 10, 10 * 60, 1 << 32 // Seconds.
	path, s := field.NewPath("spec"), &d.Spec
	errs := oneOfAll(path.Child("fsGroupPolicy"), deref(s.FSGroupPolicy), storagev1.FileFSGroupPolicy,
		storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	seen := map[string]bool{}
	for i, t := range s.TokenRequests {
		at := path.Child("tokenRequests").Index(i)
		if seen[t.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		seen[t.Audience] = true
		switch life := t.ExpirationSeconds; {
		case life == nil:
		case *life < minLife:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *life, "may not specify a duration less than 10 minutes"))
		case *life > maxLife:
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *life, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	for _, mode := range s.VolumeLifecycleModes {
		errs = append(errs, oneOfAll(path.Child("volumeLifecycleModes"), mode,
			storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
	}
	if period := s.NodeAllocatableUpdatePeriodSeconds; period != nil && *period < minPeriod {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *period,
			"must be greater than or equal to 10 seconds"))
	}
	if in := s.ServiceAccountTokenInSecrets; in != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(path.Child("serviceAccountTokenInSecrets"), in,
			"serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	return errs
}
