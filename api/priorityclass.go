package api

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func priorityClass() *Resource {
	doc := schedulingv1.PriorityClass{}.SwaggerDoc()
	return row(Resource{
		Group: "scheduling.k8s.io", Version: "v1", Name: "priorityclasses", Singular: "priorityclass", Kind: "PriorityClass",
		ShortNames: []string{"pc"},
		Verbs:      allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Value", "integer", doc["value"]),
			column("Global-Default", "boolean", doc["globalDefault"]),
			ageColumn(),
			column("PreemptionPolicy", "string", doc["preemptionPolicy"]),
		},
	}, rules[schedulingv1.PriorityClass]{
		Default: func(p *schedulingv1.PriorityClass) {
			setDefaultPtr(&p.PreemptionPolicy, corev1.PreemptLowerPriority)
		},
		Validate: validatePriorityClass,
		ValidateUpdate: func(p, old *schedulingv1.PriorityClass) field.ErrorList {
			var errs field.ErrorList
			if p.Value != old.Value {
				errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
			}
			return append(errs, immutable(field.NewPath("preemptionPolicy"), p.PreemptionPolicy, old.PreemptionPolicy)...)
		},
		Wanted: func(p *schedulingv1.PriorityClass) any { return p.Value },
		Row: func(p *schedulingv1.PriorityClass) []any {
			return []any{p.Name, int64(p.Value), p.GlobalDefault, age(p.CreationTimestamp.Time), string(deref(p.PreemptionPolicy))}
		},
	})
}

// maxUserPriority is the highest that is not the system's own.
const maxUserPriority = 1_000_000_000

// SystemPriorityClasses are the two classes that every cluster has, and that nobody may define otherwise.
// https://kubernetes.io/docs/tasks/administer-cluster/guaranteed-scheduling-critical-addon-pods/
func SystemPriorityClasses() []*schedulingv1.PriorityClass {
	class := func(name string, above int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: 2*maxUserPriority + above, Description: description,
		}
	}
	return []*schedulingv1.PriorityClass{
		class("system-node-critical", 1000, "For pods that their node cannot do without. They stay where they are."),
		class("system-cluster-critical", 0, "For pods that the cluster cannot do without. They may be moved to another node."),
	}
}

// IsSystemPriorityClass tells the names of those classes. They stay.
func IsSystemPriorityClass(name string) bool {
	return slices.ContainsFunc(SystemPriorityClasses(), func(p *schedulingv1.PriorityClass) bool { return p.Name == name })
}

func validatePriorityClass(p *schedulingv1.PriorityClass) field.ErrorList {
	const prefix = "system-"
	var errs field.ErrorList
	switch {
	case strings.HasPrefix(p.Name, prefix):
		if err := checkSystemClass(p); err != nil {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with '"+prefix+"' prefix are reserved for system use only. error: "+err.Error()))
		}
	case p.Value > maxUserPriority:
		errs = append(errs, field.Forbidden(field.NewPath("value"),
			fmt.Sprintf("maximum allowed value of a user defined priority is %d", maxUserPriority)))
	}
	return append(errs, oneOf(field.NewPath("preemptionPolicy"), deref(p.PreemptionPolicy),
		corev1.PreemptLowerPriority, corev1.PreemptNever)...)
}

// checkSystemClass tells what makes a class differ from the system's own of that name.
func checkSystemClass(p *schedulingv1.PriorityClass) error {
	for _, own := range SystemPriorityClasses() {
		switch {
		case own.Name != p.Name:
		case own.Value != p.Value:
			return fmt.Errorf("value of %v PriorityClass must be %v", own.Name, own.Value)
		case own.GlobalDefault != p.GlobalDefault:
			return fmt.Errorf("globalDefault of %v PriorityClass must be %v", own.Name, own.GlobalDefault)
		default:
			return nil
		}
	}
	return fmt.Errorf("%v is not a known system priority class", p.Name)
}
