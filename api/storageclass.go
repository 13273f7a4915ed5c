package api

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func storageClass() *Resource {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return row(Resource{
		Group: "storage.k8s.io", Version: "v1", Name: "storageclasses", Singular: "storageclass", Kind: "StorageClass",
		ShortNames:   []string{"sc"},
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Provisioner", "string", doc["provisioner"]),
			column("ReclaimPolicy", "string", doc["reclaimPolicy"]),
			column("VolumeBindingMode", "string", doc["volumeBindingMode"]),
			column("AllowVolumeExpansion", "string", doc["allowVolumeExpansion"]),
			ageColumn(),
		},
	}, rules[storagev1.StorageClass]{
		Default: func(c *storagev1.StorageClass) {
			setDefaultPtr(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			setDefaultPtr(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		},
		Validate:       validateStorageClass,
		ValidateUpdate: validateStorageClassUpdate,
		Row: func(c *storagev1.StorageClass) []any {
			name := c.Name
			if IsDefaultStorageClass(c) {
				name += " (default)"
			}
			return []any{
				name, c.Provisioner, string(deref(c.ReclaimPolicy)), string(deref(c.VolumeBindingMode)),
				deref(c.AllowVolumeExpansion), age(c.CreationTimestamp.Time),
			}
		},
	})
}

// IsDefaultStorageClass tells the class of claims that name none. Where several say that they are it, each is printed as
// such; Kubernetes marks only the one that it would take, the newest.
func IsDefaultStorageClass(c metav1.Object) bool {
	return c.GetAnnotations()["storageclass.kubernetes.io/is-default-class"] == "true" ||
		c.GetAnnotations()["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validateDriver(field.NewPath("provisioner"), c.Provisioner)
	errs = append(errs, validateParameters(field.NewPath("parameters"), c.Parameters)...)
	errs = append(errs, oneOfOrNone(field.NewPath("reclaimPolicy"), deref(c.ReclaimPolicy),
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	errs = append(errs, oneOfAll(field.NewPath("volumeBindingMode"), deref(c.VolumeBindingMode),
		storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	return append(errs, validateTopologies(field.NewPath("allowedTopologies"), c.AllowedTopologies)...)
}

// validateDriver checks the name of what makes volumes.
func validateDriver(at *field.Path, name string) field.ErrorList {
	if name == "" {
		return required(at, name)
	}
	return invalid(at, strings.ToLower(name), validation.IsQualifiedName(strings.ToLower(name)))
}

func validateParameters(at *field.Path, parameters map[string]string) field.ErrorList {
	const maxParameters, maxSize = 512, 256 << 10
	var errs field.ErrorList
	if len(parameters) > maxParameters {
		errs = append(errs, field.TooLong(at, "", maxParameters))
	}
	size := 0
	for name, value := range parameters {
		if name == "" {
			errs = append(errs, field.Invalid(at, name, "field can not be empty."))
		}
		size += len(name) + len(value)
	}
	if size > maxSize {
		errs = append(errs, field.TooLong(at, "", maxSize))
	}
	return errs
}

func validateTopologies(path *field.Path, terms []corev1.TopologySelectorTerm) field.ErrorList {
	var errs field.ErrorList
	for i, term := range terms {
		at := path.Index(i).Child("matchLabelExpressions")
		keys := map[string]bool{}
		for j, r := range term.MatchLabelExpressions {
			at := at.Index(j)
			if keys[r.Key] {
				errs = append(errs, field.Duplicate(at.Child("key"), r.Key))
			}
			keys[r.Key] = true
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), ""))
			}
			errs = append(errs, unique(at.Child("values"), r.Values, "")...)
			errs = append(errs, metav1validation.ValidateLabelName(r.Key, at.Child("key"))...)
		}
		for _, earlier := range terms[:i] {
			if len(term.MatchLabelExpressions) > 0 && equality.Semantic.DeepEqual(term, earlier) {
				errs = append(errs, field.Duplicate(at, ""))
			}
		}
		if len(term.MatchLabelExpressions) == 0 { // Kubernetes calls it so.
			errs = append(errs, field.Duplicate(at, ""))
		}
	}
	return errs
}

// validateStorageClassUpdate keeps what volumes that are there already were made with.
func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	errs := immutable(field.NewPath("parameters"), c.Parameters, old.Parameters)
	errs = append(errs, immutable(field.NewPath("provisioner"), c.Provisioner, old.Provisioner)...)
	errs = append(errs, immutable(field.NewPath("reclaimPolicy"), c.ReclaimPolicy, old.ReclaimPolicy)...)
	return append(errs, immutable(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)...)
}
