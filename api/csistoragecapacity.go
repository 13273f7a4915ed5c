package api

import (
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func csiStorageCapacity() *Resource {
	return row(Resource{
		Group: "storage.k8s.io", Version: "v1", Name: "csistoragecapacities", Singular: "csistoragecapacity",
		Kind:        "CSIStorageCapacity",
		Namespaced:  true,
		Conditional: true,
		Verbs:       allVerbs(),
		Columns:     []metav1.TableColumnDefinition{nameColumn(), createdColumn()},
	}, rules[storagev1.CSIStorageCapacity]{
		Validate: func(c *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := validateSelector(field.NewPath("nodeTopology"), c.NodeTopology)
			errs = append(errs, invalid(field.NewPath("storageClassName"), c.StorageClassName,
				validation.IsDNS1123Subdomain(c.StorageClassName))...)
			if c.Capacity != nil && c.Capacity.Sign() < 0 {
				errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), "must be greater than or equal to 0"))
			}
			return errs
		},
		ValidateUpdate: func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := immutable(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)
			return append(errs, immutable(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)...)
		},
		Row: func(c *storagev1.CSIStorageCapacity) []any { return []any{c.Name, created(c)} },
	})
}
