package apiserver

import (
	"fmt"
	"net/http"

	"skiff/api"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	optionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	optionvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// selection says which objects of a resource a request is about: those of a namespace and of its selectors.
type selection struct {
	resource  *api.Resource
	namespace string // "" for all.
	labels    labels.Selector
	fields    fields.Selector
}

// listOptions reads the parameters of a request for a list or a watch, by Kubernetes' own decoder and rules.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions
func listOptions(r *http.Request) (*internalversion.ListOptions, error) {
	o := &internalversion.ListOptions{}
	if err := optionscheme.ParameterCodec.DecodeParameters(r.URL.Query(), metav1.SchemeGroupVersion, o); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if errs := optionvalidation.ValidateListOptions(o, true); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	return o, nil
}

// selectionOf takes the selectors out of the options.
// https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/
func selectionOf(r *api.Resource, namespace string, o *internalversion.ListOptions) (selection, error) {
	sel := selectAll(r)
	sel.namespace = namespace
	if o.LabelSelector != nil {
		sel.labels = o.LabelSelector
	}
	if o.FieldSelector != nil {
		sel.fields = o.FieldSelector
		known := sel.fieldSet(&item{obj: r.Stored().New()})
		for _, req := range sel.fields.Requirements() {
			if !known.Has(req.Field) {
				return sel, apierrors.NewBadRequest(notSelectable(r, req.Field))
			}
		}
	}
	return sel, nil
}

// maxAsked bounds what a selector costs: each of its requirements is asked of each object. So many take some seconds.
const maxAsked = 20_000_000

// bound refuses a selection of many requirements among so many objects that it would take long.
func (s selection) bound(objects int) error {
	byLabel, _ := s.labels.Requirements()
	required := len(byLabel) + len(s.fields.Requirements())
	if required*objects <= maxAsked {
		return nil
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the selectors have %d requirements, of %d objects the allowed maximum is %d", required, objects, maxAsked/objects))
}

// notSelectable says that a kind can't be selected by a field: Kubernetes has other words for kinds that know no fields but
// the metadata's.
func notSelectable(r *api.Resource, name string) string {
	switch {
	case r.Fields == nil:
		return fmt.Sprintf("%q is not a known field selector: only %q, %q", name, "metadata.name", "metadata.namespace")
	case r.Kind == "Job":
		return fmt.Sprintf("field label %q not supported for Job", name)
	}
	return "field label not supported: " + name
}

func selectAll(r *api.Resource) selection {
	return selection{resource: r, labels: labels.Everything(), fields: fields.Everything()}
}

func (s selection) fieldSet(it *item) fields.Set {
	set := fields.Set{}
	if s.resource.Fields != nil {
		set = s.resource.Fields(it.obj)
	}
	m := it.meta()
	set["metadata.name"] = m.GetName()
	if s.resource.Namespaced || s.resource.Fields == nil { // Where nothing else is known, Kubernetes lets this pass for all.
		set["metadata.namespace"] = m.GetNamespace()
	}
	return set
}

// everything tells whether no selector leaves an object out, so that counting them is counting all.
func (s selection) everything() bool { return s.labels.Empty() && s.fields.Empty() }

func (s selection) match(it *item) bool {
	if it == nil {
		return false
	}
	if s.namespace != "" && namespaceOf(it.key) != s.namespace {
		return false
	}
	if !s.labels.Empty() && !s.labels.Matches(labels.Set(it.meta().GetLabels())) {
		return false
	}
	return s.fields.Empty() || s.fields.Matches(&itemFields{resource: s.resource, item: it})
}

// itemFields are the fields of an item that selectors know. Those of the kind are worked out only if they are asked for, and once:
// every watcher of one object is asked about each change of all.
type itemFields struct {
	resource *api.Resource
	item     *item
	kinds    fields.Set
}

func (f *itemFields) Has(name string) bool {
	return selection{resource: f.resource}.fieldSet(f.item).Has(name)
}

func (f *itemFields) Get(name string) string {
	switch {
	case name == "metadata.name":
		return f.item.meta().GetName()
	case name == "metadata.namespace":
		return f.item.meta().GetNamespace()
	case f.resource.Fields == nil:
		return ""
	}
	if f.kinds == nil {
		f.kinds = f.resource.Fields(f.item.obj)
	}
	return f.kinds[name]
}

// view is how an event looks to a watcher with this selection: an object that comes to match is added, one that ceases
// to is deleted. ok is false where there is nothing to tell.
func (s selection) view(ev event) (_ event, ok bool) {
	if ev.kind == watch.Bookmark {
		return ev, true
	}
	now, before := s.match(ev.item), s.match(ev.prev)
	if ev.kind == watch.Deleted {
		return ev, before
	}
	switch {
	case now && before:
		ev.kind = watch.Modified
	case now:
		ev.kind = watch.Added
	case before:
		ev.kind = watch.Deleted
		ev.item = lastState(ev.prev, ev.rev)
	default:
		return ev, false
	}
	return ev, true
}
