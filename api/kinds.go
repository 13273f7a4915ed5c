package api

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Table returns the row of every kind that skiff serves, always in the same order. The slice is the caller's own.
func Table() []*Resource {
	events, autoscalers := event(), horizontalPodAutoscaler()
	return []*Resource{
		binding(),
		componentStatus(),
		configMap(),
		endpoints(),
		events,
		limitRange(),
		namespace(),
		node(),
		persistentVolumeClaim(),
		persistentVolume(),
		pod(),
		podTemplate(),
		replicationController(),
		resourceQuota(),
		secret(),
		service(),
		serviceAccount(),
		controllerRevision(),
		daemonSet(),
		deployment(),
		replicaSet(),
		statefulSet(),
		customResourceDefinition(),
		selfSubjectReview(),
		tokenReview(),
		localSubjectAccessReview(),
		selfSubjectAccessReview(),
		selfSubjectRulesReview(),
		subjectAccessReview(),
		autoscalers,
		autoscalerView(autoscalers),
		cronJob(),
		job(),
		certificateSigningRequest(),
		lease(),
		endpointSlice(),
		eventView(events),
		nodeMetrics(),
		podMetrics(),
		ingressClass(),
		ingress(),
		ipAddress(),
		networkPolicy(),
		serviceCIDR(),
		runtimeClass(),
		podDisruptionBudget(),
		clusterRoleBinding(),
		clusterRole(),
		roleBinding(),
		role(),
		priorityClass(),
		csiDriver(),
		csiNode(),
		csiStorageCapacity(),
		storageClass(),
		volumeAttachment(),
		volumeAttributesClass(),
	}
}

// allVerbs are the verbs of nearly every kind, in discovery's order.
func allVerbs() []string {
	return []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
}

// statusSub is the status subresource of a kind. What it keeps of the metadata is not written with the status.
func statusSub(kind string, keeps ...string) Sub {
	return Sub{Name: "status", Kind: kind, Verbs: []string{"get", "patch", "update"}, Keeps: keeps}
}

// proxySub is the proxy subresource: whatever HTTP goes through it, of any method.
func proxySub(options string) Sub {
	return Sub{Name: "proxy", Kind: options, Verbs: []string{"create", "delete", "get", "patch", "update"}}
}

// scaleSub is the scale subresource, the same for all kinds that have replicas.
func scaleSub() Sub {
	return Sub{Name: "scale", Kind: "Scale", Group: "autoscaling", Verbs: []string{"get", "patch", "update"}}
}

// column is one that `kubectl get` always prints.
func column(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description}
}

// wide is a column that only `kubectl get -o wide` prints.
func wide(name, kind, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description, Priority: 1}
}

func nameColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{
		Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	}
}

func ageColumn() metav1.TableColumnDefinition {
	return column("Age", "string", metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"])
}

// createdColumn and created are the second and last column of kinds that have nothing else to say.
func createdColumn() metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{
		Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
	}
}

func created(obj metav1.Object) string {
	return obj.GetCreationTimestamp().UTC().Format(time.RFC3339)
}

// age says how long ago t was, in kubectl's short form: "5m", "3d4h".
func age(t time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t))
}

// or is s, or instead where s is empty.
func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

// setDefault sets *field to value where the client left it out.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// setDefaultPtr is [setDefault] for a field that is a pointer because its zero value has a meaning of its own.
func setDefaultPtr[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// deref is what p points at, or the zero value.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
