package apiserver

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"skiff/api"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Every object says in metadata.managedFields which writer set which of its fields, so that a server-side apply can tell
// what is the applier's own and what would be taken from others.
// https://kubernetes.io/docs/reference/using-api/server-side-apply/ and KEP-555.
//
// To keep that record costs more than all the rest of a small write, and most writes in a cluster are its own parts'. So
// what skiff's components create has no record, until somebody applies it: then its fields belong to
// "before-first-apply", as for objects that are older than server-side apply. What they write to the objects of others, a
// Deployment's status, is recorded.

// ownership keeps the managed fields of one resource's objects. It has a record keeper for each subresource, "" for the
// object itself, made when first used.
type ownership map[string]func() (*recordKeeper, error)

func newOwnership(r *api.Resource, table []*api.Resource, types schemas) ownership {
	forms := formsOf(r, table)
	o := ownership{"": newRecordKeeper(r, "", forms, types)}
	for _, sub := range r.Subs {
		if sub.Name == "scale" {
			o["scale"] = newRecordKeeper(scaleForm, "scale", formsOf(scaleForm, nil), types)
			continue
		}
		o[sub.Name] = newRecordKeeper(r, sub.Name, forms, types)
	}
	return o
}

// writable leaves of a set of fields those that a write through this subresource can change; nobody comes to own the others
// by it. nil leaves all.
func writable(r *api.Resource, sub string) fieldpath.Filter {
	_, hasStatus := r.Sub("status")
	of, _ := r.Sub(sub)
	switch {
	case sub == "approval":
		return withMetadata(of, below("status", below("conditions")))
	case sub == "status" && r.Kind == "CertificateSigningRequest": // Its status is written by two: who approves, and who signs.
		return withMetadata(of, below("status", below("certificate")))
	case sub == "status":
		return withMetadata(of, below("status"))
	case sub == "ephemeralcontainers":
		return fieldpath.NewIncludeMatcherFilter(fieldpath.MakePrefixMatcherOrDie("spec", "ephemeralContainers"))
	case sub == "resize":
		return fieldpath.NewIncludeMatcherFilter(
			fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resources"),
			fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resizePolicy"),
			fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resources"),
			fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resizePolicy"))
	case sub == "" && hasStatus:
		return fieldpath.NewExcludeSetFilter(fieldpath.NewSet(fieldpath.MakePathOrDie("status")))
	}
	return nil
}

// withMetadata leaves what matches, and what of the metadata is written with the status. (The matchers of fieldpath cannot be
// merged: of two below one field only the first counts.)
func withMetadata(sub api.Sub, part *fieldpath.SetMemberMatcher) fieldpath.Filter {
	var parts []*fieldpath.SetMemberMatcher
	for _, name := range api.MetadataParts() {
		if !slices.Contains(sub.Keeps, name) {
			parts = append(parts, below(name))
		}
	}
	if parts == nil {
		return fieldpath.NewIncludeMatcherFilter(fieldpath.NewSetMatcher(false, part))
	}
	return fieldpath.NewIncludeMatcherFilter(fieldpath.NewSetMatcher(false, part, below("metadata", parts...)))
}

// below matches what is in a field, or in those of its fields that are given.
func below(name string, fields ...*fieldpath.SetMemberMatcher) *fieldpath.SetMemberMatcher {
	return &fieldpath.SetMemberMatcher{
		Path:  fieldpath.PathElementMatcher{PathElement: fieldpath.PathElement{FieldName: &name}},
		Child: fieldpath.NewSetMatcher(len(fields) == 0, fields...),
	}
}

// changed records in obj what manager changed of old.
func (o ownership) changed(old, obj runtime.Object, sub, manager string) error {
	record, given := metaOf(old).GetManagedFields(), metaOf(obj).GetManagedFields()
	if len(record) == 0 && len(given) == 0 {
		return nil // Nothing was recorded of the object, and nothing is before it is applied.
	}
	keeper, err := o[sub]()
	if err != nil {
		return err
	}
	if given == nil || sub != "" || api.Same(given, record) {
		if renewed, ok := keeper.renewed(record, old, obj, manager); ok {
			metaOf(obj).SetManagedFields(renewed)
			return nil
		}
	}
	before, after := differing(old, obj)
	metaOf(before).SetManagedFields(record)
	metaOf(after).SetManagedFields(given)
	keeper.update(before, after, manager)
	metaOf(obj).SetManagedFields(metaOf(after).GetManagedFields())
	return nil
}

// created records in a new object that its fields are manager's.
func (o ownership) created(r *api.Resource, obj runtime.Object, manager string) error {
	keeper, err := o[""]()
	if err != nil {
		return err
	}
	if record, ok := keeper.first(obj, manager); ok {
		metaOf(obj).SetManagedFields(record)
		return nil
	}
	keeper.update(nothing(r), obj, manager)
	return nil
}

// update records in obj what manager changed of old, whatever it is.
func (k *recordKeeper) update(old, obj runtime.Object, manager string) {
	if _, err := k.Update(old, obj, manager); err != nil { // Else it returns obj.
		// An object that its kind's validation refuses may be none that can be compared; if it is not refused, the record stays
		// as it was. A client can bring this about as often as it likes.
		slog.Debug("it was not recorded who set which fields", "kind", obj.GetObjectKind().GroupVersionKind(), "name", metaOf(obj).GetName(), "err", err)
		metaOf(obj).SetManagedFields(metaOf(old).GetManagedFields())
	}
}

// applied is old with what an apply says of it. Fields that another manager has set to another value are a conflict,
// unless the applier takes them by force.
func (o ownership) applied(old runtime.Object, config *unstructured.Unstructured, sub, manager string, force bool) (runtime.Object, error) {
	fields, err := o[sub]()
	if err != nil {
		return nil, err
	}
	obj, err := fields.Apply(old, config, manager, force)
	if _, known := err.(apierrors.APIStatus); err != nil && !known {
		return nil, unclassified(err) // A field that the kind does not have, or of another type.
	}
	return obj, err
}

// scaleOwners translates between the managed fields of an object and those of its Scale.
func scaleOwners(r *api.Resource, obj runtime.Object) *managedfields.ScaleHandler {
	path := fieldpath.MakePathOrDie("spec", "replicas")
	if len(r.ReplicasPath) > 0 {
		path = fieldpath.Path{}
		for _, name := range r.ReplicasPath {
			path = append(path, fieldpath.PathElement{FieldName: &name})
		}
	}
	replicas := managedfields.ResourcePathMappings{r.GroupVersion().String(): path}
	return managedfields.NewScaleHandler(metaOf(obj).GetManagedFields(), r.GroupVersion(), replicas)
}

// nothing is the object that there is before one is created.
func nothing(r *api.Resource) runtime.Object {
	obj := r.Stored().New()
	obj.GetObjectKind().SetGroupVersionKind(r.Stored().GroupVersionKind())
	return obj
}

// forms are the rows that show one kind of object, by version: all that a field manager must know of Go types. What it gives
// back is a tree of maps.
type forms map[schema.GroupVersion]*api.Resource

func formsOf(r *api.Resource, table []*api.Resource) forms {
	f := forms{r.GroupVersion(): r}
	for _, other := range table {
		if other.Stored().GroupResource() == r.Stored().GroupResource() {
			f[other.GroupVersion()] = other
		}
	}
	return f
}

// ConvertToVersion returns obj in another form, as its Go type. It may return obj itself, and never changes it.
func (f forms) ConvertToVersion(obj runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	kind := obj.GetObjectKind().GroupVersionKind()
	version, _ := to.(schema.GroupVersion)
	from, want := f[kind.GroupVersion()], f[version]
	if from == nil || want == nil || kind != from.GroupVersionKind() {
		return nil, runtime.NewNotRegisteredErrForKind("skiff", kind)
	}
	if tree, ok := obj.(*unstructured.Unstructured); ok {
		var err error
		if obj, err = fromTree(from, tree); err != nil {
			return nil, err
		}
	}
	if from == want {
		return obj, nil
	}
	stored, err := from.Store(obj)
	if err != nil {
		return nil, err
	}
	return want.Show(stored), nil
}

// fromTree copies a tree of maps into the row's Go type.
func fromTree(r *api.Resource, tree *unstructured.Unstructured) (runtime.Object, error) {
	obj := r.New()
	if _, same := obj.(*unstructured.Unstructured); same {
		return tree.DeepCopy(), nil
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(tree.Object, obj); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	return obj, nil
}

// New returns an empty object of one form.
func (f forms) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	r := f[kind.GroupVersion()]
	if r == nil {
		return nil, runtime.NewNotRegisteredErrForKind("skiff", kind)
	}
	obj := r.New()
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return obj, nil
}

// Default does nothing: whatever is written gets its defaults later, and nobody owns those.
func (forms) Default(runtime.Object) {}

// Convert is never asked for.
func (forms) Convert(in, out, _ any) error {
	return fmt.Errorf("convert %T to %T: no such conversion", in, out)
}

// ConvertFieldLabel is never asked for.
func (forms) ConvertFieldLabel(kind schema.GroupVersionKind, label, _ string) (string, string, error) {
	return "", "", fmt.Errorf("convert the field label %s of %s: no such conversion", label, kind)
}

// writer names who makes a request, as managed fields call it.
func writer(r *http.Request) string {
	if name := r.URL.Query().Get("fieldManager"); name != "" {
		return name
	}
	agent, _, _ := strings.Cut(r.UserAgent(), "/")
	var name strings.Builder
	for _, c := range agent {
		if name.Len()+utf8.RuneLen(c) > metav1validation.FieldManagerMaxLength {
			break
		}
		if unicode.IsPrint(c) {
			name.WriteRune(c)
		}
	}
	return name.String()
}

// isComponent tells whether a part of skiff makes a request and does not ask for its fields to be recorded. That is no
// question of trust: whoever calls himself so gets no record of what he creates.
func isComponent(r *http.Request) bool {
	if r.URL.Query().Get("fieldManager") != "" {
		return false
	}
	agent, _, _ := strings.Cut(r.UserAgent(), "/")
	return agent == "skiff" || strings.HasPrefix(agent, "skiff-")
}
