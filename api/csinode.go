package api

import (
	"fmt"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func csiNode() *Resource {
	return row(Resource{
		Group: "storage.k8s.io", Version: "v1", Name: "csinodes", Singular: "csinode", Kind: "CSINode",
		Conditional:  true,
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Subs:         []Sub{statusSub("CSINode", MetadataParts()...)},
		Gated:        []string{"status.storageHealth"},
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Drivers", "integer", "How many CSI drivers the node has."), ageColumn(),
		},
	}, rules[storagev1.CSINode]{
		Validate:       validateCSINode,
		ValidateUpdate: validateCSINodeUpdate,
		Row: func(n *storagev1.CSINode) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), age(n.CreationTimestamp.Time)}
		},
	})
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	const maxID = 256
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, d := range n.Spec.Drivers {
		at := field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, validateDriverName(at.Child("name"), d.Name)...)
		errs = append(errs, required(at.Child("nodeID"), d.NodeID)...)
		if len(d.NodeID) > maxID {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxID)))
		}
		if d.Allocatable != nil {
			errs = append(errs, nonNegative(at.Child("allocatable", "count"), deref(d.Allocatable.Count))...)
		}
		if seen[d.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		seen[d.Name] = true
		keys := map[string]bool{}
		for _, key := range d.TopologyKeys { // Without the index, as Kubernetes has it.
			if keys[key] {
				errs = append(errs, field.Duplicate(at, key))
			}
			keys[key] = true
			errs = append(errs, requiredName(at, key, validation.IsQualifiedName)...)
		}
	}
	return errs
}

// validateCSINodeUpdate lets drivers come and go, but not become others under the same name.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	for _, was := range old.Spec.Drivers {
		for _, now := range n.Spec.Drivers {
			if now.Name == was.Name {
				now.Allocatable, was.Allocatable = nil, nil // How many volumes it takes may change.
				errs = append(errs, immutable(field.NewPath("spec", "drivers"), &now, &was)...)
			}
		}
	}
	return errs
}
