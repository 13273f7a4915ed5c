package api

import (
	"maps"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// volumeAttributesClass is what a driver can change of a volume that is there already, such as its speed.
func volumeAttributesClass() *Resource {
	return row(Resource{
		Group: "storage.k8s.io", Version: "v1", Name: "volumeattributesclasses", Singular: "volumeattributesclass",
		Kind: "VolumeAttributesClass", Idle: true, ShortNames: []string{"vac"}, Verbs: allVerbs(),
		ShowsDeleted: true,
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("DriverName", "string", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]), ageColumn(),
		},
	}, rules[storagev1.VolumeAttributesClass]{
		Validate: func(c *storagev1.VolumeAttributesClass) field.ErrorList {
			at := field.NewPath("parameters")
			errs := validateDriver(field.NewPath("driverName"), c.DriverName)
			errs = append(errs, validateParameters(at, c.Parameters)...)
			if len(c.Parameters) == 0 {
				errs = append(errs, field.Required(at, "must contain at least one key/value pair"))
			}
			return errs
		},
		ValidateUpdate: func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var errs field.ErrorList
			if c.DriverName != old.DriverName {
				errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
			}
			if !maps.Equal(c.Parameters, old.Parameters) {
				errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
			}
			return errs
		},
		Row: func(c *storagev1.VolumeAttributesClass) []any {
			return []any{c.Name, c.DriverName, age(c.CreationTimestamp.Time)}
		},
	})
}
