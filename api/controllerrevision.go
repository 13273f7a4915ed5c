package api

import (
	"encoding/json"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func controllerRevision() *Resource {
	return row(Resource{
		Group: "apps", Version: "v1", Name: "controllerrevisions", Singular: "controllerrevision", Kind: "ControllerRevision",
		Namespaced: true,
		Verbs:      allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Controller", "string", "Whose revision it is."),
			column("Revision", "string", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
			ageColumn(),
		},
	}, rules[appsv1.ControllerRevision]{
		Validate: validateControllerRevision,
		ValidateUpdate: func(r, old *appsv1.ControllerRevision) field.ErrorList {
			return immutable(field.NewPath("data"), r.Data, old.Data)
		},
		Row: func(r *appsv1.ControllerRevision) []any {
			return []any{r.Name, printController(r), r.Revision, age(r.CreationTimestamp.Time)}
		},
	})
}

// printController names the object that controls another, as kubectl would: statefulset.apps/db.
func printController(obj metav1.Object) string {
	owner := metav1.GetControllerOfNoCopy(obj)
	if owner == nil {
		return "<none>"
	}
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return "<invalid>"
	}
	return strings.ToLower(gv.WithKind(owner.Kind).GroupKind().String()) + "/" + owner.Name
}

func validateControllerRevision(r *appsv1.ControllerRevision) field.ErrorList {
	errs := nonNegative(field.NewPath("revision"), r.Revision)
	path := field.NewPath("data")
	if len(r.Data.Raw) == 0 {
		return append(errs, field.Required(path, "data is mandatory"))
	}
	var data any
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data: %v", err)))
	}
	if data == nil {
		return append(errs, field.Required(path, "data is mandatory"))
	}
	if _, isObject := data.(map[string]any); !isObject {
		errs = append(errs, field.Required(path, "data must be a valid JSON object"))
	}
	return errs
}
