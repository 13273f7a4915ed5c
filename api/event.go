package api

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// event is what happened. The same stored objects are seen in events.k8s.io too: see eventView.
func event() *Resource {
	doc := corev1.Event{}.SwaggerDoc()
	name := nameColumn()
	name.Priority = 1 // Events are read by what they say, so their name comes last, and only when asked for.
	return row(Resource{
		Version: "v1", Name: "events", Singular: "event", Kind: "Event", ShortNames: []string{"ev"}, Namespaced: true,
		Verbs: allVerbs(), CreatedByPut: true,
		Columns: []metav1.TableColumnDefinition{
			column("Last Seen", "string", doc["lastTimestamp"]),
			column("Type", "string", doc["type"]),
			column("Reason", "string", doc["reason"]),
			column("Object", "string", doc["involvedObject"]),
			wide("Subobject", "string", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
			wide("Source", "string", doc["source"]),
			column("Message", "string", doc["message"]),
			wide("First Seen", "string", doc["firstTimestamp"]),
			wide("Count", "string", doc["count"]),
			name,
		},
	}, rules[corev1.Event]{Validate: validateEvent, Fields: eventFields, Row: printEvent})
}

func eventFields(e *corev1.Event) fields.Set {
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         or(e.Source.Component, e.ReportingController),
		"type":                           e.Type,
	}
}

// printEvent reads both shapes that an event may have: the old one counts in the event, the new one in its series.
func printEvent(e *corev1.Event) []any {
	first, last, count := e.FirstTimestamp.Time, e.LastTimestamp.Time, e.Count
	if first.IsZero() {
		first = e.EventTime.Time
	}
	if last.IsZero() {
		last = first
	}
	if e.Series != nil {
		last, count = e.Series.LastObservedTime.Time, e.Series.Count
	} else if count == 0 {
		count = 1
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	source := or(e.Source.Component, e.ReportingController)
	if host := or(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{
		age(last), e.Type, e.Reason, object, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message),
		age(first), int64(count), e.Name,
	}
}

// validateEvent wants an event to be where its object is. One in the new shape, known by its eventTime, must say who
// reports what; one in the old shape need not.
func validateEvent(e *corev1.Event) field.ErrorList { return validateEventAs(e, "reportingComponent") }

// validateEventAs calls the reporter by the name that the request's form of an event has for it.
func validateEventAs(e *corev1.Event, reporter string) field.ErrorList {
	var errs field.ErrorList
	namespace := e.InvolvedObject.Namespace
	elsewhere := field.Invalid(field.NewPath("involvedObject", "namespace"), namespace, "does not match event.namespace")
	if e.EventTime.IsZero() {
		clusterScoped := namespace == "" && (e.Namespace == "" || e.Namespace == metav1.NamespaceDefault)
		if !clusterScoped && e.Namespace != namespace {
			errs = append(errs, elsewhere)
		}
		return errs
	}
	if namespace == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		errs = append(errs, elsewhere)
	}
	errs = append(errs, requiredName(field.NewPath(reporter), e.ReportingController, validation.IsQualifiedName)...)
	for _, f := range []struct {
		name, value string
		limit       int
		optional    bool
	}{
		{"reportingInstance", e.ReportingInstance, 128, false}, {"action", e.Action, 128, false},
		{"reason", e.Reason, 128, false}, {"message", e.Message, 1024, true},
	} {
		if f.value == "" && !f.optional {
			errs = append(errs, field.Required(field.NewPath(f.name), ""))
		}
		if len(f.value) > f.limit {
			errs = append(errs, field.Invalid(field.NewPath(f.name), "", fmt.Sprintf("can have at most %d characters", f.limit)))
		}
	}
	return errs
}
