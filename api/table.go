// Package api is skiff's one table of what the Kubernetes API has: a [Resource] for each kind, with its names, verbs and
// rules. Everything the API server does, it does from this table; nothing about a kind is known elsewhere.
//
// The Go types are those of k8s.io/api. A kind is stored in one version, v1 (autoscaling: v2); what has a second form is seen
// in it through a row of its own, a [View]. Each kind has a file named after it, with its defaults, its validation and its printed
// columns; where that is too much for one file, as for a pod, the files beside it begin with the same name, or are named
// for the part (containers, volumes, probes).
//
// An object goes through a row's rules in this order: Default, then DropGated, then PrepareCreate or PrepareUpdate, then what only the
// server can add (an address for a Service), then Validate, and ValidateCreate or, for a change, ValidateUpdate. Each rule is a function of
// its arguments alone, so all of them can be tested with YAML in and YAML, or errors, out. Of what is valid, and yet hardly
// meant or soon gone, [Warnings] tells.
//
// In Kubernetes: the internal and versioned types, defaults, conversions, validation, strategies and printers of
// k8s.io/kubernetes/pkg/apis, pkg/registry and pkg/printers. Left out: every version that is not v1 or
// autoscaling/v2, feature gates, and the checks of what stands only in Windows pods, in dynamic resource claims and in the
// volume sources of single storage vendors. A pod may ask here for what no agent of skiff can do yet: the API
// stores what Kubernetes stores, and the agent says what it can't run.
package api

import (
	"errors"
	"reflect"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Scheme knows the Go types of all kinds.
var Scheme = withDefinitions(scheme.Scheme)

// withDefinitions adds the kinds that client-go does not know.
func withDefinitions(s *runtime.Scheme) *runtime.Scheme {
	if err := errors.Join(apiextensionsv1.AddToScheme(s), metricsv1beta1.AddToScheme(s)); err != nil {
		panic(err) // Another package has given these kinds other types.
	}
	return s
}

// Resource is one row of the table: a kind of object and how the API serves it.
//
// The rules take objects of the row's own Go type, which they may change where they are said to. A nil rule is none.
type Resource struct {
	Group      string // "" for core.
	Version    string
	Name       string // Plural, as in the path: "pods".
	Singular   string
	Kind       string
	ListKind   string // Of a list of them; "" for the kind with "List" behind it.
	ShortNames []string
	Categories []string // "all": what `kubectl get all` lists.
	Namespaced bool
	Verbs      []string // Of create delete deletecollection get list patch update watch.
	Subs       []Sub    // Subresources.

	View *View // Where the row is another form of what a different row stores; nil for all others.

	Custom         bool   // Whether the kind has no Go type: it was defined at run time, and its objects are unstructured.
	Review         bool   // Whether an object is a question or an order, answered or carried out and not stored; it has no columns.
	Live           bool   // Whether objects are what the server sees when it is asked, and not stored.
	Idle           bool   // Whether nothing in skiff acts on such objects yet: who makes one is warned.
	Deprecated     string // What clients are warned of that use the kind at all, in Kubernetes' words.
	Conditional    bool   // Whether a PUT must say which resourceVersion it replaces.
	CreatedByPut   bool   // Whether a PUT of what is not there creates it.
	Orphans        bool   // Whether its dependents stay, where who deletes it names no policy: so it was when the kind was new.
	OrphansWarning string // What that client is warned of, in Kubernetes' words; "" for nothing.
	ShowsDeleted   bool   // Whether who deletes an object that is gone at once is shown it, not a Status.
	AnyFinalizer   bool   // Whether a finalizer need not say whose it is.
	StatusOnCreate bool   // Whether a new object may come with a status (a Node that registers itself).
	JudgesWanted   bool   // Whether Validate looks at nothing of an object but what is wanted of it, its name and its annotations.

	// Gated are fields of the Go type that Kubernetes has behind feature gates that are off by default: whoever writes them, they are
	// dropped. A path is of JSON names, through lists without an index. DropGated does it; row makes it.
	Gated     []string
	DropGated func(obj runtime.Object)

	// Prune takes from an unstructured object the fields that its kind does not have, and names them. An error is what
	// makes it no object at all. nil for Go types, whose decoder does that.
	Prune func(obj runtime.Object) (unknown []string, err error)
	// Default fills in what the documentation calls defaults. It runs on every object that comes in.
	Default func(obj runtime.Object)
	// PrepareCreate sets what a new object must have, whatever the client said (a pod's phase, a service's families).
	PrepareCreate func(obj runtime.Object)
	// PrepareUpdate does the same for a change; old is what is stored. (Status, metadata and generation are kept or
	// counted for all kinds alike by the API server.)
	PrepareUpdate func(obj, old runtime.Object)
	// Validate finds what is wrong with an object. Metadata is checked for all kinds alike by the API server, names by
	// ValidateName.
	Validate func(obj runtime.Object) field.ErrorList
	// ValidateCreate finds what is wrong with a new object, besides what Validate finds.
	ValidateCreate func(obj runtime.Object) field.ErrorList
	// ValidateUpdate finds what is wrong with a change, besides what Validate finds.
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	// ValidateName returns what is wrong with a name; nil means a DNS subdomain (RFC 1123).
	ValidateName func(name string, prefix bool) []string
	// Fields are the fields that a field selector may name, besides metadata.name and metadata.namespace.
	Fields func(obj runtime.Object) fields.Set

	// Wanted is what metadata.generation counts the changes of; nil where there is no generation.
	Wanted func(obj runtime.Object) any
	// Scale is what the scale subresource shows, and SetReplicas how it changes an object; nil where there is none.
	Scale        func(obj runtime.Object) Scale
	SetReplicas  func(obj runtime.Object, n int32)
	ReplicasPath []string // Where that number is; nil for spec.replicas.

	// Columns and Row are what `kubectl get` prints, in Kubernetes' order; the first column is the name (the last of an
	// event). Columns of priority 1 are for -o wide.
	Columns []metav1.TableColumnDefinition
	Row     func(obj runtime.Object) []any
}

// Scale is an object that has replicas, seen as nothing but that.
type Scale struct {
	Wanted, Present int32 // Of spec and of status.
	Selector        *metav1.LabelSelector
}

// Sub is a subresource: "status", "scale", "log", ...
type Sub struct {
	Name  string
	Kind  string // What it takes and returns, as discovery says: "Pod", "Scale", "PodExecOptions".
	Group string // Of that kind, where it is not the resource's own: "autoscaling".
	Verbs []string
	Keeps []string // What of the metadata, of MetadataParts, a write of the status leaves as it is. The rest is written with it.

	// Prepare and Validate are the rules for a change of the object through this subresource, where it has any: what is
	// kept of old, and what is wrong.
	Prepare  func(obj, old runtime.Object)
	Validate func(obj, old runtime.Object) field.ErrorList
}

// MetadataParts are the parts of an object's metadata that whoever writes it may change.
func MetadataParts() []string {
	return []string{"labels", "annotations", "finalizers", "ownerReferences"}
}

// Keeps tells whether the row stores objects: views show what another stores, and some kinds are never stored.
func (r *Resource) Keeps() bool { return r.View == nil && !r.Review && !r.Live }

// Sub returns the subresource of that name, if there is one.
func (r *Resource) Sub(name string) (Sub, bool) {
	i := slices.IndexFunc(r.Subs, func(s Sub) bool { return s.Name == name })
	if i < 0 {
		return Sub{}, false
	}
	return r.Subs[i], true
}

// GroupVersion is the row's group and version.
func (r *Resource) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: r.Group, Version: r.Version}
}

// GroupResource names the row in errors: deployments.apps.
func (r *Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Name}
}

// GroupVersionKind is the row's kind.
func (r *Resource) GroupVersionKind() schema.GroupVersionKind {
	return r.GroupVersion().WithKind(r.Kind)
}

// New makes an empty object of the row's kind.
func (r *Resource) New() runtime.Object {
	if r.Custom {
		obj := &unstructured.Unstructured{Object: map[string]any{}}
		obj.SetGroupVersionKind(r.GroupVersionKind())
		return obj
	}
	obj, err := Scheme.New(r.GroupVersionKind())
	if err != nil {
		panic(err) // The table names a kind that the scheme lacks; a test holds that it does not.
	}
	return obj
}

// rules are a kind's own functions, on its own Go type.
type rules[T any] struct {
	Default        func(obj *T)
	PrepareCreate  func(obj *T)
	PrepareUpdate  func(obj, old *T)
	Validate       func(obj *T) field.ErrorList
	ValidateCreate func(obj *T) field.ErrorList
	ValidateUpdate func(obj, old *T) field.ErrorList
	ValidateStatus func(obj, old *T) field.ErrorList // For the subresource "status".
	Fields         func(obj *T) fields.Set
	Wanted         func(obj *T) any
	Scale          func(obj *T) Scale
	SetReplicas    func(obj *T, n int32)
	Row            func(obj *T) []any
}

// row joins a row's data with its kind's rules.
func row[T any, P interface {
	*T
	runtime.Object
}](r Resource, k rules[T]) *Resource {
	r.DropGated = dropping(reflect.TypeFor[T](), r.Gated)
	if k.Default != nil {
		r.Default = func(obj runtime.Object) { k.Default(obj.(P)) }
	}
	if k.PrepareCreate != nil {
		r.PrepareCreate = func(obj runtime.Object) { k.PrepareCreate(obj.(P)) }
	}
	if k.PrepareUpdate != nil {
		r.PrepareUpdate = func(obj, old runtime.Object) { k.PrepareUpdate(obj.(P), old.(P)) }
	}
	if k.Validate != nil {
		r.Validate = func(obj runtime.Object) field.ErrorList { return k.Validate(obj.(P)) }
	}
	if k.ValidateCreate != nil {
		r.ValidateCreate = func(obj runtime.Object) field.ErrorList { return k.ValidateCreate(obj.(P)) }
	}
	if k.ValidateUpdate != nil {
		r.ValidateUpdate = func(obj, old runtime.Object) field.ErrorList { return k.ValidateUpdate(obj.(P), old.(P)) }
	}
	for i := range r.Subs {
		if sub := &r.Subs[i]; k.ValidateStatus != nil && sub.Name == "status" {
			sub.Validate = func(obj, old runtime.Object) field.ErrorList { return k.ValidateStatus(obj.(P), old.(P)) }
		}
	}
	if k.Fields != nil {
		r.Fields = func(obj runtime.Object) fields.Set { return k.Fields(obj.(P)) }
	}
	if k.Wanted != nil {
		r.Wanted = func(obj runtime.Object) any { return k.Wanted(obj.(P)) }
	}
	if k.Scale != nil {
		r.Scale = func(obj runtime.Object) Scale { return k.Scale(obj.(P)) }
	}
	if k.SetReplicas != nil {
		r.SetReplicas = func(obj runtime.Object, n int32) { k.SetReplicas(obj.(P), n) }
	}
	if k.Row != nil {
		r.Row = func(obj runtime.Object) []any { return k.Row(obj.(P)) }
	}
	return &r
}
